import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrt_plugin.steps import (
    _SENTENCE,
    NEW_ATTEMPT,
    Step,
    Steps,
    backtrack,
    backtrack_text,
    best_step,
    episodes_of,
    parse_steps,
    rise,
)


def parse_backtrack(text):
    """The step that `backtrack_text` was given; `None` for any other text."""
    sentence = re.fullmatch(_SENTENCE, text.strip())
    return int(sentence["step"] or 0) if sentence else None


def pieces(text):
    solution = parse_steps(text)
    return [text[: solution.preamble_end], *(text[step.start : step.end] for step in solution.steps)]


def solution(*numbers):
    return "\n\n".join(f"Node {number}: x = {number}" for number in numbers)


GOLDEN = """To solve this, let us go step by step.

**Node 1**: Understand the problem
We need 3x + 4 = 10, as in Node 3 of the sheet.

## Node 2
Subtract 4: 3x = 6.

Node 3. By Node 2, x = 2.
"""


def test_golden_solution():
    assert pieces(GOLDEN) == [
        "To solve this, let us go step by step.\n\n",
        "**Node 1**: Understand the problem\nWe need 3x + 4 = 10, as in Node 3 of the sheet.\n\n",
        "## Node 2\nSubtract 4: 3x = 6.\n\n",
        "Node 3. By Node 2, x = 2.\n",
    ]
    assert parse_steps(GOLDEN).numbers == [1, 2, 3]
    assert parse_steps(GOLDEN).usable


def test_golden_offsets():
    assert parse_steps("ab\nNode 1: c\nNode 2: d") == Steps(3, (Step(1, 3, 13), Step(2, 13, 22)))


LABELS = [
    "Node {}:",
    "Node {}.",
    "Node {} :",
    "Node {} - Simplify",
    "Node {} \N{EN DASH} Simplify",
    "Node {}",
    "Node {} ",
    "Node  {}:",
    "   Node {}:",
    "**Node {}**:",
    "**Node {}:**",
    "**Node {}.**",
    "**Node {}: Simplify**",
    "**Node {} - Simplify**",
    "**Node {}**",
    "***Node {}***:",
    "__Node {}__:",
    "*Node {}*:",
    "# Node {}",
    "## Node {}",
    "##Node {}",
    "###### Node {}: Simplify",
    "## Node {} Simplify",
    "## Node {} (simplify)",
    "### **Node {}**",
    "### **Node {}:** Simplify",
]

MENTIONS = [
    "as Node 3 shows",
    "See Node 3: it is wrong",
    "Node 3 is wrong",
    "Node 3, which is wrong",
    "Node 3's result",
    "**Node 3** is wrong",
    "Node 3.5",
    "Node 3-5 are wrong",
    "Node 3- to 5-fold",
    "Node 3 -x",
    "Node3:",
    "## Node 3rd",
    "## Node 3.5",
    "## Node 12345",
    "Node 3rd:",
    "Nodes 3:",
    "node 3:",
    "Node three:",
    "Node:",
    "Node \N{ARABIC-INDIC DIGIT THREE}:",
    "Node 12345:",
    "Node " + "9" * 5000 + ":",
    "## The third node, Node 3",
    "####### Node 3",
    "    Node 3:",
    "> Node 3:",
    "- Node 3:",
    "1. Node 3:",
    "Step 3:",
    "| Node 3:",
]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("number", [1, 12, 9999])
def test_a_label_starts_a_step(label, line_end, number):
    step = f"{label.format(number)}{line_end}x = 2{line_end}"
    assert pieces(f"a{line_end}{step}") == [f"a{line_end}", step]
    assert parse_steps(step).numbers == [number]
    assert parse_steps(label.format(number)).numbers == [number]  # at both ends of a text


@pytest.mark.parametrize("mention", MENTIONS, ids=lambda mention: mention[:20])
def test_a_mention_is_no_label(mention):
    text = f"Node 1: a\n{mention}\nNode 2: b"
    assert pieces(text) == ["", f"Node 1: a\n{mention}\n", "Node 2: b"]


def test_a_label_may_follow_a_single_line_break():
    assert parse_steps("Node 1: a\nNode 2: b\r\nNode 3: c").numbers == [1, 2, 3]


def test_windows_line_ends():
    assert pieces("So:\r\n\r\n**Node 1**\r\n\r\na\r\n\r\nNode 2: b\r\n") == [
        "So:\r\n\r\n",
        "**Node 1**\r\n\r\na\r\n\r\n",
        "Node 2: b\r\n",
    ]


