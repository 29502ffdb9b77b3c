r"""What branching costs: forced answers after every prefix of a trace, from one shared key-value cache and without it.

    make bench

Times are noisy; read the ratios. Random weights: the work is that of a real model of this size, the text is not.
"""

import time

import torch
from conftest import byte_level_tokenizer, tiny_model

from mrt_plugin.sampling import PolicySampler, Prompt, SamplingSettings


TRACE, PREFIXES, BRANCHES, NEW, SUFFIX = 1000, 6, 4, 32, 30
SIZE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
}


def seconds(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main():
    tokenizer = byte_level_tokenizer()
    model = tiny_model(tokenizer, **SIZE)
    model.generation_config.eos_token_id = None
    sampler = PolicySampler(model, tokenizer)
    sampler.eos_token_ids = set()  # every branch writes all of its tokens
    trace = torch.randint(10, 300, (TRACE,)).tolist()
    prompts = [Prompt(trace, TRACE * j // PREFIXES, list(range(20, 20 + SUFFIX))) for j in range(1, PREFIXES + 1)]
    settings = SamplingSettings(NEW)

    def shared():
        sampler.sample(prompts, BRANCHES, settings)

    def apart():  # the same engine, but every prompt is a trace of its own
        sampler.sample([Prompt(p.token_ids) for p in prompts for _ in range(BRANCHES)], 1, settings)

    def one_by_one():  # a call for each prefix, whose branches share it
        for prompt in prompts:
            sampler.sample([Prompt(prompt.token_ids)] * BRANCHES, 1, settings)

    def decode_only():  # the same number of new tokens without any prefix
        sampler.sample([Prompt(trace, 1)] * PREFIXES, BRANCHES, settings)

    shared()
    base = seconds(shared)
    print(
        f"{TRACE} trace tokens, {PREFIXES} prefixes, {BRANCHES} branches of {NEW} tokens, "
        f"{torch.get_num_threads()} thread(s)"
    )
    print(f"| {'how':38} | seconds | ratio |\n|{'-' * 40}|---------|-------|")
    for name, work in {
        "shared cache": shared,
        "full prefill of every branch, one batch": apart,
        "one prefill for each prefix": one_by_one,
        "decoding alone": decode_only,
    }.items():
        taken = seconds(work)
        print(f"| {name:38} | {taken:7.2f} | {taken / base:5.2f} |")


if __name__ == "__main__":
    main()
