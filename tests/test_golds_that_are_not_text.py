"""Columns of gold answers that hold numbers, lists or nothing, which ended in a `TypeError` of the grader."""

import json
from types import SimpleNamespace

import pytest
from conftest import changed
from test_launch import run
from test_trainer import build, dataset, scripted, step_inputs  # noqa: F401

from mrt_plugin import mrt_accuracy
from mrt_plugin.jobs.arguments import JobArguments
from mrt_plugin.jobs.problems import read_problems, usable


def with_column(folder, cells, name="answer"):
    """A data set with a column of these cells, in both splits."""
    rows = [{"problem": f"Find x with {i} x = {i}.", name: cell} for i, cell in enumerate(cells)]
    for split in ("train", "test"):
        with open(f"{folder}/{split}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("gold", [5, 5.0, ["5"], [5]])
def test_credit_is_that_for_the_text(tmp_path, tokenizer, scripted, gold):  # noqa: F811
    mrt = {"mrt_credit": "dense"}
    expected = step_inputs(build(tmp_path, tokenizer, mrt=mrt))
    found = step_inputs(build(tmp_path, tokenizer, data=dataset(solution=gold), mrt=mrt))
    assert found["advantages"].tolist() == expected["advantages"].tolist()
    assert found["advantages"].any()


def test_rewards_take_them_under_any_trainer():
    assert mrt_accuracy(["\\boxed{0}"] * 5, solution=[0, 0.0, ["0"], None, 1]) == [1.0, 1.0, 1.0, None, 0.0]


@pytest.mark.parametrize(
    "arguments", [["--mrt_regret_steps", "1"], ["--mrt_credit", "mixed", "--mrt_prefix", "online"]]
)
def test_grpo_trains_on_numbers_in_a_column_of_another_name(recipe, tmp_path, model_path, problems, arguments):
    with_column(problems, [0, 1] * 4)
    run("grpo", recipe, "--dataset_solution_column", "answer", *arguments)
    assert changed(model_path, tmp_path / "out")


@pytest.mark.parametrize("cells", [["1", None, "1"], [["1"], ["1", "2"], ["1"]], [["1"], [], ["1"]], ["1", " ", "1"]])
@pytest.mark.parametrize("name", ["solution", "answer"])
def test_grpo_refuses_rows_without_a_gold_before_anything_loads(recipe, problems, cells, name):
    with_column(problems, cells, name)
    command = ["--dataset_solution_column", name, "--model_name_or_path", "nowhere"]
    with pytest.raises(ValueError, match=rf"config.yaml: Column '{name}' holds no gold answer .* in row 1 \("):
        run("grpo", recipe, *command)


def test_a_held_out_split_needs_golds_too(recipe, problems):
    with open(f"{problems}/test.jsonl", "a") as file:
        file.write('{"problem": "?", "solution": null}\n')
    with pytest.raises(ValueError, match=r"Column 'solution' holds no gold answer .* in row 2 \(None\)"):
        run("grpo", recipe, "--model_name_or_path", "nowhere", "--mrt_regret_steps", "1")


def test_an_unknown_column_is_named(recipe, problems):
    with_column(problems, [1] * 4)
    with pytest.raises(ValueError, match="dataset_solution_column: unknown 'answr'. Did you mean 'answer'"):
        run("grpo", recipe, "--dataset_solution_column", "answr")
    with pytest.raises(ValueError, match="another name of the gold answers in dataset_solution_column"):
        run("grpo", recipe)


def test_a_trainer_refuses_them_and_skips_those_of_a_stream(tmp_path, tokenizer, scripted):  # noqa: F811
    data = dataset(solution=None)
    with pytest.raises(ValueError, match="Column 'solution' holds no gold answer .* and 1 more"):
        build(tmp_path, tokenizer, data=data)
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "dense"}, eval_data=data.remove_columns("solution"))
    trainer.model.train()
    assert not trainer._generate_and_score_completions(list(data))["advantages"].any()  # as a stream may bring them


def test_an_evaluation_that_lacks_them_is_refused_before_the_run(tmp_path, tokenizer):
    held_out = dataset().rename_column("solution", "answer")
    with pytest.raises(ValueError, match="The evaluation data has no column 'solution'.* it has .*answer"):
        build(tmp_path, tokenizer, eval_data={"held out": held_out}, eval_strategy="steps", eval_steps=9)
    build(tmp_path, tokenizer, rewards=[lambda completions, **_: [0.0] * len(completions)], eval_data=held_out)


def test_builders_drop_and_count_them(problems, tokenizer, caplog):
    args = JobArguments(dataset_name=problems, dataset_solution_column="answer")
    with_column(problems, [0, None, 2.5, 3.0])
    found = read_problems(args)
    assert [problem.solution for problem in found] == ["0", "", "2.5", "3"]
    assert "Column 'answer' holds no gold answer (a text, a number, or a list of one) in row 1 (None)." in caplog.text
    prompts, dropped = usable(found, SimpleNamespace(tokenizer=tokenizer, max_length=None), room={})
    assert [problem.solution for problem in prompts] == ["0", "2.5", "3"]
    assert list(dropped.values()) == ["the gold answer cannot be parsed"]
    with_column(problems, [["0"], ["1", "2"]])
    assert [problem.solution for problem in read_problems(args)] == ["0", ""]
