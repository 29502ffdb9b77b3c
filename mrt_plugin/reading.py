r"""
The content of a box, or a gold answer -> [`Reading`]s, and what two of them say of each other without mathematics.

Answers and golds go through the same. Where [`same`] cannot tell, math-verify decides about LaTeX that all its
releases read alike (see [`~mrt_plugin.latex`]).
"""

import re
from dataclasses import dataclass

from .latex import latex
from .quantities import expanded, number, programmed, same_number, without_unit


_NAME = re.compile(r"(?:\\text\{ *)?(?:(?i:option|choice)(?: *\})? *(?=[(\\A-J])|(?i:answer) *: *(?:\} *)?)")
_WRAPPED = re.compile(r"(\(?) *\\text\{ *(\(?) *([A-Ja-j]) *([.:)]*) *\} *(\)?[.:]?) *")
_BARE = re.compile(r"\(([A-J])\)[.:]? *|([A-J])[.:)](?: +|$)|\(([a-j])\) *(?=[-.]?\d|$)|([A-Ja-j])$")
_OPTIONS = re.compile(r"[A-J](?:[, ]*[A-J])+")
# What makes a product of a letter in parentheses: operators behind it, and another factor in parentheses.
_FACTOR = re.compile(r"[-+](?= )|[*/^_=<>!)]|\\(?:times|cdot|cup|cap|in|to|leq?|geq?)(?![a-z])|\([^,]*$")

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*(?: +[^\W\d_]+(?:['-][^\W\d_]+)*)*")
_SURE = re.compile(r"[^\W\d_]{4,}|(?<![^\W_])(?:[A-Z][a-z]{2,}|(?i:yes|no|odd|all|any|one|two|six|ten|red)(?![^\W_]))")
_NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_CARDINALS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}
MAX_WORDS = 4  # More, outside of \text, are a sentence.
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[,.:]? +[A-Za-z0-9(]")
_COMMAND = re.compile(r"\\(?:text|begin|end)\{[^}]*\}|\\[a-zA-Z]+")

_PERCENT = re.compile(r" *(?:\\?%|(?i:percent(?:age)?|pct)|\\text\{ *(?:\\?%|(?i:percent(?:age)?|pct)) *\})$")
_STOP = re.compile(r"(?<![.,;:\\])[.,;:]$")
_ASSIGNED = re.compile(r"([a-zA-Z](?:_\w)?) *=(?=[^=]*$) *")
_LOOSE_SPACE = re.compile(r"(?<!\w) +| +(?!\w)")


@dataclass(frozen=True)
class Reading:
    """
    What an answer or a gold says.

    Args:
        text (`str`):
            LaTeX for math-verify; of an option's letter alone, that letter.
        letter (`str`, *optional*):
            The letter of an option, in upper case.
        words (`str`, *optional*):
            The words, in lower case, of an answer that may be made of words.
        sure (`bool`, *optional*, defaults to `False`):
            Whether they are words, and no product of variables.
        percent (`bool`, *optional*, defaults to `False`):
            Whether a percent sign followed.
    """

    text: str
    letter: str | None = None
    words: str | None = None
    sure: bool = False
    percent: bool = False

    @property
    def prose(self) -> bool:
        """Whether the text is a sentence, in which math-verify may find a number, rather than LaTeX."""
        return not self.sure and bool(_PROSE.search(_COMMAND.sub(r"\\", self.text)))

    @property
    def letter_alone(self) -> bool:
        return self.letter is not None and self.text.upper() == self.letter


def read(text: str) -> list[Reading]:
    r"""
    What an answer without its box, or a gold, may mean: nothing for a blank, two things for `2e-2`, else one.

    Args:
        text (`str`):
            LaTeX or plain text.

    Returns:
        `list[Reading]`:
            At most two.

    Example:
        >>> read(r"\textbf{(C)}\ \dfrac12")
        [Reading(text='\\frac{1}{2}', letter='C', words=None, sure=False, percent=False)]
        >>> [reading.text for text in ("1e-5", "2e-2", r"5\text{ cm}.", " ") for reading in read(text)]
        ['1 \\times 10^{-5}', '2 \\times 10^{-2}', '2e-2', '5']
        >>> read(r"\text{No solution.}")[0].words, read(r"50\%")[0].percent, read("seven")[0].text
        ('no solution', True, '7')
    """
    text = latex(text)
    whole = _TEXT.fullmatch(text)
    letter, value = option(latex(whole[1]) if whole else text)
    return [reading for text in programmed(value) if (reading := _reading(text, letter, bool(whole))).text]


def same(gold: Reading, answer: Reading) -> bool | None:
    r"""
    Whether an answer means what the gold means, as far as that shows without mathematics.

    Args:
        gold (`Reading`):
            One reading of the gold.
        answer (`Reading`):
            One reading of the answer.

    Returns:
        `bool` or `None`:
            `None` where math-verify has to decide about the [`question`].

    Example:
        >>> pairs = [("(C) 12", "12"), ("(C) 12", "C"), ("12", "C"), ("C", "(B) 12"), ("Yes", r"\text{yes}")]
        >>> [same(read(gold)[0], read(answer)[0]) for gold, answer in pairs]
        [True, True, None, False, True]
    """
    if gold.letter and answer.letter:
        if gold.letter != answer.letter:
            return False
        if gold.letter_alone or answer.letter_alone:
            return True
    if gold.words and gold.words == answer.words:
        return True
    if (options := _options(gold.text)) and options == _options(answer.text):
        return True
    if gold.sure or answer.sure:
        return False
    if gold.percent == answer.percent and _tight(gold.text) == _tight(answer.text):
        return True
    gold_text, answer_text = _unassigned(gold.text, answer.text)
    values = number(gold_text), number(answer_text)
    if None in values:
        return None
    rounded = "." in gold_text + answer_text
    if gold.percent == answer.percent:
        return same_number(*values, rounded)
    # A whole number of percent is right with and without the sign, as math-verify has it.
    if values[0] == values[1] and values[0].denominator == 1 and not rounded:
        return True
    return same_number(*(v / 100 if r.percent else v for v, r in zip(values, (gold, answer), strict=True)), True)


def question(gold: Reading, answer: Reading) -> tuple[str, str]:
    r"""
    What math-verify has to compare.

    >>> question(read("x")[0], read("y")[0]), question(read("x")[0], read(r"y\%")[0])
    (('x', 'y'), ('x', '\\frac{y}{100}'))
    """
    if gold.percent == answer.percent:
        return gold.text, answer.text
    return tuple(rf"\frac{{{reading.text}}}{{100}}" if reading.percent else reading.text for reading in (gold, answer))


def _reading(value: str, letter: str | None, wrapped: bool) -> Reading:
    text, percent = tidy(value)
    text = expanded(text) if number(text) is None else text
    said = words(text)
    if said in _CARDINALS:
        return Reading(_CARDINALS[said], letter)
    in_text = (wrapped or bool(_TEXT.search(text))) and said is not None and len(said) > 1
    return Reading(text, letter, said, said is not None and (in_text or surely_words(text)), percent)


def option(text: str) -> tuple[str | None, str]:
    r"""
    The letter of an option and its value, which is the letter where nothing follows.

    >>> option(r"\text{(C)} 12"), option("(C) 12"), option("C. 12"), option("(C)"), option("Option C")
    (('C', '12'), ('C', '12'), ('C', '12'), ('C', 'C'), ('C', 'C'))
    >>> option("(A)(B+1)"), option("(A) + 1"), option("(A) (3,4)"), option("(a) (b+1)"), option(r"\text{A}x")
    ((None, '(A)(B+1)'), (None, '(A) + 1'), ('A', '(3,4)'), (None, '(a) (b+1)'), (None, '\\text{A}x'))
    """
    text = _NAME.sub("", text, count=1) if _NAME.match(text) else text
    if found := _WRAPPED.match(text):
        letter, value = found[3], text[found.end() :]
        marked = any((found[1], found[2], found[4], found[5]))
    elif found := _BARE.match(text):
        letter, value, marked = found[1] or found[2] or found[3] or found[4], text[found.end() :], True
        if _FACTOR.match(value):
            return None, text
    else:
        return None, text
    if not value:
        return letter.upper(), letter
    return (letter.upper(), value) if marked else (None, text)


def tidy(text: str) -> tuple[str, bool]:
    r"""
    The text without full stop, unit and percent sign, and whether there was a percent sign.

    >>> tidy(r"50\%."), tidy(r"5 \text{ cm}."), tidy("0.333..."), tidy("12 percent")
    (('50', True), ('5', False), ('0.333...', False), ('12', True))
    """
    percent = False
    for _ in range(3):
        text = _STOP.sub("", text).strip()
        body = _PERCENT.sub("", text).strip()
        if body and body != text:
            text, percent = body, True
        text = without_unit(text)
    return text, percent


def words(text: str) -> str | None:
    r"""
    The words of what is nothing but words, in lower case.

    >>> words(r"\text{No  solution}"), words("Non-negative"), words("5 apples"), words("p - q"), words("xy")
    ('no solution', 'non negative', None, None, 'xy')
    """
    plain = " ".join(_TEXT.sub(r" \1 ", text).split())
    if not _WORDS.fullmatch(plain) or (len(plain.split()) > MAX_WORDS and r"\text" not in text):
        return None
    return plain.replace("-", " ").replace("'", "").casefold()


def surely_words(text: str) -> bool:
    """Whether words outside of `\\text` are too long, or too well known, to be variables."""
    return "-" not in text and bool(_SURE.search(text))


def _options(text: str) -> str | None:
    """The letters of several options, in their order, with commas between them or without: `A, C` and `AC`."""
    return re.sub("[, ]", "", text) if _OPTIONS.fullmatch(text) else None


def _tight(text: str) -> str:
    return _LOOSE_SPACE.sub("", text)


def _unassigned(gold: str, answer: str) -> tuple[str, str]:
    """Both without `x =`, unless they speak of different variables."""
    names = [found[1] if (found := _ASSIGNED.match(text)) else None for text in (gold, answer)]
    if None not in names and names[0] != names[1]:
        return gold, answer
    return _ASSIGNED.sub("", gold, count=1), _ASSIGNED.sub("", answer, count=1)
