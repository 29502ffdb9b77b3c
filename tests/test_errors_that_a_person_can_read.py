"""Mistakes in a recipe ended in a traceback of ours or of accelerate's; now in one sentence, and bugs as they were."""

import os
import subprocess
import sys
from functools import partial
from importlib import import_module

import pytest

from mrt_plugin import cli
from mrt_plugin.mistakes import as_command


def bug(completions, **kwargs):
    """A reward function with a mistake of its own."""
    raise ValueError("a bug of mine")


def said(capsys, run):
    """What a command that ends with status 2 says in the end."""
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert "Traceback" not in written
    return written.splitlines()[-1]


@pytest.fixture
def mrt(capsys, monkeypatch):
    """What `mrt COMMAND ...` says in the end; trainings run in this process."""

    def mrt(command, *arguments):
        if command in cli.TRAINING:
            run = import_module(f"mrt_plugin.{command}").run
            return said(capsys, lambda: as_command(command, partial(run, ["--upstream", "trl", *arguments])))
        monkeypatch.setattr(sys, "argv", ["mrt", command, *arguments])
        return said(capsys, cli.main)

    return mrt


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--mrt_alfa", "2"], "has no field '--mrt_alfa'. Did you mean 'mrt_alpha'?"),
        (["--reward_funcs", "mrt_acuracy"], "reward_funcs: unknown 'mrt_acuracy'. Did you mean 'mrt_accuracy'?"),
        (
            ["--mrt_prefix", "onlin"],
            "mrt_prefix: 'onlin' is none of ['none', 'dataset', 'online']. Did you mean ",
        ),
        (["--seed", "four"], "argument --seed: 'four' is not a number"),
        (["--lr_scheduler_kwargs", "{bad"], "Expecting property name enclosed in double quotes"),
        (["--num_generations", "3"], "divisible by"),  # of TRL
        (["--mrt_credit", "mixed"], "mrt_credit: mixed on bare problems: "),
        (["--dataset_prompt_column", "question"], "dataset_prompt_column: unknown 'question'. Known: problem, solu"),
        (["--dataset_name", "./nowhere"], "The data set './nowhere' cannot be read: there is no such file or folder."),
        (["--dataset_name", "nowhere.jsonl"], "The data set 'nowhere.jsonl' cannot be read: there is no such file"),
        (
            ["--model_name_or_path", "runs/no/model"],
            "model_name_or_path: 'runs/no/model' cannot be loaded: there is no",
        ),
        (["--batch_size", "4"], "has no field '--batch_size'."),
        (
            ["--model_name_or_path", "./nowhere"],
            "model_name_or_path: './nowhere' cannot be loaded: there is no",
        ),
        (["--chat_template", "{% if %}"], "chat_template: Expected an expression"),
        (["--resume_from_checkpoint", "./nowhere"], "nowhere"),
        (["stray"], "'stray'"),
    ],
)
def test_a_mistake_is_the_last_line(recipe, mrt, arguments, match):
    last = mrt("grpo", "--config", str(recipe), *arguments)
    assert last.startswith(f"mrt grpo: {recipe}: ")
    assert match in last


@pytest.mark.parametrize("command", ["grpo", "sft", "star", "prefixes", "backtracking", "evaluate"])
@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "there is no such file or recipe. Did you mean 'config.yaml'?"),
        ("a: [1\nb: 2", "not YAML: line 2, column 2: expected ',' or ']', but got ':'."),
        ("- a\n- b", "a recipe has lines of the form `field: value`, and this one holds"),
        ("", "and this one holds nothing."),
        ("lerning_rate: 1", "has no field 'lerning_rate'."),
    ],
)
def test_a_recipe_that_is_none_is_named(recipe, mrt, command, text, match):
    path = recipe.with_name("confg.yaml")
    if text is not None:
        path.write_text(text)
    last = mrt(command, f"--config={path}")
    assert last.startswith(f"mrt {command}: {path}: ")
    assert match in last


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["compare", "a", "b"], "mrt compare: a holds no rollouts. Measure a model first: "),
        (["compare", "a"], "mrt compare: error: the following arguments are required: RUN"),
        (["figures", "--runs", "a"], "mrt figures: a holds no rollouts. Measure a model first: "),
        (["stars"], "mrt stars: no such command. Did you mean 'star'? Known: grpo, sft, star, "),
        (["grpo"], "mrt grpo: give it a recipe: mrt grpo --config RECIPE."),
        (["star"], "mrt star: give it a recipe: mrt star --config RECIPE."),
        (["recipes", "aime"], "mrt recipes: aime: there is no such file or recipe."),
        (["star", "--config"], "mrt star: --config: there is no such file or recipe."),
    ],
)
def test_what_is_not_there_is_named(mrt, arguments, last):
    assert mrt(*arguments).startswith(last)


