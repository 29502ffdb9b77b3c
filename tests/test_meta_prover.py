import numpy as np
import pytest
import torch
from conftest import byte_fallback_tokenizer, byte_level_tokenizer, tiny_model
from tokenizers import AddedToken

from mrt_plugin.arguments import MetaProverArguments
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Completion, Prompt, SamplingSettings
from mrt_plugin.episodes import CUES
from mrt_plugin.golds import bare_gold
from mrt_plugin.grading import Verdict
from mrt_plugin.meta_prover import (
    TERMINATIONS,
    GoldLikelihood,
    MetaProver,
    SampledAnswers,
    behind_the_box,
    check_termination,
)
from mrt_plugin.progress import progress
from mrt_plugin.tokens import decode, tokenize
from mrt_plugin.traces import Trace, segment, stop_after


FIRST, SECOND = "Try x = 2.\n\nNot 5.\n\nHm.\n\n", "Wait, try x = 5.\n\nit works.\n"
PROMPT = "<|user|>Find x.<|eos|><|assistant|><think>\n"


SETTINGS = SamplingSettings(100, 0.7)


class Sampler:
    """Writes what a rule says, or nothing where it says `None`, and remembers what it was asked."""

    max_length, scores = None, False

    def __init__(self, tokenizer, rule):
        self.tokenizer, self.rule, self.calls = tokenizer, rule, []

    def sample(self, prompts, n, settings):
        self.calls.append((prompts, n, settings))
        groups = [self.rule(decode(self.tokenizer, prompt.token_ids), n) for prompt in prompts]
        return [group and [self.completion(text, settings.max_new_tokens) for text in group] for group in groups]

    def completion(self, text, most):
        token_ids = tokenize(self.tokenizer, text)
        return Completion(token_ids[:most], ended=len(token_ids) < most)


@pytest.fixture
def trace(tokenizer):
    completion_ids = tokenize(tokenizer, FIRST + SECOND + "</think>\n\n\\boxed{5}") + [tokenizer.eos_token_id]
    return segment(tokenizer, tokenize(tokenizer, PROMPT), completion_ids, "5", 6, CUES)


def test_segment_cuts_the_sampled_tokens(tokenizer, trace):
    assert trace.episodes == 2
    texts = [decode(tokenizer, trace.token_ids[:cut]) for cut in trace.prefix_ends]
    prompt = "<|user|>Find x.<|assistant|><think>\n"
    assert texts == [prompt, prompt + FIRST, prompt + FIRST + SECOND]
    completion_ids = tokenize(tokenizer, FIRST + SECOND + "</think>\n\n\\boxed{5}")
    prompt_ids = tokenize(tokenizer, PROMPT)
    assert trace.token_ids == (prompt_ids + completion_ids)[: trace.prefix_ends[-1]]


def test_credit_passes_to_the_next_episode_before_the_blank_line(tokenizer, trace):
    """The tokens that end a paragraph with or without a blank line decide whether to go on."""
    texts = [
        decode(tokenizer, trace.token_ids[start:end])
        for start, end in zip(trace.credit_ends, trace.credit_ends[1:], strict=False)
    ]
    first, second = FIRST.rstrip(), SECOND.rstrip()
    assert first.startswith(texts[0])
    assert len(first) - len(texts[0]) <= 1  # the full stop goes with the line break where they are one token
    assert texts[0] + texts[1] == (FIRST + SECOND)[: len(texts[0] + texts[1])]
    assert (FIRST + second).startswith(texts[0] + texts[1])
    assert trace.credit_ends[0] == trace.prefix_ends[0]


def test_segment_finds_an_opening_tag_that_the_model_wrote(tokenizer):
    prompt_ids = tokenize(tokenizer, "Find x.")
    trace = segment(tokenizer, prompt_ids, tokenize(tokenizer, "<think>\n" + FIRST + SECOND), "5", 6, CUES)
    assert decode(tokenizer, trace.token_ids[: trace.prefix_ends[0]]) == "Find x.<think>\n"
    assert trace.episodes == 2


def test_segment_opens_the_thinking_of_a_completion_that_does_not_think(tokenizer):
    trace = segment(tokenizer, tokenize(tokenizer, "Find x."), tokenize(tokenizer, "5"), "5", 6, CUES)
    assert (trace.episodes, decode(tokenizer, trace.token_ids)) == (0, "Find x.<think>\n")


def test_segment_merges_down_to_the_number_of_episodes(tokenizer):
    text = "".join(f"Wait {i}.\n\na\n\nb\n\n" for i in range(9))
    trace = segment(tokenizer, tokenize(tokenizer, PROMPT), tokenize(tokenizer, text), "5", 4, CUES)
    assert trace.episodes == 3
    assert trace.prefix_ends[-1] == len(trace.token_ids)


