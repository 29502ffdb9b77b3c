"""Tokenizers, templates and manners of writing in which no episode was found, and a run was plain GRPO in silence."""

import copy

import pytest
from test_trainer import ANSWER, FIRST, ROWS, SECOND, build, dataset, scripted, step_inputs  # noqa: F401
from tokenizers import AddedToken

from mrt_plugin import mrt_accuracy
from mrt_plugin.episodes import CUES, episode_spans, lacks_cues
from mrt_plugin.tokens import decode, hides_tags, token_boundaries, tokenize
from mrt_plugin.traces import opens_thinking, segment


@pytest.fixture
def hiding(tokenizer):
    """A tokenizer that registers the tags as special tokens, so that they decode to nothing."""
    hiding = copy.deepcopy(tokenizer)
    tags = [AddedToken(tag, special=True, normalized=False) for tag in ("<think>", "</think>")]
    hiding.add_special_tokens({"additional_special_tokens": tags})
    ids = tokenize(hiding, "<think>\nHm.</think>")
    assert hiding.decode(ids, skip_special_tokens=True) == "\nHm."
    return hiding


def test_tags_that_are_special_tokens_stay_in_the_text(hiding, tokenizer):
    text = "<think>\n" + FIRST + SECOND + ANSWER.format(5)
    ids = [*tokenize(hiding, text), hiding.eos_token_id]
    assert decode(hiding, ids) == text
    assert hides_tags(hiding)
    assert not hides_tags(tokenizer)
    close = text.index("</think>")
    assert decode(hiding, ids[: token_boundaries(hiding, ids, [close])[0]]) == text[:close]


def test_credit_with_special_tags_is_that_without(tmp_path, tokenizer, hiding, scripted):  # noqa: F811
    mrt = {"mrt_credit": "dense"}
    expected = step_inputs(build(tmp_path, tokenizer, mrt=mrt))
    trainer = build(tmp_path, hiding, mrt=mrt)
    found = step_inputs(trainer)
    assert found["advantages"].tolist() == expected["advantages"].tolist()
    assert trainer._metrics["train"]["reward"] == [0.5]  # a thinking that was cut is not graded
    assert trainer._metrics["train"]["mrt/without_episodes"] == [0.25]


def test_rewards_see_the_tags(tmp_path, hiding, scripted):  # noqa: F811
    seen = []

    def spy(completions, **kwargs):
        seen.extend(completion[0]["content"] for completion in completions)
        return [0.0] * len(completions)

    step_inputs(build(tmp_path, hiding, [spy], mrt={"mrt_credit": "dense"}))
    assert seen == [thinking + answer for thinking, answer, *_ in ROWS]


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("Find x.<think>\n", True),
        ("Find x.<think>", True),
        ("Find x.", False),
        ("Begin your response with <think>.", False),
        ("Put the reasoning behind <think> and the answer behind </think>.", False),
        ("Put the reasoning behind <think>\n<|assistant|>", False),
        ("Find x.<think>\n\n</think>\n\n", False),
    ],
)
def test_a_mention_of_the_tag_opens_no_thinking(tokenizer, prompt, opened):
    assert opens_thinking(tokenizer, tokenize(tokenizer, prompt)) == opened


def test_a_completion_without_tags_is_graded_where_the_prompt_mentions_them(tmp_path, tokenizer, scripted):  # noqa: F811
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = tokenizer.chat_template.replace("<think>\n", "")
    data = dataset().map(lambda row: {"prompt": [{"role": "user", "content": "Put reasoning behind <think>."}]})
    trainer = build(tmp_path, plain, data=data, mrt={"mrt_credit": "none"})
    step_inputs(trainer)
    assert trainer._metrics["train"]["reward"] == [0.5]
    [answer] = mrt_accuracy(["It is \\boxed{5}."], solution=["5"], thinking_opened=[False])
    assert answer == 1.0


def test_an_empty_thinking_has_no_episode(tokenizer):
    prompt, completion = tokenize(tokenizer, "Find x.<think>\n"), tokenize(tokenizer, "\n\n</think>\n\n\\boxed{5}")
    trace = segment(tokenizer, prompt, completion, "5", 6, CUES)
    assert trace.episodes == 0
    assert episode_spans(" \n\n ") == []


def test_cues_of_ones_own_and_none():
    bold = "Try 2.\n\nNo.\n\nHm.\n\n**Wait** try 5.\n\nYes.\n\nGood."
    assert len(episode_spans(bold)) == 1
    assert lacks_cues(bold)
    assert len(episode_spans(bold, cues=["**Wait**"])) == 2
    assert not lacks_cues(bold, ["**Wait**"])
    longer = bold + "\n\nSo."
    assert [longer[start:end].count("\n\n") for start, end in episode_spans(longer, cues=[])] == [3, 3, 0]
    assert not lacks_cues("All in one go.\n\nDone.")


def test_a_special_token_without_a_role_is_no_text(tokenizer):
    more = copy.deepcopy(tokenizer)
    more.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)], special_tokens=False)
    assert decode(more, [*tokenize(more, "Hm."), more.convert_tokens_to_ids("<|im_end|>")]) == "Hm."


def test_online_prefixes_without_episodes_are_warned_about(tmp_path, tokenizer, scripted, caplog, monkeypatch):  # noqa: F811
    for name in ("FIRST", "SECOND", "IDLE"):
        monkeypatch.setattr(f"test_trainer.{name}", "")  # which the scripted traces are made of
    build(tmp_path, tokenizer, mrt={"mrt_credit": "termination", "mrt_prefix": "online"}, max_steps=3).train()
    assert "mrt/without_episodes is 1 in each of the first 3 steps" in caplog.text


@pytest.mark.parametrize("iterations", [1, 2])  # with 2, every other step takes the rollouts of the one before
@pytest.mark.parametrize(
    ("rows", "metric"),
    [
        ([("", ANSWER.format(5), True, 1.0), ("", ANSWER.format(4), True, 0.0)] * 2, "mrt/without_episodes"),
        ([(FIRST.replace("Hm.", "Hm.\n\nSo.\n\nNo.\n\nOh."), "", False, 0.0)] * 4, "mrt/without_cues"),
    ],
)
def test_a_run_in_which_credit_has_nothing_to_fall_on_says_so(
    tmp_path,
    tokenizer,
    scripted,  # noqa: F811
    monkeypatch,
    caplog,
    rows,
    metric,
    iterations,
):
    monkeypatch.setattr("test_trainer.ROWS", rows)
    settings = {"mrt": {"mrt_credit": "dense"}, "max_steps": 4, "num_iterations": iterations}
    trainer = build(tmp_path, tokenizer, **settings)
    trainer.train()
    assert [entry[metric] for entry in trainer.state.log_history if metric in entry] == [1.0] * (4 // iterations)
    assert caplog.text.count(f"{metric} is 1 in each of the first 3 steps") == 1


@pytest.mark.parametrize("credit", ["dense", "none"])
def test_a_run_with_episodes_or_without_credit_warns_of_nothing(tmp_path, tokenizer, scripted, caplog, credit):  # noqa: F811
    build(tmp_path, tokenizer, mrt={"mrt_credit": credit}, max_steps=4).train()
    assert "of the first 3 steps" not in caplog.text