def test_offsets_count_characters():
    assert pieces("日本 🎉\nNode 1: é€\nNode 2: \N{COMBINING ACUTE ACCENT}🎉") == [
        "日本 🎉\n",
        "Node 1: é€\n",
        "Node 2: \N{COMBINING ACUTE ACCENT}🎉",
    ]


def test_numbers_above_nine():
    assert parse_steps(solution(*range(1, 13))).numbers == list(range(1, 13))
    assert parse_steps(solution(*range(1, 13))).usable
    assert parse_steps(solution(*range(1, 10), 11)).faults == ("missing step",)


@pytest.mark.parametrize("text", ["", "\n\n", "x = 2"])
def test_a_text_without_labels_is_all_preamble(text):
    assert parse_steps(text) == Steps(len(text), ())
    assert parse_steps(text).faults == ("no steps",)
    assert not parse_steps(text).usable


@pytest.mark.parametrize(
    ("numbers", "faults"),
    [
        ([1], ()),
        ([1, 2, 3], ()),
        ([1, 2, 4], ("missing step",)),
        ([1, 2, 2, 3], ("repeated number",)),
        ([2, 3], ("does not start at 1",)),
        ([0, 1, 2], ("does not start at 1",)),
        ([1, 3, 2], ("out of order",)),
        ([1, 2, 2, 4], ("missing step", "repeated number")),
        ([1, 2, 1, 2], ("repeated number", "out of order")),
        ([2, 1], ("does not start at 1", "out of order")),
        ([5, 5, 2], ("does not start at 1", "missing step", "repeated number", "out of order")),
    ],
)
def test_faults_are_named(numbers, faults):
    found = parse_steps(solution(*numbers))
    assert found.numbers == numbers
    assert found.faults == faults
    assert found.usable == (not faults)


@given(st.lists(st.integers(0, 6), max_size=6) | st.integers(1, 20).map(lambda n: list(range(1, n + 1))))
def test_steps_are_usable_just_if_they_count_from_one(numbers):
    counts = bool(numbers) and numbers == list(range(1, len(numbers) + 1))
    assert parse_steps(solution(*numbers)).usable == counts


FRAGMENTS = ["Node 1", "Node 2:", "Node 10.", "**", "##", " ", ":", ".", "-", "\n", "\r\n", "\r", "x", "é€🎉", "3"]
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)


@given(fragments | st.text())
def test_steps_give_the_text_back(text):
    found = parse_steps(text)
    assert "".join(pieces(text)) == text
    assert all(f"Node {step.number}" in text[step.start : step.end].split("\n")[0] for step in found.steps)
    assert all(text[step.start - 1] == "\n" for step in found.steps if step.start)


# What may follow a label: any text that holds none.
WORDS = ["x = 2", " ", "by Node 1: ", "\n", "\n\n", "\r\n", "\r", "é€🎉", "**", "#", "7", "\nin Node 2. ", "\n- "]
bodies = st.lists(st.sampled_from(WORDS), max_size=8).map(lambda words: " " + "".join(words))


@given(
    bodies,
    st.lists(st.tuples(st.sampled_from(LABELS[:5] + LABELS[-8:]), st.integers(0, 9999), bodies), max_size=6),
    st.sampled_from(["\n", "\n\n", "\r\n"]),
)
def test_steps_are_found_where_they_were_put(preamble, steps, line_end):
    parts = [preamble, *(label.format(number) + body for label, number, body in steps)]
    parts = [*(part + line_end for part in parts[:-1]), parts[-1]]
    assert pieces("".join(parts)) == parts
    assert parse_steps("".join(parts)).numbers == [number for _, number, _ in steps]


@pytest.mark.parametrize(
    ("success", "step"),
    [
        ([0.1, 0.9, 0.5, 0.0], 1),
        ([0.9, 0.1, 0.5, 0.0], 0),
        ([0.5, 0.5, 0.1, 0.0], 1),
        ([0.0, 0.0, 0.0, 0.0], 2),
        ([0.1, 0.2, 0.3, 1.0], 2),  # the whole attempt is no candidate
        ([math.nan, 0.2, 0.1, 0.0], 1),
        ([0.2, math.nan, math.nan, 0.0], 0),
        ([0.0, math.nan, math.nan], 0),
        ([0.3, math.nan], 0),
    ],
)
def test_best_step(success, step):
    assert best_step(success) == step


