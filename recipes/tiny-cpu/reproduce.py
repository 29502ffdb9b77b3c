"""
Does MRT beat GRPO? Trains every method from one warm start for each task, measures each model, and keeps the numbers.

    make reproduce         # hours on two CPU cores; stop it when you like, the same command goes on
    make reproduce-fast    # under half an hour: one task, three methods, two seeds, fewer updates

Decided before the runs: the measure is the accuracy on test problems within the 160 tokens of training; every method
has the same four learning rates to choose from, by accuracy on validation problems with seed 0; all make as many
updates. A run leaves one JSON file (docs/results/runs), and one that is there is not done again. results.py makes the
tables and figures out of these files.

Left out: iteration of the data set of prefixes, and any tuning but the learning rate.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path

from datasets import load_dataset

from mrt_plugin.analysis.runs import Run, load_run
from mrt_plugin.progress import progress


RECIPES = Path(__file__).parent
ROLLOUTS, STEPS, FAST_STEPS, EVAL_STEPS, LOGGING_STEPS = 64, 150, 50, 25, 5  # rollouts of an update; updates
LEARNING_RATES = [5e-5, 1e-4, 2e-4, 4e-4]
BUDGETS = [*range(40, 321, 20)]  # tokens; training cuts completions at 160

TASKS = {"search": ["make_problems.py", "--validation", "50"], "clues": ["make_clues.py"]}
MIXED, TERMINATION, DENSE = (f"grpo/config_mrt{kind}.yaml" for kind in ("_mixed", "_termination", ""))
METHODS = {  # the recipe, and what differs from it
    "GRPO": ["grpo/config_outcome.yaml"],
    "MRT dense, likelihood": [DENSE, "--mrt_estimator", "likelihood"],
    "MRT dense, sample": [DENSE],
    "MRT mixed, online": [MIXED],
    "MRT termination, online": [TERMINATION],
    "length penalty": ["grpo/config_length_penalty.yaml"],
    "MRT mixed, data set": [MIXED, "--mrt_prefix", "dataset"],
    "MRT termination, data set": [TERMINATION, "--mrt_prefix", "dataset"],
    "STaR, outcome": ["sft/config_star.yaml", "--selection", "outcome"],
    "STaR, MRT": ["sft/config_star.yaml", "--selection", "mrt"],
}
BASELINE, CHOSEN = "GRPO", "MRT dense, likelihood"
VARIANTS = {  # of the chosen method, with its learning rate
    **{f"alpha {alpha}": ["--mrt_alpha", alpha] for alpha in ("0.2", "0.4", "0.8", "1.6")},
    **{f"J of {count} samples": ["--mrt_estimator", "sample", "--mrt_samples", count] for count in ("1", "16")},
    "no outcome term": ["--reward_weights", "0", "1"],
    **{
        f"progress {name}": ["--variant", name]
        for name in ("shuffled", "centred", "to-go-0.5", "to-go-1", "scalar", "with-answer")
    },
}
STAR_ITERATIONS = 3


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
        return METHODS.get(self.method) or [*METHODS[CHOSEN], *VARIANTS[self.method]]


def call(log: Path, *command: str) -> None:
    """Runs a Python command on one core; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as output:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed; see {log}:\n{log.read_text()[-2000:]}")


def prepare(task: str, folder: Path) -> None:
    """Problems, the warm start, and its prefixes, in `folder / task`."""
    out = folder / task
    if (out / "ready").exists():
        return
    log, (script, *options) = out / "log", TASKS[task]
    call(log, RECIPES / script, "--output", out, *options)
    data = ["--dataset_name", out / "warm_start", "--output_dir", out / "warm-start"]
    recipe = RECIPES / "sft/config_warm_start.yaml"
    call(log, "-m", "mrt_plugin.sft", "--config", recipe, "--model_name_or_path", out / "base", *data)
    data = ["--dataset_name", out / "problems", "--output_dir", out / "prefixes"]
    recipe = RECIPES / "prefixes/data_mrt.yaml"
    model = ["--model_name_or_path", out / "warm-start"]
    call(log, "-m", "mrt_plugin.data.prefixes", "--config", recipe, *model, *data)
    split = {"validation": str(out / "problems" / "validation.jsonl")}  # from the bare problem
    held_out = load_dataset("json", data_files=split, split="validation")
    held_out = held_out.map(lambda row: {"prefix": "", "prefix_success": 0.0})
    rows = load_dataset(str(out / "prefixes"), split="train").select_columns(held_out.column_names)
    for name, some in (("train", rows), ("validation", held_out)):
        some.to_json(str(out / "prefixed" / f"{name}.jsonl"))
    (out / "ready").touch()


