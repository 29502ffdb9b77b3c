r"""Attempts of backtracking search: rollouts without thinking tags, graded as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..engines.sampling import Completion
from ..grading import Verdict, grade
from ..tokens import decode, without_special


@dataclass(frozen=True)
class Attempt:
    """A response: its text, its token ids without the end-of-sequence token, whether it ended, and its verdict."""

    text: str
    token_ids: list[int]
    ended: bool
    verdict: Verdict

    @property
    def right(self) -> bool:
        return self.ended and self.verdict is Verdict.RIGHT

    @property
    def failed(self) -> bool:
        return self.verdict in (Verdict.WRONG, Verdict.NO_ANSWER)


def grade_attempts(
    tokenizer, groups: Sequence[list[Completion] | None], solutions: Sequence[str]
) -> list[list[Attempt]]:
    """What a sampler wrote for N prompts, whose gold answers are given, as attempts; none where it had no room."""
    texts = [[decode(tokenizer, completion.token_ids) for completion in group or []] for group in groups]
    golds = [solution for solution, group in zip(solutions, texts, strict=True) for _ in group]
    verdicts = iter(grade([text for group in texts for text in group], golds))
    return [
        [
            Attempt(text, without_special(tokenizer, one.token_ids), one.ended, next(verdicts))
            for text, one in zip(group_texts, group or [], strict=True)
        ]
        for group_texts, group in zip(texts, groups, strict=True)
    ]
