"""Intervals over seeds and problems."""

import numpy as np

from study import compare


def test_intervals_draw_seeds_and_problems():
    generator = np.random.default_rng(0)
    seeds = generator.normal(size=(5, 1)) + np.zeros((5, 400))
    of_seeds = compare.interval(float, seeds)
    of_problems = compare.interval(float, generator.normal(size=(5, 400)))
    assert of_seeds.high - of_seeds.low > 0.5  # not narrowed by 400 problems, which are all alike
    assert of_problems.high - of_problems.low < 0.3
    same = compare.interval(lambda a, b: a - b, seeds[:1], seeds[:1])
    assert same == (0, 0, 0)  # the same problems are drawn for both
