r"""Success probabilities -> progress, regret, maj@p, pass@k.

`success_probability` stands for the sequence J_0, ..., J_G of one trace: how often the meta-prover is right when it is
made to answer after 0, ..., G episodes. Pure numpy; equation and section numbers are those of arXiv 2503.07572.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from scipy.integrate import trapezoid


def progress(success_probability: Sequence[float]) -> np.ndarray:
    """
    What each episode added to the chance of success (Definition 6.1): `J_j - J_{j-1}`.

    Args:
        success_probability (`Sequence[float]` of shape (G + 1,)): J after 0, ..., G episodes.

    Returns:
        `np.ndarray` of shape (G,): Progress of episodes 1, ..., G. Its sum is `J_G - J_0`.

    Example:
    ```python
    >>> progress([0.25, 0.25, 1.0]).tolist()
    [0.0, 0.75]

    ```
    """
    return np.diff(np.asarray(success_probability, dtype=float))


def cumulative_regret(success_probability: Sequence[float], oracle: float | Sequence[float] = 1.0) -> float:
    r"""
    Cumulative regret against a comparator (Definition 4.1): `sum_j oracle_j - J_j` over the episodes 1, ..., G.

    Args:
        success_probability (`Sequence[float]` of shape (G + 1,)): J after 0, ..., G episodes.
        oracle (`float` or `Sequence[float]` of shape (G,), *optional*, defaults to `1.0`): J of the comparator.

    Example:
    ```python
    >>> cumulative_regret([0.25, 0.25, 1.0])
    0.75

    ```
    """
    return float(np.sum(np.asarray(oracle) - np.asarray(success_probability, dtype=float)[1:]))


def normalized_regret(success_probability: Sequence[float], tokens: Sequence[float], token_budget: float) -> float:
    """
    Regret of one trace against an oracle that is always right, per token of the budget (section 7 of the paper's
    analysis): one minus the area under J over tokens, divided by the budget.

    The curve starts in (0, 0), is linear between points, is cut at the budget, and is held where it ends before.

    Args:
        success_probability (`Sequence[float]` of shape (N,)): J at each measured prefix.
        tokens (`Sequence[float]` of shape (N,)): Those spent there on the prefix and the answer, ascending.
        token_budget (`float`): Budget C_0, in tokens.

    Returns:
        `float`: In [0, 1]; lower is better. That of a model is the mean over problems of the mean over traces.

    Example:
    ```python
    >>> round(normalized_regret([0.25, 0.5, 1.0], [1000, 3000, 6000], 4096), 6)
    0.628149

    ```
    """
    tokens = np.concatenate([[0.0], np.asarray(tokens, dtype=float)])
    values = np.concatenate([[0.0], np.asarray(success_probability, dtype=float)])
    if token_budget <= 0:
        raise ValueError(f"token_budget must be positive, got {token_budget}.")
    if (np.diff(tokens) < 0).any():
        raise ValueError(f"tokens must be ascending and not negative, got {tokens[1:].tolist()}.")
    inside = tokens <= token_budget
    at_budget = np.interp(token_budget, tokens, values)  # holds the last value beyond the last point
    area = trapezoid(np.append(values[inside], at_budget), np.append(tokens[inside], token_budget))
    return float(1.0 - area / token_budget)


def released_regret(
    success_probability: Sequence[float], tokens: Sequence[float], token_budget: float, extrapolated: bool = False
) -> float:
    """
    Normalised regret of a curve as the authors' released analysis integrates it.

    It equals [`normalized_regret`] where tokens ascend. Where a later prefix costs fewer tokens, because its answers
    are shorter, the curve runs backwards and areas are subtracted. Beyond the trained budget (`extrapolated`) it is
    not cut at the budget: where a point lies behind it, the curve runs back to it as well.

    ```python
    >>> round(released_regret([0.25, 0.5, 1.0], [1000, 3000, 6000], 4096), 6)
    0.628149
    >>> released_regret([1.0], [3000], 2000, extrapolated=True), released_regret([1.0], [3000], 2000)
    (0.75, 0.6666666666666667)

    ```
    """
    tokens, values = [0.0, *tokens], [0.0, *success_probability]
    behind = [index for index, count in enumerate(tokens) if count >= token_budget]
    if extrapolated or not behind:
        tokens, values = [*tokens, token_budget], [*values, values[-1]]
    else:
        last = behind[0] - 1
        share = (token_budget - tokens[last]) / (tokens[last + 1] - tokens[last])
        at_budget = values[last] + share * (values[last + 1] - values[last])
        tokens, values = [*tokens[: last + 1], token_budget], [*values[: last + 1], at_budget]
    return float(1.0 - trapezoid(values, tokens) / token_budget)


def majority_curve(answers: Sequence[Hashable], gold: Hashable) -> np.ndarray:
    """
    maj@1, ..., maj@K: the chance that a majority vote among p of K answers, drawn without replacement, is right.

    Computed exactly: for each number of votes for the gold answer, the draws are counted in which no other has more.

    Args:
        answers (`Sequence[Hashable]` of length K): Equal where they mean the same; `None` has no vote.
        gold (`Hashable`): The right one.

    Returns:
        `np.ndarray` of shape (K,): For p = 1, ..., K the mean over all draws of 1 if the gold answer has the most
            votes, 0.5 if it shares them, else 0.

    Example:
    ```python
    >>> majority_curve(["7", "7", "3"], gold="7").round(4).tolist()
    [0.6667, 0.6667, 1.0]

    ```
    """
    total, sizes = len(answers), Counter(answers)
    silent, right = sizes.pop(None, 0), sizes.pop(gold, 0)

    def draws(most: int) -> list[int]:
        """Draws of 0, ..., K of the answers that are not right, with no more than `most` of the same."""
        ways = [1] + [0] * total
        for size, allowed in [(silent, silent), *((size, min(size, most)) for size in sizes.values())]:
            choices = [comb(size, count) for count in range(allowed + 1)]
            ways = [sum(c * ways[n - i] for i, c in enumerate(choices[: n + 1])) for n in range(total + 1)]
        return ways

    up_to = [draws(votes) for votes in range(right + 1)]
    curve = []
    for p in range(1, total + 1):
        # A draw that the gold answer wins counts in both sums, one that it shares in one.
        votes = range(1, min(right, p) + 1)
        won = sum(comb(right, own) * (up_to[own - 1][p - own] + up_to[own][p - own]) for own in votes)
        curve.append(won / 2 / comb(total, p))
    return np.array(curve)


def pass_at(k: int, correct: int, total: int) -> float:
    """
    Unbiased pass@k from `correct` right answers out of `total`: `1 - C(n - c, k) / C(n, k)` (arXiv 2107.03374).

    ```python
    >>> pass_at(2, correct=1, total=4)
    0.5

    ```
    """
    if not 1 <= k <= total or not 0 <= correct <= total:
        raise ValueError(f"needs 1 <= k <= total and 0 <= correct <= total, got {k=}, {correct=}, {total=}.")
    return 1.0 - comb(total - correct, k) / comb(total, k)
