"""What reproduce.py keeps of a model: numbers for each problem that was held out."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from mrt_plugin.analysis.runs import Run, load_run
from mrt_plugin.progress import progress

from .settings import EXACT, RECIPES, STUDY, Task
from .tasks.errors import error_rates


KNOWN = 0.9  # success probability of a trace that has found the answer


def call(log: Path, *command) -> None:
    """Runs a Python command on one core; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as output:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(STUDY.parent)},
            stdout=output,
            stderr=output,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed; see {log}:\n{log.read_text()[-2000:]}")


def evaluate(model: Path, task: Task, start: Path, results: Path, split: str, *options) -> Run:
    """A model on held-out problems, with regret; what has been evaluated already is only read."""
    data = ["--dataset_name", start / "problems", "--dataset_train_split", split, "--output_dir", results]
    recipe = ["--config", RECIPES / "evaluation/regret.yaml", "--model_name_or_path", model, *EXACT]
    budget = ["--max_completion_length", task.budget, "--extensions", 0, "--mrt_episodes", 20, "--batch_size", 60]
    call(results.parent / "log", "-m", "mrt_plugin.analysis.evaluate", *recipe, *data, *budget, *options)
    return load_run(results)


def completions(results: Path) -> list[dict]:
    """The rows that an evaluation wrote: `problem`, `solution`, `completion`, and what was measured."""
    return [
        row for path in sorted((results / "data").glob("train-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def measurements(model: Path, task: Task, start: Path, out: Path) -> dict:
    """What is kept of a model: means over validation problems, and numbers for each test problem."""
    folders = {name: out / f"{model.name}-{name}" for name in ("validation", "test", "greedy")}
    held_out = evaluate(model, task, start, folders["validation"], "validation", "--num_generations", 8)
    test = evaluate(model, task, start, folders["test"], "test")
    greedy = evaluate(model, task, start, folders["greedy"], "test", "--temperature", 0, "--num_generations", 1)
    curves = [rollout.success_probability for rollout in test.rollouts]
    steps = [(before, gain) for curve in curves for before, gain in zip(curve, progress(curve), strict=False)]
    return {
        "validation": {
            "regret": {budget: float(held_out.regret(budget).mean()) for budget in held_out.budgets()},
            "accuracy": float(held_out.pass_at_1().mean()),
            "within_quarter": float(held_out.pass_at_1(task.budget // 4).mean()),
            "tokens": float(held_out.each(tokens).mean()),
        },
        **rollouts(test, folders["test"]),
        "greedy": rollouts(greedy, folders["greedy"]),
        "regret": {budget: rounded(test.regret(budget)) for budget in test.budgets()},
        "cut": sum(not rollout.ended for rollout in test.rollouts) / len(test.rollouts),
        "episodes": len(steps) / len(curves),
        "idle": sum(before > KNOWN and gain > -0.1 for before, gain in steps) / max(len(steps), 1),
    }


def rollouts(run: Run, results: Path) -> dict[str, list]:
    """Of each problem, for each rollout: its tokens and whether it is right, which tell the accuracy in any budget."""
    first: dict[str, list[bool]] = {}  # whether the first attempt of each is right
    for row in completions(results):
        found = re.search(r"(?<!\*)x=(\d)", row["completion"])
        first.setdefault(row["problem_id"], []).append(bool(found and found[1] == row["solution"]))
    return {
        "tokens": [[rollout.tokens for rollout in group] for group in run.problems.values()],
        "right": [[int(rollout.right) for rollout in group] for group in run.problems.values()],
        "first": [sum(first[problem]) / len(first[problem]) for problem in run.problems],
    }


def tokens(rollouts: list) -> float:
    return sum(rollout.tokens for rollout in rollouts) / len(rollouts)


def rates(attempts: int, traces: Path, results: Path) -> dict[str, dict]:
    """How often the traces of a warm start for `revise` err, and the rollouts of a model."""
    rows = [json.loads(line) for line in traces.read_text().splitlines()]
    pairs = {
        "traces": [(row["prompt"], row["completion"]) for row in rows],
        "model": [(row["problem"], row["completion"]) for row in completions(results)],
    }
    return {name: error_rates(some, attempts) for name, some in pairs.items()}


def solved(rows: Iterable[dict]) -> float:
    """The share of STaR's rows that leave nothing to guess: the value found, or (clues) a digit for each sum."""
    pairs = [(row["messages"][-1]["content"], row["solution"]) for row in rows]
    done = ["(yes)" in text or len(set(re.findall(r"So (\w):", text))) == len(answer) for text, answer in pairs]
    return round(sum(done) / len(done), 4)


def rounded(values: Iterable[float], digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]
