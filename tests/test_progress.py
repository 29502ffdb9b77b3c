import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt_plugin.progress import cumulative_regret, majority_curve, normalized_regret, pass_at, progress


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("token_budget", "regret"), [(4096, 0.628149), (8192, 0.350952), (12288, 0.233968), (16384, 0.175476)]
)
def test_golden_normalized_regret(token_budget, regret):
    assert round(normalized_regret([0.25, 0.5, 1.0], [1000, 3000, 6000], token_budget), 6) == regret


@given(probabilities)
def test_progress_sums_to_the_change_of_the_success_probability(success):
    assert progress(success).shape == (len(success) - 1,)
    assert progress(success).sum() == pytest.approx(success[-1] - success[0])


curves = probabilities.flatmap(
    lambda success: st.tuples(
        st.just(success),
        st.lists(st.integers(0, 20_000), min_size=len(success), max_size=len(success)).map(sorted),
        st.integers(1, 20_000),
    )
)


@given(curves)
def test_normalized_regret_is_in_the_unit_interval(curve):
    assert -1e-9 <= normalized_regret(*curve) <= 1 + 1e-9


@given(curves, st.floats(0, 1))
def test_normalized_regret_falls_as_success_rises(curve, rise):
    success, tokens, token_budget = curve
    better = [value + rise * (1 - value) for value in success]
    assert normalized_regret(better, tokens, token_budget) <= normalized_regret(*curve) + 1e-9


@given(curves)
def test_normalized_regret_equals_a_sum_over_single_tokens(curve):
    success, tokens, token_budget = curve
    tokens = np.unique(tokens, return_index=True)  # a jump has no height at a single token
    success, tokens = np.array(success)[tokens[1]], tokens[0]
    if tokens[0] == 0:
        return
    grid = np.linspace(0, token_budget, 200_001)
    heights = np.interp(grid, [0, *tokens], [0, *success])
    expected = 1 - ((heights[1:] + heights[:-1]) / 2).mean()
    assert normalized_regret(success, tokens, token_budget) == pytest.approx(expected, abs=1e-3)


def test_a_trace_that_ends_before_the_budget_holds_its_last_value():
    assert normalized_regret([1.0], [0], 1000) == 0
    assert normalized_regret([0.5], [1000], 4000) == pytest.approx(1 - (0.25 * 1000 + 0.5 * 3000) / 4000)


def test_of_two_points_at_the_budget_the_first_ends_the_curve():
    assert normalized_regret([0.2, 0.8], [100, 100], 100) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("tokens", "budget", "match"), [([5, 3], 10, "ascending"), ([-1, 3], 10, "ascending"), ([1, 3], 0, "positive")]
)
def test_bad_curves_are_named(tokens, budget, match):
    with pytest.raises(ValueError, match=match):
        normalized_regret([0.1, 0.2], tokens, budget)


def test_cumulative_regret_against_an_oracle():
    assert cumulative_regret([0.0, 0.5, 1.0]) == pytest.approx(0.5)
    assert cumulative_regret([0.0, 0.5, 1.0], oracle=[0.75, 1.0]) == pytest.approx(0.25)


def test_majority_counts_draws_and_halves_ties():
    # Of the four draws of three, two hold both 7s and two hold one of each.
    assert majority_curve(["7", "7", "3", "4"], "7").tolist() == pytest.approx([0.5, 0.5, 0.75, 1.0])
    assert majority_curve(["3", "4"], "7").tolist() == [0.0, 0.0]
    assert majority_curve(["3", "7"], "7").tolist() == [0.5, 0.5]
    assert majority_curve([None, "7", None], "7").tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert majority_curve([], "7").tolist() == []


@given(st.lists(st.sampled_from(["7", "3", "4", None]), min_size=1, max_size=8))
def test_majority_is_the_mean_over_all_draws(answers):
    def vote(draw):
        votes = Counter(answer for answer in draw if answer is not None)
        mine, best_other = votes.pop("7", 0), max(votes.values(), default=0)
        return 0.0 if mine == 0 else 0.5 if mine == best_other else float(mine > best_other)

    expected = [
        np.mean([vote(draw) for draw in itertools.combinations(answers, p)]) for p in range(1, len(answers) + 1)
    ]
    assert majority_curve(answers, "7").tolist() == pytest.approx(expected)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(total, data):
    correct, k = data.draw(st.integers(0, total)), data.draw(st.integers(1, total))
    draws = list(itertools.combinations([1] * correct + [0] * (total - correct), k))
    assert pass_at(k, correct, total) == pytest.approx(np.mean([max(draw) for draw in draws]))


@pytest.mark.parametrize("draw", [(3, 1, 2), (1, 3, 2)])
def test_impossible_draws_are_refused(draw):
    with pytest.raises(ValueError, match="needs"):
        pass_at(*draw)
