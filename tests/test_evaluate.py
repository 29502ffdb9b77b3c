"""`mrt evaluate`, `compare` and `figures`: hand-made rollouts with known numbers, and runs of a tiny model."""

import copy
import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from conftest import tiny_model, write
from datasets import load_dataset
from test_builders import ONE, STOP, TWO, Scripted, problem, thinking

from mrt_plugin.analysis import compare as comparison
from mrt_plugin.analysis import evaluate, report
from mrt_plugin.analysis.compare import compare, right_within, significance, token_ratio
from mrt_plugin.analysis.evaluate import EvaluationArguments
from mrt_plugin.analysis.figures import FIGURES, training_lengths
from mrt_plugin.analysis.runs import SCHEMA, Run, estimate, load_run, load_runs, results, standard_error
from mrt_plugin.arguments import MetaProverArguments
from mrt_plugin.jobs.store import RowStore
from mrt_plugin.rollouts import Rollout


PROVER = MetaProverArguments(mrt_samples=4, mrt_termination="answer", mrt_answer_tokens=16)
SETTINGS = {
    "dataset_name": "problems",
    "dataset_train_split": "test",
    "max_completion_length": 100,
    "attempts": 1,
    "regret": True,
    "extensions": 4,
    "extension_tokens": 20,
    "mrt_samples": 2,
    "mrt_estimator": "sample",
    "model_name_or_path": "nowhere",
}


def build(tokenizer, rule, **settings):
    sampler = Scripted(tokenizer, rule)
    args = EvaluationArguments(**{"num_generations": 2, "max_completion_length": 100} | settings)
    rows, finished = evaluate.build([problem()], sampler, 1, args, PROVER)
    return rows, finished, sampler


def test_rollouts_are_graded_and_vote(tokenizer):
    rollouts = [
        ONE + "</think>\n\n\\boxed{4}",
        ONE + TWO + "</think>\n\n\\boxed{5}",
        "\\boxed{5}",
        "</think>\\boxed{4}",
    ]
    rows, finished, sampler = build(tokenizer, thinking(rollouts, {}), num_generations=4)
    assert finished == {"p": None}
    assert [row["completion"] for row in rows] == rollouts
    assert [row["right"] for row in rows] == [False, True, False, False]  # the third is cut while thinking
    assert [row["vote"] for row in rows] == [1, 0, None, 1]
    assert [row["stream"] for row in rows] == [0, 1, 2, 3]
    assert [row["tokens"] for row in rows] == [len(tokenizer(text)["input_ids"]) + 1 for text in rollouts]
    assert all(row["success_probability"] is None and row["ended"] for row in rows)
    assert set(rows[0]) == set(SCHEMA.names)
    assert len(sampler.calls) == 1


def test_regret_is_measured_at_every_prefix_and_after_extensions(tokenizer):
    longer = ONE + "\nWait, so.\n\nBut wait, so.\n"

    def rule(text, n):
        if text.endswith(STOP):
            begun = text.rpartition("<think>\n")[2].removesuffix(STOP)
            right = {"": 1, ONE.rstrip(): 2, longer.rstrip(): n}[begun]
            return ["5}"] * right + ["4}"] * (n - right)
        return [", so.\n</think>" if text.endswith(("Wait", "But wait")) else ONE + "</think>\n\n\\boxed{5}"] * n

    rows, _, sampler = build(tokenizer, rule, num_generations=1, regret=True, extensions=2, extension_tokens=30)
    [row] = rows
    assert row["success_probability"] == [0.25, 0.5]
    assert row["prefix_votes"] == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert row["extension_success"] == [1.0]
    answer = len(tokenizer("5}")["input_ids"]) + 1
    assert row["answer_tokens"] == [answer] * 2
    assert row["prefix_tokens"] == [answer, len(tokenizer(ONE)["input_ids"]) + answer]
    assert row["extension_tokens"] == [len(tokenizer(longer)["input_ids"]) + answer]
    assert len(sampler.calls) == 5  # rollouts, their branches, two extensions, their answers


def test_an_estimator_that_the_engine_lacks_is_refused_before_anything_is_drawn(tokenizer):
    sampler = Scripted(tokenizer, lambda text, n: [ONE] * n)
    likelihood = replace(PROVER, mrt_estimator="likelihood")
    with pytest.raises(ValueError, match="mrt_estimator: likelihood"):
        evaluate.build([problem()], sampler, 1, EvaluationArguments(regret=True), likelihood)
    assert not sampler.calls


