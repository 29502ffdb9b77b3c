r"""Prefixes -> success probabilities, by forced termination.

The meta-prover is the policy itself, made to stop thinking at a prefix and to answer (section 4 of arXiv
2503.07572). How often it is right there is the success probability J of the prefix. Left out: what J is used for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .engines.sampling import Completion, Prompt, Sampler, SamplingSettings
from .episodes import CLOSE, split_answer
from .golds import bare_gold
from .grading import Verdict, grade, share_right
from .tokens import decode, tokenize
from .traces import Trace, stop_after


TERMINATIONS = {
    # The text of the authors' analysis code.
    "explain": (
        "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop thinking and formulate "
        "a final answer based on what I already have.\n</think>\n\n**Step-by-Step Explanation and Answer:**\n\n1. **"
    ),
    # Ours: nothing left to write but the answer itself.
    "answer": "\n</think>\n\n**Final Answer**\n\n\\boxed{",
}
END_OF_TRACE = "\n</think>"
"""With `explain`, all that is appended to a whole trace."""


class Answer(NamedTuple):
    """One drawn answer: what follows `</think>`, its verdict, and whether it came to an end within its tokens."""

    text: str
    verdict: Verdict
    ended: bool


@dataclass(frozen=True)
class Measurement:
    """
    What the meta-prover did after each prefix of one trace.

    Args:
        success_probability (`np.ndarray` of shape (G + 1,)):
            J after 0, ..., G episodes; NaN where the engine had no room for an answer, or none could be graded (an
            unparseable gold, or nothing but time-outs).
        answer_tokens (`np.ndarray` of shape (G + 1,)): Mean length of the answers, in tokens; NaN without room.
        tokens (`int`):
            Tokens drawn or scored. Prefixes that traces of a call share count for the first of them, here and below.
        timeouts (`int`): Answers that the grader ran out of time over; they do not count in J.
        answers (`tuple[tuple[Answer, ...], ...]` of length G + 1): The drawn answers; none where answers were scored.
        unanswered (`int`): Prefixes after which there was no room for an answer.
    """

    success_probability: np.ndarray
    answer_tokens: np.ndarray
    tokens: int
    timeouts: int
    answers: tuple[tuple[Answer, ...], ...] = ()
    unanswered: int = 0

    def right_answer(self, j: int) -> str | None:
        """After j episodes, the text of the first right answer that was not cut by length, if there is one."""
        found = (answer.text for answer in self.answers[j] if answer.verdict is Verdict.RIGHT and answer.ended)
        return next(found, None)


class Estimate(NamedTuple):
    """What an estimator says of one prefix; fields as in [`Measurement`]."""

    success_probability: float
    answer_tokens: float
    tokens: int
    timeouts: int = 0
    answers: tuple[Answer, ...] = ()
    unanswered: int = 0


@dataclass(frozen=True)
class SampledAnswers:
    """
    The paper's estimator: J is the share of drawn answers that are right.

    Args:
        samples (`int`): Answers to draw after each prefix.
        settings ([`SamplingSettings`]):
            How to draw them. The paper's analysis: 4096 tokens, temperature 0.7, top-p 1; of regret, 0.6 and 0.95.
    """

    samples: int
    settings: SamplingSettings

    summary = "(the paper's) the share of drawn answers that are right."
    name, needs_scores, needs_box, draws_answers = "sample", False, False, True

    @classmethod
    def of(cls, args, seed: int | None) -> "SampledAnswers":
        tokens, temperature, top_p = args.mrt_answer_tokens, args.mrt_answer_temperature, args.mrt_answer_top_p
        return cls(args.mrt_samples, SamplingSettings(tokens, temperature, top_p, seed))

    def estimate(self, sampler: Sampler, prompts: Sequence[Prompt], golds: Sequence[str]) -> list[Estimate]:
        sampled = sampler.sample(prompts, self.samples, self.settings)
        drawn = [
            [] if group is None or self._cut_by_the_context(prompt, group, sampler.max_length) else group
            for prompt, group in zip(prompts, sampled, strict=True)
        ]
        # The answer's box may have been opened by the termination.
        texts = [
            split_answer(decode(sampler.tokenizer, prompt.suffix) + decode(sampler.tokenizer, completion.token_ids))
            for prompt, group in zip(prompts, drawn, strict=True)
            for completion in group
        ]
        verdicts = grade(texts, [gold for gold, group in zip(golds, drawn, strict=True) for _ in group])
        graded = iter(zip(texts, verdicts, strict=True))
        return [self._of_prefix(group, [Answer(*next(graded), answer.ended) for answer in group]) for group in drawn]

    def _cut_by_the_context(self, prompt: Prompt, group: list[Completion], max_length: int | None) -> bool:
        """Whether answers were cut before their own limit: J of the others would be that of short answers."""
        most = self.settings.max_new_tokens
        return not prompt.fits(max_length, most) and any(not one.ended and len(one.token_ids) < most for one in group)

    def _of_prefix(self, completions: list[Completion], answers: list[Answer]) -> Estimate:
        if not answers:
            return Estimate(np.nan, np.nan, tokens=0, unanswered=1)
        verdicts = [answer.verdict for answer in answers]
        timeouts, tokens = verdicts.count(Verdict.TIMED_OUT), sum(len(one.token_ids) for one in completions)
        return Estimate(share_right(verdicts), tokens / len(answers), tokens, timeouts, tuple(answers))


class GoldLikelihood:
    """
    Ours: J is the probability of the gold answer and of the brace that closes its box, teacher-forced, in one pass: no
    noise, no decoding, but it only knows one way to write the answer.
    """

    summary = "(ours) the probability of the gold answer, in one pass; the termination must end in \\boxed{."
    name, needs_scores, needs_box, draws_answers = "likelihood", True, True, False

    @classmethod
    def of(cls, args, seed: int | None) -> "GoldLikelihood":
        return cls()

    def estimate(self, sampler: Sampler, prompts: Sequence[Prompt], golds: Sequence[str]) -> list[Estimate]:
        pairs = [behind_the_box(sampler.tokenizer, *pair) for pair in zip(prompts, golds, strict=True)]
        prompts, targets = [prompt for prompt, _ in pairs], [target for _, target in pairs]
        log_probabilities = sampler.score(prompts, targets)
        if not all(value < math.inf for value in log_probabilities):  # NaN is not less
            raise FloatingPointError(
                "The log-probability of a gold answer is NaN or infinite, so the policy is broken."
            )
        unique = list(dict.fromkeys(golds))
        verdicts = grade([f"\\boxed{{{bare_gold(gold)}}}" for gold in unique], unique)
        unknown = {g for g, verdict in zip(unique, verdicts, strict=True) if verdict is Verdict.UNPARSEABLE_GOLD}
        values = [np.nan if g in unknown else float(np.exp(v)) for g, v in zip(golds, log_probabilities, strict=True)]
        return [
            Estimate(value, len(target), len(prompt.suffix) + len(target))
            for value, target, prompt in zip(values, targets, prompts, strict=True)
        ]


def behind_the_box(tokenizer, prompt: Prompt, gold: str) -> tuple[Prompt, list[int]]:
    r"""
    A prompt that opens a box, and the tokens of the gold answer and the closing brace behind it, as the tokenizer
    writes them. Where the opening brace is part of their first token (`{\` in the vocabularies of Qwen and others),
    that token is scored whole: behind a brace of its own, the model does not write such an answer.
    """
    answer, (*before, brace) = bare_gold(gold) + "}", prompt.suffix
    joined = tokenize(tokenizer, decode(tokenizer, prompt.suffix) + answer)
    if joined[: len(before)] != before:  # the tokenizer writes what is before the brace in another way
        return prompt, tokenize(tokenizer, answer)
    begin = len(before) + (joined[len(before)] == brace)
    return replace(prompt, suffix=joined[:begin]), joined[begin:]


ESTIMATORS = {estimator.name: estimator for estimator in (SampledAnswers, GoldLikelihood)}
"""
By name. An estimator says whether it needs a sampler that scores, or a termination that opens the answer's box, and
whether it draws answers, which can be kept. `of` makes one from [`~mrt_plugin.arguments.MetaProverArguments`], and
`estimate` maps N prompts and N gold answers to N [`Estimate`]s.
"""


class MetaProver:
    r"""
    Estimates success probabilities with a sampler.

    Args:
        sampler ([`~mrt_plugin.engines.sampling.Sampler`]): The policy.
        estimator ([`SampledAnswers`] or [`GoldLikelihood`]): How J is estimated.
        termination (`str`):
            What is appended to make the policy stop and answer. `explain`: the paper's text, after which the policy
            still explains; a whole trace is then only closed. `answer`: a short one that opens the answer's box.
            Anything else is the text itself. A text that begins with a line break takes the place of the blank line
            behind the prefix, as models end their thinking with a single one.

    Raises:
        `ValueError`: If the termination does not end the thinking, or the estimator cannot work with what is given.

    Example:
    ```python
    estimator = SampledAnswers(4, SamplingSettings(max_new_tokens=64))
    meta_prover = MetaProver(PolicySampler(model, tokenizer), estimator, "answer")
    trace = segment(tokenizer, prompt_ids, completion_ids, solution="5", episodes=6, cues=CUES)
    meta_prover.success_probabilities([trace])[0].success_probability  # array([0.25, 0.25, 1.0])
    ```
    """

    def __init__(self, sampler: Sampler, estimator: SampledAnswers | GoldLikelihood, termination: str):
        self.sampler, self.tokenizer, self.estimator = sampler, sampler.tokenizer, estimator
        self.termination = check_termination(termination, estimator.name)
        if estimator.needs_scores and not sampler.scores:
            raise ValueError(
                f"mrt_estimator: {estimator.name} needs log-probabilities, which {type(sampler).__name__} does not "
                "give. Set mrt_estimator: sample, or sampler: transformers."
            )

    def success_probabilities(self, traces: Sequence[Trace], whole: bool = False) -> list[Measurement]:
        """
        J after every prefix of every trace, in one call to the sampler. `whole` says that each prefix is a thinking
        that has come to its own end, as otherwise only the last one is. Prefixes of the same tokens and the same gold
        answer are measured once: all rollouts of a problem share J_0.
        """
        keys: list[list[tuple]] = []  # of each prefix of each trace
        prompts: dict[tuple, Prompt] = {}
        for trace in traces:
            keys.append([])
            for j in range(len(trace.prefix_ends)):
                closed = whole or 0 < j == trace.episodes
                text = END_OF_TRACE if closed and self.termination == TERMINATIONS["explain"] else self.termination
                cut, suffix = stop_after(self.tokenizer, trace, j, text)
                key = (tuple(trace.token_ids[:cut]), tuple(suffix), trace.solution)
                prompts.setdefault(key, Prompt(trace.token_ids, cut, suffix))
                keys[-1].append(key)
        # Also without any prompts: an engine that ranks share waits for all of them.
        estimated = self.estimator.estimate(self.sampler, list(prompts.values()), [gold for *_, gold in prompts])
        estimates = dict(zip(prompts, estimated, strict=True))

        measurements, counted = [], set()
        for trace_keys in keys:
            mine = [estimates[key] for key in trace_keys]
            new = [estimates[key] for key in trace_keys if key not in counted]
            counted.update(trace_keys)
            measurements.append(
                Measurement(
                    np.array([one.success_probability for one in mine]),
                    np.array([one.answer_tokens for one in mine]),
                    tokens=sum(one.tokens for one in new),
                    timeouts=sum(one.timeouts for one in new),
                    answers=tuple(one.answers for one in mine),
                    unanswered=sum(one.unanswered for one in new),
                )
            )
        return measurements


def build_meta_prover(args, sampler: Sampler, seed: int | None = None) -> MetaProver:
    """The meta-prover that [`~mrt_plugin.arguments.MetaProverArguments`] describe."""
    return MetaProver(sampler, ESTIMATORS[args.mrt_estimator].of(args, seed), args.mrt_termination)


def check_termination(termination: str, estimator: str = "sample") -> str:
    r"""
    The text that a `termination` stands for.

    Raises:
        `ValueError`: If it does not end the thinking, or if the answer does not follow it as the estimator needs.

    ```python
    >>> check_termination("answer", "likelihood").endswith("\\boxed{")
    True

    ```
    """
    text = TERMINATIONS.get(termination, termination)
    if CLOSE not in text and not text.endswith("\\boxed{"):
        raise ValueError(
            f"mrt_termination must be one of {list(TERMINATIONS)}, a text with {CLOSE} in it, which ends the "
            f"thinking, or one that ends with \\boxed{{, where the model does not think in tags; got {termination!r}."
        )
    if ESTIMATORS[estimator].needs_box and not text.endswith("\\boxed{"):
        raise ValueError(
            f"mrt_estimator: {estimator} scores the gold answer right after the termination, so that has to end with "
            "\\boxed{. Set mrt_termination: answer, or use mrt_estimator: sample."
        )
    return text
