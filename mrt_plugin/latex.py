r"""
What people and models write -> LaTeX that every release of math-verify reads alike. Each function takes one habit.

All are linear in the length of the text, so that they may run on what a model wrote.
"""

import re

from .boxes import closing_braces


_TABLE = {
    **dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u2061\u2062", ""),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width
    **{
        character: rf"\frac{{{a}}}{{{b}}}"
        for character, a, b in zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True)
    },
    **{character: rf"^{{{digit}}}" for digit, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{character: rf"_{{{digit}}}" for digit, character in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "∶": ":"},
    **{"π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": r"^\circ ", "±": r"\pm ", "≈": r"\approx "},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset "},
    **{"、": ",", "’": "'", "‘": "'", "“": '"', "”": '"', "′": "'", "…": "..."},
}
_CHARACTERS = str.maketrans(_TABLE)

_SPACES = re.compile(r"\s\s+")
_NEGATIVE_SPACE = re.compile(r"(?<!\\)\\!\s*|(?<!\\)\\negthinspace(?![a-zA-Z])\s*")
_WIDE_SPACE = re.compile(r" *\\q?quad(?![a-zA-Z]) *")
_BETWEEN_NUMBERS = re.compile(r"(?<=\d) *\\q?quad *(?=-?\d)")
_SPACE = re.compile(r"(?<!\\)\\[,;:> ]|~|\\(?:enspace|thinspace|hfill|hspace\*?\{[^{}]*\})(?![a-zA-Z])")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,])")

_NAMES = r"text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|emph|boldsymbol|bm"
_WRAPPER = re.compile(rf"\\(?:{_NAMES})\s*(?=\{{)")
_UPRIGHT = re.compile(r"\\(?:mathrm|text)\{\s*([ei])\s*\}")
_NOTHING = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?|\\(?:display|text)style(?![a-zA-Z])"
    r"|\\(?:bf|rm|it|tt|small|large|Large|huge)(?![a-zA-Z])|\\(?:text)?color\s*\{[^{}]*\}|\\underline(?![a-zA-Z])"
    r"|(?<!\\)\\[()\[\]]|\\?\$|[€£¥₹]|\\text\{\s*\}"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_TAIL = re.compile(r"\\\\(?: |\\\\)*$")

_FUNCTION = re.compile(r"\\(frac|sqrt)(?![a-zA-Z])")
_TOKEN = re.compile(r"\d+|[a-zA-Z]|\\(?!frac|sqrt)[a-zA-Z]+")
_DIGIT = re.compile(r"\d")
_BARE_NAME = re.compile(
    r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|pi|infinity)(?![a-zA-Z])"
)
_NEGATIVE_POWER = re.compile(r"\^\s*([-+]\s*\d+)")
_SUBSCRIPTED = re.compile(
    r"(?<![a-zA-Z\\])([EIei]) *_"
)  # math-verify fails at E_1, and reads I_1 as the imaginary unit
_STAR = re.compile(r"_ *\{? *\\(odot|oplus)(?![a-zA-Z]) *\}?")
_ONE_CHARACTER = re.compile(r"([_^])\{\s*(\w)\s*\}(?!\d)")  # 2^{3}5 is not 2^35
_REPEATING = re.compile(r"(?<![\d.])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\s*(?:\{(\d{1,9})\}|(\d))")
_MIXED = re.compile(r"(?<![\d./^_])(\d+) +(\d+)/(\d+)(?![\d./^])")
_AND = re.compile(
    r"\s*,?\s*(?:\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\lor(?![a-zA-Z]))\s*"
)
_PLUS_MINUS = re.compile(
    r"(?:[a-zA-Z]\s*=)?((?:(?!\\pm|\\mp|\\\{|\\begin)[^,;=&])*)\\pm(?![a-z])((?:(?!\\pm|\\mp)[^,;=&])*)"
)


def latex(text: str) -> str:
    r"""
    All that follows, in order.

    >>> latex(r"$\dfrac12\,\pi$"), latex("**½**"), latex("−√2"), latex(r"1 \text{ and } 2"), latex("10^-5 \\\\")
    ('\\frac{1}{2} \\pi', '\\frac{1}{2}', '-\\sqrt{2}', '1, 2', '10^{-5}')
    """
    text = unwrapped(unspaced(text.translate(_CHARACTERS)))
    text = several(numerals(braced(named(text))))
    text = _STAR.sub(r"_{\1}", _SUBSCRIPTED.sub(r"\\text{\1}_", text))
    return _ONE_CHARACTER.sub(r"\1\2", _NEGATIVE_POWER.sub(r"^{\1}", text)).strip()


def unspaced(text: str) -> str:
    r"""
    Plain spaces for LaTeX's, and none between groups of digits.

    >>> unspaced(r"12\,345"), unspaced(r"10,\! 080"), unspaced(r"1{,}000"), unspaced(r"2\;x"), unspaced(r"1 \quad 200")
    ('12345', '10,080', '1,000', '2 x', '1, 200')
    """
    text = _BETWEEN_NUMBERS.sub(", ", _NEGATIVE_SPACE.sub("", _collapsed(text)))
    text = _WIDE_SPACE.sub("  ", text)
    text = _collapsed(_SPACE.sub(" ", text).replace("{,}", ","))
    return _GROUPED.sub(lambda number: number[0].replace(" ", ""), text)


