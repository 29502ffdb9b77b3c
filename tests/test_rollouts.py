import numpy as np
import pytest
from test_meta_prover import SETTINGS, Sampler

from mrt_plugin.engines.sampling import SamplingSettings
from mrt_plugin.episodes import CUES
from mrt_plugin.meta_prover import MetaProver, SampledAnswers
from mrt_plugin.progress import normalized_regret, released_regret
from mrt_plugin.rollouts import Rollout, curve, regret_at, roll_out
from mrt_plugin.tokens import tokenize


FIRST, SECOND = "Try x = 2.\n\nNot 5.\n\nHm.\n\n", "Wait, try x = 5.\n\nit works.\n"
PROMPT = "<|user|>Find x.<|eos|><|assistant|><think>\n"


def test_roll_out_measures_what_was_written(tokenizer):
    def rule(text, n):
        if text.endswith("<think>\n"):
            return [FIRST + SECOND + "</think>\n\n\\boxed{5}"]
        return ["5}"] * (n if "works" in text else n // 2) + ["4}"] * (0 if "works" in text else n // 2)

    meta_prover = MetaProver(Sampler(tokenizer, rule), SampledAnswers(2, SETTINGS), "answer")
    [rollout] = roll_out(
        meta_prover, [tokenize(tokenizer, PROMPT)], ["5"], SamplingSettings(50), episodes=6, cues=CUES
    )
    first, both = (len(tokenize(tokenizer, text)) for text in (FIRST, FIRST + SECOND))
    answer = len(tokenize(tokenizer, "5}"))
    assert rollout.success_probability == [0.5, 0.5, 1.0]
    assert rollout.prefix_tokens == [answer, first + answer, both + answer]


def test_problems_without_a_parseable_gold_are_left_out(tokenizer):
    meta_prover = MetaProver(Sampler(tokenizer, lambda text, n: ["5}"] * n), SampledAnswers(2, SETTINGS), "answer")
    prompt_ids = tokenize(tokenizer, PROMPT)
    rollouts = roll_out(meta_prover, [prompt_ids] * 2, ["", "5"], SamplingSettings(50), episodes=6, cues=CUES)
    assert [rollout.problem_id for rollout in rollouts] == [1]


def test_where_there_is_no_room_the_curve_holds_what_is_known(tokenizer):
    def rule(text, n):
        if text.endswith("<think>\n"):
            return None if "y" in text else [FIRST + SECOND + "</think>\n\n\\boxed{5}"]
        return None if "works" in text else ["5}", "4}"]

    meta_prover = MetaProver(Sampler(tokenizer, rule), SampledAnswers(2, SETTINGS), "answer")
    prompts = [tokenize(tokenizer, text) for text in (PROMPT.replace("x", "y"), PROMPT)]
    [rollout] = roll_out(meta_prover, prompts, ["5", "5"], SamplingSettings(50), episodes=6, cues=CUES)
    assert rollout.problem_id == 1
    values, tokens = curve(rollout)
    assert values.tolist() == [0.5, 0.5, 0.5]
    assert tokens[2] == len(tokenize(tokenizer, FIRST + SECOND))


def test_means_are_over_problems_then_traces():
    rollouts = [Rollout(0, [0.5, 1.0], [10, 60]), Rollout(0, [0.5, 1.0], [10, 60]), Rollout(1, [0.0], [10])]
    assert regret_at(rollouts, 1000) == pytest.approx((normalized_regret([0.5, 1.0], [10, 60], 1000) + 1.0) / 2)


def test_an_unknown_success_holds_the_last_known_one():
    known, unknown = Rollout(0, [0.5, 0.5], [1, 5]), Rollout(0, [0.5, float("nan")], [1, 5])
    assert regret_at([known], 10) == regret_at([unknown], 10)


def test_a_later_prefix_with_shorter_answers_costs_no_less():
    rollouts = [Rollout(0, [0.25, 0.5, 1.0], [500.0, 300.0, 700.0])]
    assert regret_at(rollouts, 1000) == pytest.approx(normalized_regret([0.25, 0.5, 1.0], [500, 500, 700], 1000))


def test_the_released_variant_runs_back_and_counts_the_prompt():
    """Where answers get shorter, the released analysis subtracts an area; both are computed here by hand."""
    rollout = Rollout(0, [0.25, 0.5, 1.0], [500.0, 300.0, 700.0], prompt_tokens=0)
    area = 0.25 * 500 / 2 - (0.25 + 0.5) / 2 * 200 + (0.5 + 1.0) / 2 * 400 + 1.0 * 300
    assert regret_at([rollout], 1000, variant="released") == pytest.approx(1 - area / 1000)
    with_prompt = Rollout(0, [1.0], [300.0], prompt_tokens=100)
    assert regret_at([with_prompt], 1000, variant="released") == pytest.approx(1 - (400 / 2 + 600) / 1000)
    assert regret_at([with_prompt], 1000) == pytest.approx(1 - (300 / 2 + 700) / 1000)


def test_the_released_variant_is_cut_where_it_first_reaches_the_budget():
    at_budget = 0.25 + 0.25 * 300 / 400
    area = 0.25 * 100 / 2 + (0.25 + at_budget) / 2 * 300
    assert released_regret([0.25, 0.5, 0.75, 1], [100, 500, 300, 700], 400) == pytest.approx(1 - area / 400)
    assert released_regret([0.25, 0.5, 0.5, 1], [100, 500, 500, 300], 400) == pytest.approx(1 - area / 400)


@pytest.mark.parametrize("budget", [50, 400, 4096, 10_000])
def test_the_variants_agree_where_tokens_ascend(budget):
    generator = np.random.default_rng(0)
    tokens, success = np.sort(generator.integers(1, 5000, 8)), generator.random(8)
    assert released_regret(success, tokens, budget) == pytest.approx(normalized_regret(success, tokens, budget))


def test_regret_computed_another_way():
    """The mean over budget tokens of an oracle's 1 less the interpolated J, summed token by token."""
    generator = np.random.default_rng(1)
    rollouts, by_problem = [], {}
    for index in range(12):
        tokens, success = np.sort(generator.choice(np.arange(1, 900), 5, replace=False)), generator.random(5)
        rollouts.append(Rollout(index % 4, success.tolist(), tokens.tolist()))
        here, lost = (0.0, 0.0), 0.0
        for there in [*zip(tokens, success, strict=True), (1000, success[-1])]:
            for token in range(int(here[0]), int(there[0])):  # the middle of each token
                share = (token + 0.5 - here[0]) / (there[0] - here[0])
                lost += (1 - (here[1] + share * (there[1] - here[1]))) * (token < 600)
            here = there
        by_problem.setdefault(index % 4, []).append(lost / 600)
    expected = np.mean([np.mean(values) for values in by_problem.values()])
    assert regret_at(rollouts, 600) == pytest.approx(expected, abs=1e-9)


def test_extensions_belong_to_the_curve_beyond_the_trained_budget():
    rollout = Rollout(0, [0.0, 0.5], [10, 100], [0.75, 1.0], [150, 250])
    assert [part.tolist() for part in curve(rollout)] == [[0.0, 0.5], [10, 100]]
    assert [part.tolist() for part in curve(rollout, 1)] == [[0.0, 0.5, 0.75], [10, 100, 150]]
    expected = normalized_regret([0.0, 0.5, 0.75, 1.0], [10, 100, 150, 250], 300)
    assert regret_at([rollout], 300, extensions=2) == pytest.approx(expected)


def test_no_rollouts_is_an_error():
    with pytest.raises(ValueError, match="no rollouts"):
        regret_at([], 10)
