"""Branching: forced answers after every prefix of a trace, beside what a user would do with `generate` otherwise."""

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings


MODEL = {  # the shape of SmolLM2-135M, with random weights: the work is the same, the text is not
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "eos_token_id": None,  # every branch writes all of its tokens
}
OURS = "one trace read once (ours)"
ONE_BATCH = "generate, all full prefixes in one batch"
BATCHES = "generate, a batch for each prefix"
STATIC = "generate, a batch for each prefix, static cache"
ONE_BY_ONE = "generate, one prompt at a time"
CONTINUOUS = "generate_batch (continuous batching, paged cache)"
DECODING = "generate, without any prefix (decoding alone)"
READING = "one pass over the trace (reading alone)"
GOALS = {ONE_BATCH: 10, BATCHES: 4, DECODING: 1 / 1.2}  # how many times slower than ours each is to be at least
VLLM_GOALS = {"vLLM, prefix caching": 1 / 1.5}
SIZES = [  # the trace and its prefixes, and what they are compared with: the others would take 20 GiB, or half an hour
    (
        {"trace_tokens": 500, "prefixes": 4, "branches": 4, "new_tokens": 48},
        [ONE_BATCH, BATCHES, STATIC, ONE_BY_ONE, CONTINUOUS, DECODING, READING],
    ),
    (
        {"trace_tokens": 1500, "prefixes": 10, "branches": 4, "new_tokens": 48},
        [ONE_BATCH, BATCHES, ONE_BY_ONE, DECODING, READING],
    ),
    ({"trace_tokens": 4000, "prefixes": 12, "branches": 8, "new_tokens": 48}, [DECODING, READING]),
]
SUFFIX = 30
VLLM = Path(".venv-vllm/bin/python")


def requests(
    trace_tokens: int, prefixes: int, branches: int, new_tokens: int
) -> tuple[list[Prompt], SamplingSettings]:
    """Prompts that branch off one random trace, evenly spaced."""
    generator = torch.Generator().manual_seed(0)
    trace = torch.randint(10, 300, (trace_tokens,), generator=generator).tolist()
    suffix = torch.randint(10, 300, (SUFFIX,), generator=generator).tolist()
    cuts = [trace_tokens * j // prefixes for j in range(1, prefixes + 1)]
    return [Prompt(trace, cut, suffix) for cut in cuts], SamplingSettings(new_tokens)


def random_model() -> tuple[LlamaForCausalLM, PolicySampler]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODEL)).eval()
    model.generation_config.eos_token_id = None
    return model, PolicySampler(model, SimpleNamespace(pad_token_id=0, eos_token_id=None))


def cases(sizes: dict[str, int]) -> dict[str, Callable]:
    """Ways to write `branches` answers of `new_tokens` after each of `prefixes` prefixes of one trace."""
    model, sampler = random_model()
    prompts, settings = requests(**sizes)
    branches, new_tokens = sizes["branches"], sizes["new_tokens"]
    naive = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": True, "top_k": 0}

    def one_batch():
        rows = [prompt.token_ids for prompt in prompts for _ in range(branches)]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return model.generate(ids, attention_mask=mask, **naive)

    def batch_for_each_prefix(**cache):
        for prompt in prompts:
            ids = torch.tensor([prompt.token_ids])
            model.generate(ids, attention_mask=torch.ones_like(ids), num_return_sequences=branches, **naive, **cache)

    def one_by_one():
        for prompt in prompts:
            ids = torch.tensor([prompt.token_ids])
            for _ in range(branches):
                model.generate(ids, attention_mask=torch.ones_like(ids), **naive)

    def continuous_batching():
        rows = [prompt.token_ids for prompt in prompts for _ in range(branches)]
        settings = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0
        )
        return model.generate_batch(inputs=rows, generation_config=settings, progress_bar=False)

    def decoding_alone():
        ids = torch.full((len(prompts) * branches, 1), 5)
        return model.generate(ids, attention_mask=torch.ones_like(ids), **naive)

    def reading_alone():
        with torch.no_grad():
            return model(torch.tensor([prompts[-1].trace]), logits_to_keep=1)

    return {
        OURS: lambda: sampler.sample(prompts, branches, settings),
        ONE_BATCH: one_batch,
        BATCHES: batch_for_each_prefix,
        STATIC: partial(batch_for_each_prefix, cache_implementation="static"),
        ONE_BY_ONE: one_by_one,
        CONTINUOUS: continuous_batching,
        DECODING: decoding_alone,
        READING: reading_alone,
    }


def measure(name: str, sizes: dict[str, int], threads: int) -> tuple[float, float]:
    """Seconds, and the peak memory of a process that does nothing else, in MiB."""
    torch.set_num_threads(threads)
    work = cases(sizes)[name]
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin, peak_memory()


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def vllm(sizes: dict[str, int]) -> list[dict]:
    """Rows of vLLM on the same requests, from an environment of its own."""
    if not VLLM.exists():
        print("no .venv-vllm: vLLM is not measured; make install-vllm first")
        return []
    command = [VLLM, Path(__file__).with_name("engine.py"), json.dumps(sizes)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def run() -> dict[str, list[dict]]:
    threads = len(os.sched_getaffinity(0))
    tables = {}
    for sizes, peers in SIZES:
        rows = []
        for name in (OURS, *peers):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                seconds, peak = process.submit(measure, name, sizes, threads).result()
            rows.append({"what": name, "seconds": seconds, "peak MiB": peak})
        rows += vllm(sizes)
        for row in rows[1:]:
            row["times slower"] = row["seconds"] / rows[0]["seconds"]
            row["goal"] = (GOALS | VLLM_GOALS).get(row["what"], "")
        title = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in sizes.items())
        tables[f"Branching: {title}; {threads} threads"] = rows
    return tables
