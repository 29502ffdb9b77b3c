"""The real Open-R1 with the plugin registered. Open-R1 is in no package index; without it these tests are skipped.

OPEN_R1_CHECKOUT=<its repository> pytest tests/upstream
"""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml


pytest.importorskip("open_r1", reason="Open-R1 is installed from its repository")

import datasets
import open_r1.configs
import open_r1.grpo
import open_r1.rewards
import open_r1.utils.callbacks
from conftest import CPU, changed, write
from test_golds_that_are_not_text import with_column
from test_grading import assert_equals
from test_trainer import ANSWER, FIRST, IDLE, SECOND, build, dataset, scripted, step_inputs  # noqa: F401

from mrt_plugin import MRTCallback, MRTTrainer, grpo, register, sft


def letters(completions, **kwargs):
    """A reward that a random model earns unequally."""
    return [float(len(completion[0]["content"]) % 5) for completion in completions]


@pytest.fixture
def built(monkeypatch):
    """The trainers that a run builds."""
    trainers = []
    init = MRTTrainer.__init__

    def spy(self, *args, **kwargs):
        init(self, *args, **kwargs)
        trainers.append(self)

    monkeypatch.setattr(MRTTrainer, "__init__", spy)
    return trainers


@pytest.fixture
def loaded(monkeypatch):
    """The data sets that a run loads."""
    names, load_dataset = [], datasets.load_dataset

    def spy(name, *args, **kwargs):
        names.append(name)
        return load_dataset(name, *args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    return names


def test_registering_twice_does_no_harm():
    register()
    register()
    assert isinstance(open_r1.utils.callbacks.CALLBACKS["mrt_progress"](None), MRTCallback)


def test_rewards_resolve_in_order():
    register()
    names = ["format", "mrt_progress", "accuracy", "test_open_r1.letters", "cosine", "mrt_accuracy"]
    script_args = open_r1.configs.GRPOScriptArguments(dataset_name="x", reward_funcs=names)
    assert [reward.__name__ for reward in open_r1.rewards.get_reward_funcs(script_args)] == [
        "format_reward",
        "mrt_progress",
        "accuracy_reward",
        "letters",
        "cosine_scaled_reward",
        "mrt_accuracy",
    ]


def test_grading_equals_its_accuracy():
    assert_equals(open_r1.rewards.accuracy_reward)


def test_a_seam_that_has_moved_is_named(monkeypatch):
    monkeypatch.delattr(open_r1.rewards, "get_reward_funcs")
    with pytest.raises(ImportError, match="expects get_reward_funcs in open_r1.rewards"):
        register()


def test_a_module_that_has_moved_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_r1.utils.callbacks", None)
    with pytest.raises(ImportError, match="open_r1.utils.callbacks, which cannot be imported"):
        register()


@pytest.mark.parametrize(
    "mrt",
    [
        {},  # auto: dense
        {"mrt_credit": "mixed", "mrt_prefix": "online"},
        {"mrt_credit": "none"},
    ],
)
def test_grpo_through_open_r1(recipe, tmp_path, model_path, problems, built, loaded, mrt):
    """Its `main`, from a recipe: rewards of both, our callback and trainer, and weights that move."""
    rewards = ["accuracy", "format", "tag_count", "mrt_progress", "test_open_r1.letters"]
    write(recipe, yaml.safe_load(recipe.read_text()) | {"reward_funcs": rewards} | mrt)
    get_dataset = open_r1.grpo.get_dataset
    grpo.run(["--config", str(recipe)])
    assert loaded == [problems]
    assert open_r1.grpo.get_dataset is get_dataset
    [trainer] = built
    assert trainer.credit.name == mrt.get("mrt_credit", "dense")
    assert isinstance(trainer.args, open_r1.configs.GRPOConfig)
    assert trainer.reward_func_names[:3] == ["accuracy_reward", "format_reward", "tag_count_reward"]
    assert sum(isinstance(callback, MRTCallback) for callback in trainer.callback_handler.callbacks) == 1
    logged = trainer.state.log_history[0]
    assert "rewards/letters/mean" in logged
    assert ("mrt/branch_tokens" in logged) == trainer.credit.active
    assert len(changed(model_path, tmp_path / "out")) > 20


def test_golds_in_a_column_of_another_name_and_data_of_one_file(recipe, tmp_path, model_path, problems):
    with_column(problems, [0, 1] * 4)
    file = ["--dataset_name", f"{problems}/train.jsonl"]
    grpo.run(["--config", str(recipe), "--dataset_solution_column", "answer", *file])
    assert changed(model_path, tmp_path / "out")


def test_sft_through_open_r1(tmp_path, model_path, loaded):
    turns = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\n\\boxed{2}"},
    ]
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 8))
    fields = CPU | {"model_name_or_path": model_path, "dataset_name": str(folder), "output_dir": str(tmp_path / "out")}
    sft.run(["--config", str(write(tmp_path / "sft.yaml", fields))])
    assert loaded == [str(folder)]
    assert len(changed(model_path, tmp_path / "out")) > 20


