r"""Answers of a problem -> votes: which of them mean the same."""

from collections.abc import Sequence

from ..boxes import final_answer
from ..golds import bare_gold
from ..grading import MAX_CHARS, Verdict, grade


def votes(answers: Sequence[str], verdicts: Sequence[Verdict]) -> list[int | None]:
    r"""
    What each of a problem's N answers votes for, given their verdicts.

    Returns:
        `list[int | None]` of length N:
            0 for right answers, 1, 2, ... for each other answer, in the order of appearance, and `None` where there is
            no answer, or where the grader ran out of time. Two wrong answers count as the same if math-verify accepts
            the second with the first as the gold answer.

    Example:
    ```python
    >>> answers = [r"\boxed{5}", r"\boxed{0.5}", "Hm.", r"\boxed{\frac{1}{2}}", r"\boxed{3}"]
    >>> votes(answers, grade(answers, ["5"] * 5))
    [0, 1, None, 1, 2]

    ```
    """
    classes: dict[str, int] = {}
    answers = [final_answer(answer[-MAX_CHARS:]) for answer in answers]  # once, not for each class
    wrong = list(dict.fromkeys(a for a, verdict in zip(answers, verdicts, strict=True) if verdict is Verdict.WRONG))
    while wrong:
        first, *others = wrong
        matches = grade(others, [bare_gold(first)] * len(others))
        same = {answer for answer, match in zip(others, matches, strict=True) if match is Verdict.RIGHT}
        number = max(classes.values(), default=0) + 1
        classes |= dict.fromkeys([first, *same], number)
        wrong = [answer for answer in others if answer not in same]
    return [
        0 if verdict is Verdict.RIGHT else classes.get(answer) if verdict is Verdict.WRONG else None
        for answer, verdict in zip(answers, verdicts, strict=True)
    ]