def test_a_configuration_of_accelerate_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mrt", "grpo", "--accelerate_config=nowhere.yaml"])
    assert said(capsys, cli.main).startswith("mrt grpo: --accelerate_config nowhere.yaml: there is no such file")


def test_what_accelerate_cannot_launch_is_told(recipe, monkeypatch, capsys):
    def without_deepspeed(arguments):
        raise ImportError("DeepSpeed is not installed")

    monkeypatch.setattr("accelerate.commands.launch.launch_command", without_deepspeed)
    monkeypatch.setattr(sys, "argv", ["mrt", "grpo", "--config", str(recipe)])
    assert said(capsys, cli.main) == "mrt grpo: DeepSpeed is not installed"


def test_a_recipe_of_another_command_is_told(mrt):
    last = mrt("grpo", "--config", "evaluation/aime_2024.yaml")
    assert last.endswith(". Recipes in evaluation/ are for `mrt evaluate`.")


def test_a_traceback_can_be_had(recipe, monkeypatch):
    monkeypatch.setenv("MRT_DEBUG", "1")
    run = import_module("mrt_plugin.grpo").run
    with pytest.raises(ValueError, match="config.yaml: trl .* has no field"):
        as_command("grpo", partial(run, ["--upstream", "trl", "--config", str(recipe), "--mrt_alfa", "2"]))


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_of_ours_stays_one(recipe, monkeypatch, error):
    def resolve(*args):
        raise error

    monkeypatch.setattr("mrt_plugin.grpo.resolve", resolve)
    run = import_module("mrt_plugin.grpo").run
    with pytest.raises(type(error), match="a bug"):
        as_command("grpo", partial(run, ["--upstream", "trl", "--config", str(recipe)]))


def test_an_error_that_nobody_raised_on_purpose_is_a_bug(recipe, monkeypatch):
    monkeypatch.setattr("mrt_plugin.grpo.resolve", lambda *args: int("four"))
    run = import_module("mrt_plugin.grpo").run
    with pytest.raises(ValueError, match="^invalid literal"):
        as_command("grpo", partial(run, ["--upstream", "trl", "--config", str(recipe)]))


def run_of(*command):
    """A command in a process of its own."""
    paths = [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)


def test_mrt_says_it_last_and_nothing_of_accelerate(recipe):
    done = run_of("mrt_plugin.cli", "grpo", "--config", str(recipe), "--mrt_alfa", "2")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"mrt grpo: {recipe}: trl ")
    assert "Traceback" not in done.stderr
    assert "had defaults used instead" not in done.stderr + done.stdout


def test_a_bug_keeps_its_traceback_and_it_is_the_last(recipe):
    arguments = ["--reward_funcs", "test_errors_that_a_person_can_read.bug"]
    done = run_of("mrt_plugin.cli", "grpo", "--upstream", "trl", "--config", str(recipe), *arguments)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ValueError: a bug of mine")
    assert "in bug" in done.stderr
    assert "CalledProcessError" not in done.stderr


def test_under_accelerate_itself_it_is_one_sentence_too(recipe):
    launch = ["accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    done = run_of(*launch, "-m", "mrt_plugin.grpo", "--config", str(recipe), "--mrt_alfa", "2")
    lines = done.stderr.splitlines()
    [said] = [index for index, line in enumerate(lines) if line.startswith(f"mrt grpo: {recipe}: trl ")]
    assert [index for index, line in enumerate(lines) if line.startswith("Traceback")] == [
        said + 1
    ]  # accelerate's own
