r"""GRPO and MRT with vLLM in the process that trains, its memory given back between rollouts or kept."""

from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.gpu.trainings import RECIPE, WARM_START, outcome, start, write_problems


UPDATES = 20


def run(output: Path, device: str, updates: int = UPDATES) -> list[dict]:
    """A row for each training; none where vLLM is not installed."""
    if not find_spec("vllm"):
        return []
    write_problems(output / "problems")
    model = AutoModelForCausalLM.from_pretrained(WARM_START, dtype=torch.bfloat16)
    model.save_pretrained(output / "warm-start")  # kept in fp16, which vLLM would then take
    AutoTokenizer.from_pretrained(WARM_START).save_pretrained(output / "warm-start")
    rows = []
    for method, sleep in product(RECIPE, (False, True) if device == "cuda" else (False,)):
        name = f"{method} {'sleeps' if sleep else 'stays'}".lower().replace(" ", "-")
        options = ["--model_name_or_path", output / "warm-start", "--use_vllm", "true", "--vllm_mode", "colocate"]
        options += ["--vllm_enable_sleep_mode", sleep]
        options += ["--vllm_gpu_memory_utilization", 0.2, "--mrt_estimator", "sample", "--mrt_samples", 4]
        options += ["--bf16", device == "cuda", "--use_cpu", device == "cpu", "--max_steps", updates]
        process = start(output, name, RECIPE[method], options, {})
        rows.append({"method": method, "sleep mode": sleep} | outcome(output / f"{name}.json", process))
    return rows
