r"""
Numbers and units: what they are in the notations of programs, physics and LaTeX, and when two numbers are one.
"""

import re
from decimal import Decimal
from fractions import Fraction


TINY = Fraction(1, 1000)
"""Below this, the six decimals to which math-verify rounds leave less than three digits to compare."""
TINY_TOLERANCE = Fraction(5, 10**6)  # relative: what rounding to six digits may change
MAX_POWER = 30  # of ten, that is written out
MAX_LENGTH = 200  # of a number, in characters

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PROGRAM = re.compile(
    rf"(?<![\w.}}^_\\/])({_DECIMAL})[eE]([-+]?)(\d{{1,3}})(?!\w|\.\d| *[\^(]| *\\(?!\\|text|times|cdot|end|%|\}}))"
)
_TIMES_TEN = re.compile(r"(?<=[\d.]) *(?:\\times(?![a-z])|\\cdot(?![a-z])|\*|x) *10 *\^")
_POWER = r"\^\s*(?:\{\s*([-+]?\s*\d{1,3})\s*\}|(\d{1,3}))"
_POWER_OF_TEN = re.compile(rf"(?<![\w.}}^/])({_DECIMAL}) *\\times *10 *{_POWER}(?!\w)")
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:"
    rf"(?P<grouped>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?)"
    rf"|(?P<decimal>{_DECIMAL})"
    rf"|(?:(?P<mantissa>{_DECIMAL})\s*\\times\s*)?10\s*\^\s*(?:\{{\s*(?P<power>[-+]?\s*\d{{1,3}})\s*\}}|(?P<digits>\d{{1,3}}))"
    r"|(?P<whole>\d*)\s*\\frac\s*\{\s*(?P<upper>[-+]?\d+)\s*\}\s*\{\s*(?P<lower>\d+)\s*\}"
    r"|(?P<dividend>\d+)\s*/\s*(?P<divisor>\d+)"
    r")"
)

