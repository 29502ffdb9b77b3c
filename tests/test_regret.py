import pytest
from test_meta_prover import Sampler

from mrt_plugin.analysis.regret import Rollout, accuracy_at, regret_at, roll_out
from mrt_plugin.meta_prover import MetaProver
from mrt_plugin.progress import normalized_regret
from mrt_plugin.sampling import SamplingSettings
from mrt_plugin.traces import tokenize


FIRST, SECOND = "Try x = 2.\n\nNot 5.\n\nHm.\n\n", "Wait, try x = 5.\n\nit works.\n"
PROMPT = "<|user|>Find x.<|eos|><|assistant|><think>\n"


def test_roll_out_measures_what_was_written(tokenizer):
    written = iter(
        [FIRST + SECOND + "</think>\n\n\\boxed{5}", FIRST + "\\boxed{5}"]
    )  # the second is cut while thinking

    def rule(text, n):
        if text.endswith("<think>\n"):
            return [next(written) for _ in range(n)]
        return ["5}"] * (n if "works" in text else n // 2) + ["4}"] * (0 if "works" in text else n // 2)

    meta_prover = MetaProver(Sampler(tokenizer, rule), tokenizer, "answer", samples=2)
    prompt_ids = tokenize(tokenizer, PROMPT)
    rollouts = roll_out(meta_prover, [prompt_ids], ["5"], SamplingSettings(50), n=2)
    first, both = (len(tokenize(tokenizer, text)) for text in (FIRST, FIRST + SECOND))
    answer = len(tokenize(tokenizer, "5}"))
    assert [rollout.right for rollout in rollouts] == [True, False]
    assert rollouts[0].success_probability == [0.5, 0.5, 1.0]
    assert rollouts[0].prefix_tokens == [answer, first + answer, both + answer]
    assert rollouts[0].tokens == len(tokenize(tokenizer, FIRST + SECOND + "</think>\n\n\\boxed{5}"))


def test_problems_without_a_parseable_gold_are_left_out(tokenizer):
    meta_prover = MetaProver(Sampler(tokenizer, lambda text, n: ["5}"] * n), tokenizer, "answer")
    prompt_ids = tokenize(tokenizer, PROMPT)
    rollouts = roll_out(meta_prover, [prompt_ids] * 2, ["", "5"], SamplingSettings(50))
    assert [rollout.problem for rollout in rollouts] == [1]


def test_means_are_over_problems_then_traces():
    rollouts = [
        Rollout(0, 100, True, [0.5, 1.0], [10, 60]),
        Rollout(0, 900, True, [0.5, 1.0], [10, 60]),
        Rollout(1, 100, False, [0.0], [10]),
    ]
    assert accuracy_at(rollouts, 1000) == pytest.approx((1 + 0) / 2)
    assert accuracy_at(rollouts, 500) == pytest.approx((0.5 + 0) / 2)
    assert regret_at(rollouts, 1000) == pytest.approx((normalized_regret([0.5, 1.0], [10, 60], 1000) + 1.0) / 2)


def test_an_unknown_success_holds_the_last_known_one():
    known, unknown = Rollout(0, 9, True, [0.5, 0.5], [1, 5]), Rollout(0, 9, True, [0.5, float("nan")], [1, 5])
    assert regret_at([known], 10) == regret_at([unknown], 10)


def test_a_later_prefix_with_shorter_answers_costs_no_less():
    rollouts = [Rollout(0, 9, True, [0.25, 0.5, 1.0], [500.0, 300.0, 700.0])]
    assert regret_at(rollouts, 1000) == pytest.approx(normalized_regret([0.25, 0.5, 1.0], [500, 500, 700], 1000))


def test_no_rollouts_is_an_error():
    with pytest.raises(ValueError, match="no rollouts"):
        regret_at([], 10)
