r"""
Grades answers: (answer text, gold answer) -> [`Verdict`].

Answers and golds are read alike ([`~mrt_plugin.reading`]); what that does not settle, math-verify decides, in the
processes of [`~mrt_plugin.grading_pool`]. Earlier verdicts are remembered, and plain integers are compared here.
docs/grading.md says where and why a verdict differs from that of [`trl.rewards.accuracy_reward`].
"""

import hashlib
import math
import os
import re
import threading
from collections.abc import Sequence

from .boxes import final_answer
from .grading_pool import Verdict, judge_in_workers


MAX_CHARS = 10_000  # at the end of an answer; the rest of it is not looked at, and a longer gold is unparseable
CACHE_SIZE = 2**16  # verdicts, of about 150 bytes each

_BOXED_INTEGER = re.compile(r"\\boxed\{(0|-?[1-9][0-9]{0,14})\}")


def grade(answers: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
    r"""
    Grades a batch of answers. Blocks until the last one has a verdict; may be called from several threads at once.

    Args:
        answers (`Sequence[str]`):
            N texts, each with an answer in `\boxed{}` or in math after the word "answer". Only the last `MAX_CHARS`
            characters of each are looked at.
        golds (`Sequence[str]`): N gold answers, LaTeX or plain.

    Returns:
        `list[Verdict]`:
            N verdicts, in the order of `answers`.

    Raises:
        `ValueError`: If `answers` and `golds` differ in length.
        `RuntimeError`: If the worker processes do not start or keep breaking.

    Example:
        >>> from mrt_plugin.grading import grade
        >>> answers = [r"Half of it: \boxed{\frac{1}{2}}", r"\boxed{3}", "I give up"]
        >>> [verdict.value for verdict in grade(answers, ["0.5", "4", "5"])]
        ['right', 'wrong', 'no_answer']
    """
    if len(answers) != len(golds):
        raise ValueError(f"grade needs one gold per answer, but got {len(answers)} answers and {len(golds)} golds")
    questions = [(final_answer(answer[-MAX_CHARS:]), gold) for answer, gold in zip(answers, golds, strict=True)]
    verdicts = {question: _quick_verdict(*question) or _recall(question) for question in questions}
    unknown = [question for question, verdict in verdicts.items() if verdict is None]
    for question, verdict in judge_in_workers(unknown).items():
        verdicts[question] = verdict
        if verdict is not Verdict.TIMED_OUT:  # it may be the fault of a busy machine
            _remember(question, verdict)
    return [verdicts[question] for question in questions]


def share_right(verdicts: Sequence[Verdict]) -> float:
    """
    J of a prefix: the share of right answers among those that could be graded; NaN where none could.

    >>> share_right([Verdict.RIGHT, Verdict.NO_ANSWER, Verdict.TIMED_OUT]), share_right([])
    (0.5, nan)
    """
    graded = [one for one in verdicts if one not in (Verdict.TIMED_OUT, Verdict.UNPARSEABLE_GOLD)]
    return graded.count(Verdict.RIGHT) / len(graded) if graded else math.nan


def _quick_verdict(essence: str, gold: str) -> Verdict | None:
    """The verdict where it takes no mathematics to know what math-verify would say, else `None`."""
    if len(gold) > MAX_CHARS:
        return Verdict.UNPARSEABLE_GOLD
    if gold[:1] == "$" == gold[-1:]:
        gold = gold[1:-1]
    if _BOXED_INTEGER.fullmatch(rf"\boxed{{{gold}}}"):
        if essence == "":
            return Verdict.NO_ANSWER
        if boxed := _BOXED_INTEGER.fullmatch(essence):
            return Verdict.RIGHT if boxed[1] == gold else Verdict.WRONG
    return None


# --- Earlier verdicts, the one used longest ago first ---

_verdicts: dict[bytes, Verdict] = {}
_verdicts_lock = threading.Lock()


def _renew_lock() -> None:
    global _verdicts_lock
    _verdicts_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # a thread of the parent may have held it


def _key(question: tuple[str, str]) -> bytes:
    # A digest, because whole completions come here too, and 2**16 of those would fill gigabytes.
    return hashlib.blake2b(repr(question).encode(), digest_size=16).digest()


def _recall(question: tuple[str, str]) -> Verdict | None:
    with _verdicts_lock:
        verdict = _verdicts.pop(_key(question), None)
        if verdict is not None:
            _verdicts[_key(question)] = verdict
    return verdict


def _remember(question: tuple[str, str], verdict: Verdict) -> None:
    with _verdicts_lock:
        _verdicts[_key(question)] = verdict
        if len(_verdicts) > CACHE_SIZE:
            del _verdicts[next(iter(_verdicts))]
