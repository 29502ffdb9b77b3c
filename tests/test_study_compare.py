"""The study's statistics, and the page that they make."""

import json
import re

import numpy as np
import pytest

from study import compare, figures, plan, results
from study.settings import SCHEDULES, TASKS


TASK = "revise-hard"


def test_intervals_draw_seeds_and_problems():
    generator = np.random.default_rng(0)
    seeds = generator.normal(size=(5, 1)) + np.zeros((5, 400))
    of_seeds = compare.interval(float, seeds)
    of_problems = compare.interval(float, generator.normal(size=(5, 400)))
    assert of_seeds.high - of_seeds.low > 0.5  # not narrowed by 400 problems, which are all alike
    assert of_problems.high - of_problems.low < 0.3
    same = compare.interval(lambda a, b: a - b, seeds[:1], seeds[:1])
    assert same == (0, 0, 0)  # the same problems are drawn for both


def record(method, seed=None, regret=0.3, tokens=100, rate=8e-4, rises=10):
    """Right after so many tokens in seven of eight rollouts; at its height on validation after so many updates."""
    budget = TASKS[TASK].budget
    quarters = {str(budget * q // 4): regret * 4 / q for q in (1, 2, 3, 4)}
    found = {
        "task": TASK,
        "method": method,
        "date": "2026-11-27",
        "seconds": 600,
        "validation": {"regret": quarters, "accuracy": 0.8, "within_quarter": 0.25, "tokens": 170.0},
        "tokens": [[tokens] * 4, [tokens, tokens, tokens, 480]],
        "right": [[1] * 4, [1, 1, 1, 0]],
        "first": [0.5, 0.25],
        "regret": {budget: [value, value] for budget, value in quarters.items()},
    }
    if seed is not None:
        found |= {"learning_rate": rate, "schedule": "cosine", "seed": seed, "steps": 100}
        updates = list(range(5, 101, 5))
        height = [0.25 + 0.5 * min(1, step / rises) for step in updates]
        spent = {"drawn": [step * 1e4 for step in updates], "scored": [0] * len(updates)}
        found["curve"] = {
            "updates": updates,
            "within_quarter": height,
            "regret": [regret] * len(updates),
            "silent": [0.5] * 20,
        } | spent
    return found


def trainings():
    found = [record("warm start", regret=0.5, tokens=400)]
    for method, regret, tokens, rises in (("GRPO", 0.2, 110, 80), ("MRT dense", 0.1, 70, 40)):
        for rate in plan.RATES:
            for schedule in SCHEDULES:
                least = (rate, schedule) == (8e-4, "cosine")
                found.append(record(method, 0, regret if least else 0.4, rate=rate) | {"schedule": schedule})
        found += [record(method, seed, regret, tokens, rises=rises) for seed in (1, 2)]
        found.append(record(method, 1, rate=2e-4))  # not its rate
    return found


def test_methods_are_compared_at_their_own_rates():
    of_task = compare.Results(trainings(), TASK)
    assert of_task.methods == ["warm start", "GRPO", "MRT dense"]
    assert of_task.accuracy("MRT dense", 70).tolist() == [[1.0, 0.75]] * 2
    assert of_task.accuracy("MRT dense", 69).tolist() == [[0.0, 0.0]] * 2
    assert compare.tokens_to(of_task.right("GRPO").mean((0, 1)), 0.8) == 110
    assert compare.tokens_to(of_task.right("GRPO").mean((0, 1)), 0.9) == np.inf
    for axis in (of_task.spent, lambda method: of_task.curves(method, "updates")):
        assert compare.reach(of_task, "MRT dense", axis) == pytest.approx((2, 2, 2))


def test_a_draw_that_never_gets_there_widens_the_interval():
    right = np.zeros((3, 40, 100))
    right[:, :37, 50:] = 1  # 0.925 from token 51 on
    found = compare.interval(compare.tokens_to, right)
    assert (found.mean, found.low, found.high) == (51, 51, np.inf)


def test_what_is_gained_in_a_stretch_is_a_share_of_what_was_left():
    silent, gain = compare.gained(compare.Results(trainings(), TASK), "MRT dense")
    assert silent.tolist() == [[0.5] * 5] * 2
    assert gain == pytest.approx(np.array([[0.8, 0, 0, 0, 0]] * 2))  # from 0.5 to 0.1, and no further


def test_without_a_search_methods_have_the_rates_and_steps_that_they_were_given():
    found = [record("warm start"), record("GRPO", 1, 0.2, rate=4e-4), record("MRT dense", 1, 0.1)]
    of_task = compare.Results([one | {"steps": 40} if "seed" in one else one for one in found], TASK)
    assert of_task.methods == ["warm start", "GRPO", "MRT dense"]
    assert (of_task.steps, of_task.chosen["GRPO"]) == (40, (4e-4, "cosine"))
    assert results.versus_table(of_task)[0]["difference"] == "MRT dense less GRPO"


def test_variants_and_longer_trainings_stand_beside_what_they_vary():
    found = trainings() + [record("progress scalar", seed, 0.25, 90) for seed in (1, 2)]
    found += [record("GRPO", seed, 0.15) | {"steps": 140} for seed in (1, 2)]
    of_task = compare.Results(found, TASK)
    [variant] = results.variants_table(of_task)
    assert variant["variant"] == "progress scalar"
    assert variant[f"regret@{of_task.budget}"] == "+0.150 [+0.150, +0.150]"
    [equal] = results.equal_table(of_task)
    assert (equal["MRT dense less"], equal["updates"]) == ("GRPO", "140")
    assert equal[f"regret@{of_task.budget}"] == "-0.050 [-0.050, -0.050]"


def test_a_variant_of_one_seed_is_compared_with_that_seed_alone_and_without_interval():
    others = [record("MRT dense", seed, 0.1 * seed, 80) for seed in (1, 2)]
    found = [one for one in trainings() if one["method"] != "MRT dense" or not one["seed"]] + others
    of_task = compare.Results(found + [record("progress scalar", 2, 0.25, 90)], TASK)
    [variant] = results.variants_table(of_task)
    assert (variant["seeds"], variant[f"regret@{of_task.budget}"]) == ("2", "+0.050")


def test_greedy_rollouts_are_rows_of_their_own():
    found = trainings()
    found[0] |= {"greedy": {name: found[0][name] for name in ("tokens", "right", "first")}}
    rows = results.end_table(compare.Results(found, TASK))
    assert [row["method"] for row in rows[:3]] == ["warm start", "warm start, temperature 0", "GRPO"]
    assert rows[1]["tokens"] == rows[0]["tokens"]
    assert f"regret@{TASKS[TASK].budget}" not in rows[1]


def test_a_method_that_does_not_log_accuracy_within_a_quarter_has_a_row_without_it():
    found = trainings()
    for one in found:
        if one["method"] == "MRT dense":
            del one["curve"]["within_quarter"]
    grpo, dense = results.learning_table(compare.Results(found, TASK))
    assert grpo.keys() - dense.keys() == {f"within {TASKS[TASK].budget // 4} after {TASKS[TASK].steps // 3} updates"}


def test_accuracy_is_told_apart_by_the_terms_of_a_problem(monkeypatch):
    of_task = compare.Results(trainings(), TASK)
    texts = ("Find x with 3*x+6+3=0 (mod 7).", "Find x with 3*x+6+3+0+1=0 (mod 7).")
    monkeypatch.setattr(compare.Results, "problems", texts)
    dense = results.terms_table(of_task)[-1]
    assert dense["2 terms (1)"] == "1.000"
    assert dense["4 terms (1)"] == "0.750"


def test_stretches_of_several_tasks_are_drawn(tmp_path):
    figures.draw_when([compare.Results(trainings(), TASK)] * 2, tmp_path)
    assert (tmp_path / "when.png").stat().st_size > 10_000


def test_a_page_gets_its_tables_anew(tmp_path):
    (tmp_path / "records").mkdir()
    for number, one in enumerate(trainings()):
        (tmp_path / "records" / f"{number:02}.json").write_text(json.dumps(one))
    page, other = tmp_path / "page.md", "<!-- table accuracy search -->\n<!-- end -->"  # of the first study
    page.write_text(f"Ours.\n<!-- table end revise-hard -->old<!-- end -->\n{other}")
    for _ in range(2):
        results.main(tmp_path / "records", page)
        text = page.read_text()
        assert text.startswith("Ours.\n")
        assert text.endswith(other)
        assert "old" not in text
        assert re.search(r"\| GRPO +\| 2 +\| 0\.200 +\|", text)
    assert (tmp_path / "figures/revise-hard.png").stat().st_size > 10_000
    page.unlink()
    results.main(tmp_path / "records", page)
    assert "-0.100 [-0.100, -0.100]" in page.read_text()
    assert "0.0008, cosine, chosen" in page.read_text()
