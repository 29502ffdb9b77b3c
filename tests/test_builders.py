"""The builders of data sets: what a scripted policy writes becomes the rows that it should."""

import copy
import errno
import json
import os
import subprocess
import sys
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import write
from datasets import load_dataset

from mrt_plugin.arguments import MetaProverArguments
from mrt_plugin.data import backtracking, prefixes, star
from mrt_plugin.data.backtracking import BacktrackingArguments
from mrt_plugin.data.star import StarArguments
from mrt_plugin.engines.sampling import Completion, SamplingError
from mrt_plugin.jobs.arguments import JobArguments
from mrt_plugin.jobs.problems import Problem
from mrt_plugin.jobs.store import RowStore
from mrt_plugin.meta_prover import TERMINATIONS
from mrt_plugin.mistakes import Mistake
from mrt_plugin.steps import backtrack_text
from mrt_plugin.tokens import decode
from mrt_plugin.upstream.model import DTYPE


STOP = TERMINATIONS["answer"]
BOX = "\n\nSo it is \\boxed{"
PROVER = MetaProverArguments(mrt_samples=4, mrt_termination="answer", mrt_answer_tokens=16)
TAGLESS = MetaProverArguments(mrt_samples=4, mrt_termination=BOX, mrt_answer_tokens=16)
ONE = "Try 2.\n\nNo.\n\nHm.\n\n"
TWO = "Wait, try 5.\n\n3 * 5 = 15.\n\nYes.\n\n"
THREE = "Alternatively, 4.\n\nNo, that was it.\n"


class Scripted:
    """Writes what a function of the prompt's text says, `n` texts in turn, or nothing where it says `None`."""

    max_length, scores = 10_000, False

    def __init__(self, tokenizer, rule):
        self.tokenizer, self.rule, self.calls = tokenizer, rule, []

    def sample(self, prompts, n, settings):
        self.calls.append((prompts, n, settings))
        drawn = []
        for prompt in prompts:
            texts = self.rule(decode(self.tokenizer, prompt.token_ids), n)
            assert texts is None or len(texts) == n
            drawn.append(texts and [self.completion(text, settings.max_new_tokens) for text in texts])
        return drawn

    def completion(self, text, most):
        token_ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
        return Completion(token_ids[:most], ended=len(token_ids) <= most)


def problem(text="Find x.", solution="5", name="p"):
    return Problem(name, [{"role": "user", "content": text}], solution)


def thinking(rollouts, success):
    """Rule of a policy that writes these rollouts, and after a prefix is right as often as `success` says."""
    stripped = {prefix.rstrip(): value for prefix, value in success.items()}

    def rule(text, n):
        if not text.endswith(STOP):
            return rollouts[:n]
        right = round(stripped[text.rpartition("<think>\n")[2].removesuffix(STOP)] * n)
        return ["5}"] * right + ["4}"] * (n - right)

    return rule


def test_star_keeps_the_thinking_up_to_the_highest_success_probability(tokenizer):
    success = {"": 0.25, ONE: 0.25, ONE + TWO: 0.75, ONE + TWO + THREE: 0.75}
    rollouts = [ONE + TWO + THREE + "</think>\n\n\\boxed{4}", ONE + "</think>\n\n\\boxed{3}"]
    sampler = Scripted(tokenizer, thinking(rollouts, success))
    args = StarArguments(num_generations=2, max_completion_length=100)
    [row], finished = star.build([problem()], sampler, 1, args, PROVER)
    assert finished == {"p": None}
    content = f"<think>\n{(ONE + TWO).rstrip()}\n</think>\n\n**Final Answer**\n\n\\boxed{{5}}"
    assert row == {
        "problem_id": "p",
        "trace": 0,
        "messages": [{"role": "user", "content": "Find x."}, {"role": "assistant", "content": content}],
        "problem": "Find x.",
        "solution": "5",
        "success_probabilities": [0.25, 0.25, 0.75, 0.75],  # the earliest of equals is kept
        "kept_episodes": 2,
        "episodes": 3,
        "tokens": len(tokenizer(content)["input_ids"]),
    }
    assert len(sampler.calls) == 2  # one for the rollouts, one for all branches


