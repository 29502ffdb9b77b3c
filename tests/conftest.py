"""A tiny model and tokenizer, made here: nothing is fetched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import yaml

from mrt_plugin.upstream.names import build_instead


torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
CORPUS = [
    "Find x with 3 x + 4 = 5 (mod 7).\n\nTry x = 2.\n\n3 * 2 + 4 = 10, that is 3.\n\nNot 5.\n\nWait, try x = 5.",
    "But wait. Alternatively, it works.\n</think>\n\n**Final Answer**\n\n\\boxed{5}",
    "naïve café: 日本語 € 🎉 привет",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def byte_level_tokenizer(vocab_size: int = 420):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|pad|>", "<|eos|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def byte_fallback_tokenizer():
    """As sentencepiece makes them: a space marker, and bytes for the characters that the vocabulary lacks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for character in "▁abcdefghijklmnopqrstuvwxyzWTA0123456789.,=+*\n":
        vocab.setdefault(character, len(vocab))
    merges = [("▁", "t"), ("▁", "x"), ("W", "a"), ("i", "t"), ("Wa", "it"), ("\n", "\n")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def tiny_model(tokenizer, seed: int = 0, **config):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": 0.3,  # sharp enough that greedy decoding has no ties
    }
    model = Qwen2ForCausalLM(Qwen2Config(**settings | config)).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@pytest.fixture(autouse=True)
def unregistered():
    """What `register()` makes of TRL's trainer ends with the test."""
    yield
    trainers = sys.modules.get("trl.trainer.grpo_trainer")
    if trainers and "__new__" in vars(trainers.GRPOTrainer):
        build_instead(trainers.GRPOTrainer, trainers.GRPOTrainer)


@pytest.fixture(autouse=True)
def precision_of_this_test():
    """accelerate, and transformers 4.52 too, keep the precision of a process for the trainers that follow."""
    yield
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state()
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


@pytest.fixture(scope="session")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture(scope="session")
def model_path(tokenizer, tmp_path_factory):
    """A saved tiny model, as `--model_name_or_path` takes it."""
    path = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(path)
    tiny_model(tokenizer, initializer_range=0.02).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder that the wheel is installed in, apart from the checkout."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("mrt_plugin", "recipes", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    pip += ["--no-index", "--no-build-isolation", "--target", str(folder), str(source)]
    subprocess.run(pip, check=True)
    return folder


CPU = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
}


@pytest.fixture
def problems(tmp_path):
    """A local data set, as `datasets` reads it: one file for each split."""
    folder = tmp_path / "problems"
    folder.mkdir()
    for split, count in (("train", 8), ("test", 2)):
        rows = [{"problem": f"Find x with {i} x = {i}.", "solution": "1"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.fixture
def recipe(tmp_path, model_path, problems):
    fields = CPU | {
        "model_name_or_path": model_path,
        "dataset_name": problems,
        "dataset_prompt_column": "problem",
        "output_dir": str(tmp_path / "out"),
        "num_generations": 4,
        "max_completion_length": 8,
        "reward_funcs": ["mrt_accuracy", "mrt_progress", "test_launch.letters"],
        "callbacks": ["mrt_progress"],
        "mrt_termination": "answer",
        "mrt_answer_tokens": 4,
    }
    return write(tmp_path / "config.yaml", fields)


def write(path, fields):
    path.write_text(yaml.safe_dump(fields))
    return path


def changed(model_path, output):
    """Names of the parameters that a run has changed; it may have saved an adapter to the model."""
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(model_path).state_dict()
    if (Path(output) / "adapter_config.json").exists():
        from peft import PeftModel

        model = AutoModelForCausalLM.from_pretrained(model_path)
        after = PeftModel.from_pretrained(model, output).merge_and_unload().state_dict()
    else:
        after = AutoModelForCausalLM.from_pretrained(output).state_dict()
    return [name for name in before if not torch.equal(before[name], after[name])]
