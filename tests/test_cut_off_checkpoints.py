"""A run that is killed while it saves goes on from its newest whole checkpoint, and ends as an undisturbed one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint
import yaml
from conftest import CPU, tiny_model, write
from safetensors.torch import load_file
from test_launch import run
from trl import SFTConfig

from mrt_plugin.launch import resume_point
from mrt_plugin.upstream.checkpoints import fault, newest_whole
from mrt_plugin.upstream.recipe import RecipeParser


# Two steps make an epoch of grpo, three one of sft: step 5 is in the midst of one.
SAVING = {"max_steps": 5, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
SAVING |= {"lr_scheduler_type": "constant"}

DYING = """
import os, runpy, signal, sys, safetensors.torch, torch

written, module = sys.argv[1:3]

def dying(save):
    def cut_off(content, path, *args, **kwargs):
        save(content, path, *args, **kwargs)
        if str(path).endswith(written):
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    return cut_off

torch.save, safetensors.torch.serialize_file = dying(torch.save), dying(safetensors.torch.serialize_file)
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

SCRIPT = """
from datasets import load_dataset
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser
from test_registration import letters

if __name__ == "__main__":
    script_args, args, model_args = TrlParser((ScriptArguments, GRPOConfig, ModelConfig)).parse_args_and_config()
    print("found:", get_last_checkpoint(args.output_dir))
    data = load_dataset(script_args.dataset_name)["train"].rename_column("problem", "prompt")
    trainer = GRPOTrainer(model_args.model_name_or_path, letters, args, train_dataset=data)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
"""


def python(*arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


def recipe_of_sft(folder, model_path):
    row = {"prompt": "<|user|>{0}+1?<|eos|><|assistant|><think>\n", "completion": "Hm {0}.\n</think>\n\n5<|eos|>"}
    rows = [{column: text.format(i) for column, text in row.items()} for i in range(12)]
    (folder / "traces").mkdir()
    (folder / "traces" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = CPU | SAVING | {"model_name_or_path": model_path, "dataset_name": str(folder / "traces")}
    return write(folder / "sft.yaml", fields)


@pytest.fixture
def recipes(tmp_path, recipe, problems, model_path):
    rows = (Path(problems) / "train.jsonl").read_text().splitlines()
    (Path(problems) / "train.jsonl").write_text("\n".join(rows[:2]))
    grpo = yaml.safe_load(recipe.read_text()) | SAVING | {"mrt_credit": "mixed", "mrt_prefix": "online"}
    return {"grpo": write(tmp_path / "grpo.yaml", grpo), "sft": recipe_of_sft(tmp_path, model_path)}


@pytest.mark.parametrize(
    ("task", "written", "passed_over"),
    [
        ("grpo", "checkpoint-4/optimizer.pt", "resumes from checkpoint-3. Passed over: checkpoint-4"),
        ("sft", "out/model.safetensors", ""),  # after its last checkpoint
    ],
)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    recipes, tmp_path, caplog, task, written, passed_over
):
    whole, killed = tmp_path / "whole", tmp_path / "out"
    run(task, recipes[task], "--output_dir", str(whole))
    command = [f"mrt_plugin.{task}", "--upstream", "trl", "--config", recipes[task], "--output_dir", killed]
    assert python("-c", DYING, written, *command).returncode == -9
    left = set(killed.glob("checkpoint-*"))
    run(task, recipes[task], "--output_dir", str(killed))
    assert passed_over in caplog.text
    assert left <= set(killed.glob("checkpoint-*"))
    assert newest_whole(str(killed)) == str(killed / "checkpoint-5")
    weights, expected = load_file(killed / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(expected[name], weights[name]) for name in expected)


def test_a_script_that_asks_transformers_goes_on_too(recipes, tmp_path):
    """By `get_last_checkpoint`, as Open-R1's main does, and by `resume_from_checkpoint: true`."""
    run("grpo", recipes["grpo"], "--max_steps", "2")
    cut_off(tmp_path / "out" / "checkpoint-2" / "trainer_state.json", 2)
    fields = yaml.safe_load(recipes["grpo"].read_text())
    ours = [name for name in fields if name.startswith(("mrt_", "callbacks", "reward_funcs", "dataset_prompt"))]
    fields = {name: value for name, value in fields.items() if name not in ours}
    (tmp_path / "script.py").write_text(SCRIPT)
    command = ["-m", "mrt_plugin.run", tmp_path / "script.py", "--config", write(tmp_path / "script.yaml", fields)]
    done = python(*command, "--max_steps", "3", "--resume_from_checkpoint", "true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"found: {tmp_path}/out/checkpoint-1\n" in done.stdout
    assert "resumes from checkpoint-1. Passed over: checkpoint-2 (trainer_state.json is cut off)" in done.stderr
    history = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "grad_norm" in entry] == [1, 2, 3]


# What is whole.


def cut_off(path, share):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // share])


@pytest.fixture(scope="module")
def saved(tmp_path_factory, model_path):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("saved")
    run("sft", recipe_of_sft(folder, model_path), "--output_dir", str(folder / "out"), "--max_steps", "2")
    return folder / "out"


@pytest.fixture
def output(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "out"))


@pytest.fixture
def checkpoint(output):
    return output / "checkpoint-2"


