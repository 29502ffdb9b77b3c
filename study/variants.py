"""
Variants of dense credit, to see what of it matters: entries of the same kind as the package's own.

    mrt grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml --mrt_credit study.variants.SHUFFLED

Variants that are a field of the recipe (`mrt_samples`, `reward_weights`, ...) are not here.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mrt_plugin.credit import DENSE, Credit, Step, dense
from mrt_plugin.progress import progress


LENGTH = 30  # tokens, about an episode of either task of the first study


def variant(name: str, advantages: Callable[[Step], np.ndarray]) -> Credit:
    return replace(DENSE, name=f"study.variants.{name}", advantages=advantages)


def with_gains(change: Callable) -> Callable[[Step], np.ndarray]:
    """Dense credit, with the progress of the episodes changed: of the rows of a step, in groups of some size."""

    def advantages(step: Step) -> np.ndarray:
        gains = change([np.nan_to_num(progress(row)) for row in step.success], step.group_size)
        return dense(replace(step, success=[np.cumsum([0.0, *row]) for row in gains]))

    return advantages


def shuffled(gains, size):
    """The progress of a trace's episodes in random order."""
    generator = np.random.default_rng(abs(hash(tuple(map(tuple, gains)))))
    return [generator.permutation(row) for row in gains]


def centred(gains, size):
    """Less the mean, over the group, of the progress of all episodes with the same index."""
    result = []
    for start in range(0, len(gains), size):
        group = gains[start : start + size]
        longest = max(map(len, group))
        means = [np.mean([row[j] for row in group if j < len(row)]) for j in range(longest)]
        result += [row - means[: len(row)] for row in group]
    return result


def to_go(gains, size):
    """Progress from the beginning of an episode to the end of the thinking: J_G - J_{j-1}."""
    return [np.cumsum(row[::-1])[::-1] for row in gains]


def scalar(gains, size):
    """J_G - J_0, less its mean over the group, for the whole thinking: a second outcome reward, and no episodes."""
    totals = [row.sum() for row in gains]
    means = np.repeat(np.mean(np.reshape(totals, (-1, size)), axis=1), size)
    return [np.full(len(row), total - mean) for row, total, mean in zip(gains, totals, means, strict=True)]


def with_answer(step: Step) -> np.ndarray:
    """The last episode takes in the answer, whose tokens, without a horizon, get its progress as well."""
    ends = [[*row[:-1], step.width] if len(row) > 1 else row for row in step.credit_ends]
    return dense(replace(step, credit_ends=ends))


def rising(step: Step, horizon: float) -> np.ndarray:
    """What J gains within so many tokens, for each token of a thinking, where it rises evenly within an episode."""
    credit = np.zeros((len(step.credit_ends), step.width))
    for row, (ends, success) in enumerate(zip(step.credit_ends, step.success, strict=True)):
        rise, tokens = np.cumsum([0.0, *np.nan_to_num(progress(success))]), np.arange(ends[0], ends[-1])
        credit[row, ends[0] : ends[-1]] = np.interp(tokens + horizon, ends, rise) - np.interp(tokens, ends, rise)
    return credit.astype(step.outcome.dtype)


def spread(step: Step) -> np.ndarray:
    """Each token gets the progress per token of its episode, times `LENGTH`: the same in total, however divided."""
    return step.outcome[:, None] + step.alpha * LENGTH * rising(step, horizon=1)


def interpolated(step: Step) -> np.ndarray:
    """
    The package's dense credit until 2026-11-27, and that of the first study: J rises evenly within an episode, so
    that a token that spoils its end gets a small part of the loss.
    """
    return step.outcome[:, None] + step.alpha * rising(step, step.horizon_tokens)


SHUFFLED = variant("SHUFFLED", with_gains(shuffled))
CENTRED = variant("CENTRED", with_gains(centred))
TO_GO = variant("TO_GO", with_gains(to_go))
TO_GO_CENTRED = variant("TO_GO_CENTRED", with_gains(lambda gains, size: centred(to_go(gains, size), size)))
SCALAR = variant("SCALAR", with_gains(scalar))
WITH_ANSWER = variant("WITH_ANSWER", with_answer)
SPREAD = variant("SPREAD", spread)
INTERPOLATED = variant("INTERPOLATED", interpolated)