def train(setting: Setting, start: Path, out: Path) -> None:
    recipe, *options = setting.arguments
    script = ["-m", "mrt_plugin.grpo"]
    if "--variant" in options:
        position = options.index("--variant")
        script = [RECIPES / "ablations.py", options[position + 1]]
        del options[position : position + 2]
    common = ["--config", RECIPES / recipe, "--learning_rate", setting.learning_rate, "--seed", setting.seed]
    if recipe.startswith("sft"):
        model = start / "warm-start"
        for iteration in range(STAR_ITERATIONS):
            rows, seed = out / f"rows-{iteration}", ["--seed", 1000 * iteration + setting.seed]
            data = ["--dataset_name", start / "problems", "--output_dir", rows, *seed]
            recipe = RECIPES / "star/data_mrt.yaml"
            star = ["-m", "mrt_plugin.data.star", "--config", recipe, "--model_name_or_path", model]
            call(out / "log", *star, *data, *options)
            tuned = out / "model" if iteration == STAR_ITERATIONS - 1 else out / f"model-{iteration}"
            data = ["--dataset_name", rows, "--output_dir", tuned, "--max_steps", setting.steps // STAR_ITERATIONS]
            call(out / "log", "-m", "mrt_plugin.sft", *common, "--model_name_or_path", model, *data)
            model = tuned
        return
    problems = start / ("prefixed" if "dataset" in options else "problems")
    held_out = ["--dataset_test_split", "validation", "--eval_strategy", "steps", "--eval_steps", EVAL_STEPS]
    held_out += ["--num_generations_eval", 4, "--per_device_eval_batch_size", 200]
    data = ["--model_name_or_path", start / "warm-start", "--dataset_name", problems, "--output_dir", out / "model"]
    length = ["--max_steps", setting.steps, "--logging_steps", LOGGING_STEPS]
    call(out / "log", *script, *common, *data, *length, *held_out, *options)


def evaluate(model: Path, start: Path, out: Path, split: str, *options) -> Run:
    data = ["--dataset_name", start / "problems", "--dataset_train_split", split, "--output_dir", out / split]
    recipe = ["--config", RECIPES / "evaluation/regret.yaml", "--model_name_or_path", model]
    call(out / "log", "-m", "mrt_plugin.analysis.evaluate", *recipe, *data, *options)
    return load_run(out / split)


def measurements(model: Path, start: Path, out: Path) -> dict:
    """What is kept of a model: means over validation problems, and one number for each test problem."""
    few = ["--regret", "false", "--extensions", 0, "--num_generations", 16]
    validation = evaluate(model, start, out, "validation", *few)
    longest = ["--max_completion_length", BUDGETS[-1], "--mrt_estimator", "likelihood", "--extensions", 2]
    test = evaluate(model, start, out, "test", *longest)
    curves = [rollout.success_probability for rollout in test.rollouts]
    steps = [(before, gain) for curve in curves for before, gain in zip(curve, progress(curve), strict=False)]
    return {
        "validation": float(validation.pass_at_1().mean()),
        "accuracy": {budget: rounded(test.pass_at_1(budget)) for budget in BUDGETS},
        "tokens": rounded(test.each(lambda group: sum(r.tokens for r in group) / len(group)), 1),
        "regret": {budget: rounded(test.regret(budget)) for budget in test.budgets()},
        "cut": sum(rollout.tokens > 160 for rollout in test.rollouts) / len(test.rollouts),
        "episodes": len(steps) / len(curves),
        "idle": sum(before > 0.9 and gain > -0.1 for before, gain in steps) / max(len(steps), 1),
        "progress": [sum(round(gain * 10) == tenth for _, gain in steps) for tenth in range(-10, 11)],
    }


def rounded(values: Iterable[float], digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]


def history(model: Path) -> dict:
    """What training cost and how it went: tokens drawn or scored by each update, and accuracy on the way."""
    state = model / "trainer_state.json"
    log = json.loads(state.read_text())["log_history"]
    if not any("completions/mean_length" in entry for entry in log):
        return {}
    tokens, lengths, curve = 0.0, [], []
    for entry in log:
        if "completions/mean_length" in entry:
            drawn = ROLLOUTS * entry["completions/mean_length"]
            extra = entry.get("mrt/branch_tokens", 0.0) + entry.get("mrt/prefix_tokens", 0.0)
            tokens += LOGGING_STEPS * (drawn + extra)
            lengths.append(round(entry["completions/mean_length"], 1))
        elif "eval_rewards/mrt_accuracy/mean" in entry:
            curve.append([entry["step"], round(tokens), round(entry["eval_rewards/mrt_accuracy/mean"], 4)])
    return {"training_tokens": round(tokens), "lengths": lengths, "curve": curve}


def run(setting: Setting | None, task: str, folder: Path, records: Path) -> None:
    """Trains and measures, unless that is done; without a setting, measures the warm start."""
    name = setting.name if setting else f"{task}-warm-start"
    record = records / f"{name}.json"
    if record.exists():
        return
    start, out, begin = folder / task, folder / "runs" / name, time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    model = start / "warm-start"
    if setting:
        train(setting, start, out)
        model = out / "model"
    seconds = time.perf_counter() - begin
    found = asdict(setting) if setting else {"task": task, "method": "warm start", "seed": 0}
    found |= {"date": date.today().isoformat(), "seconds": round(seconds)}
    found |= (history(model) if setting else {}) | measurements(model, start, out)
    records.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".part")
    partial.write_text(json.dumps(found) + "\n")
    partial.rename(record)
    shutil.rmtree(out)
    print(f"{name}: validation {found['validation']:.3f} in {seconds:.0f} s", flush=True)


