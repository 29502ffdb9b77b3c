"""Variants of credit."""

from dataclasses import replace

import numpy as np
import pytest

from mrt_plugin.credit import Credit, Step, dense
from mrt_plugin.settings import find_credit
from study import variants
from study.settings import METHODS, VARIANTS, Setting


STEP = Step(
    outcome=np.zeros(8),
    rewards=np.zeros(8),
    success=[np.array([0.25, 0.5, 1.0])] * 4 + [np.array([0.25, 0.5, 0.25])] * 3 + [np.zeros(1)],
    credit_ends=[[0, 2, 5]] * 7 + [[0]],
    width=7,
    group_size=8,
    horizon=0.0,
)
ALL = {name: entry for name, entry in vars(variants).items() if isinstance(entry, Credit) and name != "DENSE"}


def test_variants_change_which_tokens_progress_falls_on():
    plain = dense(STEP)
    credit = {name: entry.advantages(STEP) for name, entry in ALL.items()}
    for row in range(7):  # the same progress in another order
        gains, mixed = plain[row, [0, 2]], credit["SHUFFLED"][row, [0, 2]]
        assert sorted(gains) == pytest.approx(sorted(mixed))
    assert not np.allclose(credit["SHUFFLED"], plain)
    assert credit["CENTRED"][:, [0, 2]].sum(axis=0) == pytest.approx([0, 0])
    assert credit["TO_GO"][0, [0, 2]].tolist() == [0.75, 0.5]
    assert credit["SCALAR"][0, :5].tolist() == [0.75 - 3 / 8] * 5  # the eighth does not think
    assert credit["WITH_ANSWER"][0].tolist() == [0.25] * 2 + [0.5] * 5
    assert credit["SPREAD"][0] == pytest.approx(30 * np.array([0.125, 0.125, *[0.5 / 3] * 3, 0, 0]))
    assert all((values[7] == 0).all() for values in credit.values())
    interpolated = variants.INTERPOLATED.advantages(replace(STEP, horizon=1.0))  # a mean episode has 2.5 tokens
    assert interpolated[0, :3] == pytest.approx([1 / 3, 0.5 + 0.25 - 0.375, 5 / 12])


def test_variant_of_nothing_is_the_packages_own_credit():
    same = variants.with_gains(lambda gains, size: gains)(STEP)
    assert same == pytest.approx(dense(STEP))


def test_variants_are_known_by_their_paths():
    for entry in ALL.values():
        assert find_credit(entry.name, []) is entry


def test_a_variant_is_the_method_that_it_varies_and_its_own_options():
    arguments = {name: Setting("search", name, 1e-4, "constant", 0, 150).arguments for name in VARIANTS}
    assert arguments["alpha 0.4"] == [
        *Setting("search", "MRT dense", 1e-4, "constant", 0, 150).arguments,
        *("--mrt_alpha", "0.4"),
    ]
    assert VARIANTS["by episode, spread"].options == (
        *METHODS["MRT dense, by episode"].options,
        *("--mrt_credit", "study.variants.SPREAD"),
    )
    named = {options[options.index("--mrt_credit") + 1] for options in arguments.values() if "--mrt_credit" in options}
    assert named == {entry.name for entry in ALL.values()}


def test_every_method_is_validated_by_accuracy_and_what_is_within_a_quarter():
    budget = ("--reward_funcs", "mrt_length_penalty", "mrt_accuracy", "study.rewards.within_120", "--reward_weights")
    arguments = Setting("revise-hard", "length penalty 0.2", 1e-4, "cosine", 0, 100).arguments
    at = arguments.index("--reward_funcs")
    assert arguments[at : at + 8] == [*budget, "1.0", "0.0", "0.0"]
    assert arguments[-2:] == ["--mrt_length_alpha", "0.2"]
    assert "study.rewards" not in " ".join(Setting("clues", "MRT termination, online", 1, "cosine", 0, 1).arguments)