def unwrapped(text: str) -> str:
    r"""
    One command for all kinds of text, none for size and layout, no dollar signs, and nothing around the whole.

    >>> unwrapped(r"\left( 1, \mathbf{x} \right]"), unwrapped(r"\displaystyle\tfrac{1}{2}"), unwrapped(r"\({**7**}\)")
    ('( 1, \\text{x} ]', '\\frac{1}{2}', '7')
    """
    text = text.replace(r"\varnothing", r"\emptyset")
    text = _WRAPPER.sub(r"\\text", _UPRIGHT.sub(r" \1", text))
    text = _collapsed(_FRACTION.sub(r"\\frac", _NOTHING.sub("", text)))
    text = _TAIL.sub("", text).strip().removeprefix("=").lstrip()
    closing, depth = closing_braces(text), 0
    while closing.get(depth) == len(text) - 1 - depth:
        depth += 1
    text = text[depth : len(text) - depth].strip()
    for around in ("**", "*", "`"):
        if text.startswith(around) and text.endswith(around) and len(text) > 2 * len(around):
            text = text[len(around) : -len(around)].strip()
    return text


def named(text: str) -> str:
    r"""
    Functions and constants as a program writes them.

    >>> named("sqrt(3)/2"), named("2*pi"), named("x**2"), named(r"\sqrt(1+(x))"), named("using")
    ('\\sqrt{3}/2', '2*\\pi', 'x^2', '\\sqrt{1+(x)}', 'using')
    """
    text = _BARE_NAME.sub(lambda name: "\\infty" if name[1] == "infinity" else "\\" + name[1], text)
    text = text.replace("**", "^")
    if r"\sqrt" not in text or "(" not in text:
        return text
    opened, replaced = [], {}
    for bracket in re.finditer(r"[()]", text):
        if bracket[0] == "(":
            opened.append((bracket.start(), text[: bracket.start()].rstrip()[-5:] == r"\sqrt"))
        elif opened and (begin := opened.pop())[1]:
            replaced |= {begin[0]: "{", bracket.start(): "}"}
    return "".join(replaced.get(position, character) for position, character in enumerate(text))


def braced(text: str) -> str:
    r"""
    Braces around the arguments of fractions and roots, which LaTeX lets one leave out.

    >>> braced(r"\frac12"), braced(r"11\sqrt2"), braced(r"\frac\pi2"), braced(r"\frac{1}2"), braced(r"\sqrt[3]2")
    ('\\frac{1}{2}', '11\\sqrt{2}', '\\frac{\\pi}{2}', '\\frac{1}{2}', '\\sqrt[3]{2}')
    >>> braced(r"\frac1{10}"), braced(r"\frac{\sqrt3}2"), braced(r"\sqrt13"), braced(r"\frac")
    ('\\frac{1}{10}', '\\frac{\\sqrt{3}}{2}', '\\sqrt{13}', '\\frac')
    """
    closing = closing_braces(text)
    added: dict[int, str] = {}
    for function in _FUNCTION.finditer(text):
        position = function.end()
        if function[1] == "sqrt" and text.startswith("[", position):
            position = text.find("]", position) + 1 or len(text)
        # Nobody means the product of 1 and 3 with \sqrt13. The first of two arguments ends after a digit, as in LaTeX.
        for pattern in (_DIGIT, _TOKEN) if function[1] == "frac" else (_TOKEN,):
            while text.startswith((" ", "\n"), position):
                position += 1
            if position in closing:
                position = closing[position] + 1
            elif token := pattern.match(text, position) or _TOKEN.match(text, position):
                added[token.start()] = added.get(token.start(), "") + "{"
                added[token.end()] = "}" + added.get(token.end(), "")
                position = token.end()
            else:
                break
    pieces = [added.get(position, "") + character for position, character in enumerate(text)]
    return re.sub(r"(\\(?:frac|sqrt)) +(?=\{)|(?<=\}) +(?=\{)", r"\1", "".join(pieces) + added.get(len(text), ""))


def numerals(text: str) -> str:
    r"""
    Mixed numbers and repeating decimals as fractions.

    >>> numerals("1 1/2"), numerals(r"0.1\overline{6}"), numerals(r"0.\bar3")
    ('1\\frac{1}{2}', '\\frac{15}{90}', '\\frac{3}{9}')
    """

    def fraction(match: re.Match) -> str:
        whole, fixed, period = match[1] or "0", match[2], match[3] or match[4]
        numerator = int(whole + fixed + period) - int(whole + fixed)
        return rf"\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"

    return _REPEATING.sub(fraction, _MIXED.sub(r"\1\\frac{\2}{\3}", text))


def several(text: str) -> str:
    r"""
    Commas between several answers.

    >>> several(r"1 \text{ and } -2"), several("x = 1 or x = 2"), several(r"2, 3, and 5"), several(r"x = \pm 2")
    ('1, -2', 'x = 1, x = 2', '2, 3, 5', '2, -2')
    >>> several(r"\frac{1 \pm \sqrt{5}}{2}")
    '\\frac{1 + \\sqrt{5}}{2}, \\frac{1 - \\sqrt{5}}{2}'
    """
    text = _AND.sub(", ", text)
    if not (pair := _PLUS_MINUS.fullmatch(text.strip())):
        return text
    before, after = pair[1].lstrip(), pair[2]
    return f"{before}+{after}, {before}-{after}" if before else f"{after.lstrip()}, -{after.lstrip()}"


def _collapsed(text: str) -> str:
    """Two spaces for more of them, so that no pattern has to walk through many."""
    return _SPACES.sub("  ", text.replace("\n", " ").replace("\t", " ")).strip()
