r"""GRPO and MRT with vLLM in the process that trains, its memory given back between rollouts or kept."""

from importlib.util import find_spec
from itertools import product
from pathlib import Path

from tests.gpu.trainings import RECIPE, outcome, start, write_problems


UPDATES = 20


def run(output: Path, device: str, updates: int = UPDATES) -> list[dict]:
    """A row for each training; none where vLLM is not installed."""
    if not find_spec("vllm"):
        return []
    write_problems(output / "problems")
    rows = []
    for method, sleep in product(RECIPE, (False, True) if device == "cuda" else (False,)):
        name = f"{method} {'sleeps' if sleep else 'stays'}".lower().replace(" ", "-")
        options = ["--use_vllm", "true", "--vllm_mode", "colocate", "--vllm_enable_sleep_mode", sleep]
        options += ["--vllm_gpu_memory_utilization", 0.2, "--mrt_estimator", "sample", "--mrt_samples", 4]
        options += ["--bf16", device == "cuda", "--use_cpu", device == "cpu", "--max_steps", updates]
        process = start(output, name, RECIPE[method], options, {})
        rows.append({"method": method, "sleep mode": sleep} | outcome(output / f"{name}.json", process))
    return rows