def test_star_prefers_more_progress_and_not_fewer_tokens(tokenizer):
    success = {"": 0.25, ONE: 0.5, TWO: 1.0, ONE + TWO: 1.0}
    rollouts = [text + "</think>\n\n\\boxed{4}" for text in (ONE, ONE + TWO, TWO)]
    sampler = Scripted(tokenizer, thinking(rollouts, success))
    args = StarArguments(num_generations=3, max_completion_length=100, rows_per_problem=3)
    rows, _ = star.build([problem()], sampler, 1, args, PROVER)
    assert [row["trace"] for row in rows] == [1, 2, 0]
    args = StarArguments(num_generations=3, max_completion_length=100, rows_per_problem=2)
    assert [row["trace"] for row in star.build([problem()], sampler, 1, args, PROVER)[0]] == [1, 2]


def test_star_keeps_no_answer_that_was_cut(tokenizer):
    rule = thinking([ONE + "</think>\\boxed{3}"], {"": 0, ONE: 1})
    cut = "5} is it" + ", so" * 50
    sampler = Scripted(tokenizer, lambda text, n: [one.replace("5}", cut) for one in rule(text, n)])
    args = StarArguments(num_generations=1, max_completion_length=100)
    found = star.build([problem()], sampler, 1, args, PROVER)
    assert found == ([], {"p": "no rollout raised the success probability"})


def test_star_passes_over_prefixes_whose_success_is_not_known(tokenizer):
    rule = thinking([ONE + TWO + "</think>\n\n\\boxed{4}"], {"": 0.25, ONE + TWO: 0.75})
    after_one = ONE.rstrip() + STOP
    sampler = Scripted(tokenizer, lambda text, n: None if text.endswith(after_one) else rule(text, n))
    args = StarArguments(num_generations=1, max_completion_length=100)
    [row], _ = star.build([problem()], sampler, 1, args, PROVER)
    assert row["kept_episodes"] == 2


@pytest.mark.parametrize("success", [{"": 0.5, ONE: 0.5}, {"": 0.5, ONE: 0.25}, {"": 0, ONE: 0}])
def test_star_drops_what_makes_no_progress(tokenizer, success):
    sampler = Scripted(tokenizer, thinking([ONE + "</think>\\boxed{5}"], success))
    args = StarArguments(num_generations=1, max_completion_length=100)
    rows, finished = star.build([problem()], sampler, 1, args, PROVER)
    assert (rows, finished) == ([], {"p": "no rollout raised the success probability"})


def test_outcome_keeps_right_rollouts_whole_and_chooses_among_the_same(tokenizer):
    rollouts = [ONE + "</think>\n\n\\boxed{4}", ONE + TWO + "</think>\n\nIt is \\boxed{5}.", ONE + "\\boxed{5}"]
    rollouts.append(ONE + "</think>\n\nIt is \\boxed{5}" + ", so" * 100)  # cut
    sampler = Scripted(tokenizer, thinking(rollouts, {"": 0, ONE: 0, ONE + TWO: 1, ONE + "\\boxed{5}": 1}))
    args = {"num_generations": 4, "max_completion_length": 100, "rows_per_problem": 2}
    star.build([problem()], sampler, 7, StarArguments(**args), PROVER)
    [row], _ = star.build([problem()], sampler, 7, StarArguments(**args, selection="outcome"), PROVER)
    assert row["messages"][-1]["content"] == "<think>\n" + rollouts[1]
    assert (row["trace"], row["kept_episodes"], row["success_probabilities"]) == (1, 2, None)
    assert sampler.calls[0] == sampler.calls[2]  # same prompts, number and seed; the third call drew no branches
    assert len(sampler.calls) == 3