def test_success_probabilities_from_drawn_answers(tokenizer, trace):
    def rule(text, n):
        right = n if text.endswith("\n</think>") and "works" in text else 1
        return ["So it is \\boxed{5}."] * right + ["I give up, \\boxed{4}."] * (n - right)

    sampler = Sampler(tokenizer, rule)
    [measurement] = MetaProver(sampler, SampledAnswers(4, SETTINGS), "explain").success_probabilities([trace])
    assert measurement.success_probability.tolist() == [0.25, 0.25, 1.0]
    lengths = [len(tokenize(tokenizer, text)) for text in ("So it is \\boxed{5}.", "I give up, \\boxed{4}.")]
    assert measurement.answer_tokens.tolist() == [(lengths[0] + 3 * lengths[1]) / 4] * 2 + [lengths[0]]
    assert measurement.tokens == 2 * (lengths[0] + 3 * lengths[1]) + 4 * lengths[0]
    [(prompts, n, settings)] = sampler.calls  # one call
    assert (n, settings) == (4, SETTINGS)
    suffixes = [decode(tokenizer, prompt.suffix) for prompt in prompts]
    assert suffixes == [TERMINATIONS["explain"]] * 2 + ["\n</think>"]
    kept = [
        *trace.prefix_ends[:-1],
        trace.credit_ends[-1],
    ]  # the text that closes a whole trace brings its line break along
    assert [prompt.cut for prompt in prompts] == kept


def test_the_explain_text_is_the_papers():
    assert TERMINATIONS["explain"].split("\n\n") == [
        "Time is up.",
        "Given the time I've spent and the approaches I've tried, I should stop thinking and formulate a final answer "
        "based on what I already have.\n</think>",
        "**Step-by-Step Explanation and Answer:**",
        "1. **",
    ]


@pytest.mark.parametrize("termination", ["answer", "\nEnough.\n</think>\n\\boxed{"])
def test_other_terminations_follow_every_prefix_and_open_the_box(tokenizer, trace, termination):
    sampler = Sampler(tokenizer, lambda text, n: ["5}."] * n)
    [measurement] = MetaProver(sampler, SampledAnswers(2, SETTINGS), termination).success_probabilities([trace])
    assert measurement.success_probability.tolist() == [1.0, 1.0, 1.0]
    [(prompts, *_)] = sampler.calls
    stop = TERMINATIONS.get(termination, termination)
    begun = "<|user|>Find x.<|assistant|><think>\n"
    thinking = ["", FIRST.rstrip(), (FIRST + SECOND).rstrip()]  # it brings its own line break, as models end thinking
    assert [decode(tokenizer, prompt.token_ids) for prompt in prompts] == [begun + text + stop for text in thinking]
    assert all(prompt.token_ids[: prompt.cut] == trace.token_ids[: prompt.cut] for prompt in prompts)


def test_rollouts_of_a_problem_share_what_they_share(tokenizer, trace):
    cuts = [*trace.prefix_ends[:2], trace.prefix_ends[1] + 2]
    other = Trace(trace.token_ids[: trace.prefix_ends[1]] + [5, 6], cuts, "5", [*trace.credit_ends[:2], cuts[2]])
    sampler = Sampler(tokenizer, lambda text, n: ["5}"] * n)
    left, right = MetaProver(sampler, SampledAnswers(3, SETTINGS), "answer").success_probabilities([trace, other])
    assert len(sampler.calls[0][0]) == 4  # two shared prefixes, two whole traces
    assert right.success_probability.tolist() == left.success_probability.tolist()
    assert (left.tokens, right.tokens) == (3 * 3 * left.answer_tokens[0], 3 * right.answer_tokens[0])


def test_an_unparseable_gold_is_unknown_and_a_timeout_does_not_count(tokenizer, trace, monkeypatch):
    sampler = Sampler(tokenizer, lambda text, n: ["5}"] * n)
    [unknown] = MetaProver(sampler, SampledAnswers(2, SETTINGS), "answer").success_probabilities(
        [Trace(trace.token_ids, trace.prefix_ends, "")]
    )
    assert np.isnan(unknown.success_probability).all()

    verdicts = [Verdict.RIGHT, Verdict.TIMED_OUT, Verdict.WRONG, Verdict.TIMED_OUT]
    monkeypatch.setattr("mrt_plugin.meta_prover.grade", lambda answers, golds: verdicts[: len(answers)])
    start = Trace(trace.token_ids[: trace.prefix_ends[0]], trace.prefix_ends[:1], "5")
    [measurement] = MetaProver(sampler, SampledAnswers(4, SETTINGS), "answer").success_probabilities([start])
    assert measurement.success_probability.tolist() == [0.5]
    assert measurement.timeouts == 2


