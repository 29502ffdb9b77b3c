r"""Prefixes -> success probabilities, by forced termination.

The meta-prover is the policy itself, made to stop thinking at a prefix and to answer (section 4 of arXiv
2503.07572). How often it is right there is the success probability J of the prefix. Sampling plus grading, nothing
else: what the probabilities are used for (a reward, a kept training row, a regret curve) is decided elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .engines.sampling import Prompt, Sampler, SamplingSettings
from .episodes import CLOSE, split_answer
from .grading import Verdict, grade, up_to_closing_brace
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
    """One drawn answer: what follows `</think>`, its grade, and whether it came to an end within its tokens."""

    text: str
    outcome: Verdict
    ended: bool


@dataclass(frozen=True)
class Measurement:
    """
    What the meta-prover did after each prefix of one trace.

    Args:
        success_probability (`np.ndarray` of shape (G + 1,)):
            J after 0, ..., G episodes; NaN where no answer could be graded (an unparseable gold, or nothing but
            time-outs).
        answer_tokens (`np.ndarray` of shape (G + 1,)):
            Mean length of the answers, in tokens.
        samples (`int`):
            Answers drawn after each prefix; 0 where they were scored and not drawn.
        tokens (`int`):
            Tokens that were spent on this trace: those drawn, or those scored. Prefixes that several traces of a
            call share are paid for by the first.
        timeouts (`int`):
            Answers without a verdict; they do not count in J.
        answers (`tuple[tuple[Answer, ...], ...]` of length G + 1):
            The drawn answers; none where answers were scored.
    """

    success_probability: np.ndarray
    answer_tokens: np.ndarray
    samples: int
    tokens: int
    timeouts: int
    answers: tuple[tuple[Answer, ...], ...] = ()

    def right_answer(self, j: int) -> str | None:
        """After j episodes, the text of the first right answer that was not cut by length, if there is one."""
        found = (answer.text for answer in self.answers[j] if answer.outcome is Verdict.RIGHT and answer.ended)
        return next(found, None)


class _Estimate(NamedTuple):
    """Of one prefix; fields as in [`Measurement`]."""

    success_probability: float
    answer_tokens: float
    tokens: int
    timeouts: int
    answers: tuple[Answer, ...] = ()


class MetaProver:
    r"""
    Estimates success probabilities with a sampler.

    Args:
        sampler ([`~mrt_plugin.engines.sampling.Sampler`]):
            The policy. `likelihood` needs one that can score, such as [`~mrt_plugin.engines.policy.PolicySampler`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        termination (`str`, *optional*, defaults to `"explain"`):
            What is appended to make the policy stop and answer. `explain` is the paper's text, after which the
            policy still writes an explanation; the whole trace is then only closed. `answer` is a short one that
            opens the answer's box. Anything else is the text itself. Texts other than `explain` follow every
            prefix, the whole trace included. A text that begins with a line break takes the place of the blank line
            behind the prefix, as models end their thinking with a single one.
        estimator (`str`, *optional*, defaults to `"sample"`):
            `sample` (the paper's) draws answers and grades them. `likelihood` (ours) takes the probability of the gold
            answer, teacher-forced, in one pass: no noise, no decoding, but it only knows one way to write the answer.
        samples (`int`, *optional*, defaults to `8`):
            Answers to draw after each prefix.
        settings ([`~mrt_plugin.engines.sampling.SamplingSettings`], *optional*):
            How to draw them. Defaults to the paper's: 4096 tokens, temperature 0.7, top-p 1.

    Raises:
        `ValueError`: If `likelihood` is asked for with a termination after which the answer does not follow at once.

    Example:
    ```python
    meta_prover = MetaProver(PolicySampler(model, tokenizer), tokenizer, termination="answer", samples=4)
    trace = segment(tokenizer, prompt_ids, completion_ids, solution="5", episodes=6)
    meta_prover.success_probabilities([trace])[0].success_probability  # array([0.25, 0.25, 1.0])
    ```
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer,
        termination: str = "explain",
        estimator: str = "sample",
        samples: int = 8,
        settings: SamplingSettings | None = None,
    ):
        self.sampler, self.tokenizer, self.samples = sampler, tokenizer, samples
        self.settings = settings or SamplingSettings(max_new_tokens=4096, temperature=0.7)
        self.termination = check_termination(termination, estimator)
        if estimator == "likelihood" and not hasattr(sampler, "score"):
            raise ValueError(
                f"mrt_estimator: likelihood needs log-probabilities, which {type(sampler).__name__} does not give. "
                "Set mrt_estimator: sample, or sampler: transformers."
            )
        self.estimator = estimator

    def success_probabilities(self, traces: Sequence[Trace], whole: bool = False) -> list[Measurement]:
        """
        J after every prefix of every trace, in one call to the sampler. `whole` says that each prefix is a thinking
        that has come to its own end, as otherwise only the last one is.

        Prefixes of the same tokens and the same gold answer are measured once: all rollouts of a problem share J_0.
        """
        keys: list[list[tuple]] = []  # of each prefix of each trace
        prompts: dict[tuple, tuple[Prompt, str]] = {}
        for trace in traces:
            keys.append([])
            for j in range(len(trace.cuts)):
                text = self._suffix(whole or 0 < j == trace.episodes)
                cut, suffix = stop_after(self.tokenizer, trace, j, text)
                key = (tuple(trace.token_ids[:cut]), tuple(suffix), trace.solution)
                prompts.setdefault(key, (Prompt(trace.token_ids, cut, suffix), trace.solution))
                keys[-1].append(key)
        estimate = self._sample if self.estimator == "sample" else self._likelihood
        # Also without any prompts: an engine that ranks share waits for all of them.
        some = [prompt for prompt, _ in prompts.values()]
        estimates = dict(zip(prompts, estimate(some, [gold for _, gold in prompts.values()]), strict=True))

        measurements, paid = [], set()
        for trace_keys in keys:
            mine = [estimates[key] for key in trace_keys]
            values, answer_tokens, tokens, timeouts, answers = zip(*mine, strict=True)
            new = [key not in paid for key in trace_keys]
            paid.update(trace_keys)
            measurements.append(
                Measurement(
                    np.array(values),
                    np.array(answer_tokens),
                    self.samples if self.estimator == "sample" else 0,
                    int(np.dot(tokens, new)),
                    int(np.dot(timeouts, new)),
                    answers,
                )
            )
        return measurements

    def _suffix(self, whole: bool) -> str:
        return END_OF_TRACE if whole and self.termination == TERMINATIONS["explain"] else self.termination

    def _sample(self, prompts, solutions) -> list[_Estimate]:
        """Estimates from drawn answers."""
        completions = self.sampler.sample(prompts, self.samples, self.settings)
        # The answer's box may have been opened by the termination.
        texts = [
            split_answer(decode(self.tokenizer, prompt.suffix) + decode(self.tokenizer, token_ids))
            for prompt, drawn in zip(prompts, completions, strict=True)
            for token_ids in drawn
        ]
        graded = iter(
            zip(texts, grade(texts, [solution for solution in solutions for _ in range(self.samples)]), strict=True)
        )
        estimates = []
        for drawn in completions:
            answers = tuple(
                Answer(*next(graded), len(token_ids) < self.settings.max_new_tokens) for token_ids in drawn
            )
            outcomes = [answer.outcome for answer in answers]
            timeouts, tokens = outcomes.count(Verdict.TIMED_OUT), sum(map(len, drawn))
            known = len(outcomes) - timeouts - outcomes.count(Verdict.UNPARSEABLE_GOLD)
            value = outcomes.count(Verdict.RIGHT) / known if known else np.nan
            estimates.append(_Estimate(value, tokens / len(drawn), tokens, timeouts, answers))
        return estimates

    def _likelihood(self, prompts, solutions) -> list[_Estimate]:
        """Estimates from the probability of the gold answer and of the brace that closes its box."""
        targets = [tokenize(self.tokenizer, bare_answer(solution) + "}") for solution in solutions]
        log_probabilities = self.sampler.score(prompts, targets)
        golds = list(dict.fromkeys(solutions))
        outcomes = dict(zip(golds, grade([f"\\boxed{{{bare_answer(gold)}}}" for gold in golds], golds), strict=True))
        return [
            _Estimate(
                np.nan if outcomes[solution] is Verdict.UNPARSEABLE_GOLD else float(np.exp(value)),
                len(target),
                len(prompt.suffix) + len(target),
                0,
            )
            for value, target, prompt, solution in zip(log_probabilities, targets, prompts, solutions, strict=True)
        ]


def meta_prover(args, sampler: Sampler, tokenizer, seed: int | None = None) -> MetaProver:
    """The meta-prover that [`~mrt_plugin.arguments.MetaProverArguments`] describe."""
    settings = SamplingSettings(args.mrt_answer_tokens, args.mrt_answer_temperature, seed=seed)
    return MetaProver(sampler, tokenizer, args.mrt_termination, args.mrt_estimator, args.mrt_samples, settings)


def check_termination(termination: str, estimator: str = "sample") -> str:
    r"""
    The text that a `termination` stands for.

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
    if estimator == "likelihood" and not text.endswith("\\boxed{"):
        raise ValueError(
            "mrt_estimator: likelihood scores the gold answer right after the termination, so that has to end with "
            "\\boxed{. Set mrt_termination: answer, or use mrt_estimator: sample."
        )
    return text


def bare_answer(solution: str) -> str:
    r"""
    What a gold answer puts into the box: the content of its last `\boxed{}`, else the answer without its dollar signs.

    ```python
    >>> bare_answer("So it is $\\boxed{\\frac{1}{2}}$."), bare_answer("$7$")
    ('\\frac{1}{2}', '7')

    ```
    """
    _, box, rest = solution.rpartition("\\boxed{")
    if not box:
        return solution.strip().strip("$").strip()
    return (up_to_closing_brace(rest) or rest).strip()
