r"""Thinking text -> episodes -> prefixes.

An *episode* is a block of consecutive paragraphs of the thinking text: a new one starts where the model visibly
changes its mind (`Wait`, `Alternatively`, ...). A trace of G episodes has G + 1 *prefixes*, the first of which is
empty.

Everything is a half-open span of character offsets, so that nothing is lost between a text and its episodes, and a
boundary can be carried over to tokens without tokenising again. Pure Python: no torch, no I/O.

Left out on purpose: episodes of the backtracking setting (`Node k` labels), which `mrt_plugin.data` deals with.
"""

import re
from collections.abc import Sequence


CUES = (
    "Wait",
    "But wait",
    "Alternatively",
    "Is there another way to think about this?",
    "But let me double-check",
    "But hold on",
)


"""A paragraph that starts with one of these may start a new episode (case-sensitive, nothing is stripped)."""


MIN_PARAGRAPHS = 3


"""A cue is ignored while the current episode has fewer paragraphs than this."""


OPEN, CLOSE = "<think>", "</think>"


Span = tuple[int, int]


_BLANK_LINE = re.compile(r"\r?\n\r?\n")


def thinking_span(completion: str, opened: bool = True) -> Span | None:
    r"""
    Where the thinking text stands in a completion.

    Args:
        completion (`str`): Text that the policy wrote.
        opened (`bool`, *optional*, defaults to `True`):
            Whether the prompt already ends in `<think>`, as R1's chat template makes it.

    Returns:
        `tuple[int, int]` or `None`:
            Start and end of the text between the tags, in characters. A trace that was cut by length has no
            closing tag and ends with the completion. `None` if the completion does not think at all.

    Example:
    ```python
    >>> completion = "Let me see.\n</think>\n\nThe answer is 5."
    >>> start, end = thinking_span(completion)
    >>> completion[start:end]
    'Let me see.\n'
    >>> thinking_span("The answer is 5.", opened=False) is None
    True

    ```
    """
    close = completion.find(CLOSE)
    end = len(completion) if close < 0 else close
    open_ = completion.find(OPEN, 0, end)
    if open_ >= 0 and not (opened and completion[:open_].strip()):  # else a mention of the tag
        start = open_ + len(OPEN)
        # The line break after the tag belongs to the template, as it does where the prompt opens the thinking.
        line_break = re.compile(r"\r?\n").match(completion, start, end)
        return (line_break.end() if line_break else start), end
    if opened or close >= 0:
        return 0, end
    return None


def split_answer(completion: str, opened: bool = False) -> str:
    r"""
    The part of a completion that answers: what follows the last `</think>`, all of it if it never thinks, and
    nothing if the thinking was cut. `opened` says that the prompt already ends in `<think>`.

    ```python
    >>> split_answer("<think>\nHm.\n</think>\nIt is 5."), split_answer("It is 5."), split_answer("<think>\nHm")
    ('\nIt is 5.', 'It is 5.', '')
    >>> split_answer("Hm, is it 5?", opened=True)
    ''

    ```
    """
    _, close, answer = completion.rpartition(CLOSE)
    if close:
        return answer
    return "" if opened or OPEN in completion else completion


def episode_spans(
    thinking: str, max_splits: int | None = None, group_size: int = 1, cues: Sequence[str] = CUES
) -> list[Span]:
    r"""
    Segments a thinking text into episodes.

    Args:
        thinking (`str`): Text between the thinking tags.
        max_splits (`int`, *optional*):
            Number of cues to split at, by default all; whatever follows stays in the last episode. The paper's
            analysis uses 49 on Omni-MATH, 45 on AIME 2024 and 99 for regret.
        group_size (`int`, *optional*, defaults to `1`):
            Number of consecutive episodes that are merged into one; the last group may be smaller. The paper's
            analysis uses 5, 3 and 10 in the same settings.
        cues (`Sequence[str]`, *optional*, defaults to the paper's):
            What a paragraph that may start a new episode starts with; without any cue, each paragraph may.

    Returns:
        `list[tuple[int, int]]`:
            Spans in characters, in order. They tile the text: each blank line belongs to the episode that it ends.
            Empty for a text of nothing but white space.

    Example:
    ```python
    >>> thinking = "Try 3.\n\n3 + 4 = 7.\n\nToo small.\n\nWait, try 5.\n\n5 + 4 = 9."
    >>> [thinking[start:end] for start, end in episode_spans(thinking)]
    ['Try 3.\n\n3 + 4 = 7.\n\nToo small.\n\n', 'Wait, try 5.\n\n5 + 4 = 9.']

    ```
    """
    if (max_splits or 0) < 0 or group_size < 1:
        raise ValueError(f"max_splits must be >= 0 and group_size >= 1, got {max_splits} and {group_size}.")
    if not thinking.strip():
        return []
    paragraphs = [0, *(match.end() for match in _BLANK_LINE.finditer(thinking))]
    starts, current = [0], 0
    for index, offset in enumerate(paragraphs):
        if thinking.startswith(tuple(cues) or "", offset) and index - current >= MIN_PARAGRAPHS:
            starts.append(offset)
            current = index
    starts = starts[: None if max_splits is None else max_splits + 1 : group_size]
    return list(zip(starts, [*starts[1:], len(thinking)], strict=True))


def lacks_cues(thinking: str, cues: Sequence[str] = CUES) -> bool:
    r"""
    Whether a thinking has paragraphs enough for two episodes, but none of them starts with a cue.

    ```python
    >>> lacks_cues("a\n\nb\n\nc\n\n**Wait**\n\ne\n\nf"), lacks_cues("a\n\nb\n\nc\n\nWait\n\ne\n\nf"), lacks_cues("a")
    (True, False, False)

    ```
    """
    paragraphs = _BLANK_LINE.split(thinking)
    return len(paragraphs) >= 2 * MIN_PARAGRAPHS and not any(one.startswith(tuple(cues) or "") for one in paragraphs)


def merge_spans(spans: Sequence[Span], at_most: int) -> list[Span]:
    """
    Merges neighbouring episodes, as few as possible and evenly, until no more than `at_most` are left.

    ```python
    >>> merge_spans([(0, 2), (2, 5), (5, 6), (6, 9), (9, 10)], at_most=3)
    [(0, 5), (5, 9), (9, 10)]

    ```
    """
    group = -(-len(spans) // at_most)
    return [(spans[i][0], spans[min(i + group, len(spans)) - 1][1]) for i in range(0, len(spans), max(group, 1))]
