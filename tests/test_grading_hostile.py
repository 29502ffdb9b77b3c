"""
Answers and golds that hang, crash or bloat a grader. All go through the workers in two batches, between good and bad
answers that must keep their verdicts.
"""

import resource
import time
from itertools import chain

import pytest

from mrt_plugin import grading, grading_pool
from mrt_plugin.grading import Verdict, grade


TIME_LIMIT = 2.0  # of the module's 5 seconds, for the sake of whoever waits for the tests

HOSTILE = {
    # Numbers that cannot be written down, computed in C with the interpreter lock held
    "tower_of_powers": r"9^{9^{9^{9}}}",
    "power_of_two": r"2^{10000000000}",
    "factorial_of_factorial": r"((9!)!)!",
    "factorials": "10!!!!!!",
    "long_sum": r"\sum_{n=1}^{100000000} n^n",
    "expansion": r"(x+y+z)^{400}",
    # Nesting
    "parentheses_500": "(" * 500 + "1" + ")" * 500,
    "parentheses_5000": "(" * 4990 + "1" + ")" * 4990,  # just short enough to be looked at
    "fractions_400": r"\frac{1}{" * 400 + "2" + "}" * 400,
    "fractions_2000": r"\frac{1}{" * 2000 + "2" + "}" * 2000,
    "roots": r"\sqrt{" * 900 + "2" + "}" * 900,
    "minus_signs": "-" * 3000 + "5",
    "superscripts": "x^" * 1500 + "2",
    # Length
    "terms": "1+" * 4000 + "1",
    "digits": "7" * 9000,
    "set_elements": "1," + "2," * 3000 + "3",
    "200_kB": "12345 + " * 25_000,
    # Broken text
    "unbalanced_open": "{{{5",
    "unbalanced_close": "5}}}",
    "null_bytes": "5\0\0",
    "lone_surrogate": "\ud800",
    "right_to_left": "\u200f5\u200e",
    "empty": "",
    "blank": " \n\t",
    "backslashes": "\\" * 5000,
    "dollars": "$" * 5000,
    # Code: {path} is a file that must not come into being
    "code_import": "__import__('os').system('touch {path}')",
    "code_subclasses": "().__class__.__base__.__subclasses__() or open('{path}', 'w')",
    "code_number": "1 and open('{path}','w')",
    "code_lambda": "(lambda: open('{path}', 'w'))()",
    "tex_write": r"\immediate\write18{touch {path}} \input{/etc/passwd}",
}
WHOLE_TEXTS = {
    "200_kB_without_box": "No box, but the answer is long. " * 6250,
    "200_kB_of_boxes": r"\boxed{1} and " * 14_300,
    "box_before_200_kB": r"\boxed{1}" + "x" * 200_000,
    "many_open_boxes": r"\boxed{" * 1400,
    "many_open_math_boxes": r"$ \boxed{" * 1100,
    "many_answers": "answer " * 1400,
    "many_final_answers": "final answer is " * 600,
    "many_dollars_after_answer": "answer" + "$" * 9000,
    "many_brackets_after_answer": "final answer is " + r"\[" * 4000,
}
# What cannot be decided within the limit, by today's math-verify.
HANGS = {"tower_of_powers", "power_of_two", "factorial_of_factorial", "parentheses_5000"}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "touched"


def run_batch(hostile_pairs):
    """Grades each hostile pair between a right and a wrong one. All are different, so that all are asked for."""
    pairs = [
        [(rf"\boxed{{n+{2 * number}}}", f"$n+{2 * number}$"), pair, (rf"\boxed{{n+{2 * number + 1}}}", "$n$")]
        for number, pair in enumerate(hostile_pairs)
    ]
    limit, grading_pool.TIME_LIMIT = grading_pool.TIME_LIMIT, TIME_LIMIT
    grading._verdicts.clear()
    try:
        started = time.monotonic()
        verdicts = grade(*zip(*chain.from_iterable(pairs), strict=True))
        return verdicts[1::3], verdicts[0::3] + verdicts[2::3], time.monotonic() - started
    finally:
        grading_pool.TIME_LIMIT = limit


