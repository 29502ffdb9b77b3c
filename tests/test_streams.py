"""What makes a finished stream go on, against policies that write what a rule says."""

import pytest
from test_meta_prover import Sampler

from mrt_plugin.analysis.streams import EXTENSION_CUES, extend, linearize
from mrt_plugin.analysis.votes import votes
from mrt_plugin.boxes import final_answer
from mrt_plugin.engines.sampling import Completion, SamplingSettings
from mrt_plugin.episodes import CUES
from mrt_plugin.grading import Verdict, grade
from mrt_plugin.tokens import decode, tokenize
from mrt_plugin.traces import segment


PROMPT = "<|user|>Find x.<|assistant|><think>\n"
THINKING = "Try x = 2.\n\nNot 5.\n"


@pytest.fixture
def trace(tokenizer):
    ids = tokenize(tokenizer, THINKING + "</think>\n\n\\boxed{5}")
    return segment(tokenizer, tokenize(tokenizer, PROMPT), ids, "5", 6, CUES)


def extended(tokenizer, trace, written, extensions, most=100):
    """The text after each measured extension, by a policy that always writes the same."""
    sampler = Sampler(tokenizer, lambda text, n: [written])
    settings = SamplingSettings(most, seed=7)
    [longer] = extend(sampler, [trace], extensions, settings)
    assert [call[2].seed for call in sampler.calls] == [7 + i for i in range(extensions)]
    return [decode(tokenizer, longer.token_ids[:cut]) for cut in longer.prefix_ends], longer


def test_extensions_think_on_to_the_next_closing_tag_and_are_measured_every_second_time(tokenizer, trace):
    texts, longer = extended(tokenizer, trace, ", it works.\n</think>\n\n\\boxed{5}", 4)
    after = [f"{cue}, it works.\n" for cue in EXTENSION_CUES]
    begun = PROMPT + THINKING
    assert texts == [begun + "\n" + "\n".join(after[:2]), begun + "\n" + "\n".join(after)]
    assert longer.solution == "5"
    stripped = [decode(tokenizer, longer.token_ids[:end]) for end in longer.credit_ends]
    assert stripped == [text.rstrip() for text in texts]


def test_of_an_extension_that_was_cut_the_last_paragraph_is_dropped(tokenizer, trace):
    written = ", try x = 5.\n\nit works.\n\nBut then"
    most = len(tokenize(tokenizer, written))
    texts, _ = extended(tokenizer, trace, written, 2, most)
    first, second = (f"\n{cue}, try x = 5.\n\nit works.\n" for cue in EXTENSION_CUES[:2])
    assert texts == [PROMPT + THINKING + first + second]
    texts, _ = extended(tokenizer, trace, ", Hm", 2, most=len(tokenize(tokenizer, ", Hm")))  # nothing but one
    assert texts == [PROMPT + THINKING + f"\n{EXTENSION_CUES[0]}\n\n{EXTENSION_CUES[1]}\n"]


def test_an_extension_that_ends_without_a_tag_is_kept_without_the_end(tokenizer, trace):
    class Ending(Sampler):
        def completion(self, text, most):
            return Completion([*tokenize(tokenizer, text), tokenizer.eos_token_id], ended=True)

    sampler = Ending(tokenizer, lambda text, n: [" it works."])
    [longer] = extend(sampler, [trace], 2, SamplingSettings(len(tokenize(tokenizer, " it works.")) + 1))
    assert tokenizer.eos_token_id not in longer.token_ids[trace.prefix_ends[0] :]
    assert decode(tokenizer, longer.token_ids).endswith("Wait it works.\nBut wait it works.")


def test_linearized_attempts_see_the_prompt_and_the_last_ones(tokenizer):
    seen = []

    def rule(text, n):
        seen.append(text)
        return [f"try {len(seen)}."]

    prompt = tokenize(tokenizer, "Find x.")
    first = Completion([*tokenize(tokenizer, "try 0."), tokenizer.eos_token_id], ended=True)
    [stream] = linearize(Sampler(tokenizer, rule), [prompt], [first], 4, 2, "Wait", SamplingSettings(9))
    assert [decode(tokenizer, attempt.token_ids) for attempt in stream] == ["try 0.", "try 1.", "try 2.", "try 3."]
    assert seen == [
        "Find x.try 0.\n\nWait",
        "Find x.try 0.\n\nWaittry 1.\n\nWait",
        "Find x.try 1.\n\nWaittry 2.\n\nWait",  # the first has left the window
    ]


def test_without_room_a_thinking_stays_as_it_is_and_an_attempt_is_empty(tokenizer, trace):
    sampler = Sampler(tokenizer, lambda text, n: None if "so." in text else [" so.\n</think>"])
    [longer] = extend(sampler, [trace], 4, SamplingSettings(100))
    texts = [decode(tokenizer, longer.token_ids[:cut]) for cut in longer.prefix_ends]
    assert texts == [PROMPT + THINKING + "\nWait so.\n"] * 2
    first = Completion(tokenize(tokenizer, "try 0."), ended=True)
    [stream] = linearize(Sampler(tokenizer, lambda text, n: None), [[5]], [first], 2, 1, "Wait", SamplingSettings(9))
    assert stream == [first, Completion([], ended=False)]


def test_votes_are_one_for_each_answer_and_right_ones_are_zero():
    answers = [
        r"\boxed{\frac{1}{2}}",
        r"\boxed{4}",
        "Hm.",
        r"\boxed{0.5}",
        r"\boxed{4.0}",
        r"\boxed{x+1}",
        r"\boxed{5}",
    ]
    verdicts = grade(answers, ["5"] * len(answers))
    assert votes(answers, verdicts) == [1, 2, None, 1, 2, 3, 0]
    assert votes([answers[0]], [Verdict.TIMED_OUT]) == [None]
    assert votes([], []) == []


def test_long_wrong_answers_are_read_once(monkeypatch):
    read = []
    monkeypatch.setattr("mrt_plugin.grading.final_answer", lambda text: read.append(len(text)) or final_answer(text))
    answers = [f"{'So. ' * 500}\\boxed{{{wrong}}}" for wrong in range(9)]
    assert votes(answers, [Verdict.WRONG] * 9) == list(range(1, 10))
    assert max(read) < 20
