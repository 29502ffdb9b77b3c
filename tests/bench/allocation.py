"""Fewer branches for the same knowledge: branches spent where J is uncertain, beside the same number everywhere.

A simulation: J of each prefix is what many draws said, and schemes draw from it. They are compared at equal error.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np


REPEATS = 400


class Draws:
    """Shares of right answers, as if drawn."""

    def __init__(self, shares: np.ndarray, generator: np.random.Generator):
        self.shares, self.generator, self.spent = shares, generator, 0

    def __call__(self, prefix: int, n: int) -> float:
        self.spent += n
        return self.generator.binomial(n, self.shares[prefix]) / n


def uniform(draw: Draws, prefixes: int, n: int) -> list[float]:
    return [draw(j, n) for j in range(prefixes)]


def stopping(draw: Draws, prefixes: int, n: int, first: int = 2) -> list[float]:
    """Goes on after `first` branches only where they disagree."""
    estimates = [draw(j, first) for j in range(prefixes)]
    rest = n - first
    return [e if e in (0, 1) else (first * e + rest * draw(j, rest)) / n for j, e in enumerate(estimates)]


def bisection(draw: Draws, prefixes: int, n: int, tolerance: float = 0.0) -> list[float]:
    """Measures the ends of a stretch, and its middle only where they differ by more than a tolerance."""
    estimates = {0: draw(0, n), prefixes - 1: draw(prefixes - 1, n)}
    stretches = [(0, prefixes - 1)]
    while stretches:
        i, k = stretches.pop()
        if k - i > 1 and abs(estimates[i] - estimates[k]) > tolerance:
            middle = (i + k) // 2
            estimates[middle] = draw(middle, n)
            stretches += [(i, middle), (middle, k)]
    known = sorted(estimates)
    return list(np.interp(range(prefixes), known, [estimates[j] for j in known]))


SCHEMES = {
    "2 branches, 4 where they disagree": partial(stopping, n=4),
    "2 branches, 8 where they disagree": partial(stopping, n=8),
    "4 branches, 16 where they disagree": partial(stopping, n=16, first=4),
    "bisection, 4 branches": partial(bisection, n=4),
    "bisection, 8 branches": partial(bisection, n=8),
    "bisection, 8 branches, up to 0.25": partial(bisection, n=8, tolerance=0.25),
}


def errors(scheme: Callable, traces: Sequence[np.ndarray]) -> np.ndarray:
    """Branches of a prefix, and mean squared errors of J and of progress."""
    generator = np.random.default_rng(0)
    spent, of_j, of_progress = [], [], []
    for shares in traces:
        for _ in range(REPEATS):
            draws = Draws(shares, generator)
            error = np.array(scheme(draws, len(shares))) - shares
            spent.append(draws.spent / len(shares))
            of_j.append((error**2).mean())
            of_progress.append((np.diff(error) ** 2).mean())
    return np.mean([spent, of_j, of_progress], axis=1)


def run(traces: Sequence[np.ndarray]) -> list[dict]:
    """
    Args:
        traces (`Sequence[np.ndarray]`):
            J of each trace, of shape (G + 1,), with G > 0.
    """
    _, one_j, one_progress = errors(partial(uniform, n=1), traces)  # errors of n branches are an n-th of these
    rows = []
    for name, scheme in SCHEMES.items():
        spent, of_j, of_progress = errors(scheme, traces)
        rows.append(
            {
                "what": name,
                "branches a prefix": float(spent),
                "error of J": float(of_j**0.5),
                "uniform branches for it": float(one_j / of_j),
                "saves": f"{one_j / of_j / spent:.2f}x",
                "error of progress": float(of_progress**0.5),
                "saves there": f"{one_progress / of_progress / spent:.2f}x",
                "goal": "2x",
            }
        )
    return rows
