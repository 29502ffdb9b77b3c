"""Every recipe of training, executed as it stands but for the model, the data, the sizes, and what a CPU cannot do."""

import json
import os
import re
import subprocess
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import CPU, byte_level_tokenizer, changed, tiny_model
from test_launch import launch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer
from trl import SFTTrainer

from mrt_plugin import MRTTrainer
from mrt_plugin.grading import Verdict
from mrt_plugin.meta_prover import check_termination
from mrt_plugin.upstream.version import TRL_1


ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*/*/config_*.yaml"))
LORA = ROOT / "recipes/DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_mrt_lora.yaml"
PAPER = [path for path in RECIPES if path.parts[-3] not in ("tiny-cpu", "smollm2", "Qwen3-1.7B") and path != LORA]
SMALL = CPU | {"num_generations": 4, "max_completion_length": 8, "gradient_accumulation_steps": 1}
SMALL |= {"weight_decay": 0.0, "report_to": "none"}  # with decay, weights would change without a gradient
GRPO_ONLY = ("use_vllm", "num_generations", "max_completion_length", "mrt_answer_tokens")
ON_CPU = {"use_vllm": False, "torch_dtype": "float32"}
PROBLEM = {"problem": "Find x with 3 x = 15.", "solution": "5"}
ROWS = {  # as the builders write them
    "problems": PROBLEM,
    "prefixes": PROBLEM | {"prefix": "Try x = 2.\n\nNot 5.\n\n", "prefix_success": 0.25},
    "backtracking-rl": PROBLEM | {"prefix": "Node 1: x = 3\n\nNode 2: \\boxed{3}", "prefix_success": 0.25},
    "star": {
        "messages": [
            {"role": "user", "content": PROBLEM["problem"]},
            {"role": "assistant", "content": "<think>\nTry x = 5.\n</think>\n\n\\boxed{5}"},
        ]
    },
    "suffix": {"prompt": "<|user|>Find x.<|eos|><|assistant|>Node 1: \\boxed{3}", "completion": "\n\nNo.<|eos|>"},
}


def name(path):
    return "/".join(path.parts[-3:])


def fields(path):
    return yaml.safe_load(path.read_text())


def schema(path):
    """Which of `ROWS` a recipe trains on."""
    recipe = fields(path)
    if path.parts[-2] == "grpo":
        if recipe.get("mrt_prefix") != "dataset":
            return "problems"
        return "backtracking-rl" if path.parts[-3].startswith("Llama") else "prefixes"
    return "star" if path.parts[-3].startswith("Deep") else "suffix"


@pytest.fixture
def folder(tmp_path):
    """Makes a data set of one kind of rows."""

    def make(kind, without=None):
        row = {column: value for column, value in ROWS[kind].items() if column != without}
        (tmp_path / "rows").mkdir()
        (tmp_path / "rows" / "train.jsonl").write_text("\n".join([json.dumps(row)] * 16))
        return str(tmp_path / "rows")

    return make


def run(path, tmp_path, data, text=None, **overrides):
    """Runs a recipe whose data set is another one."""
    text = path.read_text() if text is None else text
    data_set = fields(path).get("dataset_name") or fields(path)["dataset_mixture"]["datasets"][0]["id"]
    copied = tmp_path / path.name
    copied.write_text(text.replace(data_set, data))
    options = {"output_dir": tmp_path / "out"} | overrides
    if path.parts[-2] == "sft":
        options = {field: value for field, value in options.items() if field not in GRPO_ONLY}
    arguments = []
    for field, value in options.items():
        arguments += [f"--{field}", *map(str, value if isinstance(value, list) else [value])]
    import_module(f"mrt_plugin.{path.parts[-2]}").run(["--config", str(copied), *arguments])


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_trains(path, tmp_path, model_path, folder, monkeypatch):
    if path.parts[-3] == "Qwen3-1.7B" and not TRL_1:
        with pytest.raises(ValueError, match=r"config_mrt_online.yaml: .*loss_type"):
            run(path, tmp_path, folder("problems"), model_name_or_path=model_path)
        return
    # A random model earns nothing, and then nothing changes; so every other answer is right.
    verdicts = cycle([Verdict.RIGHT, Verdict.WRONG])
    monkeypatch.setattr("mrt_plugin.rewards.grade", lambda answers, golds: [next(verdicts) for _ in answers])
    group = fields(path).get("num_generations", 4)
    sizes = SMALL | {"num_generations": group, "per_device_train_batch_size": group}
    if fields(path).get("mrt_prefix", "none") != "dataset":
        sizes["mrt_answer_tokens"] = 4
    run(path, tmp_path, folder(schema(path)), **sizes, **ON_CPU, model_name_or_path=model_path)
    assert len(changed(model_path, tmp_path / "out")) > (13 if path == LORA else 20)  # LoRA: 7 matrices of each layer


BROKEN = [
    ("unknown field", {}, "num_generation: 4", r"no field 'num_generation'. Did you mean 'num_generations'"),
    ("reward", {"reward_funcs": ["mrt_acuracy"]}, "", "reward_funcs: .*'mrt_acuracy'. Did you mean 'mrt_accuracy'"),
    ("prompt column", {"dataset_prompt_column": "problm"}, "", "dataset_prompt_column: .*Did you mean 'problem'"),
    ("missing column", {"without": "prefix_success"}, "", "has no column 'prefix_success'"),
    ("callback", {"callbacks": ["mrt_progres"]}, "", "callbacks: .*Did you mean 'mrt_progress'"),
]


@pytest.mark.parametrize(("what", "overrides", "line", "match"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_recipe_fails_before_the_model_loads(tmp_path, folder, what, overrides, line, match):
    path = ROOT / "recipes/DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_mrt.yaml"
    data = folder("prefixes", without=overrides.get("without"))
    overrides = {field: value for field, value in overrides.items() if field != "without"}
    settings = {"model_name_or_path": str(tmp_path / "there is no model"), "use_cpu": True, "bf16": False}
    with pytest.raises(ValueError, match=f"config_mrt.yaml: .*{match}"):
        run(path, tmp_path, data, f"{path.read_text()}\n{line}\n", **settings, use_vllm=False, **overrides)


def test_rows_that_cannot_be_fine_tuned_on_fail_before_the_model_loads(tmp_path, folder):
    path = ROOT / "recipes/DeepSeek-R1-Distill-Qwen-1.5B/sft/config_mrt.yaml"
    data = folder("star")
    rows = Path(data) / "train.jsonl"
    rows.write_text(rows.read_text().replace('"messages"', '"message"'))
    settings = {"model_name_or_path": str(tmp_path / "there is no model"), "use_cpu": True, "bf16": False}
    with pytest.raises(ValueError, match=r"config_mrt.yaml: .* it has \['message'\]. Did you mean 'messages'"):
        run(path, tmp_path, data, **settings)


@pytest.mark.parametrize("task", ["grpo", "sft"])
def test_an_sft_or_grpo_recipe_names_its_unknown_field(tmp_path, folder, task):
    path = ROOT / f"recipes/DeepSeek-R1-Distill-Qwen-1.5B/{task}/config_outcome.yaml"
    with pytest.raises(ValueError, match="config_outcome.yaml: .*'learning_rat'. Did you mean 'learning_rate'"):
        run(path, tmp_path, "nowhere", path.read_text() + "\nlearning_rat: 1\n")


# Of wrong rollouts, those that go on lose alpha J and those that stop nothing: a random model learns too.
REWARDS = ["accuracy" if TRL_1 or find_spec("open_r1") else "mrt_accuracy", "mrt_progress"]
NEEDS_DEEPSPEED = pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed")


@pytest.mark.parametrize("sharding", ["", pytest.param("zero3", marks=NEEDS_DEEPSPEED)])
@pytest.mark.timeout(700)
def test_accelerate_launches_a_recipe(tmp_path, model_path, folder, sharding):
    """Two processes with ZeRO-3, or one. DeepSpeed compiles an extension at its first use, which takes minutes."""
    path = ROOT / "recipes/DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_mrt.yaml"
    config = ["--config_file", ROOT / f"recipes/accelerate_configs/{sharding}.yaml", "--num_processes", "2"]
    config = [*config, "--mixed_precision", "no"] if sharding else ["--num_processes", "1", "--cpu"]
    overrides = SMALL | ON_CPU | {"model_name_or_path": model_path, "dataset_name": folder("prefixes")}
    overrides |= {"output_dir": tmp_path / "out", "per_device_train_batch_size": 2 if sharding else 4}
    options = [str(part) for field, value in overrides.items() for part in (f"--{field}", value)]
    command = [*config, "-m", "mrt_plugin.grpo", "--config", path, "--reward_funcs", *REWARDS, *options]
    launch("accelerate.commands.launch", *map(str, command), timeout=600)
    assert len(changed(model_path, tmp_path / "out")) > 20


# The paper's tables.

COMMON = {"learning_rate": 1e-6, "warmup_ratio": 0.1, "bf16": True}
RL = {"lr_scheduler_type": "cosine", "weight_decay": 0.01, "num_train_epochs": 1, "num_generations": 4}
RL |= {"use_vllm": True, "temperature": 0.9}
STAR = {"num_train_epochs": 3, "gradient_checkpointing": True}
TABLES = {
    ("sft", "Deep"): COMMON | STAR | {"max_length": 16384},  # Table 2
    ("grpo", "Deep"): COMMON | RL | {"max_prompt_length": 4096, "max_completion_length": 24576},  # Table 3
    ("sft", "Llam"): COMMON | STAR | {"max_length": 4096},  # Table 4
    ("grpo", "Llam"): COMMON | RL | {"max_prompt_length": 1500, "max_completion_length": 1024},  # Table 5
}
GPUS = 8


@pytest.mark.parametrize("path", PAPER, ids=name)
def test_values_are_the_papers(path):
    recipe = fields(path)
    expected = TABLES[path.parts[-2], path.parts[-3][:4]]
    if path.name == "config_mrt_online.yaml":  # the authors' release of 2026: another budget, and steps
        online = {"max_completion_length": 16384, "mrt_alpha": 1.0, "mrt_episodes": 6, "mrt_samples": 4}
        expected = expected | online | {"max_steps": 248, "mrt_credit": "dense"} | {"mrt_horizon": 1.0}  # ours
    assert {field: recipe.get(field) for field in expected} == expected
    assert recipe["per_device_train_batch_size"] * GPUS * recipe["gradient_accumulation_steps"] == 256
    if "dataset_mixture" in recipe:
        [data_set] = recipe["dataset_mixture"]["datasets"]
        assert (data_set["id"], data_set["split"]) == ("AI-MO/NuminaMath-CoT", "train[:4000]")


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_opens_with_what_one_needs_to_know(path):
    header = re.match(r"(#.*\n)+", path.read_text()).group()
    assert all(f"# {word}:" in header for word in ("Prerequisites", "Launch", "Override", "Expected", "Hardware"))
    task = path.parts[-2]
    one_device, run_here = path == LORA, path.parts[-3] in ("tiny-cpu", "smollm2")
    assert run_here or re.search(r"\n# Status:  .*not run at this size", header)
    if one_device or run_here:
        assert f"mrt {task} --config recipes/{name(path)}\n" in header
    else:
        command = " ".join(header.replace("#", "").replace("\\\n", "").split())
        launcher = "accelerate launch --config_file recipes/accelerate_configs/zero3.yaml"
        assert f"{launcher} -m mrt_plugin.{task} --config recipes/{name(path)} Override:" in command
    assert all((ROOT / file).exists() for file in re.findall(r"recipes/\S+\.(?:yaml|sh|md)", header))


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero2", "zero3"])
def test_accelerate_reads_its_configs(sharding):
    config = load_config_from_file(str(ROOT / f"recipes/accelerate_configs/{sharding}.yaml"))
    assert (config.num_processes, config.mixed_precision) == (GPUS, "bf16")
    if sharding == "zero3":  # Tables 3 and 5
        expected = {"zero_stage": 3, "zero3_init_flag": True, "deepspeed_multinode_launcher": "standard"}
        assert {key: config.deepspeed_config[key] for key in expected} == expected


def test_the_slurm_script_launches_on_every_node(tmp_path):
    """Run with stand-ins for the commands of a cluster of two nodes."""
    stand_ins = {
        "scontrol": "printf 'first\\nsecond\\n'",
        "srun": 'shift; for id in 0 1; do SLURM_NODEID=$id "$@"; done',
        "accelerate": f"printf '%s|' \"$@\" >> {tmp_path}/launched; echo >> {tmp_path}/launched",
    }
    for command, line in stand_ins.items():
        (tmp_path / command).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / command).chmod(0o755)
    job = {"SUBMIT_DIR": str(ROOT), "JOB_NODELIST": "x", "JOB_NUM_NODES": "2", "JOB_ID": "7", "GPUS_ON_NODE": "4"}
    environment = os.environ | {f"SLURM_{key}": value for key, value in job.items()}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    script = ["bash", ROOT / "recipes/slurm/train.slurm", "sft", "zero3", "some.yaml", "--output_dir", "a b"]
    subprocess.run(script, env=environment, check=True)
    assert (tmp_path / "launched").read_text().splitlines() == [
        "launch|--config_file|recipes/accelerate_configs/zero3.yaml|--num_machines|2|--num_processes|8|--machine_rank"
        f"|{node}|--main_process_ip|first|--main_process_port|20007|--rdzv_backend|c10d|-m|mrt_plugin.sft|--config"
        "|some.yaml|--output_dir|a b|"
        for node in (0, 1)
    ]


# Chat templates.

R1_LIKE = (  # drops the thinking of assistant turns, opens it in the prompt
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}<｜User｜>{{ message.content }}"
    "{% else %}<｜Assistant｜>{{ message.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
ASKED = "<|bos|><｜User｜>Find x with 3 x = 15.<｜Assistant｜>"
TURN = "<think>\nTry x = 5.\n</think>\n\n\\boxed{5}<|eos|>"
DISTILLED = [path for path in PAPER if "Deep" in path.parts[-3]]


@pytest.fixture
def r1_like(tmp_path):
    """A model that has such a template, and whose tokenizer puts a BOS before every text, as R1-Distill's does."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    bos = ("<|bos|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[bos])
    tokenizer.chat_template = R1_LIKE
    tokenizer.save_pretrained(tmp_path / "r1")
    tiny_model(tokenizer, initializer_range=0.02).save_pretrained(tmp_path / "r1")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "r1")
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


@pytest.mark.parametrize("path", [path for path in DISTILLED if "sft" in path.parts], ids=name)
def test_fine_tuning_keeps_the_thinking(path, tmp_path, r1_like, folder, monkeypatch):
    trained = []
    train = SFTTrainer.train

    def spy(self, *args, **kwargs):
        trained.extend(self.train_dataset["input_ids"])
        return train(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "train", spy)
    messages = ROWS["star"]["messages"]
    assert r1_like.apply_chat_template(messages, tokenize=False) == f"{ASKED}\n\n\\boxed{{5}}<|eos|>"  # lost
    run(path, tmp_path, folder("star"), **SMALL, **ON_CPU, model_name_or_path=tmp_path / "r1")
    assert {tuple(ids) for ids in trained} == {tuple(r1_like(ASKED + TURN, add_special_tokens=False)["input_ids"])}
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True) == ASKED
    opened = saved(ASKED + "<think>\n", add_special_tokens=False)["input_ids"]
    assert trained[0][: len(opened)] == opened  # what the model is trained on begins as what it goes on from


@pytest.mark.parametrize("path", [path for path in DISTILLED if "grpo" in path.parts], ids=name)
def test_rollouts_start_as_the_models_own_template_says(path, tmp_path, r1_like, folder, monkeypatch):
    """With one BOS, in an opened thinking; behind the prefix where there is one."""
    seen = []
    tokenize_prompts = MRTTrainer._tokenize_prompts

    def spy(self, prompts):
        prompt_ids, *rest = tokenize_prompts(self, prompts)
        seen.extend(prompt_ids)
        return prompt_ids, *rest

    monkeypatch.setattr(MRTTrainer, "_tokenize_prompts", spy)
    model = {"model_name_or_path": tmp_path / "r1", "mrt_answer_tokens": 4}
    run(path, tmp_path, folder(schema(path)), **SMALL, **ON_CPU, **model)
    starts = {f"{ASKED}<think>\n" + ROWS[schema(path)].get("prefix", "")}
    if fields(path).get("mrt_credit") == "mixed":  # half of them are made to stop
        starts |= {start + check_termination(fields(path)["mrt_termination"]) for start in starts}
    assert {r1_like.decode(ids) for ids in seen} == starts
