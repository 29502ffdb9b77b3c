"""
Does MRT beat GRPO? Trains every method from one warm start for each task, measures each model, and keeps the numbers.

    make reproduce         # hours on two CPU cores; stop it when you like, the same command goes on
    make reproduce-fast    # under half an hour: one task, two methods, two seeds, fewer updates

Decided before the runs: the measure is the accuracy on test problems within the 160 tokens of training; every method
has the same four learning rates to choose from, by accuracy on validation problems with seed 0, and is reported with
other seeds; all make as many updates, of as many rollouts.

A run leaves one JSON file (docs/results/runs), and one that is there is not done again. The warm starts of these runs
are kept too (docs/results/start): trained on another machine, they come out different. results.py makes the tables and
figures.

Left out: iteration of the data set of prefixes, and any tuning but the learning rate, that of the horizon too.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path

import torch
from datasets import load_dataset
from measure import LOGGING_STEPS, RECIPES, ROLLOUTS, call, history, measurements, solved, validate
from transformers import AutoModelForCausalLM, AutoTokenizer


STEPS, FAST_STEPS, EVAL_STEPS = 150, 50, 25  # updates
LEARNING_RATES = [5e-5, 1e-4, 2e-4, 4e-4]

TASKS = {  # what makes it, and steps of its warm start; after half as many, clues has not learned the sums
    "search": (["make_problems.py", "--validation", "50"], 600),
    "clues": (["make_clues.py"], 2400),
}
MIXED, TERMINATION, DENSE = (f"grpo/config_mrt{kind}.yaml" for kind in ("_mixed", "_termination", ""))
EXACT = ["--mrt_estimator", "likelihood"]  # with one way to write an answer, its likelihood is J
METHODS = {  # the recipe, and what differs from it
    "GRPO": ["grpo/config_outcome.yaml"],
    "MRT dense": [DENSE, *EXACT],
    "MRT dense, by episode": [DENSE, *EXACT, "--mrt_horizon", "0"],  # the authors' credit
    "MRT mixed, online": [MIXED, *EXACT],
    "MRT termination, online": [TERMINATION, *EXACT],
    "length penalty": [
        *["grpo/config_length_penalty.yaml", "--reward_funcs", "mrt_length_penalty", "mrt_accuracy"],
        *["--reward_weights", "1", "0"],  # accuracy is there to be logged
    ],
    "MRT mixed, data set": [MIXED, "--mrt_prefix", "dataset"],
    "MRT termination, data set": [TERMINATION, "--mrt_prefix", "dataset"],
    "STaR, outcome": ["sft/config_star.yaml", "--selection", "outcome"],
    "STaR, MRT": ["sft/config_star.yaml", "--selection", "mrt", "--mrt_samples", "4"],
    "STaR, MRT, 16 samples": ["sft/config_star.yaml", "--selection", "mrt", "--mrt_samples", "16"],
}
BASELINE, CHOSEN = "GRPO", "MRT dense"
VARIANTS = {  # the method that it varies, with whose learning rate, and what differs from it
    **{f"alpha {alpha}": (CHOSEN, ["--mrt_alpha", alpha]) for alpha in ("0.2", "0.4", "0.8", "1.6")},
    **{f"J of {n} samples": (CHOSEN, ["--mrt_estimator", "sample", "--mrt_samples", n]) for n in ("1", "4", "16")},
    "no outcome term": (CHOSEN, ["--reward_weights", "0", "1"]),
    "progress shuffled": (CHOSEN, ["--variant", "shuffled"]),
    "progress centred": (CHOSEN, ["--variant", "centred"]),
    "progress scalar": (CHOSEN, ["--mrt_horizon", "0", "--variant", "scalar"]),
    **{
        f"by episode, {name}": ("MRT dense, by episode", ["--variant", name])
        for name in ("centred", "to-go", "spread", "with-answer")
    },
}
ABLATED = "clues"  # the task of the variants: the one on which credit decides whether a training collapses
STAR_MODELS, STAR_ROWS = ("model-1", "model-2", "model"), 4  # of the iterations; rows of a problem


def varied(method: str) -> str:
    """The method that a variant varies, and else the method itself."""
    return VARIANTS[method][0] if method in VARIANTS else method


@dataclass(frozen=True)
class Setting:
    """One training."""

    task: str
    method: str
    learning_rate: float
    seed: int
    steps: int

    @property
    def name(self) -> str:
        words = "-".join(self.method.lower().replace(",", "").split())
        return f"{self.task}-{words}-{self.learning_rate:g}-{self.seed}-{self.steps}"

    @property
    def arguments(self) -> list[str]:
        _, options = VARIANTS.get(self.method, (None, []))
        return [*METHODS[varied(self.method)], *options]


def prepare(task: str, start: Path, scratch: Path) -> None:
    """What all runs of a task begin from, in the folder `start`: problems, the warm start, and its prefixes."""
    if start.exists():
        return
    shutil.rmtree(scratch, ignore_errors=True)
    log, ((script, *options), steps) = scratch.with_suffix(".log"), TASKS[task]
    call(log, RECIPES / script, "--output", scratch, *options)
    model, problems = scratch / "warm-start", scratch / "problems"
    recipe = ["-m", "mrt_plugin.sft", "--config", RECIPES / "sft/config_warm_start.yaml", "--max_steps", steps]
    data = ["--dataset_name", scratch / "warm_start", "--output_dir", scratch / "trained"]
    call(log, *recipe, "--model_name_or_path", scratch / "base", *data)
    half = AutoModelForCausalLM.from_pretrained(scratch / "trained", dtype=torch.float16)  # half the size
    half.save_pretrained(model)
    AutoTokenizer.from_pretrained(scratch / "trained").save_pretrained(model)
    recipe = ["-m", "mrt_plugin.data.prefixes", "--config", RECIPES / "prefixes/data_mrt.yaml"]
    data = ["--dataset_name", problems, "--output_dir", scratch / "prefixes"]
    call(log, *recipe, "--model_name_or_path", model, *data, *EXACT)
    held_out = load_dataset("json", data_files=str(problems / "validation.jsonl"), split="train")
    held_out = held_out.map(lambda row: {"prefix": "", "prefix_success": 0.0})  # they start at the bare problem
    rows = load_dataset(str(scratch / "prefixes"), split="train").select_columns(held_out.column_names)
    for name, some in (("train", rows), ("validation", held_out)):
        some.to_json(str(scratch / "prefixed" / f"{name}.jsonl"))
    for name in ("base", "warm_start", "trained", "prefixes"):
        shutil.rmtree(scratch / name)
    start.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch, start)


def train(setting: Setting, start: Path, out: Path) -> dict:
    """Leaves the trained model in out / "model"; returns what is kept of the training."""
    recipe, *options = setting.arguments
    script = [RECIPES / "ablations.py"] if "--variant" in options else ["-m", "mrt_plugin.grpo"]
    common = ["--config", RECIPES / recipe, "--learning_rate", setting.learning_rate, "--seed", setting.seed]
    if recipe.startswith("sft"):
        return fine_tune(setting, start, out, common, options)
    problems = start / ("prefixed" if "dataset" in options else "problems")
    held_out = ["--dataset_test_split", "validation", "--eval_strategy", "steps", "--eval_steps", EVAL_STEPS]
    held_out += ["--num_generations_eval", 4, "--per_device_eval_batch_size", 200]
    data = ["--model_name_or_path", start / "warm-start", "--dataset_name", problems, "--output_dir", out / "model"]
    length = ["--max_steps", setting.steps, "--logging_steps", LOGGING_STEPS]
    call(out / "log", *script, *common, *data, *length, *held_out, *options)
    return history(out / "model", drawn="likelihood" not in options or "sample" in options)


def fine_tune(setting: Setting, start: Path, out: Path, common: list, selection: list) -> dict:
    """STaR: in each iteration a third of the rollouts and of the updates."""
    model, problems = start / "warm-start", len((start / "problems" / "train.jsonl").read_text().splitlines())
    updates, drawn, curve, kept = setting.steps // len(STAR_MODELS), 0, [], []
    sizes = ["--num_generations", setting.steps * ROLLOUTS // len(STAR_MODELS) // problems]
    sizes += ["--rows_per_problem", STAR_ROWS]
    for iteration, name in enumerate(STAR_MODELS):
        rows, tuned = out / f"rows-{iteration}", out / name
        recipe = ["--config", RECIPES / "star/data_mrt.yaml", "--seed", 1000 * iteration + setting.seed]
        data = ["--model_name_or_path", model, "--dataset_name", start / "problems", "--output_dir", rows]
        counted = [RECIPES / "count_tokens.py", "--count", out / "tokens"]
        call(out / "log", *counted, *recipe, *data, *sizes, *selection)
        drawn += int((out / "tokens").read_text())
        # In two columns, so that the problem is no target.
        turns = load_dataset(str(rows), split="train")
        kept.append([len(turns), solved(turns)])
        turns = turns.map(lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]})
        turns.select_columns(["prompt", "completion"]).to_json(str(out / f"turns-{iteration}" / "train.jsonl"))
        data = ["--model_name_or_path", model, "--dataset_name", out / f"turns-{iteration}", "--output_dir", tuned]
        call(out / "log", "-m", "mrt_plugin.sft", *common, *data, "--max_steps", updates)
        model = tuned
        curve.append([(iteration + 1) * updates, drawn, *validate(model, start, out)])
    return {"training_tokens": {"drawn": drawn, "scored": 0}, "curve": curve, "rows": kept}


def run(setting: Setting | None, start: Path, out: Path, records: Path) -> None:
    """Trains from `start` and measures, unless that is done; without a setting, measures the warm start."""
    name = setting.name if setting else f"{start.name}-warm-start"
    record = records / f"{name}.json"
    digest = hashlib.sha256((start / "warm-start" / "model.safetensors").read_bytes()).hexdigest()[:16]
    if record.exists():
        if json.loads(record.read_text())["start"] != digest:
            raise ValueError(f"{record} is of another warm start than {start}; remove one of them.")
        return
    out, begin = out / name, time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    kept = train(setting, start, out) if setting else {}
    seconds = time.perf_counter() - begin
    found = asdict(setting) if setting else {"task": start.name, "method": "warm start", "seed": 0}
    found |= {"date": date.today().isoformat(), "seconds": round(seconds), "start": digest}
    found |= kept | measurements(out / "model" if setting else start / "warm-start", start, out)
    records.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".part")
    partial.write_text(json.dumps(found) + "\n")
    partial.rename(record)
    shutil.rmtree(out, ignore_errors=True)
    print(f"{name}: validation {found['validation']:.3f} in {seconds:.0f} s", flush=True)


def read(records: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]


def best_rates(found: list[dict], steps: int) -> dict[tuple[str, str], float]:
    """For each task and method, the one of its learning rates with the highest accuracy on validation problems."""
    swept = [r for r in found if r.get("steps") == steps and r["seed"] == 0 and r["method"] in METHODS]
    swept = [record for record in swept if record["learning_rate"] in LEARNING_RATES]
    swept.sort(key=lambda record: record["validation"])
    return {(record["task"], record["method"]): record["learning_rate"] for record in swept}


def main(folder: Path, results: Path, fast: bool) -> None:
    start, records = results / "start", results / "runs"
    tasks, rates, steps = (["search"], [2e-4], FAST_STEPS) if fast else (list(TASKS), LEARNING_RATES, STEPS)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def do(work: Callable, items: Iterable) -> None:
            try:
                list(pool.map(work, items))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

        def train_all(settings: Iterable[Setting]) -> None:
            do(lambda setting: run(setting, start / setting.task, folder, records), settings)

        do(lambda task: prepare(task, start / task, folder / task), tasks)
        do(lambda task: run(None, start / task, folder, records), tasks)
        headline = [BASELINE, CHOSEN]
        for methods in [headline] if fast else [headline, [m for m in METHODS if m not in headline]]:
            train_all(Setting(task, method, rate, 0, steps) for method in methods for task in tasks for rate in rates)
            best = best_rates(read(records), steps)
            seeds = 2 if fast else 5 if methods == headline else 3
            more = product(range(1, seeds + 1), methods, tasks)
            train_all(Setting(task, method, best[task, method], seed, steps) for seed, method, task in more)
        if not fast:
            more = product(range(1, 4), VARIANTS)
            train_all(Setting(ABLATED, v, best[ABLATED, varied(v)], seed, steps) for seed, v in more)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="one task, two methods, two seeds, 50 updates")
    fast = parser.parse_args().fast
    folder = Path("runs/reproduce-fast" if fast else "runs/reproduce")
    main(folder, folder if fast else Path("docs/results"), fast)