def test_unusable_problems_are_dropped_by_reason(tokenizer):
    sampler = Scripted(tokenizer, thinking([ONE + "</think>\\boxed{5}"], {"": 0, ONE: 1}))
    sampler.max_length = 400
    problems = [
        problem(name="a"),
        problem(solution="", name="b"),
        problem("x " * 400, name="c"),
        problem(" ", name="d"),
    ]
    args = StarArguments(num_generations=1, max_completion_length=100)
    rows, finished = star.build(problems, sampler, 1, args, PROVER)
    assert [row["problem_id"] for row in rows] == ["a"]
    room = 400 - 100 - 16 - len(tokenizer(STOP)["input_ids"])
    assert finished == {
        "a": None,
        "b": "the gold answer cannot be parsed",
        "c": f"the prompt has more than the {room} tokens that max_completion_length, mrt_termination, "
        "mrt_answer_tokens leave",
        "d": "the problem is empty",
    }
    sampler.max_length = 100
    with pytest.raises(ValueError, match="the model's context has 100. Lower max_completion_length"):
        star.build(problems, sampler, 1, args, PROVER)


def test_prefixes_are_cut_at_random_and_measured_where_they_are_cut(tokenizer):
    success = {"": 0.25, ONE: 0.5, ONE + TWO: 1.0}
    sampler = Scripted(tokenizer, thinking([ONE + TWO + THREE + "</think>\\boxed{5}"] * 30, success))
    args = JobArguments(num_generations=30, max_completion_length=100)
    rows, finished = prefixes.build([problem()], sampler, 1, args, PROVER)
    assert finished == {"p": None}
    assert {row["prefix"] for row in rows} == set(success)  # never the whole trace
    assert all(row["prefix_success"] == success[row["prefix"]] for row in rows)
    assert all(row["prefix_episodes"] == ["", ONE, ONE + TWO].index(row["prefix"]) for row in rows)
    assert rows[0]["prompt"] == [{"role": "user", "content": "Find x."}]
    again, _ = prefixes.build([problem()], sampler, 1, args, PROVER)
    assert again == rows


@pytest.mark.parametrize("builder", [star, prefixes])
def test_problems_without_room_for_a_completion_are_dropped_by_reason(tokenizer, builder):
    known = thinking([ONE + "</think>\\boxed{5}"], {"": 0.5, ONE: 1})
    sampler = Scripted(tokenizer, lambda text, n: None if "Find y" in text else known(text, n))
    args = StarArguments(num_generations=1, max_completion_length=100)
    rows, finished = builder.build([problem(), problem("Find y.", name="q")], sampler, 1, args, PROVER)
    assert [row["problem_id"] for row in rows] == ["p"]
    assert finished == {"p": None, "q": "the engine has no room for a completion"}


NODES = ["Node 1: 2 x = 10\n\n", "Node 2: x = 3\n\n", "Node 3: \\boxed{3}"]
FAILED, RIGHT = "".join(NODES), "Node 1: x = 10 / 2\n\nNode 2: \\boxed{5}"
REPAIRED = "Node 2: x = 5\n\nNode 3: \\boxed{5}"


