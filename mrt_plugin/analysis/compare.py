r"""Two runs on the same problems: what one gains over the other, and whether that is more than noise.

mrt compare runs/grpo runs/mrt
"""

import argparse
from collections.abc import Sequence

import numpy as np

from ..mistakes import as_command
from ..rollouts import VARIANTS
from .runs import RESAMPLES, Run, estimate, load_runs, markdown


LEVELS = (0.5, 0.75, 0.9)
"""Shares of right answers for which the tokens are compared: maj@k no longer separates runs once both reach 1."""

BUDGETS = 200
"""Most budgets at which a bootstrap draw looks up the share of right answers; the estimate itself is exact."""


def compare(before: Run, after: Run, variant: str = "definition") -> list[dict[str, str]]:
    """
    The table of differences, `after` minus `before`, with intervals from a bootstrap over problems that draws both
    runs of a problem together.

    Args:
        before, after ([`~mrt_plugin.analysis.runs.Run`]):
            Of the same problems.
        variant (`str`, *optional*, defaults to `"definition"`): Of regret, as in [`~mrt_plugin.rollouts.regret_at`].

    Returns:
        `list[dict[str, str]]`:
            One row for each measure.
    """
    majorities = [run.majority() for run in (before, after)]
    votes = min(accuracy.shape[1] for _, accuracy in majorities)
    lengths = [run.each(lambda group: np.mean([r.tokens for r in group])) for run in (before, after)]
    measures = {"pass@1": (before.pass_at_1(), after.pass_at_1(), 1)}
    measures[f"maj@{votes}"] = (*(accuracy[:, votes - 1] for _, accuracy in majorities), 1)
    measures["tokens"] = (*lengths, -1)
    if before.has_regret:
        for budget in before.budgets():
            measures[f"regret@{budget}"] = (before.regret(budget, variant), after.regret(budget, variant), -1)
    rows = []
    for name, (old, new, better) in measures.items():
        difference = estimate(new - old)
        digits = 0 if name == "tokens" else 3
        rows.append(
            {
                "measure": name,
                before.name: f"{old.mean():.{digits}f}",
                after.name: f"{new.mean():.{digits}f}",
                "difference": f"{difference.mean:+.{digits}f}",
                "95% interval": f"[{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]",
                "": significance(*sorted([better * difference.low, better * difference.high]), nothing=0.0),
            }
        )
    curves = np.stack([of_run[:, :votes] for majority in majorities for of_run in majority], axis=1)
    target = min(curves[:, row].mean(axis=0).max() for row in (1, 3))
    if votes > 1 and target > 0:  # there are right answers to compare tokens for
        ratio = estimate(curves, lambda drawn: token_ratio(*drawn.mean(axis=0)))
        rows.append(
            {
                "measure": f"times fewer tokens for maj@k of {target:.3f}",
                "difference": f"{ratio.mean:.2f}",
                "95% interval": f"[{ratio.low:.2f}, {ratio.high:.2f}]",
                "": significance(ratio.low, ratio.high, nothing=1.0),
            }
        )
    return rows + _levels(before, after)


def _levels(before: Run, after: Run) -> list[dict[str, str]]:
    """A row for each level that one of the runs comes to, with the tokens that it takes."""
    lengths = [rollout.tokens for run in (before, after) for rollout in run.rollouts]
    budgets = np.unique(np.quantile(lengths, np.linspace(0, 1, BUDGETS), method="higher"))
    right = np.stack([[run.pass_at_1(budget) for budget in budgets] for run in (before, after)]).transpose(2, 0, 1)

    def tokens(drawn: np.ndarray, level: float) -> np.ndarray:
        return np.array([tokens_to_be_right(budgets, curve, level) for curve in drawn.mean(axis=0)])

    rows = []
    for level in LEVELS:
        old, new = (tokens_to_be_right(*right_within(run), level) for run in (before, after))
        row = {"measure": f"tokens to be right in {level}"}
        row |= {run.name: f"{value:.0f}" for run, value in ((before, old), (after, new)) if np.isfinite(value)}
        if np.isfinite([old, new]).all():  # a draw of problems that does not come to it takes the whole budget
            difference = estimate(
                right, lambda drawn, level=level: np.subtract(*np.minimum(tokens(drawn, level), before.trained)[::-1])
            )
            row["difference"] = f"{new - old:+.0f}"
            row["95% interval"] = f"[{difference.low:+.0f}, {difference.high:+.0f}]"
            row[""] = significance(-difference.high, -difference.low, nothing=0.0)
        elif len(row) > 1:
            row[""] = f"only {(before if np.isfinite(old) else after).name} comes to it"
        rows += [row] if len(row) > 1 else []
    return rows