def test_where_there_is_no_room_for_an_answer_the_row_says_that_j_is_not_known(tokenizer):
    def rule(text, n):
        if text.endswith(STOP):
            return None if "No." in text else ["5}"] * n
        return [ONE + "</think>\n\n\\boxed{5}"] * n

    [row], _, _ = build(tokenizer, rule, num_generations=1, regret=True)
    answer = len(tokenizer("5}")["input_ids"]) + 1
    np.testing.assert_equal(row["success_probability"], [1.0, np.nan])
    np.testing.assert_equal(row["answer_tokens"], [answer, np.nan])
    assert row["prefix_votes"] == [[0] * 4, []]
    assert row["prefix_tokens"] == [answer, len(tokenizer(ONE)["input_ids"])]
    assert build(tokenizer, lambda text, n: None)[:2] == ([], {"p": "the engine has no room for a completion"})


@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        ({"regret": True, "extensions": 4, "extension_tokens": 60}, "extensions x extension_tokens"),
        ({"regret": True, "max_completion_length": 300}, "max_completion_length"),
        ({"attempts": 8, "window": 4}, "window x max_completion_length"),
    ],
)
def test_a_context_that_is_too_short_is_blamed_on_what_takes_most_of_it(tokenizer, monkeypatch, settings, blamed):
    monkeypatch.setattr(Scripted, "max_length", 200)
    with pytest.raises(ValueError, match=rf"{blamed}: \d+.* the model's context has 200. Lower {blamed}\."):
        build(tokenizer, lambda text, n: [], **{"max_completion_length": 100} | settings)


@pytest.mark.parametrize("opened", [True, False])
def test_linearized_search_makes_attempts_of_one_stream(tokenizer, opened):
    def rule(text, n):
        return ["\\boxed{5}" if text.endswith("Wait") else "Hm.</think>" * opened + "\\boxed{4}"] * n

    plain = Scripted(tokenizer if opened else _without_tags(tokenizer), rule)
    args = EvaluationArguments(num_generations=2, max_completion_length=100, attempts=3, continuation="Wait")
    rows, _ = evaluate.build([problem()], plain, 1, args, PROVER)
    assert [(row["stream"], row["attempt"], row["vote"]) for row in rows] == [
        (0, 0, 1), (0, 1, 0), (0, 2, 0), (1, 0, 1), (1, 1, 0), (1, 2, 0)
    ]  # fmt: skip
    assert len(plain.calls) == 3  # both streams together


def _without_tags(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = tokenizer.chat_template.replace("<think>\n", "")
    return plain


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"extensions": 3, "regret": True}, "even"),
        ({"extensions": 2}, "regret: true"),
        ({"attempts": 2, "regret": True}, "attempts"),
        ({"num_generations": 0}, "num_generations"),
        ({"window": 0}, "window"),
    ],
)
def test_arguments_that_cannot_work_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        EvaluationArguments(**settings)


# Known numbers.


def run_of(groups: list[list[Rollout]], name="run", **settings) -> Run:
    return Run(name, SETTINGS | settings, {str(i): group for i, group in enumerate(groups)}, {})


def voted(*votes, tokens=10):
    return [Rollout("p", vote=v, right=v == 0, tokens=tokens, stream=i) for i, v in enumerate(votes)]


def test_maj_at_k_of_hand_made_rollouts():
    """By hand: (0, 0, 1, 2) has maj@1 1/2, maj@2 1/2, maj@3 3/4, maj@4 1; (1, 0, None) has 1/3, 1/2, 1/2."""
    tokens, accuracy = run_of([voted(0, 0, 1, 2), voted(1, 1, 1, None, tokens=30)]).majority()
    assert accuracy.tolist() == [pytest.approx([1 / 2, 1 / 2, 3 / 4, 1.0]), [0.0] * 4]
    assert tokens.tolist() == [[10, 20, 30, 40], [30, 60, 90, 120]]
    _, accuracy = run_of([voted(1, 0, None)]).majority()
    assert accuracy.tolist() == [pytest.approx([1 / 3, 1 / 2, 1 / 2])]


