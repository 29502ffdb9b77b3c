r"""Attempts of backtracking search: rollouts without thinking tags, graded as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engines.sampling import Prompt
from ..grading import Verdict, grade
from ..jobs.arguments import JobArguments
from ..jobs.batch import rollout_settings
from ..jobs.problems import Policy, Problem
from ..tokens import decode


@dataclass(frozen=True)
class Attempt:
    """A response: its text, its token ids without the end-of-sequence token, and how it went."""

    text: str
    token_ids: list[int]
    ended: bool
    outcome: Verdict

    @property
    def right(self) -> bool:
        return self.ended and self.outcome is Verdict.RIGHT

    @property
    def failed(self) -> bool:
        return self.outcome in (Verdict.WRONG, Verdict.NO_ANSWER)


def draw(
    policy: Policy, problems: Sequence[Problem], prompts: Sequence[Prompt], n: int, args: JobArguments, seed: int
) -> list[list[Attempt]]:
    """`n` attempts from each prompt, which belongs to the problem at its place, in one call."""
    settings = rollout_settings(args, seed)
    completions = policy.sampler.sample(prompts, n, settings)
    texts = [[decode(policy.tokenizer, token_ids) for token_ids in group] for group in completions]
    golds = [problem.solution for problem in problems for _ in range(n)]
    outcomes = iter(grade([text for group in texts for text in group], golds))
    special = set(policy.tokenizer.all_special_ids)
    return [
        [
            Attempt(
                text,
                [token for token in token_ids if token not in special],
                len(token_ids) < settings.max_new_tokens,
                next(outcomes),
            )
            for text, token_ids in zip(*group, strict=True)
        ]
        for group in zip(texts, completions, strict=True)
    ]


def success_probability(attempts: Sequence[Attempt]) -> float:
    """J of the prefix that the attempts go on from; NaN where none could be graded."""
    graded = [
        attempt.outcome is Verdict.RIGHT for attempt in attempts if attempt.failed or attempt.outcome is Verdict.RIGHT
    ]
    return float(np.mean(graded)) if graded else float("nan")