@pytest.fixture
def tagless(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\n", "")
    return tokenizer


MISNUMBERED = "Node 7: \\boxed{5}"


def attempts(first, after_step_1=(MISNUMBERED, REPAIRED, REPAIRED, FAILED)):
    """Rule of a policy that writes these attempts, and after the first step of the failed one these texts."""

    def rule(text, n):
        after = text.rpartition("<|assistant|>")[2]
        if not after:
            return (list(first) * n)[:n]
        if after.endswith(BOX):
            right = n if "start over" in after else n // 4
            return ["5}"] * right + ["4}"] * (n - right)
        return list(after_step_1) if after.strip() == NODES[0].strip() else ["\\boxed{3}"] * n

    return rule


def backtracking_rows(tokenizer, rule, scheme, **args):
    args = BacktrackingArguments(**{"num_generations": 4, "max_completion_length": 200, "scheme": scheme} | args)
    return backtracking.build([problem()], Scripted(tokenizer, rule), 1, args, TAGLESS)


PROMPT = "<|user|>Find x.<|eos|><|assistant|>"


def test_backtrack_goes_back_to_the_most_promising_step(tagless):
    [row], finished = backtracking_rows(tagless, attempts([FAILED, RIGHT, FAILED, FAILED]), "backtrack")
    assert finished == {"p": None}
    assert row["prompt"] == PROMPT + FAILED
    assert row["completion"] == f"\n\n{backtrack_text(1)}\n\n{REPAIRED}<|eos|>"
    assert row["success_probabilities"] == [0.25, 0.75, 0.0]
    assert row["tokens"] == len(tagless(row["prompt"] + row["completion"])["input_ids"])


def test_the_path_on_from_the_best_step_is_a_right_one(tagless):
    wrong = REPAIRED.replace("5}", "4}")
    rule = attempts([FAILED], after_step_1=(wrong, REPAIRED, REPAIRED, FAILED))
    [row], _ = backtracking_rows(tagless, rule, "backtrack")
    assert row["completion"].endswith(f"{REPAIRED}<|eos|>")


def test_star_and_rise_rows(tagless):
    rule = attempts([FAILED, RIGHT])
    [row], _ = backtracking_rows(tagless, rule, "star")
    assert (row["prompt"], row["completion"]) == (PROMPT, RIGHT + "<|eos|>")
    [row], _ = backtracking_rows(tagless, rule, "rise")
    assert row["prompt"].removeprefix(PROMPT) in (FAILED, f"{FAILED}\n\n{FAILED}")
    assert row["completion"].endswith(f"\n\n{RIGHT}<|eos|>")


BACKTRACKS = f"{FAILED}\n\n{backtrack_text(0)}\n\n{RIGHT}"


def test_mrt_rows_are_right_responses_whose_backtrack_makes_progress(tagless):
    [row], _ = backtracking_rows(tagless, attempts([RIGHT, BACKTRACKS]), "mrt")
    assert row["prompt"] == PROMPT + FAILED
    assert row["completion"] == BACKTRACKS.removeprefix(FAILED) + "<|eos|>"
    assert row["success_probabilities"] == [0.25, 1.0]


def test_a_wrong_response_is_no_mrt_row(tagless):
    wrong = f"{FAILED}\n\n{backtrack_text(0)}\n\nNode 1: \\boxed{{4}}"
    reason = {"p": "no right response makes progress by a backtrack"}
    assert backtracking_rows(tagless, attempts([wrong]), "mrt") == ([], reason)


def test_the_backtrack_with_the_most_progress_is_kept(tagless):
    little = f"{FAILED}\n\n{backtrack_text(1)}\n\n{REPAIRED}"

    def rule(text, n):
        after = text.rpartition("<|assistant|>")[2]
        if not after:
            return [little, BACKTRACKS, little, little][:n]
        right = n if "start over" in after else n // 2 if "end of Node 1" in after else n // 4
        return ["5}"] * right + ["4}"] * (n - right)

    [row], _ = backtracking_rows(tagless, rule, "mrt")
    assert row["success_probabilities"] == [0.25, 1.0]


def test_an_rl_row_without_a_known_success_is_dropped(tagless):
    rule = attempts([FAILED])
    found = backtracking_rows(tagless, lambda text, n: None if text.endswith(BOX) else rule(text, n), "rl")
    assert found == ([], {"p": "no answer of the meta-prover could be graded"})


def test_step_0_is_the_bare_problem_before_any_preamble(tagless):
    preamble, seen = "Let me see.\n\n", []
    rule = attempts([preamble + FAILED], [REPAIRED] * 4)

    def spy(text, n):
        seen.append(text.rpartition("<|assistant|>")[2])
        return rule(text.replace(preamble, ""), n)

    backtracking_rows(tagless, spy, "backtrack")
    assert seen[:2] == ["", ""]
    assert seen[2].strip() == (preamble + NODES[0]).strip()


@pytest.mark.parametrize("response", [FAILED, BACKTRACKS])
def test_rl_rows_are_first_attempts_with_their_success_probability(tagless, response):
    [row], _ = backtracking_rows(tagless, attempts([response]), "rl")
    assert row == {"problem_id": "p", "problem": "Find x.", "solution": "5", "prefix": FAILED, "prefix_success": 0.25}


@pytest.mark.parametrize(
    ("scheme", "first", "settings", "reason"),
    [
        ("star", [FAILED], {}, "no attempt is right"),
        ("star", [RIGHT], {"max_length": 20}, "the row has more than 20 tokens"),
        ("star", [RIGHT], {"max_completion_length": 10}, "no attempt is right"),  # cut by length
        ("rise", [RIGHT], {}, "no attempt failed"),
        ("backtrack", [RIGHT], {}, "no attempt failed"),
        ("backtrack", ["\\boxed{3}"], {}, "no failed attempt has usable steps: no steps"),
        ("backtrack", ["Node 1: a\nNode 3: 3"], {}, "no failed attempt has usable steps: missing step"),
        ("backtrack", ["Node 1: a\nNode 1: 3"], {}, "no failed attempt has usable steps: repeated number"),
        ("backtrack", [FAILED.replace("x =", "y =")], {}, "no step's prefix leads to a right answer"),
        ("backtrack", [FAILED.replace("10", "10.0")], {}, "no right path from the best step numbers its steps on"),
        ("mrt", [RIGHT], {}, "no right response makes progress by a backtrack"),
        ("rl", [RIGHT], {"max_completion_length": 10}, "no attempt came to an end"),
    ],
)
def test_attempts_that_make_no_row_are_dropped_by_reason(tagless, scheme, first, settings, reason):
    rule = attempts(first)
    if "numbers" in reason:

        def rule(text, n):
            return (first if text.endswith("<|assistant|>") else [MISNUMBERED]) * n

    assert backtracking_rows(tagless, rule, scheme, **settings) == ([], {"p": reason})


@pytest.mark.parametrize(
    ("module", "args", "settings", "match"),
    [
        (star, StarArguments(), {"mrt_termination": BOX}, "between thinking tags"),
        (prefixes, JobArguments(), {"mrt_termination": BOX}, "between thinking tags"),
        (prefixes, JobArguments(), {"mrt_estimator": "likelihood"}, "mrt_estimator: likelihood"),
        (backtracking, BacktrackingArguments(scheme="rl"), {"mrt_estimator": "likelihood"}, "mrt_estimator"),
    ],
)
def test_what_the_meta_prover_cannot_measure_is_refused_before_anything_is_drawn(
    tokenizer, module, args, settings, match
):
    sampler = Scripted(tokenizer, lambda text, n: [ONE] * n)
    with pytest.raises(ValueError, match=match):
        module.build([problem()], sampler, 1, args, MetaProverArguments(**{"mrt_termination": "explain"} | settings))
    assert not sampler.calls


def test_backtracking_refuses_a_termination_with_tags():
    mrt_args = MetaProverArguments(mrt_termination="answer")
    with pytest.raises(ValueError, match="without thinking tags to stop.*without </think> that ends in"):
        backtracking.main(BacktrackingArguments(scheme="rl"), None, mrt_args)


def test_star_keeps_at_least_one_row():
    with pytest.raises(ValueError, match="rows_per_problem must be at least 1, got 0"):
        StarArguments(rows_per_problem=0)


# From a recipe, with a real model.

BUILD = {"num_generations": 2, "max_completion_length": 24, "batch_size": 3, "mrt_answer_tokens": 4}


@pytest.fixture
def recipe(tmp_path, model_path, problems):
    fields = {"model_name_or_path": model_path, "dataset_name": problems, "output_dir": str(tmp_path / "rows")}
    return write(tmp_path / "data.yaml", BUILD | fields | {"sampler": "transformers", "mrt_termination": "answer"})


def rows_of(tmp_path):
    rows = load_dataset(str(tmp_path / "rows"), split="train")
    return sorted(rows, key=lambda row: (row["problem_id"], row["trace"]))


def test_a_recipe_builds_rows_that_datasets_reads(recipe, tmp_path, capsys):
    prefixes.run(["--config", str(recipe)])
    rows = rows_of(tmp_path)
    assert len(rows) == 16  # eight problems, two rollouts each
    assert {row["problem"] for row in rows} == {f"Find x with {i} x = {i}." for i in range(8)}
    assert all(row["prefix_success"] is not None for row in rows)
    card = (tmp_path / "rows" / "README.md").read_text()
    assert "| problems kept | 8 |" in card
    assert "| max_completion_length | `24` |" in card
    assert "8/8" in capsys.readouterr().err  # the progress bar


def test_a_rerun_builds_only_what_is_missing_and_the_same_rows(recipe, tmp_path, monkeypatch):
    prefixes.run(["--config", str(recipe)])
    whole = rows_of(tmp_path)
    [first, *_] = sorted((tmp_path / "rows" / "data").glob("train-*.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in first.parent.glob("*.parquet") if path != first}
    first.unlink()
    prefixes.run(["--config", str(recipe)])
    assert rows_of(tmp_path) == whole
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    monkeypatch.setattr("mrt_plugin.jobs.job.load_policy", None)  # nothing to build, no model to load
    knobs = ["--vllm_args", '{"max_model_len": 512}', "--server_timeout", "9.5", "--max_batch_tokens", "99"]
    prefixes.run(["--config", str(recipe), "--batch_size", "1", *knobs])
    with pytest.raises(ValueError, match=r"data.yaml: The rows in .* \(temperature: 0.7 -> 0.9\)"):
        prefixes.run(["--config", str(recipe), "--temperature", "0.9"])


def test_a_rerun_does_not_mix_other_problems_or_another_model_in(recipe, tmp_path, problems, model_path):
    prefixes.run(["--config", str(recipe)])
    [weights], data = Path(model_path).glob("*.safetensors"), Path(problems) / "train.jsonl"
    written, rows = weights.read_bytes(), data.read_text()
    weights.write_bytes(written[:-4] + bytes(4))
    with pytest.raises(ValueError, match=r"The rows in .* \(model_weights: "):
        prefixes.run(["--config", str(recipe)])
    weights.write_bytes(written)
    data.write_text(rows.replace('"solution": "1"', '"solution": "2"', 1))
    with pytest.raises(
        ValueError, match="rows holds 1 problems that are not in the data .any more., or not with this"
    ):
        prefixes.run(["--config", str(recipe)])


def test_a_model_is_loaded_as_its_weights_are(recipe, monkeypatch):
    loaded = []
    monkeypatch.setattr("mrt_plugin.jobs.job.load_policy", lambda args, model: loaded.append(getattr(model, DTYPE)))
    monkeypatch.setattr(
        "mrt_plugin.jobs.job.build_batch", lambda build, batch, *_: ([], {}, {p.id: "no" for p in batch})
    )
    for asked in ([], [f"--{DTYPE}", "float32"]):
        with pytest.raises(RuntimeError, match="were not built"):
            prefixes.run(["--config", str(recipe), *asked])
    assert loaded == ["auto", "float32"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            ["--dataset_solution_column", "answer"],
            "dataset_solution_column: unknown 'answer'. Known: problem, solution",
        ),
        (["--dataset_prompt_column", "problme"], "Did you mean 'problem'"),
        (["--dataset_name", ""], "No data"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--max_completion_length", "512"], "Lower max_completion_length"),
        (["--mrt_estimator", "likelihood"], "set mrt_estimator: sample"),
        (["--dataset_streaming", "true"], "dataset_streaming"),
        (["--mrt_sample", "3"], "has no field '--mrt_sample'. Did you mean 'mrt_samples'"),
    ],
)
def test_bad_input_names_the_recipe_and_the_field(recipe, arguments, match):
    with pytest.raises(ValueError, match=f"data.yaml: .*{match}"):
        star.run(["--config", str(recipe), *arguments])


def test_no_problems(recipe, problems):
    for path in Path(problems).glob("*.jsonl"):
        path.write_text("")
    with pytest.raises(ValueError, match="data.yaml: .*holds an empty file"):
        star.run(["--config", str(recipe)])


def test_a_builder_that_cannot_write_says_so_and_keeps_what_it_has(recipe, tmp_path, monkeypatch):
    written = []
    write_batch = RowStore.write

    def full(self, rows, finished):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(rows)
        write_batch(self, rows, finished)

    monkeypatch.setattr(RowStore, "write", full)
    with pytest.raises(OSError, match="No space left on device; the rows of earlier batches are kept"):
        prefixes.run(["--config", str(recipe)])
    assert len(rows_of(tmp_path)) == len(written[0]) == 6


@pytest.fixture
def failing(monkeypatch):
    """Problems, by their text, on which the engine fails."""
    build, texts = prefixes.build, set()

    @wraps(build)
    def sometimes(problems, *arguments):
        if bad := [index for index, problem in enumerate(problems) if problem.text in texts]:
            raise SamplingError({bad[0]: "HTTP 500"})
        return build(problems, *arguments)

    monkeypatch.setattr(prefixes, "build", sometimes)
    return texts


def test_problems_that_the_engine_fails_on_are_named_and_left_for_the_next_run(recipe, tmp_path, failing):
    failing |= {"Find x with 0 x = 0.", "Find x with 7 x = 7."}
    with pytest.raises(RuntimeError, match=r"2 problems were not built \(\w+, \w+\).* HTTP 500 .*same command"):
        prefixes.run(["--config", str(recipe)])
    assert {row["problem"] for row in rows_of(tmp_path)} == {f"Find x with {i} x = {i}." for i in range(1, 7)}
    failing.clear()
    prefixes.run(["--config", str(recipe)])
    assert len(rows_of(tmp_path)) == 16


def test_a_dead_engine_ends_the_run(recipe, failing):
    failing |= {f"Find x with {i} x = {i}." for i in range(8)}
    with pytest.raises(RuntimeError, match="3 problems were not built .* so the run stopped"):
        prefixes.run(["--config", str(recipe), "--batch_size", "1"])
    with pytest.raises(RuntimeError, match="8 problems were not built .* the engine failed on the problems before it"):
        prefixes.run(["--config", str(recipe), "--batch_size", "8"])


KILLED = """
import os, random, signal, sys, time
from mrt_plugin.data import prefixes

*arguments, data = sys.argv[1:]

def written():
    return len([name for name in os.listdir(data) if name.startswith("train-")] if os.path.isdir(data) else [])

for _ in range(20):
    enough = min(written() + random.randint(0, 6), 199)
    child = os.fork()
    if child == 0:
        prefixes.run(arguments)
        os._exit(0)
    while written() < enough:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(written())
"""


def test_kill_at_20_random_moments(recipe, tmp_path, problems):
    rows = [{"problem": f"Find x with {i} x = {i}.", "solution": "1"} for i in range(200)]
    (Path(problems) / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--config", str(recipe), "--batch_size", "1"]
    prefixes.run(options)
    expected = rows_of(tmp_path)
    (tmp_path / "rows").rename(tmp_path / "undisturbed")
    command = [sys.executable, "-c", KILLED, *options, str(tmp_path / "rows" / "data")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    batches = [int(line) for line in done.stdout.split()]
    assert len(batches) == 20
    assert batches[-1] < 200  # the kills came in the middle
    prefixes.run(options)
    assert rows_of(tmp_path) == expected


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_a_ray_cluster_builds_the_same_rows(recipe, tmp_path):
    options = ["--config", str(recipe), "--temperature", "1.3"]
    prefixes.run(options)
    local = rows_of(tmp_path)
    (tmp_path / "rows").rename(tmp_path / "local")
    prefixes.run([*options, "--ray", "true"])
    assert rows_of(tmp_path) == local
    with pytest.raises(ValueError, match="data.yaml: cpus_per_actor: 999 is more than the"):
        prefixes.run([*options, "--ray", "true", "--cpus_per_actor", "999", "--output_dir", str(tmp_path / "other")])
    options += ["--max_completion_length", "999"]
    with pytest.raises(Mistake, match="^[^ ]*data.yaml: What is drawn takes .* Lower max_completion_length.$"):
        prefixes.run([*options, "--ray", "true", "--output_dir", str(tmp_path / "other")])
