"""The tables and statistics of the first study."""

import csv
import json
import re

import numpy as np
import pytest

from study.first import compare, results


def curve(height, half=80):
    """Rises to half its height up to so many tokens, and to all of it up to 160."""
    return np.interp(results.BUDGETS, [0, half, 160], [0, height / 2, height])


def test_ratios_of_gains_and_tokens():
    start = curve(0.4)
    assert compare.gain_ratio(curve(0.8), curve(0.6), start) == pytest.approx(2)
    assert np.isnan(compare.gain_ratio(curve(0.8), curve(0.4), start))
    learned = np.array([[[0, 0, 0.2], [100, 7e5, 0.6]], [[0, 0, 0.2], [100, 8e5, 0.4]]])
    assert compare.gains(learned, 50) == pytest.approx(np.array([[0.2], [0.1]]))
    # To 0.4 + 0.9 (0.6 - 0.4) = 0.58: between the measured points curves are linear.
    assert compare.fewer_tokens(curve(1.16), curve(0.6), start) == pytest.approx((160 * 0.58 / 0.6) / 80, rel=1e-3)
    assert compare.fewer_tokens(curve(0.6), curve(1.16), start) == pytest.approx(80 / (160 * 0.58 / 0.6), rel=1e-3)
    assert compare.fewer_tokens(curve(1.16, half=40), curve(1.16), start) > 1


def record(method, seed, validation, rate=1e-4, task="search"):
    budgets = {str(budget): [validation, validation] for budget in results.BUDGETS}
    found = {
        "task": task,
        "method": method,
        "seed": seed,
        "date": f"2026-11-2{seed}",
        "validation": validation,
        "accuracy": budgets,
        "validation_tokens": 99.0,
    }
    found |= {"tokens": [90.0, 110.0], "regret": {budget: [0.5, 0.7] for budget in results.REGRET}}
    found |= {"episodes": 3.0, "idle": 0.1, "repeats": 0.15, "cut": 0.2, "progress": [0] * 20 + [1]}
    if method != "warm start":
        tokens = {"drawn": 1e6, "scored": 0.0} if method == "GRPO" else {"drawn": 5e5, "scored": 5e5}
        found |= {"learning_rate": rate, "steps": 150, "training_tokens": tokens}
        found |= {"curve": [[75, 5e5, validation * 0.75, 90.0], [150, 1e6, validation, 80.0]]}
    return found


def test_a_page_gets_its_tables_anew(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    found = [record("warm start", 0, 0.2), record("GRPO", 0, 0.3), record("GRPO", 0, 0.4, rate=2e-4)]
    found += [record("GRPO", 0, 0.5, rate=8e-4)]  # shown, but none of the rates to choose from
    found += [record("GRPO", 1, 0.4, rate=2e-4), record("GRPO", 2, 0.4, rate=2e-4), record("GRPO", 1, 0.9)]
    found += [record("MRT dense", 0, 0.5), record("MRT dense", 1, 0.6), record("progress shuffled", 1, 0.5)]
    found += [record("MRT dense, by episode", seed, 0.3, rate=2e-4) for seed in (0, 1)]
    found += [record("by episode, spread", 1, 0.7, rate=2e-4), record("by episode, spread", 2, 0.9)]  # not its rate
    found[-1]["rows"] = [[591, 0.8426], [597, 0.9062]]
    for number, one in enumerate(found):
        (runs / f"{number:02}.json").write_text(json.dumps(one))
    page = tmp_path / "page.md"
    others = "".join(f"<!-- table {name} search --><!-- end -->" for name in results.TABLES if name != "accuracy")
    others += "<!-- table sweep clues --><!-- end -->"
    page.write_text(f"Ours.\n<!-- table accuracy search -->old<!-- end -->\nMore.\n{others}")
    for _ in range(2):
        results.main(runs, page)
        text = page.read_text()
    assert text.startswith("Ours.\n")
    assert "\nMore.\n" in text
    assert "old" not in text
    assert text.endswith("<!-- table sweep clues -->\n\nNot run yet.\n\n<!-- end -->")
    assert "|\n\nRuns of 2026-11-20 to 2026-11-22, by `study/first/results.py`.\n\n<!-- end -->" in text
    assert re.search(r"\| GRPO +\| 2 +\| 0.400 \[0.400, 0.400\] +\| 0.400 \[.*\] +\| 0.0002 ", text)
    assert re.search(r"spread +\| 1 +\| 0.700 .*\| \+0.300 \[.*\| \+0.400 \[", text)
    assert re.search(r"shuffled +\| 1 +\| 0.500 .*\| \+0.100 \[.*\| -0.100 \[-0.100, -0.100\]", text)
    assert re.search(r"MRT dense +\| 1 +\| 0.600 .*\+0.200 \[\+0.200, \+0.200\] +\| 2.00 \[2.00, 2.00\]", text)
    assert re.search(r"\| GRPO +\| 0.400 ± 0.000 +\| 0.300 ± 0.000 +\| 1.00 +\| 0.400 ± 0.000 +\| 0.300 ", text)
    tokens = r"\| 1.00 +\| 0.600; \+0.200 +\| 0.425; \+0.125 +\| 0.51.; \+0.21. +"
    assert re.search(rf"\| MRT dense +\| 0.600 +\| 0.425 +{tokens}\| 2.50 \[2.50, 2.50\] +\|", text)
    assert re.search(r"\| GRPO +\| 0.300 +\| \*\*0.400\*\* +\| 0.500 +\|", text)
    assert (tmp_path / "figures/accuracy-search.png").stat().st_size > 10_000
    assert re.search(r"\| by episode, spread +\| 0.0001 +\| 2 +\| 591: 84.3% +\| 597: 90.6% +\|", text)
    with open(tmp_path / "runs.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found)
    last = lines[-1]  # files are read by name; the curve is 0.2, 0.675, 0.9
    assert (last["after 75 updates"], last["mean over updates"], last["tokens"]) == ("0.675", "0.612", "100.000")
