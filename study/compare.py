"""
The trainings of a task, and how their methods compare.

Intervals are percentile bootstraps of 95%, over seeds and over problems: a draw takes the same problems for all
methods, and S - 1 of the S seeds of each, so that the variance of a mean over few seeds is not underestimated. What is
measured while training is a mean over validation problems, and its intervals draw seeds alone.
"""

import copy
from collections.abc import Callable, Iterable
from operator import attrgetter

import numpy as np

from mrt_plugin.analysis.runs import Estimate
from mrt_plugin.jobs.arguments import JobArguments
from mrt_plugin.jobs.problems import read_problems

from .plan import choices
from .settings import BASELINE, TASKS, VARIANTS, varied
from .settings import START as STARTS


RESAMPLES = 1000
START = "warm start"
LEVEL = 0.9  # of answers that are right, for "tokens to be right in 0.9"
WINDOW = 4  # evaluations of a stretch of training
LAST = 3  # evaluations at the end of a training, whose mean is what it comes to


class Results:
    """The trainings of one task that are reported: for each method those of its rate and schedule, one a seed."""

    def __init__(self, found: Iterable[dict], task: str):
        found = list(found)
        self.task, self.budget, self.steps = task, TASKS[task].budget, TASKS[task].steps
        self.quarter = self.budget // 4
        self.all = [record for record in found if record["task"] == task]
        chosen = choices(record for record in found if "seed" in record)
        self.chosen = {method: choice for (of_task, method), choice in chosen.items() if of_task == task}
        if self.trained and not any(record.get("seed") == 0 for record in self.all):
            # No search, as in reproduce-fast: each method has the rate and the length that it was given.
            self.chosen = {record["method"]: (record["learning_rate"], record["schedule"]) for record in self.trained}
            self.steps = max(record["steps"] for record in self.trained)
        self.start = next(record for record in self.all if record["method"] == START)
        self.runs: dict[str, list[dict]] = {START: [self.start]}
        self.longer: dict[str, list[dict]] = {}  # at equal tokens
        for record in sorted(self.trained, key=lambda r: r["seed"]):
            if (record["learning_rate"], record["schedule"]) == self.chosen.get(varied(record["method"])):
                into = self.runs if record["steps"] == self.steps else self.longer
                into.setdefault(record["method"], []).append(record)

    @property
    def trained(self) -> list[dict]:
        return [record for record in self.all if record.get("seed")]

    def right(self, method: str) -> np.ndarray:
        """(seeds, problems, tokens): the share of right answers within each number of tokens up to the budget."""
        budgets = np.arange(1, self.budget + 1)
        return np.array([within(run, budgets) for run in self.runs[method]])

    def accuracy(self, method: str, budget: int) -> np.ndarray:
        """(seeds, problems)"""
        return self.right(method)[..., budget - 1]

    def tokens(self, method: str) -> np.ndarray:
        """(seeds, problems)"""
        return np.array([run["tokens"] for run in self.runs[method]]).mean(axis=-1)

    def regret(self, method: str, budget: int) -> np.ndarray:
        """(seeds, problems)"""
        return np.array([run["regret"][str(budget)] for run in self.runs[method]])

    def first(self, method: str) -> np.ndarray:
        """(seeds, problems): the share of first attempts that are right."""
        return np.array([run["first"] for run in self.runs[method]])

    def curves(self, method: str, column: str) -> np.ndarray:
        """(seeds, evaluations), at the warm start and then every few updates."""
        begin = self.at_start(column)
        return np.array([[begin, *run["curve"][column]] for run in self.runs[method]])

    def at_start(self, column: str) -> float:
        """What the warm start has where a training has its curves."""
        held_out = self.start["validation"]
        known = held_out | {"regret": held_out["regret"][str(self.budget)], "updates": 0, "drawn": 0, "scored": 0}
        return known.get(column, np.nan)

    def spent(self, method: str) -> np.ndarray:
        """(seeds, evaluations): tokens of training, written and scored."""
        return self.curves(method, "drawn") + self.curves(method, "scored")

    def with_runs(self, runs: dict[str, list[dict]]) -> "Results":
        """The same task with other trainings."""
        other = copy.copy(self)
        other.runs = runs
        return other

    @property
    def problems(self) -> list[str]:
        """The test problems, in the order of the records, that of their ids."""
        args = JobArguments(dataset_name=str(STARTS / self.task / "problems"), dataset_train_split="test")
        return [problem.text for problem in sorted(read_problems(args), key=attrgetter("id"))]

    @property
    def methods(self) -> list[str]:
        return [method for method in self.runs if method not in VARIANTS]

    @property
    def source(self) -> str:
        days = [record["date"] for record in self.all]
        span = " to ".join(dict.fromkeys((min(days), max(days))))
        return f"Trainings of {span}, by `study/results.py`."


