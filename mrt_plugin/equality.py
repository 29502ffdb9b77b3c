r"""
Whether an answer equals a gold: what [`~mrt_plugin.reading`] leaves open, math-verify decides. Runs in the workers of
[`~mrt_plugin.grading_pool`], because what models write may hang it; math-verify is imported there only.
"""

from contextlib import suppress
from fractions import Fraction
from functools import lru_cache

from .golds import alternatives
from .quantities import TINY, same_number
from .reading import Reading, question, read, same


MAX_PROSE = 200  # characters of a gold in prose


@lru_cache(maxsize=1024)
def read_gold(gold: str) -> list[Reading]:
    """What a gold may mean; nothing for a whole solution without a box, in which any number might be the answer."""
    readings = [reading for text in alternatives(gold) for reading in read(text)]
    return [reading for reading in readings if len(reading.text) <= MAX_PROSE or not reading.prose]


def readable(gold: Reading) -> bool:
    return not gold.prose or bool(_parse(gold.text, True))


def contents(essence: str) -> list[str]:
    r"""
    What stands in the box, or else in the math that math-verify finds.

    >>> contents(r"\boxed{5}"), contents(r"The answer is $x=\frac12$."), contents("The answer is 5.")
    (['5'], ['x=\\frac12'], [])
    """
    if essence.startswith(r"\boxed{") and essence.endswith("}"):
        return [essence[len(r"\boxed{") : -1]]
    return _extract(essence)[-1:] if essence else []


def equal(gold: Reading, answer: Reading) -> bool:
    from math_verify import verify

    known = same(gold, answer)
    if known is not None:
        return known
    gold_text, answer_text = question(gold, answer)
    gold_parsed, answer_parsed = _parse(gold_text, gold.prose), _parse(answer_text, False)
    verified = verify(gold_parsed, answer_parsed, timeout_seconds=0)
    with suppress(Exception):  # SymPy raises anything at what models write; math-verify suppresses that, too
        if verified:
            return not _differ_by_little(gold_parsed[0], answer_parsed[0])
        return _equal_in_newer_releases(gold_parsed[0], answer_parsed[0])
    return verified


@lru_cache(maxsize=1024)
def _parse(text: str, prose: bool) -> list:
    r"""
    What math-verify reads: expressions, and the text itself.

    >>> _parse(r"3\sqrt{13}", False)[0], _parse("In the end, 7 apples", True)[0]
    (3*sqrt(13), 7)
    """
    from math_verify import parse

    found = parse(text, parsing_timeout=0) if prose else _extract(rf"\boxed{{{text}}}")
    return [_lower(expression) if hasattr(expression, "atoms") else expression for expression in found]


def _extract(text: str) -> list:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Units are left to our reading: releases of math-verify differ, and some read 2t as 2.
    config = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=False), boxed_match_priority=0, try_extract_without_anchor=False
    )
    # 0 switches off math-verify's own time-out in every version, None only in newer ones.
    return parse(text, extraction_config=[config], extraction_mode="first_match", parsing_timeout=0)


def _lower(expression):
    """With variables in lower case, as newer releases of math-verify read them, so that a text may write X for x."""
    from sympy import Symbol

    capitals = [symbol for symbol in expression.atoms(Symbol) if symbol.name != symbol.name.lower()]
    renamed = {symbol: Symbol(symbol.name.lower(), **symbol.assumptions0) for symbol in capitals}
    return expression.xreplace(renamed) if renamed else expression


def _equal_in_newer_releases(gold, answer) -> bool:
    """Decimals that round an irrational number, and multiples of an equation: math-verify 0.5 accepts neither."""
    from sympy import Eq, Float, simplify

    if isinstance(gold, Eq) and isinstance(answer, Eq):
        ratio = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
        return bool(ratio.is_number and ratio.is_finite and ratio.is_nonzero)
    one_each = getattr(gold, "is_number", False) and getattr(answer, "is_number", False)
    if one_each and (isinstance(gold, Float) or isinstance(answer, Float)):
        numbers = [_numbers(gold), _numbers(answer)]
        return list(map(len, numbers)) == [1, 1] and same_number(numbers[0][0], numbers[1][0], True)
    return False


def _differ_by_little(gold, answer) -> bool:
    """Whether both hold numbers that are equal only because math-verify rounds them to 0, or nearly."""
    numbers = [sorted(_numbers(expression)) for expression in (gold, answer)]
    return len(numbers[0]) == len(numbers[1]) and not all(
        max(abs(a), abs(b)) >= TINY or same_number(a, b, True) for a, b in zip(*numbers, strict=True)
    )


def _numbers(expression) -> list[Fraction]:
    """The numbers that an expression, a set, a point, an interval, a matrix or an assignment consists of."""
    from sympy import FiniteSet, Interval, MatrixBase, Rel, Tuple

    if isinstance(expression, MatrixBase):
        parts = list(expression)
    elif isinstance(expression, (FiniteSet, Tuple)):
        parts = expression.args
    elif isinstance(expression, Interval):
        parts = [expression.start, expression.end]
    else:
        parts = [expression.rhs if isinstance(expression, Rel) else expression]
    values = [part.evalf(15) for part in parts if getattr(part, "is_number", False)]
    return [Fraction(str(value)) for value in values if value.is_comparable and value.is_finite]
