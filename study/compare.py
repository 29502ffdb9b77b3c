"""
How methods compare.

Intervals are percentile bootstraps of 95%, over seeds and over problems: a draw takes the same problems for all
methods, and S - 1 of the S seeds of each, so that the variance of a mean over few seeds is not underestimated.
"""

from collections.abc import Callable

import numpy as np

from mrt_plugin.analysis.runs import Estimate


RESAMPLES = 1000


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
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    return Estimate(float(statistic(*(sample.mean((0, 1)) for sample in samples))), low, high)
