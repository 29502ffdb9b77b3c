"""Variants of credit."""

import numpy as np
import pytest

from mrt_plugin.credit import dense_credit
from study import variants
from study.settings import METHODS, VARIANTS, Setting


ENDS = [[0, 2, 5]] * 7 + [[0]]
SUCCESS = [np.array([0.25, 0.5, 1.0])] * 4 + [np.array([0.25, 0.5, 0.25])] * 3 + [np.zeros(1)]


def test_variants_change_which_tokens_progress_falls_on():
    plain = dense_credit(ENDS, SUCCESS, 7)
    credit = {name: variant(ENDS, SUCCESS, 7) for name, variant in variants.VARIANTS.items()}
    for row in range(7):  # the same progress in another order
        gains, mixed = plain[row, [0, 2]], credit["shuffled"][row, [0, 2]]
        assert sorted(gains) == pytest.approx(sorted(mixed))
    assert not np.allclose(credit["shuffled"], plain)
    assert credit["centred"][:, [0, 2]].sum(axis=0) == pytest.approx([0, 0])
    assert credit["to-go"][0, [0, 2]].tolist() == [0.75, 0.5]
    assert credit["scalar"][0, :5].tolist() == [0.75 - 3 / 8] * 5  # the eighth does not think
    assert credit["with-answer"][0].tolist() == [0.25] * 2 + [0.5] * 5
    assert credit["spread"][0] == pytest.approx(30 * np.array([0.125, 0.125, *[0.5 / 3] * 3, 0, 0]))
    assert all((values[7] == 0).all() for values in credit.values())


def test_variant_of_nothing_is_the_packages_own_credit():
    same = variants.with_gains(lambda gains: gains, ENDS, SUCCESS, 7)
    assert same == pytest.approx(dense_credit(ENDS, SUCCESS, 7))


def test_a_variant_is_the_method_that_it_varies_and_its_own_options():
    arguments = {name: Setting("search", name, 1e-4, "constant", 0, 150).arguments for name in VARIANTS}
    assert arguments["alpha 0.4"] == [
        *Setting("search", "MRT dense", 1e-4, "constant", 0, 150).arguments,
        *("--mrt_alpha", "0.4"),
    ]
    assert VARIANTS["by episode, spread"].options == (*METHODS["MRT dense, by episode"].options, "--variant", "spread")
    named = {options[-1] for options in arguments.values() if "--variant" in options}
    assert named == set(variants.VARIANTS)


def test_every_method_is_validated_by_accuracy_and_what_is_within_a_quarter():
    budget = ("--reward_funcs", "mrt_length_penalty", "mrt_accuracy", "study.rewards.within_120", "--reward_weights")
    arguments = Setting("revise-hard", "length penalty 0.2", 1e-4, "cosine", 0, 100).arguments
    at = arguments.index("--reward_funcs")
    assert arguments[at : at + 8] == [*budget, "1.0", "0.0", "0.0"]
    assert arguments[-2:] == ["--mrt_length_alpha", "0.2"]
    assert "study.rewards" not in " ".join(Setting("clues", "MRT termination, online", 1, "cosine", 0, 1).arguments)