@pytest.fixture(scope="module")
def as_answers(untouched):
    texts = {name: rf"\boxed{{{text.replace('{path}', str(untouched))}}}" for name, text in HOSTILE.items()}
    texts |= WHOLE_TEXTS
    verdicts, neighbours, seconds = run_batch([(text, "1") for text in texts.values()])
    return dict(zip(texts, verdicts, strict=True)), neighbours, seconds


@pytest.fixture(scope="module")
def as_golds(untouched):
    golds = {name: text.replace("{path}", str(untouched)) for name, text in HOSTILE.items()}
    golds |= {f"{name}_in_math": f"${text}$" for name, text in golds.items()} | WHOLE_TEXTS
    verdicts, neighbours, seconds = run_batch([(r"\boxed{-1}", gold) for gold in golds.values()])
    return dict(zip(golds, verdicts, strict=True)), neighbours, seconds


@pytest.mark.parametrize("name", [*HOSTILE, *WHOLE_TEXTS])
def test_hostile_answer_is_not_right(as_answers, name):
    expected = {Verdict.TIMED_OUT} if name in HANGS else {Verdict.WRONG, Verdict.NO_ANSWER, Verdict.TIMED_OUT}
    # The last of many boxes that say 1 does say 1.
    assert as_answers[0][name] in ({Verdict.RIGHT} if name == "200_kB_of_boxes" else expected)


@pytest.mark.parametrize("name", [*HOSTILE, *(f"{name}_in_math" for name in HOSTILE), *WHOLE_TEXTS])
def test_nothing_is_right_by_a_hostile_gold(as_golds, name):
    hangs = name.endswith("_in_math") and name.removesuffix("_in_math") in HANGS
    expected = {Verdict.TIMED_OUT} if hangs else {Verdict.WRONG, Verdict.UNPARSEABLE_GOLD, Verdict.TIMED_OUT}
    assert as_golds[0][name] in expected


@pytest.mark.parametrize("name", ["200_kB", "fractions_2000", "200_kB_of_boxes"])
def test_overlong_gold_is_unparseable(as_golds, name):
    assert as_golds[0][name] is Verdict.UNPARSEABLE_GOLD


@pytest.mark.parametrize("name", ["empty", "blank", "box_before_200_kB", "200_kB_without_box", "many_answers"])
def test_no_answer_in_a_hostile_text(as_answers, name):
    assert as_answers[0][name] is Verdict.NO_ANSWER


@pytest.mark.parametrize("batch", ["as_answers", "as_golds"])
def test_neighbours_keep_their_verdicts(request, batch):
    _, neighbours, _ = request.getfixturevalue(batch)
    half = len(neighbours) // 2
    assert neighbours == [Verdict.RIGHT] * half + [Verdict.WRONG] * half


@pytest.mark.parametrize("batch", ["as_answers", "as_golds"])
def test_batch_ends_in_time(request, batch):
    verdicts, _, seconds = request.getfixturevalue(batch)
    # Even if every hostile one took its limit, and another second to replace the worker, one after the other.
    assert seconds < len(verdicts) * (TIME_LIMIT + 1)


def test_time_outs_are_not_remembered(as_answers):
    assert as_answers[0]["tower_of_powers"] is Verdict.TIMED_OUT
    assert grading._recall((rf"\boxed{{{HOSTILE['tower_of_powers']}}}", "1")) is None


def test_no_code_was_run(as_answers, as_golds, untouched):
    assert not untouched.exists()


def test_memory_limit_held(as_answers, as_golds):
    pool = grading_pool._current_pool()
    pool.stop()
    pool.join()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest child that has ended
    assert 30 * 2**20 < peak <= grading_pool.MEMORY_LIMIT
