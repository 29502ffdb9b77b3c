"""The tasks of the study, and the errors in what they write."""

import json
import random
import re

import pytest
from transformers import AutoTokenizer

from mrt_plugin.episodes import episode_spans
from study.tasks import clues, revise
from study.tasks.errors import error_rates
from study.tasks.task import EOS, FINAL_ANSWER


def test_a_trace_of_clues_answers_with_the_digits_it_found_last():
    rng = random.Random(0)
    right = 0
    for _ in range(300):
        sums = clues.make_sums(rng)
        problem = clues.make_problem(sums)
        digits = [
            "1" if sum(map(int, terms.split("+"))) % clues.MODULUS % 2 else "2"
            for terms in re.findall(r"[A-E]=([\d+]+)", problem["problem"])
        ]
        assert problem["solution"] == "".join(digits)
        thinking, _, answer = clues.make_trace(sums, rng).partition(clues.FINAL_ANSWER)
        found = dict(re.findall(r"So ([A-E]): (\d)", thinking))
        assert all(answer[clues.NAMES.index(name)] == digit for name, digit in found.items())
        assert len(episode_spans(thinking)) == len(re.findall("So ", thinking))
        right += answer.startswith(problem["solution"] + "}")
    assert 60 < right < 180  # mediocre


def traces(setting, count):
    rng = random.Random(0)
    dials = revise.SETTINGS[setting]
    some = revise.draw_problems(dials, rng)["train"][:count]
    return dials, [(revise.make_problem(one), revise.make_trace(one, dials, rng)) for one in some for _ in range(8)]


@pytest.mark.parametrize("setting", revise.SETTINGS)
def test_traces_of_revise_err_as_the_dials_say(setting):
    dials, some = traces(setting, 500)
    rates = error_rates([(row["problem"], trace) for row, trace in some], dials.attempts)
    assert rates["check"] == rates["malformed"] == 0
    assert rates["give_up"] == pytest.approx(dials.give_up, abs=0.015)
    assert rates["idle"] == pytest.approx(dials.idle, abs=0.035)
    slips = [rate for name, rate in rates.items() if name.startswith("slip")]
    assert len(slips) == dials.terms[1] + 2
    assert slips == pytest.approx([dials.slip] * len(slips), abs=0.04)


def test_a_trace_of_revise_answers_what_it_found_and_else_guesses():
    _, some = traces("hard", 300)
    right = guessed = 0
    for row, trace in some:
        thinking, _, answer = trace.partition(FINAL_ANSWER)
        assert len(episode_spans(thinking)) == thinking.count("(yes)") + thinking.count("(no)") <= 9
        answered = answer == row["solution"] + "}" + EOS
        assert answered or "(yes)" not in thinking
        right += answered
        guessed += answered and "(yes)" not in thinking
    assert 0.85 < right / len(some) < 0.95
    assert guessed / sum("(yes)" not in trace for _, trace in some) == pytest.approx(1 / 7, abs=0.05)


def test_errors_are_judged_by_what_stands_before_them():
    problem = "Find x with 3*x+2+5+6=0 (mod 7)."
    first = "Let me solve it.\n\n2+5=1, 1+6=0, 3*x=1, x=5.\n\n3*5=1, 1+2=3, 3+5=1, 1+6=0 (yes)."
    again = "Wait check it again.\n\nx=5.\n\n3*5=1, 1+2=3, 3+5=2, 2+6=1 (no)."
    lost = "Wait solve it again.\n\n2+5=0, 0+6=6.\n\nHm."
    completion = "\n\n".join([first, again, lost]) + FINAL_ANSWER + "5}"
    assert error_rates([(problem, completion)], attempts=9) == {
        "check": 0.5,
        "give_up": 0.0,
        "idle": 1.0,
        "malformed": 0.3333,
        "right": 1.0,
        "slip": 0.5,  # 2+5 is 0, and the negative of 0 is 0
        "slip_1": 1.0,
        "slip_2": 0.0,
        "slip_3": 1.0,
        "slip_4": 0.0,
    }


def test_problems_of_revise_are_new_in_each_split_and_digits_are_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(revise, "TRACES_PER_PROBLEM", 2)
    revise.write(tmp_path, 0, revise.SETTINGS["uneven"])
    splits = [
        [json.loads(line) for line in (tmp_path / "problems" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation", "test")
    ]
    assert [len(split) for split in splits] == [600, 60, 120]
    assert len({row["problem"] for split in splits for row in split}) == 780
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    row = json.loads((tmp_path / "warm_start" / "train.jsonl").read_text().splitlines()[0])
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(row["prompt"] + row["completion"])["input_ids"])
    assert all(len(token) == 1 for token in tokens if re.search(r"\d", token))
    assert "Ċ" in tokens
    assert not any("Ċ" in token for token in tokens if token != "Ċ")
