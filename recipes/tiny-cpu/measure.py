"""What reproduce.py keeps of a run: numbers of a model on held-out problems, and of its training."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from datasets import load_dataset

from mrt_plugin.analysis.runs import Run, load_run
from mrt_plugin.episodes import episode_spans, thinking_span
from mrt_plugin.progress import progress


RECIPES = Path(__file__).parent
ROLLOUTS, LOGGING_STEPS = 64, 5  # rollouts of an update
BUDGETS, TRAINED = [*range(40, 321, 20)], 160  # tokens
KNOWN = 0.9  # success probability of a trace that has found the answer


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


def evaluate(model: Path, start: Path, out: Path, split: str, *options) -> Run:
    """A model on held-out problems; what has been evaluated already is only read."""
    results = out / f"{model.name}-{split}"
    data = ["--dataset_name", start / "problems", "--dataset_train_split", split, "--output_dir", results]
    recipe = ["--config", RECIPES / "evaluation/regret.yaml", "--model_name_or_path", model]
    call(out / "log", "-m", "mrt_plugin.analysis.evaluate", *recipe, *data, *options)
    return load_run(results)


def validate(model: Path, start: Path, out: Path) -> tuple[float, float]:
    """On validation problems, the accuracy and the mean tokens of a rollout."""
    few = ["--regret", "false", "--extensions", 0, "--num_generations", 16]
    run = evaluate(model, start, out, "validation", *few)
    return float(run.pass_at_1().mean()), sum(rollout.tokens for rollout in run.rollouts) / len(run.rollouts)


def measurements(model: Path, start: Path, out: Path) -> dict:
    """What is kept of a model: means over validation problems, and one number for each test problem."""
    validation, validation_tokens = validate(model, start, out)
    longest = ["--max_completion_length", BUDGETS[-1], "--mrt_estimator", "likelihood", "--extensions", 2]
    test = evaluate(model, start, out, "test", *longest)
    curves = [rollout.success_probability for rollout in test.rollouts]
    steps = [(before, gain) for curve in curves for before, gain in zip(curve, progress(curve), strict=False)]
    rows = load_dataset(str(out / f"{model.name}-test"), split="train")
    unsolved = [step for row in rows for step in before_success(row["completion"], row["success_probability"])]
    again = [repeats for repeats, _, _ in unsolved]
    # Of the new ones, and of those that repeat.
    failed = [
        [gain for repeats, gain, after in unsolved if repeats is which and after <= KNOWN] for which in (False, True)
    ]
    return {
        "validation": validation,
        "validation_tokens": validation_tokens,
        "accuracy": {budget: rounded(test.pass_at_1(budget)) for budget in BUDGETS},
        "tokens": rounded(test.each(lambda group: sum(r.tokens for r in group) / len(group)), 1),
        "regret": {budget: rounded(test.regret(budget)) for budget in test.budgets()},
        "cut": sum(rollout.tokens > TRAINED for rollout in test.rollouts) / len(test.rollouts),
        "episodes": len(steps) / len(curves),
        "idle": sum(before > KNOWN and gain > -0.1 for before, gain in steps) / max(len(steps), 1),
        "repeats": sum(again) / max(len(again), 1),
        "failed_gain": rounded(sum(gains) / max(len(gains), 1) for gains in failed),
        "progress": [sum(round(gain * 10) == tenth for _, gain in steps) for tenth in range(-10, 11)],
    }


def before_success(completion: str, success_probability: list[float]) -> list[tuple[bool, float, float]]:
    """
    For each episode before success: whether it came to what an earlier one had, in its last paragraph; its progress;
    and the success probability after it.
    """
    span = thinking_span(completion)
    thinking = completion[slice(*span)] if span else ""
    ends = [thinking[start:end].rstrip().rpartition("\n\n")[2] for start, end in episode_spans(thinking)]
    steps = zip(ends, success_probability[:-1], success_probability[1:], strict=True)
    return [
        (end in ends[:j], after - before, after) for j, (end, before, after) in enumerate(steps) if before <= KNOWN
    ]


def solved(rows: Iterable[dict]) -> float:
    """The share of STaR's rows that leave nothing to guess: value found (search), or a digit for each sum (clues)."""
    pairs = [(row["messages"][-1]["content"], row["solution"]) for row in rows]
    done = ["(yes)" in text or len(set(re.findall(r"So (\w):", text))) == len(answer) for text, answer in pairs]
    return round(sum(done) / len(done), 4)


def rounded(values: Iterable[float], digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]


def history(model: Path, drawn: bool) -> dict:
    """What training cost, and how it went; `drawn` says whether tokens of branches were drawn, or else scored."""
    log = json.loads((model / "trainer_state.json").read_text())["log_history"]
    tokens, curve, shape = {"drawn": 0.0, "scored": 0.0}, [], []
    for entry in log:
        if "completions/mean_length" in entry:
            written = ROLLOUTS * entry["completions/mean_length"] + entry.get("mrt/prefix_tokens", 0.0)
            tokens["drawn"] += LOGGING_STEPS * written
            tokens["drawn" if drawn else "scored"] += LOGGING_STEPS * entry.get("mrt/branch_tokens", 0.0)
            if "mrt/episodes_mean" in entry:  # updates, share of rollouts that are cut, episodes of a rollout
                point = [entry[name] for name in ("completions/clipped_ratio", "mrt/episodes_mean")]
                shape.append([entry["step"], *rounded(point)])
        elif "eval_rewards/mrt_accuracy/mean" in entry:  # updates, tokens, accuracy, tokens of a completion
            point = [entry[f"eval_{name}"] for name in ("rewards/mrt_accuracy/mean", "completions/mean_length")]
            curve.append([entry["step"], round(sum(tokens.values())), *rounded(point)])
    spent = {kind: round(count) for kind, count in tokens.items()}
    return {"training_tokens": spent, "curve": curve, "shape": shape} if curve else {}
