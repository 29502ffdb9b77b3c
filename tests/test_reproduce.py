"""The study in recipes/tiny-cpu: its second task, its variants of credit, and its statistics."""

import csv
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mrt_plugin.credit import dense_credit
from mrt_plugin.engines.sampling import Completion
from mrt_plugin.episodes import episode_spans


sys.path.append(str(Path(__file__).parents[1] / "recipes" / "tiny-cpu"))
import ablations  # noqa: E402
import comparison  # noqa: E402
import count_tokens  # noqa: E402
import make_clues  # noqa: E402
import measure  # noqa: E402
import reproduce  # noqa: E402
import results  # noqa: E402


ENDS = [[0, 2, 5]] * 7 + [[0]]
SUCCESS = [np.array([0.25, 0.5, 1.0])] * 4 + [np.array([0.25, 0.5, 0.25])] * 3 + [np.zeros(1)]


def test_a_trace_of_clues_answers_with_the_digits_it_found_last():
    rng = random.Random(0)
    right = 0
    for _ in range(300):
        sums = make_clues.make_sums(rng)
        problem = make_clues.make_problem(sums)
        digits = [
            "1" if sum(map(int, terms.split("+"))) % make_clues.MODULUS % 2 else "2"
            for terms in re.findall(r"[A-E]=([\d+]+)", problem["problem"])
        ]
        assert problem["solution"] == "".join(digits)
        thinking, _, answer = make_clues.make_trace(sums, rng).partition(make_clues.FINAL_ANSWER)
        found = dict(re.findall(r"So ([A-E]): (\d)", thinking))
        assert all(answer[make_clues.NAMES.index(name)] == digit for name, digit in found.items())
        assert len(episode_spans(thinking)) == len(re.findall("So ", thinking))
        right += answer.startswith(problem["solution"] + "}")
    assert 60 < right < 180  # mediocre


def test_variants_change_which_tokens_progress_falls_on():
    plain = dense_credit(ENDS, SUCCESS, 7)
    credit = {name: variant(ENDS, SUCCESS, 7) for name, variant in ablations.VARIANTS.items()}
    for row in range(7):  # the same progress in another order
        gains, mixed = plain[row, [0, 2]], credit["shuffled"][row, [0, 2]]
        assert sorted(gains) == pytest.approx(sorted(mixed))
    assert not np.allclose(credit["shuffled"], plain)
    assert credit["centred"][:, [0, 2]].sum(axis=0) == pytest.approx([0, 0])
    assert credit["to-go"][0, [0, 2]].tolist() == [0.75, 0.5]
    assert credit["scalar"][0, :5].tolist() == [0.75 - 3 / 8] * 5  # the eighth does not think
    assert credit["with-answer"][0].tolist() == [0.25] * 2 + [0.5] * 5
    assert credit["spread"][0] == pytest.approx(30 * np.array([0.125, 0.125, *[0.5 / 3] * 3, 0, 0]))
    assert all((values[7] == 0).all() for values in credit.values())


def test_variant_of_nothing_is_the_packages_own_credit():
    same = ablations.with_gains(lambda gains: gains, ENDS, SUCCESS, 7)
    assert same == pytest.approx(dense_credit(ENDS, SUCCESS, 7))


def curve(height, half=80):
    """Rises to half its height up to so many tokens, and to all of it up to 160."""
    return np.interp(results.BUDGETS, [0, half, 160], [0, height / 2, height])


def test_ratios_of_gains_and_tokens():
    start = curve(0.4)
    assert comparison.gain_ratio(curve(0.8), curve(0.6), start) == pytest.approx(2)
    assert np.isnan(comparison.gain_ratio(curve(0.8), curve(0.4), start))
    learned = np.array([[[0, 0, 0.2], [100, 7e5, 0.6]], [[0, 0, 0.2], [100, 8e5, 0.4]]])
    assert comparison.gains(learned, 50) == pytest.approx(np.array([[0.2], [0.1]]))
    # To 0.4 + 0.9 (0.6 - 0.4) = 0.58: between the measured points curves are linear.
    assert comparison.fewer_tokens(curve(1.16), curve(0.6), start) == pytest.approx((160 * 0.58 / 0.6) / 80, rel=1e-3)
    assert comparison.fewer_tokens(curve(0.6), curve(1.16), start) == pytest.approx(80 / (160 * 0.58 / 0.6), rel=1e-3)
    assert comparison.fewer_tokens(curve(1.16, half=40), curve(1.16), start) > 1


def test_intervals_draw_seeds_and_problems():
    generator = np.random.default_rng(0)
    seeds = generator.normal(size=(5, 1)) + np.zeros((5, 400))
    of_seeds = comparison.interval(float, seeds)
    of_problems = comparison.interval(float, generator.normal(size=(5, 400)))
    assert of_seeds.high - of_seeds.low > 0.5  # not narrowed by 400 problems, which are all alike
    assert of_problems.high - of_problems.low < 0.3
    same = comparison.interval(lambda a, b: a - b, seeds[:1], seeds[:1])
    assert same == (0, 0, 0)  # the same problems are drawn for both


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
    assert "|\n\nRuns of 2026-11-20 to 2026-11-22, by `recipes/tiny-cpu/results.py`.\n\n<!-- end -->" in text
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