_UNITS = re.compile(
    "[mcdk]m|ft|yd|mi|k?g|mg|lbs?|oz|m[lL]|kmh|[km]ph|min|sec|hrs?|[kMG]?Hz|k?Pa|[kM]?eV|k[JW]|k?cal|mol|USD|usd|deg|days?"
    "|(?:[ck]?m|ft)/(?:s|h)"
)
_UNIT_TEXT = re.compile(
    r"(?:(?<=\}) *(?:/|\\cdot(?![a-z])))? *\\text\{(?:[^{}]|\{[^{}]*\})*\}(?: *\^ *(?:\{ *-?\d+ *\}|-?\d))?$"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(rf"(?<=[\d}}]) *(\\text\{{ *)?({'|'.join(_SCALES)})(?![a-z])( *\}})?")
_UNIT_POWER = re.compile(r"(?<=[a-zA-Z])\^(?:\{-?\d\}|\d)$")
_DEGREES = re.compile(r" *(?:\^ *\{? *\\(?:circ|degree) *\}?|\\degree) *(?:[CFK]|\\text\{ *[CFK] *\})?$")
_PRIMES = re.compile(r" *(?:\^ *\{? *(?:\\prime *){1,2}\}?|'{1,2}|\")$")


def programmed(text: str) -> list[str]:
    r"""
    Numbers in program notation as powers of ten, also those with `x` or a dot for the times sign, and those with a
    word for the power. A second reading stays where it may be Euler's number, less something.

    >>> programmed("4.5e33"), programmed("x = -1E-05"), programmed("(1e3, 2)"), programmed(r"6.4x10^{-2}")
    (['4.5 \\times 10^{33}'], ['x = -1 \\times 10^{-05}'], ['(1 \\times 10^{3}, 2)'], ['6.4 \\times 10^{-2}'])
    >>> programmed("2e-2"), programmed("e^2"), programmed("2e^{3}"), programmed("3e")
    (['2 \\times 10^{-2}', '2e-2'], ['e^2'], ['2e^{3}'], ['3e'])
    >>> programmed(r"1.5 \text{ million}"), programmed("6 million people")
    (['1.5 \\times 10^{6}'], ['6 \\times 10^{6} people'])
    """
    text = _TIMES_TEN.sub(r" \\times 10^", _SCALE.sub(_power, text))
    numbers = list(_PROGRAM.finditer(text))
    if not numbers:
        return [text]
    powers = _PROGRAM.sub(lambda m: rf"{m[1]} \times 10^{{{m[2].replace('+', '')}{m[3]}}}", text)
    may_be_euler = any(m[1].isdigit() and m[1] != "1" and m[2] and len(m[3]) == 1 for m in numbers)
    return [powers, text] if may_be_euler else [powers]


def _power(scale: re.Match) -> str:
    rest = r"\text{" if scale[1] and not scale[3] else ""  # what else stands in the text
    return rf" \times 10^{{{_SCALES[scale[2]]}}}{rest}"


def expanded(text: str) -> str:
    r"""
    Decimals for numbers times a power of ten, which math-verify does not compare with decimals inside of a matrix.

    >>> expanded(r"(1 \times 10^{-3}, 2.5 \times 10^2)"), expanded(r"x^2 \times 10^3"), expanded(r"1 \times 10^{99}")
    ('(0.001, 250)', 'x^2 \\times 10^3', '1 \\times 10^{99}')
    """

    def decimal(found: re.Match) -> str:
        power = int((found[2] or found[3]).replace(" ", ""))
        if abs(power) > MAX_POWER:
            return found[0]
        value = format(Decimal(found[1]).scaleb(power), "f")
        return value.rstrip("0").rstrip(".") if "." in value else value

    return _POWER_OF_TEN.sub(decimal, text)


def number(text: str) -> Fraction | None:
    r"""
    The value of what is nothing but a number.

    >>> [number(text) for text in ("007", "-1,000.5", ".5", "5.", r"1\frac{1}{2}", r"-\frac{-1}{2}")]
    [Fraction(7, 1), Fraction(-2001, 2), Fraction(1, 2), Fraction(5, 1), Fraction(3, 2), Fraction(1, 2)]
    >>> [number(text) for text in (r"4.5 \times 10^{3}", r"-10^{-1}", "1/0", "1,00", r"\pi", "")]
    [Fraction(4500, 1), Fraction(-1, 10), None, None, None, None]
    """
    found = _NUMBER.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if not found:
        return None
    part = found.groupdict()
    if plain := part["grouped"] or part["decimal"]:
        value = Fraction(plain.replace(",", ""))
    elif power := part["power"] or part["digits"]:
        value = Fraction(part["mantissa"] or 1) * Fraction(10) ** int(power.replace(" ", ""))
    else:
        upper, lower = int(part["upper"] or part["dividend"]), int(part["lower"] or part["divisor"])
        if lower == 0 or (part["whole"] and upper < 0):
            return None
        value = int(part["whole"] or 0) + Fraction(upper, lower)
    return -value if part["sign"] == "-" else value


def same_number(a: Fraction, b: Fraction, rounded: bool) -> bool:
    """
    Whether two numbers are equal; if one of them is `rounded`, to six decimals, and if both are tiny, to six digits.

    >>> third = Fraction(1, 3)
    >>> same_number(third, Fraction("0.333333"), True), same_number(third, Fraction("0.333"), True)
    (True, False)
    >>> same_number(Fraction("1e-7"), Fraction("2e-7"), True), same_number(Fraction("1e-7"), Fraction(0), True)
    (False, False)
    """
    if a == b or not rounded:
        return a == b
    scale = max(abs(a), abs(b))
    return abs(a - b) <= TINY_TOLERANCE * scale if scale < TINY else round(a, 6) == round(b, 6)


def without_unit(text: str) -> str:
    r"""
    A quantity without its unit: text at the end, a word behind a number, degrees, arc minutes and seconds.

    >>> [without_unit(text) for text in (r"864 \text{ inches}^2", r"15 \text{ kcal m}^{-2} \text{yr}^{-1}", "3 cm^2")]
    ['864', '15', '3']
    >>> [without_unit(text) for text in ("7 apples", r"30^\circ", r"0.1^{\prime \prime}", r"1 \times 10^{3} m")]
    ['7', '30', '0.1', '1 \\times 10^{3}']
    >>> [without_unit(text) for text in ("5 m", "2ab", r"\text{east}", "12:30 pm")]
    ['5 m', '2ab', '\\text{east}', '12:30 pm']
    >>> [without_unit(text) for text in (r"60 \text{ km} / \text{h}", r"4 \text{J mol^{-1}}", r"\text{B}, \text{C}")]
    ['60', '4', '\\text{B}, \\text{C}']
    """
    while unit := _UNIT_TEXT.search(text, max(0, text.rfind(r"\text{") - 10)):
        rest = text[: unit.start()].rstrip()
        if not rest or rest.endswith(","):  # of a list, it is the last element
            break
        text = rest
    for pattern in (_DEGREES, _PRIMES):
        body = pattern.sub("", text)
        if body and body != text and (pattern is _DEGREES or number(body) is not None):
            return body
    body = _UNIT_POWER.sub("", text)
    end = max(map(body.rfind, "0123456789}.")) + 1
    unit = body[end:].strip()
    if unit and number(body[:end]) is not None:
        first, *others = unit.split()
        known = (
            _UNITS.fullmatch(first) or (first.isalpha() and len(first) >= 4) or (r"\times" in body and first.isalpha())
        )
        if known and all(other.isalpha() for other in others):
            return body[:end]
    return text
