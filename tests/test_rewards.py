import math
import pickle
from types import SimpleNamespace

import pytest

from mrt_plugin import MRTArguments, mrt_accuracy, mrt_length_penalty, mrt_progress
from mrt_plugin.credit import CREDITS
from mrt_plugin.grading import Verdict
from mrt_plugin.meta_prover import check_termination
from mrt_plugin.settings import rewards_for
from mrt_plugin.upstream.rewards import format_reward


RIGHT, WRONG, NONE = "Hm.\n</think>\n\\boxed{5}", "Hm.\n</think>\n\\boxed{4}", "Hm.\n</think>\nNo idea."


def as_messages(texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize("wrap", [list, as_messages])
def test_accuracy(wrap):
    texts = [RIGHT, WRONG, NONE, "\\boxed{5} it was\n</think>\nNo idea.", "<think>\n\\boxed{5}", "\\boxed{5}"]
    assert mrt_accuracy(wrap(texts), ["5"] * 6) == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_accuracy_skips_what_cannot_be_judged(monkeypatch):
    assert mrt_accuracy([RIGHT], [""]) == [None]
    verdicts = [Verdict.TIMED_OUT, Verdict.RIGHT, Verdict.NO_ANSWER]
    monkeypatch.setattr("mrt_plugin.rewards.grade", lambda answers, golds: verdicts)
    logged = {}
    assert mrt_accuracy([RIGHT] * 3, ["5"] * 3, log_metric=logged.__setitem__) == [None, 1.0, 0.0]
    assert logged == {"rewards/mrt_accuracy/timeouts": 1.0}


@pytest.mark.parametrize("wrap", [list, as_messages])
def test_progress_is_reward_less_success_and_only_for_those_that_go_on(wrap):
    rewards = mrt_progress(
        completions=wrap([RIGHT, WRONG, RIGHT, RIGHT]),
        solution=["5", "5", "5", ""],
        prefix_success=[0.25, 0.25, 0.25, 0.25],
        continues=[True, True, False, True],
    )
    assert rewards == [0.75, -0.25, 0.0, None]


def test_progress_without_a_measured_prefix_says_what_to_do():
    with pytest.raises(ValueError, match="MRTTrainer"):
        mrt_progress([RIGHT], ["5"])


def test_progress_as_a_bare_reward_warns_that_it_cancels(caplog):
    assert mrt_progress([RIGHT], ["5"], prefix_success=[0.25]) == [0.75]
    assert "group normalisation cancels it" in caplog.text


@pytest.mark.parametrize("wrap", [list, as_messages])
def test_length_penalty_by_hand(wrap):
    texts = [RIGHT, RIGHT, WRONG, RIGHT, RIGHT]
    lengths = [10, 30, 500, 7, 7]
    rewards = mrt_length_penalty(
        prompts=wrap(["a", "a", "a", "b", "b"]),
        completions=wrap(texts),
        completion_ids=[[0] * length for length in lengths],
        solution=["5"] * 5,
        alpha=0.4,
    )
    sigmoid = [1 / (1 + math.exp(-z)) for z in (-1.0, 1.0)]  # mean 20, std 10; the wrong one does not count
    expected = [1 - 0.4 * sigmoid[0], 1 - 0.4 * sigmoid[1], 0.0, 1 - 0.4 * 0.5, 1 - 0.4 * 0.5]
    assert rewards == pytest.approx(expected)


def test_length_penalty_of_a_group_that_spans_ranks(monkeypatch):
    rows = {"prompts": ["a"] * 4, "completions": [RIGHT] * 4, "completion_ids": [[0] * n for n in (10, 20, 30, 100)]}
    whole = mrt_length_penalty(**rows, solution=["5"] * 4, alpha=0.4)
    gathered = [[("a", 10, 1.0), ("a", 20, 1.0)]]
    monkeypatch.setattr("mrt_plugin.rewards.gather_object", lambda mine: [*gathered, *mine])
    monkeypatch.setattr("mrt_plugin.rewards.PartialState", lambda: SimpleNamespace(process_index=1))
    second = {name: values[2:] for name, values in rows.items()}
    assert mrt_length_penalty(**second, solution=["5"] * 2, alpha=0.4) == whole[2:]


def test_length_penalty_skips_what_cannot_be_judged():
    rewards = mrt_length_penalty(
        prompts=["a"] * 2, completions=[RIGHT] * 2, completion_ids=[[0], [0]], solution=["", "5"]
    )
    assert rewards == [None, pytest.approx(0.95)]


def test_a_thinking_that_trl_has_taken_out_of_the_content_is_closed():
    thinking, _, answer = RIGHT.partition("</think>")
    message = {"role": "assistant", "reasoning_content": thinking, "content": answer}
    assert mrt_accuracy([[message]], ["5"], thinking_opened=[True]) == [1.0]
    assert mrt_accuracy([[message | {"reasoning_content": None}]], ["5"], thinking_opened=[True]) == [0.0]


def test_a_thinking_that_the_prompt_opened_and_nothing_closed_has_no_answer():
    rows = {"prompts": ["a"], "completions": ["So \\boxed{5}"], "completion_ids": [[0]], "solution": ["5"]}
    progress = {"prefix_success": [0.25], "continues": [True]}
    for opened, right in ((False, 1.0), (True, 0.0)):
        assert mrt_accuracy(**rows, thinking_opened=[opened]) == [right]
        assert mrt_progress(**rows, **progress, thinking_opened=[opened]) == [right - 0.25]
        assert mrt_length_penalty(**rows, alpha=0.0, thinking_opened=[opened]) == [right]


@pytest.mark.parametrize("reward", [mrt_accuracy, mrt_progress, mrt_length_penalty])
def test_rewards_are_picklable_and_named(reward):
    assert pickle.loads(pickle.dumps(reward)) is reward
    assert reward.__name__.startswith("mrt_")


def test_the_weight_of_the_length_penalty_is_bound():
    [reward], _ = rewards_for(CREDITS["none"], [mrt_length_penalty], None, MRTArguments(mrt_length_alpha=0.4))
    assert reward.__name__ == "mrt_length_penalty"
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(prompts=["a"], completions=[RIGHT], completion_ids=[[0]], solution=["5"]) == [pytest.approx(0.8)]


@pytest.mark.parametrize("credit", ["none", "mixed", "dense"])
def test_progress_has_no_weight_but_alpha(credit):
    with pytest.raises(ValueError, match=r"gives mrt_progress 0.5, .* mrt_alpha: 0.5"):
        rewards_for(CREDITS[credit], [mrt_accuracy, mrt_progress], [1.0, 0.5], MRTArguments())
    rewards_for(CREDITS[credit], [mrt_accuracy, mrt_progress], [0.5, 1.0], MRTArguments())
    with pytest.raises(ValueError, match="reward_weights has 1 entries for the rewards mrt_accuracy, mrt_progress;"):
        rewards_for(CREDITS[credit], [mrt_accuracy, mrt_progress], [1.0], MRTArguments())


@pytest.mark.parametrize(("text", "reward"), [("explain", 0), ("answer", 0), ("\n</think>\n<answer>\n", 1)])
def test_what_open_r1s_format_gives_a_row_that_was_stopped(text, reward):
    assert format_reward([f"<think>\nHm.{check_termination(text)}5\n</answer>"]) == [reward]
