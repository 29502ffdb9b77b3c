r"""Step-labelled solutions -> warm-start rows of the backtracking setting (arXiv 2503.07572, Figs. 13 to 15).

A solution labels its steps `Node 1`, `Node 2`, ... at the start of lines. Steps are character offsets, so that a
prefix is exactly what the model wrote. A row is a pair (context, suffix); the loss is on the suffix only. Pure
Python: no torch, no tokens, no I/O. Labels in list items and quotations count as text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan


LARGEST_NUMBER = 9999
"""A label with a larger number is text."""

START_OVER = "This attempt has gone wrong. Let me go back to the problem and start over."
GO_BACK = "This attempt has gone wrong. Let me go back to the end of Node {step} and go on from there."
NEW_ATTEMPT = "This attempt has gone wrong. Let me leave it and try the problem once more."

# What stands behind the number tells a label from a sentence that begins with one. A heading is never a sentence.
_LABEL = re.compile(
    r"""
    ^[ ]{0,3} (?P<heading>\#{1,6}[ \t]*)? [*_]{0,3}
    Node[ \t]+ (?P<number>[0-9]{1,4}) (?![^\W_] | \.[0-9])
    (?(heading) | [*_]{0,3} (?: [ \t]*[:.] | [ \t]+[-–—][ \t] | [ \t]*\r?$ ))
    """,
    re.MULTILINE | re.VERBOSE,
)
_BLANK_LINE = r"\r\n\r\n|\n\n"
_SENTENCE = rf"{re.escape(START_OVER)}|{re.escape(GO_BACK)}".replace(r"\{step\}", "(?P<step>[1-9][0-9]{0,3})")
_PARAGRAPH = re.compile(rf"(?:{_BLANK_LINE})(?:{_SENTENCE})(?=(?P<behind>{_BLANK_LINE}|\s*\Z))")


@dataclass(frozen=True)
class Step:
    """A step, from the line of its label to the next label: `text[:end]` is the prefix after it."""

    number: int
    start: int
    end: int


@dataclass(frozen=True)
class Steps:
    """The preamble, `text[:preamble_end]`, and the steps of a solution, in the order of the text, which they tile."""

    preamble_end: int
    steps: tuple[Step, ...]

    @property
    def numbers(self) -> list[int]:
        return [step.number for step in self.steps]

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the numbers; nothing if they are 1, ..., n with n >= 1."""
        numbers = self.numbers
        if not numbers:
            return ("no steps",)
        found = {
            "does not start at 1": numbers[0] != 1,
            "missing step": max(numbers) - min(numbers) >= len(set(numbers)),
            "repeated number": len(set(numbers)) < len(numbers),
            "out of order": any(right < left for left, right in zip(numbers, numbers[1:], strict=False)),
        }
        return tuple(fault for fault, is_so in found.items() if is_so)

    @property
    def usable(self) -> bool:
        return not self.faults


def parse_steps(text: str) -> Steps:
    r"""
    Finds the labels of a step-by-step solution.

    A label stands at the start of a line, in markdown bold or not, in a heading or not: `**Node 3**:`, `**Node 3:**`,
    `## Node 3`, `Node 3 - Title`, `Node 3.`. A mention in a sentence is none. Malformed labels raise nothing; see
    `Steps.faults`. Blank lines belong to the step that they end.

    Example:
    ```python
    >>> text = "Let me see.\n\n**Node 1**: 2 x = 6\n\n**Node 2**: by Node 1, x = 3"
    >>> solution = parse_steps(text)
    >>> [text[step.start : step.end] for step in solution.steps]
    ['**Node 1**: 2 x = 6\n\n', '**Node 2**: by Node 1, x = 3']
    >>> text[: solution.preamble_end], solution.usable
    ('Let me see.\n\n', True)
    >>> parse_steps("Node 1: a\nNode 3: b").faults
    ('missing step',)

    ```
    """
    labels = list(_LABEL.finditer(text))
    offsets = [*(label.start() for label in labels), len(text)]
    steps = (Step(int(label["number"]), *offsets[i : i + 2]) for i, label in enumerate(labels))
    return Steps(offsets[0], tuple(steps))


def best_step(success_probabilities: Sequence[float]) -> int:
    """
    The step to go back to: the one whose prefix has the highest success probability, as in the paper.

    The paper does not say which of equals. Here it is the latest: what does no harm is kept, not written again.

    Args:
        success_probabilities (`Sequence[float]` of shape (n + 1,)):
            J of the prefix after 0, ..., n steps. The last, the whole failed attempt, is no candidate, as nothing of
            it would be taken back. NaN is unknown and never wins.

    Returns:
        `int`: Number of steps to keep, in 0..n - 1. Its success probability may be 0.

    Raises:
        `ValueError`: If no prefix but the whole attempt is known.

    Example:
    ```python
    >>> best_step([0.25, 0.5, 0.5, 0.0])
    2

    ```
    """
    candidates = list(success_probabilities)[:-1]
    known = [step for step, probability in enumerate(candidates) if not isnan(probability)]
    if not known:
        raise ValueError(f"no prefix before the whole attempt is known, got {list(success_probabilities)}.")
    return max(known, key=lambda step: (candidates[step], step))


def backtrack_text(step: int) -> str:
    """
    The sentence that goes back to the end of a step, in 0..9999 (else a `ValueError`); 0 starts over.

    ```python
    >>> backtrack_text(3)
    'This attempt has gone wrong. Let me go back to the end of Node 3 and go on from there.'

    ```
    """
    if not 0 <= step <= LARGEST_NUMBER:
        raise ValueError(f"step must be in 0..{LARGEST_NUMBER}, got {step}.")
    return GO_BACK.format(step=step) if step else START_OVER


def rise(failed: Sequence[str], correct: str) -> tuple[str, str]:
    r"""
    Context and suffix of a row of the scheme `rise`: failed attempts, then a new one that is correct.

    The paper's RISE baseline stitches at random: the caller draws the attempts, and the correct one neither shares a
    prefix with them nor names a step to go back to.

    Raises:
        `ValueError`: If there is no failed attempt, or a bare text.

    Example:
    ```python
    >>> context, suffix = rise(["Node 1: x = 2", "Node 1: x = 4"], "Node 1: x = 3")
    >>> context
    'Node 1: x = 2\n\nNode 1: x = 4'
    >>> suffix
    '\n\nThis attempt has gone wrong. Let me leave it and try the problem once more.\n\nNode 1: x = 3'

    ```
    """
    if not failed or isinstance(failed, str):
        raise ValueError(f"failed must be a sequence of at least one attempt, got {failed!r}.")
    return "\n\n".join(failed), f"\n\n{NEW_ATTEMPT}\n\n{correct}"


def backtrack(failed: str, steps: Steps, step: int, continuation: str) -> tuple[str, str]:
    r"""
    Context and suffix of a row of the scheme `backtrack` (MRT): an attempt, a step to go back to, a path from there.

    Args:
        failed (`str`): The failed attempt, of n steps.
        steps ([`Steps`]): `parse_steps(failed)`.
        step (`int`): The last step that stands, in 0..n - 1: `best_step`.
        continuation (`str`): The correct path, without the prefix that ends with `step`.

    Raises:
        `ValueError`: If the steps are not usable or those of another text, if `step` is none to go back to, or if the
            steps of the continuation are not `step + 1`, `step + 2`, ...

    Example:
    ```python
    >>> failed = "Node 1: 2 x = 6\n\nNode 2: x = 2"
    >>> context, suffix = backtrack(failed, parse_steps(failed), 1, "Node 2: x = 3")
    >>> context == failed
    True
    >>> suffix
    '\n\nThis attempt has gone wrong. Let me go back to the end of Node 1 and go on from there.\n\nNode 2: x = 3'

    ```
    """
    if steps != parse_steps(failed):
        raise ValueError("steps are not those of the failed attempt; pass parse_steps(failed).")
    if not steps.usable:
        raise ValueError(f"the failed attempt has no usable steps: {', '.join(steps.faults)}.")
    if not 0 <= step < len(steps.steps):
        raise ValueError(f"step must be in 0..{len(steps.steps) - 1}, before the last of the attempt, got {step}.")
    found = parse_steps(continuation).numbers
    if not found or found != list(range(step + 1, step + 1 + len(found))):
        raise ValueError(f"the continuation must go on from Node {step + 1}, its steps are {found or 'missing'}.")
    return failed, f"\n\n{backtrack_text(step)}\n\n{continuation}"


def episodes_of(text: str) -> tuple[str, str, str] | None:
    r"""
    The three episodes of a response that backtracks once (the paper's Fig. 13): the attempt, the backtrack and the
    corrected attempt (empty if the response ends before it). Joined they give the text. The blank lines around the
    sentence belong to the backtrack, so that the attempt is the context of a row. `None` unless just one paragraph is
    a backtrack and something stands before it.

    Example:
    ```python
    >>> attempt, back, corrected = episodes_of(f"Node 1: x = 2\n\n{backtrack_text(0)}\n\nNode 1: x = 3")
    >>> attempt, back.strip() == backtrack_text(0), corrected
    ('Node 1: x = 2', True, 'Node 1: x = 3')

    ```
    """
    found = list(_PARAGRAPH.finditer(text))
    if len(found) != 1 or not text[: found[0].start()].strip():
        return None
    start, end = found[0].start(), found[0].end("behind")
    return text[:start], text[start:end], text[end:]