def test_linearized_votes_are_those_of_the_first_attempts():
    drawn = enumerate([(1, 10), (0, 20), (0, 40)])
    stream = [Rollout("p", vote=vote, right=vote == 0, tokens=tokens, attempt=i) for i, (vote, tokens) in drawn]
    tokens, accuracy = run_of([stream[::-1]], attempts=3).majority()
    assert (tokens.tolist(), accuracy.tolist()) == ([[10, 30, 70]], [[0.0, 0.5, 1.0]])
    assert run_of([stream], attempts=3).pass_at_1().tolist() == [0.0]
    other = [Rollout("p", vote=0, right=True, tokens=30, attempt=i, stream=1) for i in range(3)]
    run = run_of([[*stream, *other]], attempts=3)  # the mean over streams
    assert [values.tolist() for values in run.majority()] == [[[20, 45, 80]], [[0.5, 0.75, 1.0]]]
    assert right_within(run)[0] == [30]  # first attempts
    assert right_within(run)[1].tolist() == [0.5]


def test_a_draw_that_does_not_come_to_a_level_takes_the_whole_budget():
    few = run_of([voted(0, 0, tokens=90)] * 6 + [voted(1, 1, tokens=90)] * 4, "few")
    every = run_of([voted(0, 0, tokens=30)] * 10, "every")
    row = {row["measure"]: row for row in compare(few, every)}["tokens to be right in 0.5"]
    assert row["95% interval"] == "[-70, -60]"


def test_the_share_of_rollouts_that_were_cut():
    group = [Rollout("p", tokens=5, vote=0, ended=ended) for ended in (True, True, True, False)]
    assert results(run_of([group], regret=False))["cut"] == 0.25


def test_without_regret_the_prover_does_not_matter(monkeypatch):
    def load(folder, name):
        return run_of([voted(0)], name, regret=False, mrt_termination=name)

    monkeypatch.setattr("mrt_plugin.analysis.runs.load_run", load)
    assert len(load_runs(["answer", "explain"])) == 2


def test_pass_at_1_its_standard_error_and_a_budget():
    run = run_of([voted(0, 0, 1, 1), voted(0, 0, 0, 0, tokens=50)])
    assert run.pass_at_1().tolist() == [0.5, 1.0]
    assert run.pass_at_1(20).tolist() == [0.5, 0.0]
    assert standard_error(np.array([0.5, 1.0])) == pytest.approx(0.25)  # s = sqrt(1/8), n = 2


def test_budgets_lie_at_quarters_and_at_the_extensions():
    run = run_of([[Rollout("p", [0.0, 0.5], [10, 60], [0.75, 1.0], [120, 160])]])
    assert run.budgets() == [25, 50, 75, 100, 140, 180]
    assert [run.points_within(budget) for budget in (100, 139, 140, 180, 999)] == [0, 0, 1, 2, 2]
    assert run.success_at(5).tolist() == [0.0]
    assert run.success_at(60).tolist() == [0.5]
    assert run.success_at(140).tolist() == [0.75]
    assert run.regret(25).tolist() == [pytest.approx(1 - (0.15 * 15 / 2) / 25)]


def test_intervals_draw_problems():
    values = np.array([0.0, 1.0] * 50)
    found = estimate(values)
    assert found.mean == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)
    assert np.isnan(estimate(np.array([1.0])).low)


@pytest.mark.parametrize(
    ("accuracy", "other", "expected"),
    [
        ([0.25, 0.5], [0.5, 0.75], 2.0),  # the other has the accuracy from the start
        ([0.25, 0.75], [0.25, 0.5], 0.75),  # half way between the first and the second vote
        ([0.5, 0.5], [0.5, 0.5], 1.0),
    ],
)
def test_tokens_for_an_accuracy_that_both_reach(accuracy, other, expected):
    assert token_ratio([100, 200], accuracy, [100, 200], other) == pytest.approx(expected)


def test_a_difference_is_told_from_noise():
    worse, better = run_of([voted(1, 1)] * 20, "worse"), run_of([voted(0, 0, tokens=5)] * 20, "better")
    rows = {row["measure"]: row[""] for row in compare(worse, better) if "regret" not in row["measure"]}
    assert set(rows.values()) == {"better", "only better comes to it"}
    assert not any("times fewer tokens" in name for name in rows)  # for an accuracy of 0
    rows = {row["measure"]: row[""] for row in compare(better, worse)}
    assert {rows[name] for name in ("pass@1", "maj@2", "tokens")} == {"worse"}
    mixed = [run_of([voted(i % k, i % k) for i in range(20)], str(k)) for k in (2, 3)]
    assert compare(*mixed)[0][""] == "within noise"
    assert significance(np.nan, np.nan, 0.0).startswith("one problem")


