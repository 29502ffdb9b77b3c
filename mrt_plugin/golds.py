r"""
Gold answers as data sets hold them: a cell of a column -> text, and that text -> the answers that it accepts.

Pure text; what an answer means is left to [`~mrt_plugin.reading`].
"""

import math
import numbers
import re
from collections.abc import Iterable

from .boxes import boxed


_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED})(?:\s*,\s*(?:{_QUOTED}))*\s*,?\s*\]\s*", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([\\'\"])|n(?![a-zA-Z])|x([0-9a-f]{2})|u([0-9a-f]{4}))")


def gold_text(value: object) -> str | None:
    """
    The text of a gold answer, from whatever a column holds.

    Args:
        value (`object`):
            A cell: a text, a number (of NumPy too), or a list or tuple of one such thing.

    Returns:
        `str` or `None`:
            The text as it is, the number as one writes it, or `None` where the cell holds no gold answer: null, NaN,
            an infinite number, a blank text, an empty or longer list, anything else.

    Example:
        >>> [gold_text(value) for value in (r"$\\frac12$", 1, 1.0, 0, -0.5, 1e-07, ["1"], [2.0])]
        ['$\\\\frac12$', '1', '1', '0', '-0.5', '1e-07', '1', '2']
        >>> [gold_text(value) for value in (None, "", "  ", [], ["1", "2"], float("nan"), {"answer": "1"})]
        [None, None, None, None, None, None, None]
    """
    while isinstance(value, (list, tuple)):
        if len(value) != 1:
            return None
        value = value[0]
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, numbers.Integral):  # bool too: True and False are answers
        return str(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        # A column of integers with a null in it comes as 204.0.
        return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
    return None


def without_gold(cells: Iterable, column: str) -> str:
    """
    Names the rows, counted from 0, whose cell in a column holds no gold answer; empty where there is none.

    >>> without_gold([0, None, "5", ["1", "2"]], "answer")
    "Column 'answer' holds no gold answer (a text, a number, or a list of one) in row 1 (None), row 3 (['1', '2'])"
    """
    rows = [f"row {row} ({repr(cell)[:40]})" for row, cell in enumerate(cells) if gold_text(cell) is None]
    shown = ", ".join(rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
    where = f"Column {column!r} holds no gold answer (a text, a number, or a list of one) in {shown}"
    return where if rows else ""


def alternatives(gold: str) -> list[str]:
    r"""
    The answers that a gold answer accepts: the elements of the text of a Python list, as MinervaMATH has them, else
    the gold itself; of a whole solution, what stands in its last box or after GSM8K's `####`.

    >>> alternatives("['10^{-3}\\n', '1 \\\\times 10^{-3}']")
    ['10^{-3}', '1 \\times 10^{-3}']
    >>> alternatives(r"So it is \boxed{\frac{1}{2}}."), alternatives("3 + 4 = 7\n#### 7"), alternatives("[1, 2]")
    (['\\frac{1}{2}'], ['7'], ['[1, 2]'])
    """
    elements = [_unquoted(quoted) for quoted in re.findall(_QUOTED, gold, re.DOTALL)] if _LIST.fullmatch(gold) else []
    return [_result(element) for element in dict.fromkeys(elements) if element] or [_result(gold)]


def bare_gold(gold: str) -> str:
    r"""
    What a gold answer puts into the box: its first alternative, without dollar signs.

    >>> bare_gold("So it is $\\boxed{\\frac{1}{2}}$."), bare_gold("$7$"), bare_gold("['1.6\\n', '8/5']")
    ('\\frac{1}{2}', '7', '1.6')
    """
    return alternatives(gold)[0].rpartition("\\boxed{")[2].strip("$").strip()  # of a box that is not closed, the rest


def _result(solution: str) -> str:
    box = boxed(solution)
    return (solution.rpartition("####")[2] if box is None else box).strip()


def _unquoted(quoted: str) -> str:
    r"""
    As Python would read the string, but LaTeX that was written with single backslashes stays as it is.

    >>> _unquoted(r"'\\frac{1}{2}\n'"), _unquoted(r"'\frac{1}{2}'"), _unquoted(r"'\\nu \nu'")
    ('\\frac{1}{2}', '\\frac{1}{2}', '\\nu \\nu')
    """

    def unescaped(escape: re.Match) -> str:
        code = escape[2] or escape[3]
        return escape[1] or (chr(int(code, 16)) if code else "\n")

    return _ESCAPE.sub(unescaped, quoted[1:-1]).strip()