def right_within(run: Run) -> tuple[list[int], np.ndarray]:
    """The lengths of right first attempts in order, and the share of right answers within each of them."""
    firsts = [[rollout for rollout in group if not rollout.attempt] for group in run.problems.values()]
    found = sorted((one.tokens, 1 / len(group)) for group in firsts for one in group if one.right)
    return [tokens for tokens, _ in found], np.cumsum([weight for _, weight in found]).round(9) / len(firsts)


def tokens_to_be_right(budgets: Sequence[float], accuracy: Sequence[float], level: float) -> float:
    """
    The smallest budget within which the share of right answers reaches a level; infinite if none does.

    ```python
    >>> tokens_to_be_right([100, 200, 300], [0.25, 0.75, 0.95], 0.9)
    300.0
    >>> tokens_to_be_right([100, 200, 300], [0.25, 0.75, 0.85], 0.9)
    inf

    ```
    """
    return float(next((budget for budget, right in zip(budgets, accuracy, strict=True) if right >= level), np.inf))


def token_ratio(
    tokens: Sequence[float], accuracy: Sequence[float], other_tokens: Sequence[float], other_accuracy: Sequence[float]
) -> float:
    """
    How many times more tokens the first curve takes than the other, to the highest accuracy that both reach.

    Args:
        tokens, accuracy, other_tokens, other_accuracy (`Sequence[float]` of shape (N,)):
            maj@k and the tokens it takes, for k = 1, ..., N. In between, curves are linear; where one begins above the
            accuracy, it takes the tokens of its beginning.

    ```python
    >>> token_ratio([100, 200, 300], [0.25, 0.5, 0.75], [50, 100, 150], [0.25, 0.5, 0.5])
    2.0

    ```
    """
    target = min(max(accuracy), max(other_accuracy))
    return _tokens_to(target, tokens, accuracy) / _tokens_to(target, other_tokens, other_accuracy)


def _tokens_to(target: float, tokens: Sequence[float], accuracy: Sequence[float]) -> float:
    first = next(k for k, value in enumerate(accuracy) if value >= target)
    if first == 0:
        return float(tokens[0])
    share = (target - accuracy[first - 1]) / (accuracy[first] - accuracy[first - 1])
    return float(tokens[first - 1] + share * (tokens[first] - tokens[first - 1]))


def significance(low: float, high: float, nothing: float) -> str:
    """What an interval says, where more is better."""
    if np.isnan(low):
        return "one problem: no interval"
    return "better" if low > nothing else "worse" if high < nothing else "within noise"


def run(arguments: list[str] | None = None) -> None:
    """Compares the two runs that a command line names."""
    parser = argparse.ArgumentParser("mrt compare", description="What the second run gains over the first.")
    parser.add_argument("runs", nargs=2, metavar="RUN", help="folder that mrt evaluate wrote")
    parser.add_argument("--regret", choices=VARIANTS, default="definition", help="variant of normalised regret")
    args = parser.parse_args(arguments)
    before, after = load_runs(args.runs)
    print(markdown(compare(before, after, args.regret)))
    print(
        f"\nDifference: {after.name} less {before.name}. Intervals: percentile bootstrap over {len(before.problems)} "
        f"problems, {RESAMPLES} draws; `within noise` means that the interval holds no difference."
    )


if __name__ == "__main__":
    as_command("compare", run)