def within(run: dict, budgets: np.ndarray) -> np.ndarray:
    """(problems, budgets): the share of rollouts that are right and no longer."""
    tokens, right = np.array(run["tokens"])[..., None], np.array(run["right"])[..., None]
    return ((tokens <= budgets) * right).mean(axis=1)


def tokens_to(curve: np.ndarray, level: float = LEVEL) -> float:
    """The least budget within which so many answers are right; infinite where none is enough."""
    return float(np.argmax(curve >= level) + 1) if (curve >= level).any() else np.inf


def interval(statistic: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """
    A statistic of the means over seeds and problems, and its bootstrap.

    Args:
        statistic (`Callable`):
            Takes the mean of each sample.
        samples (`np.ndarray` of shape (S, P, ...)):
            Numbers by seed and problem; the problems are the same in all.
    """
    generator, problems, drawn = np.random.default_rng(0), samples[0].shape[1], []
    for _ in range(RESAMPLES):
        some = generator.integers(problems, size=problems)
        seeds = [generator.integers(len(sample), size=max(len(sample) - 1, 1)) for sample in samples]
        drawn.append(statistic(*(s[of_s][:, some].mean((0, 1)) for s, of_s in zip(samples, seeds, strict=True))))
    if np.isnan(drawn).all():
        return Estimate(np.nan, np.nan, np.nan)
    method = "nearest" if np.isinf(drawn).any() else "linear"  # nothing lies between a finite and an infinite draw
    low, high = np.nanpercentile(drawn, [2.5, 97.5], method=method).tolist()
    return Estimate(float(statistic(*(sample.mean((0, 1)) for sample in samples))), low, high)


def over(gain: float, of_baseline: float) -> float:
    """A gain in gains of the baseline; NaN where that gains nothing."""
    return gain / of_baseline if of_baseline > 0 else np.nan


def gain_ratio(ours: float, baseline: float, start: float) -> float:
    """What a method gains over the warm start, in gains of the baseline."""
    return over(ours - start, baseline - start)


def gained(results: Results, method: str, evaluations: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """
    For each seed and stretch of a training: the share of groups in which the outcome is silent, and the share of its
    regret that the policy loses. Both (seeds, stretches); the last, shorter stretch is left out.
    """
    silent, regret = (results.curves(method, column) for column in ("silent", "regret"))
    stretches = (regret.shape[1] - 1) // evaluations
    ends = np.arange(stretches + 1) * evaluations
    silent = silent[:, 1 : ends[-1] + 1].reshape(len(silent), stretches, evaluations).mean(axis=-1)
    return silent, 1 - regret[:, ends[1:]] / regret[:, ends[:-1]]


def reach(results: Results, method: str, axis: Callable[[str], np.ndarray]) -> Estimate:
    """
    How many times less of something (updates, tokens of training) a method takes than the baseline, to what the
    baseline comes to in accuracy within a quarter of the budget.

    Both are read off the mean curve over seeds: the first point at or above the mean of the baseline's last ones.
    """

    def cost(axis_curve: np.ndarray, target: float) -> float:
        spent, height = axis_curve
        return float(spent[np.argmax(height >= target)]) if (height >= target).any() else np.nan

    def ratio(ours: np.ndarray, baseline: np.ndarray) -> float:
        target = baseline[1, -LAST:].mean()
        return cost(baseline, target) / cost(ours, target)

    samples = [
        np.stack([axis(name), results.curves(name, "within_quarter")], axis=1)[:, None] for name in (method, BASELINE)
    ]
    return interval(ratio, *samples)