def test_its_rewards_see_the_whole_assistant_turn(tmp_path, tokenizer, scripted, monkeypatch):  # noqa: F811
    """On rows that start from a prefix, each reward is what it is on the same text written in one go."""
    names = ["accuracy", "format", "tag_count", "reasoning_steps", "cosine", "repetition_penalty", "length"]
    names += ["soft_overlong_punishment"]  # of the completion's tokens alone
    script_args = open_r1.configs.GRPOScriptArguments(dataset_name="x", reward_funcs=names)
    functions = open_r1.rewards.get_reward_funcs(script_args)
    data = dataset(prefix=FIRST, prefix_success=0.25)
    trainer = build(tmp_path, tokenizer, functions, data, mrt={"mrt_credit": "mixed", "mrt_prefix": "dataset"})
    rewards = []
    monkeypatch.setattr(trainer, "_advantages", lambda *_: rewards.append(trainer._in_progress.rewards))
    step_inputs(trainer)
    turns = [FIRST + SECOND + ANSWER.format(5), FIRST + SECOND + IDLE + ANSWER.format(4)]
    turns += [FIRST.rstrip() + "\n" + ANSWER.format(right) for right in (3, 5)]
    completions = [[{"role": "assistant", "content": turn}] for turn in turns]
    for index, function in enumerate(functions):
        expected = function(completions=completions, solution=["5"] * 4, completion_ids=[[0]] * 4)
        assert rewards[0][:, index].tolist() == pytest.approx(expected), names[index]


CHECKOUT = os.environ.get("OPEN_R1_CHECKOUT")


@pytest.mark.skipif(not CHECKOUT, reason="OPEN_R1_CHECKOUT names no repository of Open-R1")
@pytest.mark.parametrize("model", ["DeepSeek-R1-Distill-Qwen-1.5B", "Qwen2.5-1.5B-Instruct"])
def test_its_example_recipe_runs_as_before(tmp_path, model_path, problems, built, model):
    recipe = Path(CHECKOUT) / "recipes" / model / "grpo" / "config_demo.yaml"
    options = CPU | {
        "model_name_or_path": model_path,
        "dataset_name": problems,
        "output_dir": str(tmp_path / "out"),
        "attn_implementation": "eager",
        "torch_dtype": "float32",
        "use_vllm": False,
        "use_liger_kernel": False,
        "push_to_hub": False,
        "report_to": "none",
        "num_generations": 4,
        "max_completion_length": 8,
        "log_completions": False,
    }
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", str(value))]
    weights = [
        "--reward_funcs",
        "accuracy",
        "format",
        "tag_count",
        "test_open_r1.letters",
        "--reward_weights",
        *"1111",
    ]
    grpo.run(["--config", str(recipe), *arguments, *weights])
    [trainer] = built
    assert trainer.credit.name == "none"
    assert trainer.args.max_prompt_length == 512
    assert len(changed(model_path, tmp_path / "out")) > 20