def test_tokens_of_training_count_branches_and_prefixes(tmp_path):
    held_out = {"eval_rewards/mrt_accuracy/mean": 0.5, "eval_completions/mean_length": 80.0}
    written = {"completions/mean_length": 100.0, "completions/clipped_ratio": 0.25, "mrt/episodes_mean": 3.5}
    log = [
        {"step": 5, **written, "mrt/branch_tokens": 600.0, "mrt/prefix_tokens": 1000.0},
        {"step": 5, **held_out},
        {"step": 10, "completions/mean_length": 50.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert measure.history(tmp_path, drawn=False) == {
        "training_tokens": {"drawn": 5 * (6400 + 1000 + 3200), "scored": 5 * 600},
        "curve": [[5, 40000, 0.5, 80.0]],
        "shape": [[5, 0.25, 3.5]],
    }
    assert measure.history(tmp_path, drawn=True)["training_tokens"] == {"drawn": 5 * 11200, "scored": 0}


def test_tokens_of_a_builder_are_those_of_all_its_calls(tmp_path):
    class Sampler:
        def sample(self, prompts, n, settings):
            return [[Completion([7] * len(prompt), ended=True)] * n for prompt in prompts] + [None]

    sampler = count_tokens.counting(Sampler(), tmp_path / "tokens")
    assert [len(group) for group in sampler.sample([[1], [1, 2]], 2, None)[:2]] == [2, 2]
    sampler.sample([[1, 2, 3]], 1, None)
    assert (tmp_path / "tokens").read_text() == "9"


def test_repeats_come_to_what_an_earlier_episode_had():
    episodes = [f"{cue} x={x}.\n\n3*{x}.\n\n{x} (no).\n\n" for cue, x in (("Try", 2), ("Wait", 4), ("But wait", 2))]
    found = "Wait x=5.\n\n3*5.\n\n5 (yes)."
    completion = "".join(episodes) + found + "\n\n" + found + "\n</think>\n\n5"
    success = [0.1, 0.2, 0.2, 0.25, 1.0, 1.0]
    steps = measure.before_success(completion, success)
    assert [repeats for repeats, _, _ in steps] == [False, False, True, False]  # the check of 5 is not one
    assert [(round(gain, 2), after) for _, gain, after in steps] == [(0.1, 0.2), (0, 0.2), (0.05, 0.25), (0.75, 1.0)]
    cut = measure.before_success("".join(episodes)[:-3], success[:4])  # within its paragraph
    assert [repeats for repeats, _, _ in cut] == [False, False, False]


def test_a_row_is_solved_where_nothing_is_left_to_guess():
    def share(solution, *paragraphs):
        text = "\n\n".join(paragraphs) + "\n</think>\n\n**Final Answer**\n\n\\boxed{" + solution + "}"
        return measure.solved([{"messages": [{"content": "?"}, {"content": text}], "solution": solution}])

    assert share("5", "Let me try x=5.", "3*5=1.", "1+4=5, 5+2=0 (yes).") == 1
    assert share("5", "Let me try x=4.", "3*4=5.", "5+4=2, 2+2=4 (no).") == 0
    assert share("12", "So A: 1.", "So B: 2.") == share("12", "So A: 2.", "So B: 2.", "So A: 1.") == 1
    assert share("12", "So A: 1.", "So A: 1.") == share("12", "") == 0


def test_a_variant_is_the_method_that_it_varies_and_its_own_options():
    arguments = {m: reproduce.Setting("search", m, 1e-4, 0, 150).arguments for m in reproduce.VARIANTS}
    assert arguments["alpha 0.4"] == [*reproduce.METHODS["MRT dense"], "--mrt_alpha", "0.4"]
    assert arguments["by episode, spread"] == [*reproduce.METHODS["MRT dense, by episode"], "--variant", "spread"]
    variants = {options[-1] for options in arguments.values() if "--variant" in options}
    assert variants == set(ablations.VARIANTS)


def test_a_run_that_is_recorded_is_not_done_again(tmp_path, monkeypatch):
    setting, start = reproduce.Setting("search", "GRPO", 1e-4, 0, 150), tmp_path / "search"
    (start / "warm-start").mkdir(parents=True)
    (start / "warm-start" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(reproduce, "train", lambda *given: {})
    monkeypatch.setattr(reproduce, "measurements", lambda *given: {"validation": 0.5})
    (tmp_path / "work" / setting.name).mkdir(parents=True)  # of a run that was stopped
    reproduce.run(setting, start, tmp_path / "work", tmp_path / "runs")
    assert [one["method"] for one in reproduce.read(tmp_path / "runs")] == ["GRPO"]
    monkeypatch.setattr(reproduce, "train", lambda *given: pytest.fail("trained again"))
    reproduce.run(setting, start, tmp_path / "work", tmp_path / "runs")
    (start / "warm-start" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="is of another warm start"):
        reproduce.run(setting, start, tmp_path / "work", tmp_path / "runs")


def test_a_failing_run_says_where_its_log_is(tmp_path):
    with pytest.raises(RuntimeError, match=r"failed; see .*log:\n(?s:.*)ModuleNotFoundError"):
        measure.call(tmp_path / "log", "-c", "import no_such_module")
