r"""Notices a training that turns bad late, and names the checkpoint to go back to.

A learning rate that served well at first can later undo what was learned: completions run into their limit, or the
thinking vanishes.
"""

import math
from collections.abc import Iterable, Sequence


SHARES = {
    "completions/clipped_ratio": "share of completions that are cut by length",
    "mrt/without_episodes": "share of rollouts without an episode",
}
GROWN = 0.3
"""By so much above its least value, twice in a row, a share of [`SHARES`] is reported."""

QUALITIES = (("mrt/regret", -1), ("eval_reward", 1), ("reward", 1))
"""Metrics that a checkpoint is judged by, the first that is logged; -1 where less is better."""


def logged(log: Sequence[dict], name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, where it is known."""
    return [(one["step"], one[name]) for one in log if one.get(name) is not None and math.isfinite(one[name])]


def grown_share(log: Sequence[dict]) -> str | None:
    """
    The share that has grown at the end of a log (entries of `TrainerState.log_history`), in words, or `None`.

    ```python
    >>> values = [0.1, 0.05, 0.4, 0.5]
    >>> grown_share([{"step": step, "completions/clipped_ratio": value} for step, value in enumerate(values, 1)])
    'share of completions that are cut by length has grown from 0.05 at step 2 to 0.50 at step 4'

    ```
    """
    for name, words in SHARES.items():
        points = [(value, step) for step, value in logged(log, name)]
        least, step = min(points, default=(1.0, 0))
        if points and all(value > least + GROWN for value, _ in points[-2:]):
            return f"{words} has grown from {least:.2f} at step {step} to {points[-1][0]:.2f} at step {points[-1][1]}"
    return None


def best_checkpoint(log: Sequence[dict], saved: Iterable[int]) -> tuple[int, str] | None:
    """
    Of the steps with a checkpoint, the best by what was last logged before it, and the metric that says so.

    ```python
    >>> log = [{"step": 10, "reward": 0.5}, {"step": 20, "reward": 0.75}, {"step": 30, "reward": 0.25}]
    >>> best_checkpoint(log, saved=[15, 25, 35])
    (25, 'reward')

    ```
    """
    for name, sign in QUALITIES:
        before = {step: [sign * value for at, value in logged(log, name) if at <= step] for step in saved}
        judged = {step: values[-1] for step, values in before.items() if values}
        if judged:
            return max(judged, key=judged.get), name
    return None
