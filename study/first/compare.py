"""
The trainings of the first study on a task, and how their methods compare.
"""

from collections.abc import Callable
from itertools import chain

import numpy as np

from ..settings import BASELINE, METHODS, VARIANTS, varied


BUDGETS, TRAINED = [*range(40, 321, 20)], 160  # tokens
LEARNING_RATES = [5e-5, 1e-4, 2e-4, 4e-4]
START = "warm start"


class Results:
    """The runs of one task: for each method those with its learning rate, one for each seed."""

    def __init__(self, found: list[dict], task: str):
        self.found = mine = [record for record in found if record["task"] == task]
        self.steps = max((record["steps"] for record in mine if "steps" in record), default=0)
        self.swept = [r for r in mine if r.get("steps") == self.steps and r["seed"] == 0 and r["method"] in METHODS]
        self.rates = {method: rate for (_, method), rate in best_rates(mine, self.steps).items()}
        self.runs: dict[str, list[dict]] = {}
        for record in mine:
            method = record["method"]
            rate = self.rates.get(varied(method))
            usual = record["seed"] > 0 and (record["learning_rate"], record["steps"]) == (rate, self.steps)
            if method == START or usual:
                self.runs.setdefault(method, []).append(record)
        order = [START, *METHODS, *VARIANTS]
        self.runs = {method: self.runs[method] for method in order if method in self.runs}

    def accuracy(self, method: str) -> np.ndarray:
        """(seeds, problems, budgets)"""
        runs = self.runs[method]
        return np.array([[run["accuracy"][str(budget)] for budget in BUDGETS] for run in runs]).transpose(0, 2, 1)

    def beside_baseline(self, method: str) -> bool:
        return method not in (START, BASELINE) and BASELINE in self.runs

    def regret(self, method: str, budget: str) -> np.ndarray:
        """(seeds, problems)"""
        return np.array([run["regret"][budget] for run in self.runs[method]])

    def learning_curve(self, run: dict) -> np.ndarray:
        """(points, 5): updates, tokens, validation accuracy and length, and tokens that were drawn."""
        start = self.runs[START][0]
        drawn = run["training_tokens"]["drawn"] / sum(run["training_tokens"].values())
        points = [[0, 0, start["validation"], start["validation_tokens"]], *run["curve"]]
        return np.array([[*point, drawn * point[1]] for point in points])

    def learning_curves(self, method: str) -> np.ndarray:
        """(seeds, points, 5)"""
        return np.array([self.learning_curve(run) for run in self.runs[method] if run.get("curve")])

    @property
    def source(self) -> str:
        """When the runs ended, and what made a table of them."""
        days = [run["date"] for run in chain(self.swept, *self.runs.values())]
        return f"Runs of {min(days)} to {max(days)}, by `study/first/results.py`."

    @property
    def methods(self) -> list[str]:
        return [method for method in self.runs if method not in VARIANTS]


def best_rates(found: list[dict], steps: int) -> dict[tuple[str, str], float]:
    """For each task and method, the one of its learning rates with the highest accuracy on validation problems."""
    swept = [r for r in found if r.get("steps") == steps and r["seed"] == 0 and r["method"] in METHODS]
    swept = [record for record in swept if record["learning_rate"] in LEARNING_RATES]
    swept.sort(key=lambda record: record["validation"])
    return {(record["task"], record["method"]): record["learning_rate"] for record in swept}


def at(budget: int) -> Callable[[np.ndarray], float]:
    return lambda curve: curve[BUDGETS.index(budget)]


def over(gain: float, of_baseline: float) -> float:
    """A gain in gains of the baseline; NaN where that gains nothing."""
    return gain / of_baseline if of_baseline > 0 else np.nan


def gain_ratio(curve, baseline, start) -> float:
    """What a method gains over the warm start, in gains of the baseline."""
    return over(*(at(TRAINED)(one) - at(TRAINED)(start) for one in (curve, baseline)))


def fewer_tokens(curve, baseline, start) -> float:
    """
    How many times fewer tokens the method takes than the baseline, to nine tenths of the gain that both reach within
    the budget of training. Nine tenths, because curves are flat at their ends, where little decides on the tokens.
    """
    last = BUDGETS.index(TRAINED) + 1
    target = start[last - 1] + 0.9 * (min(curve[last - 1], baseline[last - 1]) - start[last - 1])
    tokens = [np.interp(target, np.maximum.accumulate(one[:last]), BUDGETS[:last]) for one in (curve, baseline)]
    return tokens[1] / tokens[0]


def reached(curves: np.ndarray, axis: int, end: float) -> list[float]:
    """Where each learning curve is at `end`, linear between evaluations."""
    return [float(np.interp(end, curve[:, axis], curve[:, 2])) for curve in curves]


def heights(curves: np.ndarray, axis: int, end: float) -> list[float]:
    """The mean of each learning curve from 0 to `end`, linear between evaluations: how high it is, and how soon."""
    grid = np.linspace(0, end, 200)
    return [float(np.interp(grid, curve[:, axis], curve[:, 2]).mean()) for curve in curves]


def gains(curves: np.ndarray, updates: int) -> np.ndarray:
    """(seeds, 1): what each learning curve has gained after so many updates."""
    return np.subtract(reached(curves, 0, updates), curves[:, 0, 2])[:, None]
