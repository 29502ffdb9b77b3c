"""
Variants of dense credit, to see what of it matters. Each is a recipe of `mrt grpo` with one function exchanged.

    python -m study.variants --variant shuffled --config recipes/tiny-cpu/grpo/config_mrt.yaml

Variants take what [`~mrt_plugin.credit.dense_credit`] takes, for rows in groups of `GROUP`, and return as it does the
credit of every token. Variants that are a field of the recipe (`mrt_samples`, `reward_weights`, ...) are not here.
"""

import argparse
from functools import partial

import numpy as np

import mrt_plugin.trainer
from mrt_plugin import grpo
from mrt_plugin.credit import dense_credit
from mrt_plugin.progress import progress


GROUP = 8  # num_generations of the recipes
LENGTH = 30  # tokens, about an episode of either task


def with_gains(change, ends, success, width, horizon=0.0):
    """Dense credit, with the progress of the episodes changed: `change` takes and returns a list of rows."""
    gains = change([np.nan_to_num(progress(row)) for row in success])
    return dense_credit(ends, [np.cumsum([0.0, *row]) for row in gains], width, horizon)


def shuffled(gains):
    """The progress of a trace's episodes in random order."""
    generator = np.random.default_rng(abs(hash(tuple(map(tuple, gains)))))
    return [generator.permutation(row) for row in gains]


def centred(gains):
    """Less the mean, over the group, of the progress of all episodes with the same index."""
    result = []
    for start in range(0, len(gains), GROUP):
        group = gains[start : start + GROUP]
        longest = max(map(len, group))
        means = [np.mean([row[j] for row in group if j < len(row)]) for j in range(longest)]
        result += [row - means[: len(row)] for row in group]
    return result


def to_go(gains):
    """Progress from the beginning of an episode to the end of the thinking: J_G - J_{j-1}."""
    return [np.cumsum(row[::-1])[::-1] for row in gains]


def scalar(gains):
    """J_G - J_0, less its mean over the group, for the whole thinking: a second outcome reward, and no episodes."""
    totals = [row.sum() for row in gains]
    means = np.repeat(np.mean(np.reshape(totals, (-1, GROUP)), axis=1), GROUP)
    return [np.full(len(row), total - mean) for row, total, mean in zip(gains, totals, means, strict=True)]


def with_answer(ends, success, width, horizon=0.0):
    """The last episode takes in the answer, whose tokens, without a horizon, get its progress as well."""
    return dense_credit([[*row[:-1], width] if len(row) > 1 else row for row in ends], success, width, horizon)


def spread(ends, success, width, horizon=0.0):
    """Each token gets the progress per token of its episode, times `LENGTH`: the same in total, however divided."""
    return LENGTH * dense_credit(ends, success, width, horizon=1)


VARIANTS = {
    "shuffled": partial(with_gains, shuffled),
    "centred": partial(with_gains, centred),
    "to-go": partial(with_gains, to_go),
    "to-go-centred": partial(with_gains, lambda gains: centred(to_go(gains))),
    "scalar": partial(with_gains, scalar),
    "with-answer": with_answer,
    "spread": spread,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    chosen, arguments = parser.parse_known_args()
    mrt_plugin.trainer.dense_credit = VARIANTS[chosen.variant]
    grpo.run(arguments)