@pytest.mark.parametrize("success", [[math.nan, math.nan], [math.nan, 1.0], [1.0], []])
def test_best_step_needs_a_known_prefix(success):
    with pytest.raises(ValueError, match="no prefix before the whole attempt is known"):
        best_step(success)


@given(st.lists(st.sampled_from([0.0, 0.05, 0.5, 1.0, math.nan]), min_size=2, max_size=12))
def test_best_step_is_the_latest_of_the_highest(success):
    *candidates, _ = success
    known = [value for value in candidates if value == value]
    if not known:
        with pytest.raises(ValueError, match="known"):
            best_step(success)
        return
    step = best_step(success)
    assert candidates[step] == max(known)
    assert max(known) not in candidates[step + 1 :]


def test_golden_backtrack_texts():
    assert backtrack_text(0) == "This attempt has gone wrong. Let me go back to the problem and start over."
    assert (
        backtrack_text(12) == "This attempt has gone wrong. Let me go back to the end of Node 12 and go on from there."
    )


@given(st.integers(0, 9999))
@example(0)
@example(9999)
def test_backtracks_are_read_back(step):
    sentence = backtrack_text(step)
    assert parse_backtrack(sentence) == step
    assert parse_backtrack(f"\r\n\r\n{sentence}\n\n") == step
    assert "\n" not in sentence
    assert parse_steps(sentence).steps == ()


@given(st.integers(0, 120), st.integers(0, 80), st.text(max_size=3), st.integers(0, 4))
def test_only_a_backtrack_is_read(step, at, inserted, removed):
    text = backtrack_text(step)
    text = text[:at] + inserted + text[at + removed :]
    found = parse_backtrack(text)
    assert text.strip() == backtrack_text(found) if found is not None else text.strip() != backtrack_text(step)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Let me go back to Node 3.",
        NEW_ATTEMPT,
        backtrack_text(3).replace("3", "03"),
        backtrack_text(3).replace("3", "0"),
        backtrack_text(3).replace("3", "{step}"),
        backtrack_text(3).replace("3", "10000"),
        backtrack_text(3).replace("3", "\N{ARABIC-INDIC DIGIT THREE}"),
        backtrack_text(3).replace("3", "1\N{ARABIC-INDIC DIGIT THREE}"),
        backtrack_text(3).replace(".", "!"),
        backtrack_text(0).replace(".", "!"),
        "So: " + backtrack_text(3),
        backtrack_text(3) + " " + backtrack_text(3),
    ],
)
def test_other_texts_are_no_backtrack(text):
    assert parse_backtrack(text) is None


@pytest.mark.parametrize("step", [-1, 10_000])
def test_a_backtrack_names_a_possible_step(step):
    with pytest.raises(ValueError, match=f"0..9999, got {step}"):
        backtrack_text(step)


def test_rise_trains_the_new_attempt_only():
    context, suffix = rise([solution(1, 2), solution(1)], solution(1, 2, 3))
    assert context == "Node 1: x = 1\n\nNode 2: x = 2\n\nNode 1: x = 1"
    assert suffix == (
        "\n\nThis attempt has gone wrong. Let me leave it and try the problem once more."
        "\n\nNode 1: x = 1\n\nNode 2: x = 2\n\nNode 3: x = 3"
    )
    assert episodes_of(context + suffix) is None


@pytest.mark.parametrize("failed", [[], "Node 1: x"])
def test_rise_needs_failed_attempts(failed):
    with pytest.raises(ValueError, match="at least one attempt"):
        rise(failed, "Node 1: y")


def test_golden_backtrack():
    failed = "Node 1: 2 x = 6\n\nNode 2: x = 2\n\nNode 3: so 2\n"
    context, suffix = backtrack(failed, parse_steps(failed), 1, "Node 2: x = 3\n\nNode 3: so 3")
    assert context == failed
    assert suffix == (
        "\n\nThis attempt has gone wrong. Let me go back to the end of Node 1 and go on from there."
        "\n\nNode 2: x = 3\n\nNode 3: so 3"
    )


@pytest.mark.parametrize(
    ("numbers", "found"),
    [([3, 4], r"\[3, 4\]"), ([1, 2], r"\[1, 2\]"), ([2, 4], r"\[2, 4\]"), ([2, 2], r"\[2, 2\]"), ([], "missing")],
)
def test_a_continuation_goes_on_from_the_step(numbers, found):
    failed = solution(1, 2, 3)
    with pytest.raises(ValueError, match=f"must go on from Node 2, its steps are {found}"):
        backtrack(failed, parse_steps(failed), 1, solution(*numbers))


