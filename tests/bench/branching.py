"""Branching: forced answers after every prefix of a trace, beside what a user would do with `generate` otherwise."""

from collections.abc import Callable

import torch

from mrt_plugin.sampling import PolicySampler, Prompt, SamplingSettings


SUFFIX = 30


def cases(model, tokenizer, trace_tokens: int, prefixes: int, branches: int, new_tokens: int) -> dict[str, Callable]:
    """Ways to write `branches` answers of `new_tokens` after each of `prefixes` prefixes of one trace."""
    generator = torch.Generator().manual_seed(0)
    trace = torch.randint(10, 300, (trace_tokens,), generator=generator).tolist()
    suffix = torch.randint(10, 300, (SUFFIX,), generator=generator).tolist()
    cuts = [trace_tokens * j // prefixes for j in range(1, prefixes + 1)]
    sampler = PolicySampler(model, tokenizer)
    sampler.eos_token_ids = set()  # every branch writes all of its tokens
    settings = SamplingSettings(new_tokens, seed=0)
    naive = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": True, "top_k": 0}

    def branch():
        return sampler.sample([Prompt(trace, cut, suffix) for cut in cuts], branches, settings)

    def one_batch():
        rows = [[*trace[:cut], *suffix] for cut in cuts for _ in range(branches)]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return model.generate(ids, attention_mask=mask, **naive)

    def batch_for_each_prefix():
        for cut in cuts:
            ids = torch.tensor([[*trace[:cut], *suffix]])
            model.generate(ids, attention_mask=torch.ones_like(ids), num_return_sequences=branches, **naive)

    def one_by_one():
        for cut in cuts:
            ids = torch.tensor([[*trace[:cut], *suffix]])
            for _ in range(branches):
                model.generate(ids, attention_mask=torch.ones_like(ids), **naive)

    def decoding_alone():
        ids = torch.full((prefixes * branches, 1), 5)
        return model.generate(ids, attention_mask=torch.ones_like(ids), **naive)

    return {
        "one trace read once (ours)": branch,
        "generate, all full prefixes in one batch": one_batch,
        "generate, a batch for each prefix": batch_for_each_prefix,
        "generate, one prompt at a time": one_by_one,
        "generate, without any prefix (decoding alone)": decoding_alone,
    }