def test_tokens_to_be_right_in_so_many():
    slow = run_of([voted(0, 0, tokens=90)] * 8 + [voted(1, 1, tokens=90)] * 2, "slow")
    fast = run_of([voted(0, 0, tokens=30)] * 9 + [voted(0, 0, tokens=60)], "fast")
    rows = {row["measure"]: row for row in compare(slow, fast)}
    for level in ("0.5", "0.75"):
        row = rows[f"tokens to be right in {level}"]
        assert (row["slow"], row["fast"], row["difference"], row[""]) == ("90", "30", "-60", "better")
    assert rows["tokens to be right in 0.9"] == {
        "measure": "tokens to be right in 0.9",
        "fast": "30",
        "": "only fast comes to it",
    }


def test_tokens_to_be_right_are_those_of_the_run_whatever_it_is_compared_with():
    run = run_of([voted(0, 0, tokens=tokens) for tokens in range(1, 1001)], "run")
    for most in (2000, 5000):
        other = run_of([voted(0, 0, tokens=tokens * most // 1000) for tokens in range(1, 1001)], "other")
        rows = {row["measure"]: row for row in compare(run, other)}
        assert [rows[f"tokens to be right in {level}"]["run"] for level in (0.5, 0.75, 0.9)] == ["500", "750", "900"]


def test_a_lower_regret_is_better():
    high = run_of([[Rollout("p", [0.0], [10])]] * 5, "high")
    low = run_of([[Rollout("p", [1.0], [10])]] * 5, "low")
    assert {row[""] for row in compare(high, low) if "regret" in row["measure"]} == {"better"}
    assert {row[""] for row in compare(low, high) if "regret" in row["measure"]} == {"worse"}


# Folders.


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, tokenizer):
    """Two runs of a tiny model that differ in their seed, as `mrt evaluate` writes them."""
    folder = tmp_path_factory.mktemp("runs")
    model = folder / "model"
    tokenizer.save_pretrained(model)
    tiny_model(tokenizer, initializer_range=0.02).save_pretrained(model)
    history = [{"step": 1, "loss": 0.5}, *({"step": s, "completions/mean_length": 10.0 * s} for s in (1, 2))]
    (model / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (folder / "problems").mkdir()
    rows = [{"problem": f"Find x with {i} x = {i}.", "answer": answer} for i, answer in enumerate(["1", "1", "1", ""])]
    (folder / "problems" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "model_name_or_path": str(model),
        "dataset_name": str(folder / "problems"),
        "dataset_train_split": "test",
        "dataset_prompt_column": "problem",
        "dataset_solution_column": "answer",
        "num_generations": 3,
        "max_completion_length": 16,
        "sampler": "transformers",
        "regret": True,
        "extensions": 2,
        "extension_tokens": 8,
        "mrt_samples": 2,
        "mrt_termination": "answer",
        "mrt_answer_tokens": 4,
    }
    write(folder / "recipe.yaml", recipe)
    for seed in (0, 1):
        evaluate_again(folder, f"seed-{seed}", "--seed", str(seed))
    return folder


def evaluate_again(folder, name, *arguments):
    evaluate.run(["--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / name), *arguments])


def test_a_run_is_resumable_and_says_what_it_left_out(evaluated, capsys, caplog):
    before = {path: path.stat().st_mtime_ns for path in (evaluated / "seed-0" / "data").iterdir()}
    with caplog.at_level(logging.WARNING):
        evaluate_again(evaluated, "seed-0", "--seed", "0")
    assert {path: path.stat().st_mtime_ns for path in (evaluated / "seed-0" / "data").iterdir()} == before
    assert "1 problems are not part of the results: the gold answer cannot be parsed" in caplog.text
    header, _, row = (line.split("|")[1:-1] for line in capsys.readouterr().out.strip().splitlines())
    cells = dict(zip(map(str.strip, header), map(str.strip, row), strict=True))
    assert (cells["model"], cells["problems"], cells["pass@1"]) == ("seed-0", "3", "0.000 ± 0.000")
    assert {"maj@3", "tokens", "90% within", "cut", "regret@4", "regret@16", "regret@32"} <= cells.keys()
    numbers = json.loads((evaluated / "seed-0" / "results.json").read_text())
    assert numbers["dropped"] == {"the gold answer cannot be parsed": 1}
    assert (len(numbers["maj@k"]["tokens"]), list(numbers["regret"])) == (3, ["4", "8", "12", "16", "32"])
    assert len(load_dataset(str(evaluated / "seed-0"), split="train")) == 9  # the file beside them is no row


def test_results_hold_null_where_a_number_is_not_known(evaluated, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"problem": "Find x.", "answer": 1}\n')
    arguments = [
        "--dataset_name",
        str(path),
        "--dataset_train_split",
        "train",
        "--regret",
        "false",
        "--extensions",
        "0",
    ]
    evaluate_again(evaluated, tmp_path / "one", *arguments)
    numbers = json.loads((tmp_path / "one" / "results.json").read_text(), parse_constant=pytest.fail)
    assert numbers["pass@1"] == {"mean": 0.0, "standard_error": None}


def test_what_was_stored_is_read_as_it_was(evaluated):
    run = load_run(evaluated / "seed-0")
    assert {len(group) for group in run.problems.values()} == {3}
    for rollout in run.rollouts:
        assert len(rollout.success_probability) == len(rollout.prefix_tokens) == len(rollout.prefix_votes) >= 1
        assert len(rollout.extension_success) == (1 if len(rollout.success_probability) > 1 else 0)
        assert {len(at_prefix) for at_prefix in rollout.prefix_votes} == {2}
        assert 0 < rollout.tokens <= 16
    assert training_lengths(run) == [(1, 10.0), (2, 20.0)]


def test_figures_and_a_page_that_needs_no_other_file(evaluated, tmp_path, capsys):
    report.run(["--runs", str(evaluated / "seed-0"), str(evaluated / "seed-1"), "--output_dir", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html", "view.html", *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table") == 3  # both runs, their difference, the settings
    assert "seed-1 against seed-0" in page
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert sources.pop(0) == "view.html"  # of the same folder
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "wrote" in capsys.readouterr().out


def test_runs_without_regret_have_fewer_figures(evaluated, tmp_path):
    evaluate_again(evaluated, "plain", "--regret", "false", "--extensions", "0")
    report.run(["--runs", str(evaluated / "plain"), "--output_dir", str(tmp_path)])
    assert not (tmp_path / "view.html").exists()
    assert "href" not in (tmp_path / "report.html").read_text()
    assert {path.stem for path in tmp_path.glob("*.png")} == {"majority", "lengths", "training"}


def test_runs_with_scored_answers_have_no_votes_to_draw(evaluated, tmp_path):
    evaluate_again(evaluated, "scored", "--mrt_estimator", "likelihood")
    report.run(["--runs", str(evaluated / "scored"), "--output_dir", str(tmp_path)])
    assert {path.stem for path in tmp_path.glob("*.png")} == FIGURES.keys() - {"episodes"}


def test_compare_prints_a_table(evaluated, capsys):
    comparison.run([str(evaluated / "seed-0"), str(evaluated / "seed-1"), "--regret", "released"])
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("| pass@1 ", "| regret@32 ", "within noise"))


def test_equal_names_are_told_apart(evaluated, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run").symlink_to(evaluated / "seed-0")
    assert [run.name for run in load_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"])] == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--max_completion_length", "12"], "different budgets.*16 and 12"),
        (["--dataset_train_split", "train"], "different benchmarks.*'test' and 'train'"),
        (["--mrt_termination", "explain"], "forced to answer in different ways"),
        (["--system_prompt", "Think."], None),  # the same problems
    ],
)
def test_runs_that_cannot_be_compared_are_refused(evaluated, tmp_path, arguments, match):
    if "train" in arguments:
        (evaluated / "problems" / "train.jsonl").write_text((evaluated / "problems" / "test.jsonl").read_text())
    other = f"other-{arguments[0].strip('-')}"
    evaluate_again(evaluated, other, *arguments)
    folders = [evaluated / "seed-0", evaluated / other]
    if match is None:
        assert len(load_runs(folders)) == 2
        return
    with pytest.raises(ValueError, match=match):
        load_runs(folders)


def test_unequal_problems_are_refused(evaluated, tmp_path):
    run = load_run(evaluated / "seed-0")
    part = tmp_path / "part"
    with RowStore(part, SCHEMA, {k: v for k, v in run.settings.items() if not k.startswith("column ")}) as store:
        row = dict.fromkeys(SCHEMA.names) | {"problem_id": "x", "tokens": 3, "right": True, "stream": 0, "attempt": 0}
        store.write([row], {"x": None})
    with pytest.raises(ValueError, match="part lacks 3 of the 3 problems of seed-0"):
        load_runs([evaluated / "seed-0", part])
    left_out = tmp_path / "left-out"
    with RowStore(left_out, SCHEMA, {k: v for k, v in run.settings.items() if not k.startswith("column ")}) as store:
        store.write([row], {"x": None, "y": "the problem is empty"})
    with pytest.raises(ValueError, match="left-out left out problems: 1 because the problem is empty"):
        load_runs([evaluated / "seed-0", left_out])


def test_folders_without_rollouts_are_named(tmp_path):
    with pytest.raises(ValueError, match="nothing holds no rollouts. Measure a model first"):
        load_run(tmp_path / "nothing")
    with RowStore(tmp_path / "star", pa.schema({"problem_id": pa.string()}), {}) as store:
        store.write([{"problem_id": "a"}], {"a": None})
    with pytest.raises(ValueError, match="star holds no rollouts"):
        load_run(tmp_path / "star")
    with RowStore(tmp_path / "empty", SCHEMA, {}) as store:
        store.write([], {"a": "the problem is empty"})
    with pytest.raises(ValueError, match="empty holds no rollouts. empty left out problems: 1 because the problem is"):
        load_run(tmp_path / "empty")


def test_a_benchmark_without_gold_answers_is_named(evaluated, tmp_path):
    rows = [{"problem": "Find x.", "answer": ""}] * 2
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--dataset_name", str(tmp_path / "problems"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="recipe.yaml: .*holds no rollouts"):
        evaluate.run(["--config", str(evaluated / "recipe.yaml"), *arguments])
    with pytest.raises(ValueError, match="dataset_solution_column: unknown 'gold'. .*answer"):
        evaluate.run(["--config", str(evaluated / "recipe.yaml"), *arguments, "--dataset_solution_column", "gold"])


# Recipes.

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("evaluation/*.yaml")) + sorted((ROOT / "recipes").glob("*/evaluation/*.yaml"))
PAPER = {"num_generations": 20, "max_completion_length": 16384, "temperature": 0.6, "top_p": 0.95}
REGRET = {"num_generations": 16, "regret": True, "extensions": 8, "extension_tokens": 2048, "mrt_samples": 8}
TABLES = {
    **dict.fromkeys(["aime_2024", "aime_2025", "amc_2023", "math_500", "minerva"], PAPER),
    "aime_2025_regret": PAPER | REGRET | {"mrt_termination": "explain", "mrt_answer_tokens": 4096},
    "math_500_backtracking": {"num_generations": 10, "max_completion_length": 4096, "temperature": 0.7},
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_recipe_measures(path, evaluated, tmp_path, capsys):
    recipe = yaml.safe_load(path.read_text())
    assert TABLES.get(path.stem if path.parent.parent.name == "recipes" else None, {}).items() <= recipe.items()
    (tmp_path / "problems").mkdir()
    row = {recipe["dataset_prompt_column"]: "Find x.", recipe.get("dataset_solution_column", "solution"): "5"}
    split = recipe.get("dataset_train_split", "train")
    (tmp_path / "problems" / f"{split}.jsonl").write_text(json.dumps(row))
    small = {
        "model_name_or_path": evaluated / "model",
        "dtype": "float32",
        "dataset_name": tmp_path / "problems",
        "num_generations": 2,
        "max_completion_length": 16,
        "extension_tokens": 4,
        "mrt_answer_tokens": 4,
        "sampler": "transformers",
        "output_dir": tmp_path / "out",
    }
    arguments = [str(part) for name, value in small.items() for part in (f"--{name}", value)]
    evaluate.run(["--config", str(path), *arguments])
    assert "| pass@1 " in capsys.readouterr().out
    assert ("regret" in recipe) == load_run(tmp_path / "out").has_regret


def test_a_recipe_for_linearized_search(evaluated, tmp_path):
    recipe = str(ROOT / "recipes/smollm2/evaluation/backtracking.yaml")
    model, data = str(evaluated / "model"), str(evaluated / "problems")
    small = ["--model_name_or_path", model, "--dataset_name", data, "--dataset_train_split", "test"]
    small += ["--dataset_solution_column", "answer", "--max_completion_length", "8", "--sampler", "transformers"]
    evaluate.run(
        ["--config", recipe, *small, "--num_generations", "2", "--attempts", "3", "--output_dir", str(tmp_path)]
    )
    run = load_run(tmp_path)
    assert run.majority()[0].shape == (3, 3)
    assert [rollout.attempt for rollout in run.rollouts[:6]] == [0, 1, 2] * 2
