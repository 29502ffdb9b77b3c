r"""GRPO and MRT on the demo's task in half precision, with and without cuDNN's attention, all at once on one card."""

import json
import os
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

from transformers import AutoTokenizer

from mrt_plugin.upstream.attention import KEEP
from study.settings import RECIPES, START
from study.tasks.revise import MODULUS, make_problem


WARM_START = START / "revise-hard" / "warm-start"
RECIPE = {"GRPO": "grpo/config_outcome.yaml", "MRT dense": "grpo/config_mrt.yaml"}
PRECISION = {
    "float32": ["--bf16", "false"],
    "bf16 autocast": ["--bf16", "true"],
    "bf16 weights": ["--bf16", "true", "--dtype", "bfloat16"],
}
UPDATES = 100
LONGEST = 300
"""Seconds after which a training that does not end by itself is killed."""


def write_problems(folder: Path) -> int:
    """Problems of two lengths, so that batches are padded on the left; returns the tokens of the longer prompts."""
    rng = random.Random(0)
    draws = [(rng.randrange(1, MODULUS), *rng.choices(range(MODULUS), k=2 + row % 2)) for row in range(600)]
    rows = list(map(make_problem, draws))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = AutoTokenizer.from_pretrained(WARM_START)
    prompts = [[{"role": "user", "content": row["problem"]}] for row in rows]
    texts = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
    return max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))


def run(output: Path, device: str, updates: int = UPDATES, seconds: float = 180, seeds=(0,)) -> list[dict]:
    """A row for each training; each ends after so many updates or seconds, or where a gradient is not finite."""
    longest = write_problems(output / "problems")
    budget = (64 - longest) % 128 + 384  # a cut rollout then makes for 64 modulo 128 keys
    common = ["--max_completion_length", budget, "--max_steps", updates, "--mrt_estimator", "likelihood"]
    running = []
    for method, precision in product(RECIPE, PRECISION):
        for keep in ("1", "0") if precision != "float32" and device == "cuda" else ("0",):
            for seed in seeds:
                name = f"{method} {precision} {keep} {seed}".lower().replace(" ", "-")
                row = {"method": method, "precision": precision, "cuDNN kept": keep == "1", "seed": seed}
                options = [*PRECISION[precision], *common, "--seed", seed, "--use_cpu", device == "cpu"]
                process = start(output, name, RECIPE[method], options, {KEEP: keep, "SECONDS_AT_MOST": str(seconds)})
                running.append((row, output / f"{name}.json", process))
    return [row | outcome(record, process) for row, record, process in running]


def start(output: Path, name: str, recipe: str, options: list, environment: dict[str, str]) -> subprocess.Popen:
    """A training on `output`/problems, whose record is `output`/`name`.json."""
    arguments = [output / f"{name}.json", RECIPES / recipe, "--cache_implementation", "dynamic"]
    arguments += ["--model_name_or_path", WARM_START, "--dataset_name", output / "problems"]
    arguments += ["--output_dir", output / name, "--learning_rate", 4e-4, *options]
    (output / f"{name}.json").unlink(missing_ok=True)  # of an earlier check
    with open(output / f"{name}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, Path(__file__).parent / "training.py", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=log,
            stderr=log,
        )


def outcome(record: Path, process: subprocess.Popen) -> dict:
    """What a training came to; a record is written at each update, so one that broke off has one as well."""
    try:
        process.wait(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    found = json.loads(record.read_text()) if record.exists() else {}
    if process.returncode != 0:
        log = record.with_suffix(".log").read_text()
        return {"updates": found.get("updates", 0), "failed": " ".join(log[-300:].split()).replace("|", "/")}
    right, lengths = found.pop("right"), found.pop("lengths")
    at_risk = sum(length % 128 == 64 for length in lengths)
    half = len(right) // 10 or 1
    found["s per update"] = found.pop("seconds") / found["updates"]
    found |= {"right, first": sum(right[:half]) / half, "right, last": sum(right[-half:]) / half}
    return found | {"updates of 64 modulo 128 keys": at_risk}
