r"""
Where the answer stands in a text: the last `\boxed{}`, and what math-verify releases disagree about around it.
"""

import re


NEAR = 40  # characters: what stands farther from a box has nothing to do with it

_BOX = re.compile(r"\\f?boxed\b\s*|\\fbox\b\s*")
_UNBRACED = re.compile(r"(-?\d[\d.,]*(?<![.,])|[A-Z])(?![\w{\\])")
_BETWEEN = re.compile(
    r"\s*(?:\$|\\\)|\\\])?\s*(?:,?\s*(?:\\text\{)?\s*(?:and|or)\b\s*\}?|,)\s*(?:\$|\\\(|\\\[)?\s*(?:[a-zA-Z]\w{0,3}\s*=\s*)?"
)
_PERCENT = re.compile(r"\s*(?:\$|\\\)|\\\])?\s*(?:\\?%|(?i:percent|pct)\b)")
_OUTSIDE_PERCENT = re.compile(r"(\$|\\\)|\\\])\s*(?:\\?%|(?i:percent|pct)\b)")
_FINAL_ANSWER = re.compile(r"(?i:final answer is):?\s*(?:\$|\\\(|\\\[)")
_ANSWER = re.compile(r"(?i:answer)")


def final_answer(text: str) -> str:
    r"""
    The part of `text` with the answer: `\boxed{...}`, or all that may hold an answer in other math, or nothing.

    >>> final_answer(r"We get \boxed{5}. With that, the answer is $x = \boxed{\frac{1}{2}}$, as claimed.")
    '\\boxed{\\frac{1}{2}}'
    >>> final_answer("The answer is $7$."), final_answer("I give up"), final_answer(r"\boxed{} Hm.")
    ('The answer is $7$.', '', '')
    """
    box = boxed(text)
    tail = text[max((end for _, end, _ in _boxes(text)), default=0) :]
    # MinervaMATH's prompt asks for "The final answer is $5$. I hope it is correct.", which math-verify puts first.
    if box is not None and not ("I hope" in tail and _FINAL_ANSWER.search(tail)):
        return rf"\boxed{{{box}}}" if box else ""
    return _OUTSIDE_PERCENT.sub(r"\\%\1", tail) if _ANSWER.search(tail) else ""


def boxed(text: str) -> str | None:
    r"""
    The content of the last box that is closed, `None` without one. Boxes with nothing but "and", "or" or a comma
    between them hold the parts of one answer. A percent sign behind the box belongs to it.

    >>> boxed(r"\boxed{5}, no, \boxed{7}"), boxed(r"$\boxed{1}$ or $\boxed{2}$"), boxed(r"\boxed{\text{a}} or \fbox 5")
    ('7', '1, 2', '\\text{a}, 5')
    >>> boxed(r"$\boxed{50}$%"), boxed(r"\boxed{\boxed{6}}"), boxed(r"\boxed{1} and \boxed{2"), boxed("7")
    ('50\\%', '6', '1', None)
    """
    parts: list[str] = []
    begin_of_next = None
    for begin, end, content in reversed(_boxes(text)):
        if begin_of_next is None:
            percent = r"\%" if _PERCENT.match(text, end, end + NEAR) else ""
        elif begin_of_next - end > NEAR or not _BETWEEN.fullmatch(text, end, begin_of_next):
            break
        if content not in parts:
            parts.insert(0, content)
        begin_of_next = begin
    return ", ".join(parts) + percent if parts else None


def closing_braces(text: str) -> dict[int, int]:
    r"""
    The positions of opening braces -> those of the braces that close them; escaped ones are not counted.

    >>> closing_braces(r"\{{1}{2"), closing_braces(r"{1 \\}")
    ({2: 4}, {0: 5})
    """
    opened, closed = [], {}
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closed[opened.pop()] = brace.start()
    return closed


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """(begin, end, content) of the boxes that are closed."""
    closing = closing_braces(text)
    found = []
    for command in _BOX.finditer(text):
        start = command.end()
        if start in closing:
            found.append((command.start(), closing[start] + 1, text[start + 1 : closing[start]].strip()))
        elif unbraced := _UNBRACED.match(text, start):
            found.append((command.start(), unbraced.end(), unbraced[0]))
    return found
