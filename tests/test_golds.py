"""Golds as data sets hold them and answers as models write them get the same verdict with every math-verify."""

import time
from pathlib import Path

import pytest
from grading_cases import CLASSES, TEXTS

from mrt_plugin.golds import alternatives, bare_gold, gold_text
from mrt_plugin.grading import Verdict, grade
from mrt_plugin.latex import latex
from mrt_plugin.reading import read


DOCS = Path(__file__).parents[1] / "docs" / "grading.md"
CASES = [(rf"\boxed{{{answer}}}", gold, right) for cases in CLASSES.values() for answer, gold, right in cases] + TEXTS


@pytest.fixture(scope="module")
def verdicts():
    answers, golds, _ = zip(*CASES, strict=True)
    return dict(zip(zip(answers, golds, strict=True), grade(answers, golds), strict=True))


@pytest.mark.parametrize(("answer", "gold", "right"), CASES)
def test_verdict(verdicts, answer, gold, right):
    assert verdicts[answer, gold] in ([Verdict.RIGHT] if right else [Verdict.WRONG, Verdict.NO_ANSWER])


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_right_and_wrong_answers_and_is_documented(name):
    assert {right for _, _, right in CLASSES[name]} == {True, False}
    assert f"## {name}\n" in DOCS.read_text()


def test_every_gold_is_right_against_itself():
    golds = sorted({gold for cases in CLASSES.values() for _, gold, _ in cases})
    answers = [rf"\boxed{{{alternatives(gold)[0]}}}" for gold in golds]
    assert [gold for gold, v in zip(golds, grade(answers, golds), strict=True) if v is not Verdict.RIGHT] == []


@pytest.mark.parametrize("gold", ["", " ", "\n", r"\text{}", "$$", "See the solution that was given in class."])
def test_unreadable_golds(gold):
    assert grade([r"\boxed{42}", "?"], [gold] * 2) == [Verdict.UNPARSEABLE_GOLD] * 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5", "5"),
        (r" \frac12 ", r" \frac12 "),
        (1, "1"),
        (0, "0"),
        (-3, "-3"),
        (1.0, "1"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.25, "0.25"),
        (1e-5, "1e-05"),
        (True, "True"),
        (["1"], "1"),
        ([1], "1"),
        ([0], "0"),
        ((0.5,), "0.5"),
        ([["1"]], "1"),
        (None, None),
        ("", None),
        (" \n", None),
        ([], None),
        ([None], None),
        ([""], None),
        (["1", "2"], None),
        ([1, 2], None),
        (float("nan"), None),
        (float("inf"), None),
        ({"answer": "1"}, None),
        (b"1", None),
        ({"1"}, None),
    ],
)
def test_golds_that_are_not_text(value, text):
    assert gold_text(value) == text


def test_numbers_of_numpy():
    import numpy as np

    assert [gold_text(value) for value in (np.int64(0), np.float32(0.5), np.float64(204), np.float64("nan"))] == [
        "0",
        "0.5",
        "204",
        None,
    ]


@pytest.mark.parametrize(("gold", "bare"), [("['1.6\\n', '8/5']", "1.6"), ("$7$", "7"), (r"So $\boxed{a}$.", "a")])
def test_what_a_gold_puts_into_the_box(gold, bare):
    assert bare_gold(gold) == bare


HOSTILE = [
    "1" * 10_000,
    "1e" * 5_000,
    "1 000 " * 1_600,
    "1,000" * 2_000,
    " " * 10_000 + "5",
    "5" + " " * 9_998 + "x",
    "{" * 5_000 + "}" * 5_000,
    "(" * 5_000 + ")" * 5_000,
    r"\sqrt(" * 1_600 + ")" * 400,
    r"\frac" * 2_000,
    r"\frac1" * 1_600,
    r"\frac{1}{" * 1_100,
    r"\text{a}" * 1_250,
    r"\text{" * 1_600,
    r"5\text{ a}" * 1_000,
    r"5" + r"\text{ cm}^2" * 800,
    "a " * 5_000,
    "a-" * 5_000,
    "5" + " ab" * 3_300,
    " and " * 2_000,
    r"\," * 5_000,
    r"\quad " * 1_600,
    "x = " * 2_500,
    "." * 10_000,
    "%" * 10_000,
    "*" * 10_000,
    "$" * 10_000,
    r"\\" * 5_000,
    "^{" * 5_000,
    "_" * 10_000,
    r"0.\overline{" * 800,
    "['1', " * 1_600,
    r"['\\" * 2_500,
    "'" * 10_000,
    r"\boxed{" * 1_400,
    r"\boxed{1} and " * 700,
    r"\boxed{1}" + " " * 9_000 + r"\boxed{2}",
    "#### " * 2_000,
    "(A) " * 2_500,
    r"\text{(A)} " * 900,
    r"\pm" * 3_300,
    "１" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:9])
def test_reading_takes_no_time(text):
    """Ten thousand characters, for which a pattern that backtracks takes minutes."""
    begin = time.process_time()
    for part in alternatives(text):
        read(part)
    latex(text)
    assert time.process_time() - begin < 2