def read(records: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]


def best_rates(found: list[dict], steps: int) -> dict[tuple[str, str], float]:
    """For each task and method, the learning rate with the highest accuracy on validation problems."""
    swept = [r for r in found if r.get("steps") == steps and r["seed"] == 0 and r["method"] in METHODS]
    swept.sort(key=lambda record: record["validation"])
    return {(record["task"], record["method"]): record["learning_rate"] for record in swept}


def main(folder: Path, records: Path, fast: bool) -> None:
    tasks, rates, steps = (["search"], [2e-4], FAST_STEPS) if fast else (list(TASKS), LEARNING_RATES, STEPS)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def do(settings: Iterable[Setting]) -> None:
            list(pool.map(lambda setting: run(setting, setting.task, folder, records), settings))

        list(pool.map(lambda task: prepare(task, folder), tasks))
        list(pool.map(lambda task: run(None, task, folder, records), tasks))
        headline = [BASELINE, CHOSEN]
        for methods in (headline, ["MRT mixed, online"] if fast else [m for m in METHODS if m not in headline]):
            do(Setting(task, method, rate, 0, steps) for method in methods for task in tasks for rate in rates)
            best = best_rates(read(records), steps)
            last = 2 if fast else 5 if methods == headline else 3
            more = product(range(1, last), methods, tasks)
            do(Setting(task, method, best[task, method], seed, steps) for seed, method, task in more)
        if not fast:
            more = product(range(3), VARIANTS, tasks)
            do(Setting(task, variant, best[task, CHOSEN], seed, steps) for seed, variant, task in more)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="one task, three methods, two seeds, 60 updates")
    parser.add_argument("--folder", type=Path, help="where models and data are, while they are needed")
    parser.add_argument("--records", type=Path, help="where the numbers of each run are kept")
    arguments = parser.parse_args()
    folder = arguments.folder or Path("runs/reproduce-fast" if arguments.fast else "runs/reproduce")
    records = arguments.records or (folder / "records" if arguments.fast else Path("docs/results/runs"))
    main(folder, records, arguments.fast)