NAMES = ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_trainer_reads_is_there_to_its_end(output, checkpoint, caplog, name):
    assert newest_whole(str(output)) == str(checkpoint)
    path = checkpoint / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        assert fault(checkpoint) == f"{name} is cut off"
    path.write_bytes(bytes(len(content)))  # as a machine that loses power may leave it
    assert fault(checkpoint) == f"{name} is cut off"
    path.unlink()
    missing = fault(checkpoint)
    assert missing.endswith(" is missing")
    assert newest_whole(str(output)) == str(output / "checkpoint-1")
    assert f"{output}: the run resumes from checkpoint-1. Passed over: checkpoint-2 ({missing})." in caplog.text
    shutil.rmtree(output / "checkpoint-1")
    if name == "rng_state.pth":
        assert newest_whole(str(output)) == str(checkpoint)
        assert "resumes from checkpoint-2, though with other random numbers" in caplog.text
    else:
        assert newest_whole(str(output)) is None
        assert f"{output}: the run starts from the beginning. Passed over: checkpoint-2 ({missing})." in caplog.text
    assert checkpoint.exists()


def test_a_checkpoint_of_the_model_alone_is_whole(checkpoint):
    """`save_only_model`"""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    assert fault(checkpoint) is None


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_all_shards_of_an_index_are_needed(checkpoint, tokenizer, suffix):
    (checkpoint / "model.safetensors").unlink()
    assert fault(checkpoint) == "the model is missing"
    tiny_model(tokenizer).save_pretrained(checkpoint, max_shard_size="50KB")
    if suffix == "bin":
        index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
        names = {name: name.replace("safetensors", "bin") for name in index["weight_map"].values()}
        for name, other in names.items():
            torch.save(load_file(checkpoint / name), checkpoint / other)
            (checkpoint / name).unlink()
        index["weight_map"] = {key: names[name] for key, name in index["weight_map"].items()}
        (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (checkpoint / "model.safetensors.index.json").unlink()
    assert fault(checkpoint) is None
    shard = sorted(checkpoint.glob(f"*-00002-of-*.{suffix}"))[0]
    cut_off(shard, 2)
    assert fault(checkpoint) == f"{shard.name} is cut off"
    shard.unlink()
    assert fault(checkpoint) == f"{shard.name} is missing"


@pytest.mark.parametrize("adapter", ["adapter_model.safetensors", "reference/adapter_model.safetensors"])
def test_adapters_are_a_model(checkpoint, adapter):
    (checkpoint / "reference").mkdir()
    (checkpoint / "model.safetensors").rename(checkpoint / adapter)
    assert fault(checkpoint) is None
    cut_off(checkpoint / adapter, 2)
    assert fault(checkpoint) == "adapter_model.safetensors is cut off"


def test_each_process_has_its_random_state(checkpoint):
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    assert fault(checkpoint) is None  # its arguments are those of one process
    arguments = SimpleNamespace(distributed_state=SimpleNamespace(num_processes=2), save_on_each_node=True)
    torch.save(arguments, checkpoint / "training_args.bin")
    assert fault(checkpoint) is None  # that of the other one is on another node
    arguments.save_on_each_node = False
    torch.save(arguments, checkpoint / "training_args.bin")
    assert fault(checkpoint) == "rng_state_1.pth is missing"
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    assert fault(checkpoint) is None


def test_what_deepspeed_writes(checkpoint):
    """Weights and optimizer in a folder that `latest` names, in torch's older format."""
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    shard = checkpoint / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    shard.parent.mkdir()
    torch.save({"state": torch.zeros(9)}, shard, _use_new_zipfile_serialization=False)
    for named in ("", "global_step1", "global_step2"):
        assert fault(checkpoint) == "what `latest` names is missing"
        (checkpoint / "latest").write_text(named)
    assert fault(checkpoint) is None
    cut_off(shard, 10**9)
    assert fault(checkpoint) == f"{shard.name} is cut off"


def test_what_fsdp_writes(checkpoint):
    for old, new in (("model.safetensors", "pytorch_model_fsdp_0"), ("optimizer.pt", "optimizer_0")):
        (checkpoint / old).unlink()
        torch.distributed.checkpoint.save({"weight": torch.zeros(9)}, checkpoint_id=checkpoint / new)
    assert fault(checkpoint) is None
    (checkpoint / "optimizer_0" / ".metadata").unlink()
    assert fault(checkpoint) == "optimizer_0 is cut off"


# What `resume_from_checkpoint` says.


@pytest.mark.parametrize("written", ["true", "'true'", "yes", "on", "false", "no", "null", "checkpoint-1"])
def test_resume_from_checkpoint(output, checkpoint, tmp_path, written):
    value = str(output / written) if written == "checkpoint-1" else written
    expected = {"false": None, "no": None, "checkpoint-1": str(output / written)}.get(written, str(checkpoint))
    recipe = tmp_path / "recipe.yaml"
    fields = f"output_dir: {output}\nuse_cpu: true\nbf16: false\n"
    recipe.write_text(f"{fields}resume_from_checkpoint: {value}\n")
    [arguments] = RecipeParser(SFTConfig).parse_args_and_config(["--config", str(recipe)])
    assert resume_point(arguments) == expected
    recipe.write_text(fields)
    command = ["--config", str(recipe), "--resume_from_checkpoint", value.strip("'")]
    [arguments] = RecipeParser(SFTConfig).parse_args_and_config(command)
    assert resume_point(arguments) == expected


def test_what_is_asked_for_is_there(output, checkpoint, recipes):
    asked = ["--output_dir", str(output), "--resume_from_checkpoint"]
    cut_off(checkpoint / "optimizer.pt", 2)
    with pytest.raises(ValueError, match="sft.yaml: .*checkpoint-2 is no whole checkpoint: optimizer.pt is cut off"):
        run("sft", recipes["sft"], *asked, str(checkpoint))
    shutil.rmtree(output / "checkpoint-1")
    with pytest.raises(ValueError, match="sft.yaml: .*out holds no whole checkpoint"):
        run("sft", recipes["sft"], *asked, "true")
    run("sft", recipes["sft"], *asked, "false", "--max_steps", "1")
    assert newest_whole(str(output)) == str(output / "checkpoint-1")