@pytest.mark.parametrize("step", [-1, 3, 4])
def test_a_backtrack_goes_behind_the_last_step(step):
    failed = solution(1, 2, 3)
    with pytest.raises(ValueError, match=rf"step must be in 0\.\.2, .*, got {step}"):
        backtrack(failed, parse_steps(failed), step, solution(step + 1))


def test_a_backtrack_may_keep_all_steps_but_the_last_or_none():
    failed = solution(1, 2, 3)
    assert backtrack(failed, parse_steps(failed), 2, solution(3))[1].endswith(solution(3))
    _, suffix = backtrack(failed, parse_steps(failed), 0, "Anew:\n\n" + solution(1))
    assert suffix == f"\n\n{backtrack_text(0)}\n\nAnew:\n\nNode 1: x = 1"


def test_a_malformed_attempt_is_refused():
    failed = solution(1, 2, 2, 4)
    with pytest.raises(ValueError, match="no usable steps: missing step, repeated number"):
        backtrack(failed, parse_steps(failed), 1, solution(2))


def test_steps_of_another_text_are_refused():
    with pytest.raises(ValueError, match="not those of the failed attempt"):
        backtrack(solution(1, 2), parse_steps(solution(1, 2, 3)), 1, solution(2))


@st.composite
def rows(draw):
    count, more = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    step = draw(st.integers(0, count - 1))

    def steps(first, number):
        return "\n".join(f"Node {first + i}:{draw(bodies)}" for i in range(number))

    return f"{draw(bodies)}\n{steps(1, count)}", step, steps(step + 1, more)


@given(rows())
@example(("Node 1: x\r", 0, "Node 1: y"))
@example(("Node 1: x\n\r\n\r", 0, "\r\n\r\nNode 1: y\n"))
def test_a_row_gives_its_parts_back(row):
    failed, step, continuation = row
    attempt, back, corrected = episodes_of("".join(backtrack(failed, parse_steps(failed), step, continuation)))
    assert (attempt, parse_backtrack(back), corrected) == (failed, step, continuation)
    assert back == f"\n\n{backtrack_text(step)}\n\n"


AROUND = ["Node 1: x", "\n\n", "\r\n\r\n", "\n", "\r", " ", NEW_ATTEMPT]
around = st.lists(st.sampled_from(AROUND), max_size=5).map("".join)


@given(around, st.sampled_from(["\n\n", "\r\n\r\n"]), st.sampled_from([0, 12]), around)
def test_episodes_give_the_text_back(before, blank_line, step, behind):
    text = f"{before}{blank_line}{backtrack_text(step)}{behind}"
    episodes = episodes_of(text)
    own_paragraph = behind.startswith(("\n\n", "\r\n\r\n")) or not behind.strip()
    assert (episodes is not None) == (own_paragraph and before.strip() != "")
    if episodes:
        attempt, back, corrected = episodes
        assert attempt + back + corrected == text
        assert attempt == before
        assert parse_backtrack(back) == step


def test_episodes_with_windows_line_ends():
    text = f"Node 1: x\r\n\r\n{backtrack_text(0)}\r\n\r\nNode 1: y\r\n"
    assert episodes_of(text) == ("Node 1: x", f"\r\n\r\n{backtrack_text(0)}\r\n\r\n", "Node 1: y\r\n")


@pytest.mark.parametrize("end", ["", "\n", " \r\n", "\n\n"])
def test_a_response_may_end_with_the_backtrack(end):
    assert episodes_of(f"Node 1: x\n\n{backtrack_text(0)}{end}") == ("Node 1: x", f"\n\n{backtrack_text(0)}{end}", "")


BACK = backtrack_text(1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Node 1: x\n\nNode 2: y",
        f"\n\n{BACK}\n\nNode 2: y",  # no attempt
        f"{BACK}\n\nNode 2: y",
        f"a\n{BACK}\n\nNode 2: y",  # no paragraph of its own
        f"a\n\n{BACK}\nNode 2: y",
        f"a\n\n{BACK} Node 2: y",
        f"a\n\nSo: {BACK}\n\nNode 2: y",
        f"a\n\n{BACK}\n\nNode 2: y\n\n{backtrack_text(0)}\n\nNode 1: z",  # two
        f"a\n\n{BACK}\n\n{BACK}\n\nNode 2: y",
        f"a\n\n{BACK}\n\nNode 2: y\n\n{BACK}",
    ],
)
def test_other_responses_have_no_three_episodes(text):
    assert episodes_of(text) is None
