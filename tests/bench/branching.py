"""Branching: forced answers after every prefix of a trace, beside what a user would do with `generate` otherwise."""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mrt_plugin.sampling import PolicySampler, Prompt, SamplingSettings


SIZES = {"trace_tokens": 1500, "prefixes": 10, "branches": 4, "new_tokens": 48}
MODEL = {  # the shape of SmolLM2-135M, with random weights: the work is the same, the text is not
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
OURS = "one trace read once (ours)"
GOALS = {  # how many times slower than ours each is to be at least
    "generate, all full prefixes in one batch": 10,
    "generate, a batch for each prefix": 4,
    "generate, without any prefix (decoding alone)": 1 / 1.2,
}
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
        OURS: branch,
        "generate, all full prefixes in one batch": one_batch,
        "generate, a batch for each prefix": batch_for_each_prefix,
        "generate, one prompt at a time": one_by_one,
        "generate, without any prefix (decoding alone)": decoding_alone,
    }


def measure(name: str, sizes: dict[str, int], threads: int) -> tuple[float, float]:
    """Seconds, and the peak memory of a process that does nothing else, in MiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODEL)).eval()
    model.generation_config.eos_token_id = None
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=None)
    work = cases(model, tokenizer, **sizes)[name]
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(threads: int) -> list[dict]:
    rows = []
    for name in (OURS, *GOALS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, peak = process.submit(measure, name, SIZES, threads).result()
        rows.append({"what": name, "seconds": seconds, "peak MiB": peak})
    for row in rows[1:]:
        row |= {"times slower": row["seconds"] / rows[0]["seconds"], "goal": GOALS[row["what"]]}
    return rows