def test_where_there_is_no_room_for_an_answer_nothing_is_known_and_nobody_is_punished(tokenizer, trace):
    """An empty group of answers, as engines used to give, would have been J = 0: a loss of 1 in the last episode."""
    sampler = Sampler(tokenizer, lambda text, n: None if "works" in text else ["5}"] * n)
    [measurement] = MetaProver(sampler, SampledAnswers(2, SETTINGS), "answer").success_probabilities([trace])
    answer = len(tokenize(tokenizer, "5}"))
    np.testing.assert_equal(measurement.success_probability, [1.0, 1.0, np.nan])
    np.testing.assert_equal(measurement.answer_tokens, [answer, answer, np.nan])
    assert (measurement.unanswered, measurement.tokens, measurement.answers[2]) == (1, 4 * answer, ())
    np.testing.assert_equal(progress(measurement.success_probability), [0.0, np.nan])  # which is no credit
    assert progress([1.0, 1.0, 0.0]).tolist() == [0.0, -1.0]


def test_an_answer_that_was_cut_is_not_kept_whatever_its_length(tokenizer, trace):
    class Cutting(Sampler):
        def completion(self, text, most):
            return Completion(tokenize(tokenizer, text), ended="ends" in text)

    sampler = Cutting(tokenizer, lambda text, n: ["5} goes on", "5} ends"])
    [measurement] = MetaProver(sampler, SampledAnswers(2, SETTINGS), "answer").success_probabilities([trace])
    assert [measurement.right_answer(j).rpartition("}")[2] for j in range(3)] == [" ends"] * 3


def test_likelihood_needs_a_sampler_that_scores(tokenizer):
    sampler = Sampler(tokenizer, None)
    with pytest.raises(ValueError, match="likelihood needs log-probabilities, which Sampler does not give"):
        MetaProver(sampler, GoldLikelihood(), "answer")


def test_answers_are_drawn_as_the_arguments_say():
    args = MetaProverArguments(mrt_samples=8, mrt_answer_tokens=99, mrt_answer_temperature=0.6, mrt_answer_top_p=0.95)
    assert SampledAnswers.of(args, seed=3) == SampledAnswers(8, SamplingSettings(99, 0.6, 0.95, seed=3))


def test_a_prefix_to_start_from_is_stopped_by_the_whole_text(tokenizer, trace):
    """The text for a thinking that is over is for the end of a trace with episodes; such a prefix has none."""
    sampler = Sampler(tokenizer, lambda text, n: ["\\boxed{5}"] * n)
    MetaProver(sampler, SampledAnswers(2, SETTINGS), "explain").success_probabilities(
        [trace.prefix(0), trace.prefix(1)]
    )
    [(prompts, *_)] = sampler.calls
    assert [decode(tokenizer, one.suffix) for one in prompts] == [TERMINATIONS["explain"]] * 2


def test_what_traces_share_is_counted_once(tokenizer, trace):
    sampler = Sampler(tokenizer, lambda text, n: None if "Not 5" in text else ["5}"] * n)
    prover = MetaProver(sampler, SampledAnswers(2, SETTINGS), "answer")
    first, second = prover.success_probabilities([trace, trace])
    assert first.tokens == 2 * len(tokenize(tokenizer, "5}"))
    assert (first.unanswered, second.tokens, second.unanswered) == (2, 0, 0)


def test_answers_that_the_context_cut_do_not_count(tokenizer, trace):
    """J is unknown there: neither 0, nor that of the answers that are short enough."""
    sampler = Sampler(tokenizer, lambda text, n: ["5}", "let me see, it is 5}"])
    suffix = len(tokenize(tokenizer, TERMINATIONS["answer"]))
    sampler.max_length = trace.prefix_ends[1] + suffix + 100  # room for SETTINGS, but not after the last episode
    measured = {}
    for longest in (8, 100):  # cut by the context; by SETTINGS
        sampler.completion = lambda text, most, longest=longest: (
            Completion(tokenize(tokenizer, text), True) if text == "5}" else Completion([7] * longest, False)
        )
        [measurement] = MetaProver(sampler, SampledAnswers(2, SETTINGS), "answer").success_probabilities([trace])
        measured[longest] = measurement.success_probability
    np.testing.assert_equal(measured, {8: [0.5, 0.5, np.nan], 100: [0.5, 0.5, 0.5]})


def test_the_gold_answer_is_scored_as_the_tokenizer_writes_it_behind_the_box():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("{\\", special=False, normalized=False)])  # as in Qwen's vocabulary
    suffix = tokenize(tokenizer, TERMINATIONS["answer"])
    for gold, merged in (("\\frac{1}{2}", True), ("12", False)):
        prompt, target = behind_the_box(tokenizer, Prompt([5, 6, 7], 2, suffix), gold)
        written = tokenize(tokenizer, TERMINATIONS["answer"] + gold + "}")
        assert prompt.token_ids + target == [5, 6, *written]
        assert len(prompt.suffix) == len(suffix) - merged


