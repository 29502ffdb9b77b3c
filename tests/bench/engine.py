"""vLLM on the requests of the branching bench, bare and behind our sampler; prints rows as JSON. For `.venv-vllm`."""

import json
import os
import sys
import tempfile
import time
from statistics import median


os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "4"}
os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
REPEATS = 3


def main(sizes: dict[str, int]) -> list[dict]:
    from branching import MODEL, SUFFIX, peak_memory, requests
    from transformers import LlamaConfig
    from vllm import SamplingParams

    from mrt_plugin.engines.vllm import VLLMSampler

    prompts, settings = requests(**sizes)
    inputs = [{"prompt_token_ids": prompt.token_ids} for prompt in prompts]
    params = SamplingParams(n=sizes["branches"], max_tokens=settings.max_new_tokens, detokenize=False)
    with tempfile.TemporaryDirectory() as path:
        LlamaConfig(**MODEL, architectures=["LlamaForCausalLM"]).save_pretrained(path)
        sampler = VLLMSampler(
            path,
            tokenizer=None,
            dtype="float32",
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=sizes["trace_tokens"] + SUFFIX + settings.max_new_tokens,
        )
    ways = {
        "vLLM, prefix caching": lambda: sampler.llm.generate(inputs, params, use_tqdm=False),
        "the same through our sampler": lambda: sampler.sample(prompts, sizes["branches"], settings),
    }
    seconds = {name: [] for name in ways}
    for _ in range(REPEATS):  # in turns, since times drift
        for name, work in ways.items():
            sampler.llm.reset_prefix_cache()
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    bare, ours = map(median, seconds.values())
    rows = [{"what": name, "seconds": median(times), "peak MiB": peak_memory()} for name, times in seconds.items()]
    rows[1] |= {"times bare vLLM": ours / bare, "goal, at most": 1.05}
    return rows


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
