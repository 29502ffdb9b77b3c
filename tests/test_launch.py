"""The launchers, from a recipe file to a saved model that has changed."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import CPU, changed, write
from transformers import AutoTokenizer

from mrt_plugin.credit import CREDITS
from mrt_plugin.launch import is_finished
from mrt_plugin.meta_prover import ESTIMATORS


def letters(completions, **kwargs):
    """A reward that a random model earns unequally."""
    return [float(len(completion[0]["content"]) % 5) for completion in completions]


def run(module, recipe, *arguments):
    from importlib import import_module

    import_module(f"mrt_plugin.{module}").run(["--upstream", "trl", "--config", str(recipe), *arguments])


def test_grpo_trains_from_a_recipe(recipe, tmp_path, model_path, tokenizer):
    run("grpo", recipe, "--system_prompt", "Think.", "--mrt_regret_steps", "1", "--mrt_regret_problems", "2")
    assert len(changed(model_path, tmp_path / "out")) > 20
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    "mrt",
    [["--mrt_credit", "mixed"], ["--mrt_credit", "termination", "--reward_funcs", "test_launch.letters"]],
)
def test_the_command_line_wins_over_the_recipe(recipe, tmp_path, model_path, mrt):
    run("grpo", recipe, *mrt, "--mrt_prefix", "online", "--output_dir", str(tmp_path / "other"))
    assert changed(model_path, tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_grpo_goes_on_from_its_last_checkpoint(recipe, tmp_path):
    steps = ["--save_strategy", "steps", "--save_steps", "1", "--logging_steps", "1"]
    run("grpo", recipe, *steps)
    first = tmp_path / "out" / "checkpoint-1"
    written = first.stat().st_mtime_ns
    run("grpo", recipe, *steps, "--max_steps", "3")
    assert first.stat().st_mtime_ns == written
    history = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "reward" in entry] == [1, 2, 3]


def test_a_finished_run_takes_no_further_step(recipe, tmp_path, caplog):
    steps = ["--save_strategy", "steps", "--save_steps", "1"]
    run("grpo", recipe, *steps)
    saved = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    run("grpo", recipe, *steps)
    assert "out is finished" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == saved
    args = SimpleNamespace(output_dir=str(tmp_path / "out"), resume_from_checkpoint=None, max_steps=-1)
    for args.num_train_epochs, finished in ((9, False), (0.1, True)):
        assert is_finished(args) == finished
    (tmp_path / "out" / "model.safetensors").unlink()  # as if it was stopped before the model was saved
    assert not is_finished(args)


def test_sft_trains_from_a_recipe(tmp_path, model_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    row = {"prompt": "<|user|>1+1?<|eos|><|assistant|><think>\n", "completion": "Hm.\n</think>\n\n\\boxed{2}<|eos|>"}
    (folder / "train.jsonl").write_text("\n".join([json.dumps(row)] * 8))
    fields = CPU | {"model_name_or_path": model_path, "dataset_name": str(folder), "output_dir": str(tmp_path / "sft")}
    run("sft", write(tmp_path / "sft.yaml", fields))
    assert len(changed(model_path, tmp_path / "sft")) > 20


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--reward_funcs", "mrt_acuracy"], "Did you mean 'mrt_accuracy'"),
        (["--reward_funcs", "code"], "'code' is a reward of Open-R1's. install Open-R1"),
        (["--callbacks", "wandb_magic"], "callbacks: unknown 'wandb_magic'"),
        (
            ["--dataset_prompt_column", "question"],
            "dataset_prompt_column: unknown 'question'. Known: problem, solution",
        ),
        (["--dataset_train_split", "training"], "dataset_train_split: unknown 'training'. Known: train, test"),
        (["--dataset_name", ""], "No data"),
        (["--mrt_samples", "0"], "mrt_samples must be at least 1"),
        (["--mrt_length_alpha", "1"], "mrt_length_alpha"),
        (["--mrt_alpha", "-1"], "mrt_alpha must not be negative"),
        (["--mrt_horizon", "-1"], "mrt_horizon must not be negative"),
        (["--mrt_answer_top_p", "0"], r"mrt_answer_top_p must be in \(0, 1\]"),
        (["--mrt_prefix", "dataset", "--mrt_credit", "mixed"], "has no column"),
    ],
)
def test_bad_input_is_named(recipe, arguments, match):
    with pytest.raises(ValueError, match=match):
        run("grpo", recipe, *arguments)


def test_an_unknown_field_of_a_recipe_is_named(recipe, capsys):
    recipe.write_text(recipe.read_text() + "mrt_alfa: 2\n")
    with pytest.raises(ValueError, match="mrt_alfa"):
        run("grpo", recipe)


def test_help_lists_our_arguments():
    shown = subprocess.run([sys.executable, "-m", "mrt_plugin.cli", "grpo", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    words = " ".join(shown.stdout.split())
    assert all(f"'{name}': {credit.summary}" in words for name, credit in CREDITS.items())
    assert all(f"'{name}': {estimator.summary}" in words for name, estimator in ESTIMATORS.items())
    assert "--upstream {open-r1,trl}" in shown.stdout
    usage = subprocess.run([sys.executable, "-m", "mrt_plugin.cli", "grop"], capture_output=True, text=True)
    assert usage.returncode == 2
    assert "sft" in usage.stderr


def test_the_mrt_command_launches_a_run(recipe, tmp_path, model_path):
    launch("mrt_plugin.cli", "grpo", "--config", str(recipe))
    assert changed(model_path, tmp_path / "out")


@pytest.mark.parametrize("mrt", [("mixed", "online"), ("termination", "online"), ("dense", "none")])
def test_two_processes_train_groups_that_span_them(recipe, tmp_path, model_path, mrt):
    """Two rows a process, groups of four."""
    credit, prefix = mrt
    processes = ["--nproc_per_node", "2", "-m", "mrt_plugin.grpo", "--config", str(recipe)]
    options = ["--mrt_credit", credit, "--mrt_prefix", prefix, "--per_device_train_batch_size", "2"]
    rewards = ["--reward_funcs", "test_launch.letters"]
    launch("torch.distributed.run", *processes, *options, *rewards)
    assert changed(model_path, tmp_path / "out")


def launch(module, *arguments, timeout=250):
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