def test_no_traces_no_call(tokenizer):
    sampler = Sampler(tokenizer, lambda text, n: ["5}"] * n)
    assert MetaProver(sampler, SampledAnswers(4, SETTINGS), "answer").success_probabilities([]) == []


def test_likelihood_is_the_share_of_samples_that_write_the_gold_answer(tokenizer, trace):
    """What `sample` estimates and `likelihood` computes is one number where there is one way to write the answer."""
    model = tiny_model(tokenizer, initializer_range=0.05)
    sampler = PolicySampler(model, tokenizer)
    target = tokenize(tokenizer, "5}")
    prompt = Prompt(trace.token_ids, trace.prefix_ends[0], tokenize(tokenizer, TERMINATIONS["answer"]))
    _make_likely(model, prompt.token_ids, target)
    [likelihood] = MetaProver(sampler, GoldLikelihood(), "answer").success_probabilities([trace])
    [draws] = sampler.sample([prompt], 4000, SamplingSettings(len(target), seed=0))
    share = np.mean([draw.token_ids == target for draw in draws])
    assert 0.2 < share < 0.8
    assert likelihood.success_probability[0] == pytest.approx(share, abs=0.03)
    assert likelihood.tokens > 3 * len(target)


def test_likelihood_of_an_unparseable_gold_is_unknown(tokenizer, model, trace):
    sampler = PolicySampler(model, tokenizer)
    unknown = Trace(trace.token_ids, trace.prefix_ends, "")
    measured = MetaProver(sampler, GoldLikelihood(), "answer").success_probabilities([unknown, trace])
    assert [np.isnan(m.success_probability).all() for m in measured] == [True, False]


def _make_likely(model, token_ids, target):
    """Trains a random model until it writes the target about half of the time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    input_ids = torch.tensor([token_ids + target])
    for _ in range(200):
        log_probabilities = model(input_ids).logits[0, -len(target) - 1 : -1].log_softmax(-1)
        likelihood = log_probabilities.gather(-1, torch.tensor(target)[:, None]).sum()
        if likelihood.exp() > 0.4:
            return
        optimizer.zero_grad()
        (-likelihood).backward()
        optimizer.step()


def test_likelihood_needs_a_termination_that_ends_at_the_answer():
    with pytest.raises(ValueError, match="mrt_termination: answer"):
        check_termination("explain", "likelihood")


@pytest.mark.parametrize("termination", ["anwser", ""])
def test_a_termination_has_to_end_the_thinking(termination):
    with pytest.raises(ValueError, match="</think>"):
        check_termination(termination)


def test_sentencepiece_like_tokens_are_kept_as_they_are():
    tokenizer = byte_fallback_tokenizer()
    completion_ids = tokenize(tokenizer, FIRST + SECOND)
    trace = segment(tokenizer, tokenize(tokenizer, "Find x.<think>\n"), completion_ids, "5", 6, CUES)
    assert trace.token_ids[trace.prefix_ends[0] :] == completion_ids
    assert decode(tokenizer, trace.token_ids[trace.prefix_ends[0] : trace.prefix_ends[1]]) == FIRST


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("7", "7"),
        ("$7$", "7"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("a \\boxed{1} b \\boxed{2}", "2"),
        ("\\boxed{3", "3"),
    ],
)
def test_bare_gold(solution, answer):
    assert bare_gold(solution) == answer


def test_a_stop_with_its_own_line_break_loses_no_character():
    """Of a token that holds a full stop and the blank line behind it, the full stop is written again."""
    joined = byte_level_tokenizer()
    joined.add_tokens(AddedToken(".\n\n", special=False, normalized=False))
    trace = segment(joined, tokenize(joined, PROMPT), tokenize(joined, FIRST + SECOND), "5", 6, CUES)
    for j, text in enumerate(["", FIRST.rstrip(), (FIRST + SECOND).rstrip()]):
        cut, suffix = stop_after(joined, trace, j, "\nEnough.")
        assert decode(joined, [*trace.token_ids[:cut], *suffix]).endswith(f"<think>\n{text}\nEnough.")
    assert stop_after(joined, trace, 1, "Enough.") == (trace.prefix_ends[1], tokenize(joined, "Enough."))


def test_a_token_that_begins_the_closing_tag_is_not_part_of_the_thinking():
    joined = byte_level_tokenizer()
    joined.add_tokens(AddedToken(".</", special=False, normalized=False))
    completion_ids = tokenize(joined, "x is five.</think>\n\n\\boxed{5}")
    trace = segment(joined, tokenize(joined, PROMPT), completion_ids, "5", 6, CUES)
    assert decode(joined, trace.token_ids).endswith("<think>\nx is five")
    assert trace.prefix_ends[-1] == trace.credit_ends[-1] == len(trace.token_ids)
