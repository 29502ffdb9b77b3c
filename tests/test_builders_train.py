"""What the builders write is what the launchers train on: masks token by token, and weights that change."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import CPU, changed, tiny_model, write
from datasets import load_dataset
from test_builders import FAILED, ONE, RIGHT, TWO, Scripted, attempts, thinking
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from mrt_plugin import grpo, sft
from mrt_plugin.data import backtracking, prefixes, star


BUILD = {"num_generations": 4, "max_completion_length": 128, "mrt_samples": 4, "mrt_answer_tokens": 16}


def merging_tokenizer():
    """As Llama's: it opens every text with a BOS, and a bracket and the blank line behind it are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["}\n\n"] * 99, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    fast.chat_template = (
        "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return fast


@pytest.fixture
def build(tmp_path, model_path, problems, monkeypatch):
    """Builds rows from a recipe with a policy that follows a rule."""

    def run(builder, rule, **fields):
        def load_policy(args, model_args):
            tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
            tokenizer.chat_template = args.chat_template or tokenizer.chat_template
            return Scripted(tokenizer, rule)

        monkeypatch.setattr("mrt_plugin.jobs.job.load_policy", load_policy)
        rows = str(tmp_path / "rows")
        common = {"model_name_or_path": model_path, "dataset_name": problems, "output_dir": rows}
        builder.run(["--config", str(write(tmp_path / "data.yaml", BUILD | common | fields))])
        return rows

    return run


def train(launcher, tmp_path, model_path, rows, **fields):
    common = {"model_name_or_path": model_path, "dataset_name": rows, "output_dir": str(tmp_path / "out")}
    launcher.run(["--config", str(write(tmp_path / "config.yaml", CPU | common | fields))])
    return changed(model_path, tmp_path / "out")


def test_star_rows_fine_tune(build, tmp_path, model_path):
    rollouts = [ONE + TWO + "</think>\n\n\\boxed{4}"] * 4
    rule = thinking(rollouts, {"": 0, ONE: 0.5, ONE + TWO: 0.25})
    rows = build(star, gold_is_1(rule), mrt_termination="answer")
    assert train(sft, tmp_path, model_path, rows, max_length=128)


@pytest.mark.parametrize("credit", ["mixed", "termination"])
def test_prefix_rows_train_with_grpo(build, tmp_path, model_path, credit):
    rule = thinking([ONE + TWO + "</think>\\boxed{1}"] * 4, {"": 0.25, ONE: 0.5})
    rows = build(prefixes, gold_is_1(rule), mrt_termination="answer")
    mrt = {"mrt_credit": credit, "mrt_prefix": "dataset", "mrt_termination": "answer"}
    rewards = ["test_launch.letters"] + ["mrt_progress"] * (credit == "mixed")
    sizes = {"num_generations": 4, "max_completion_length": 8, "dataset_prompt_column": "problem"}
    assert train(grpo, tmp_path, model_path, rows, reward_funcs=rewards, **mrt, **sizes)


def gold_is_1(rule):
    """The rule of a policy for problems whose answer is 1, from one for problems whose answer is 5."""
    return lambda text, n: [written.replace("5}", "1}") for written in rule(text, n)]


@pytest.fixture
def llama_path(tmp_path):
    tokenizer = merging_tokenizer()
    tokenizer.save_pretrained(tmp_path / "llama")
    tiny_model(tokenizer, initializer_range=0.02, max_position_embeddings=4096).save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


def goes_back(text, n):
    return attempts([FAILED, RIGHT])(text.replace("[assistant]", "<|assistant|>"), n)


def test_the_loss_of_a_backtracking_row_is_on_the_suffix_alone(build, tmp_path, llama_path):
    gold = {"scheme": "backtrack", "model_name_or_path": llama_path, "max_completion_length": 1000}
    rows = build(backtracking, gold_is_1(goes_back), **gold)
    row = load_dataset(rows, split="train")[0]
    tokenizer = AutoTokenizer.from_pretrained(llama_path)
    trainer = SFTTrainer(
        llama_path,
        args=SFTConfig(str(tmp_path / "out"), use_cpu=True, bf16=False, report_to=[], max_length=4096),
        train_dataset=load_dataset(rows, split="train").select([0]),
    )
    [batch] = trainer.get_train_dataloader()
    [token_ids], [labels] = batch["input_ids"].tolist(), batch["labels"].tolist()
    assert tokenizer.decode(token_ids) == "<|bos|>" + row["prompt"] + row["completion"]
    trained = [token for token in labels if token != -100]
    assert token_ids[-len(trained) :] == trained  # the end of the row, and nothing else
    assert tokenizer.decode(trained) == row["completion"]
    assert trained.count(tokenizer.eos_token_id) == 1
    # The failed attempt ends in a bracket that is one token with the blank line behind it: both are trained.
    assert row["completion"].startswith("}\n\nThis attempt has gone wrong. Let me go back to the end of Node 1")
    assert row["prompt"].endswith("Node 3: \\boxed{3")
    assert row["prompt"].startswith("[user]Find x with 0 x = 0.<|eos|>[assistant]Node 1:")


def test_a_star_row_is_trained_as_it_was_written(build, tmp_path, llama_path):
    rule = thinking([ONE + TWO + "</think>\n\n\\boxed{4}"] * 4, {"": 0, ONE: 0.5, ONE + TWO: 0.25})
    opened = "[user]{{ messages[0].content }}{{ eos_token }}{% if add_generation_prompt %}<think>\n{% endif %}"
    fields = {"model_name_or_path": llama_path, "chat_template": "{{ bos_token }}" + opened, "num_generations": 4}
    rows = build(star, gold_is_1(rule), mrt_termination="answer", max_completion_length=900, **fields)
    recipe = Path(__file__).parent.parent / "recipes/DeepSeek-R1-Distill-Qwen-1.5B/sft/config_mrt.yaml"
    tokenizer = AutoTokenizer.from_pretrained(llama_path)
    tokenizer.chat_template = yaml.safe_load(recipe.read_text())["chat_template"]
    data = load_dataset(rows, split="train").select([0])
    args = SFTConfig(str(tmp_path / "out"), use_cpu=True, bf16=False, report_to=[], max_length=4096)
    [batch] = SFTTrainer(llama_path, args=args, train_dataset=data, processing_class=tokenizer).get_train_dataloader()
    turn = f"<think>\n{ONE.rstrip()}\n</think>\n\n**Final Answer**\n\n\\boxed{{1}}"
    expected = f"<|bos|><｜User｜>{data[0]['problem']}<｜Assistant｜>{turn}<|eos|>"
    assert tokenizer.decode(batch["input_ids"][0]) == expected
    assert tokenizer.decode([token for token in batch["labels"][0] if token != -100]) == expected


def test_backtracking_rows_fine_tune(build, tmp_path, llama_path):
    gold = {"scheme": "star", "model_name_or_path": llama_path, "max_completion_length": 1000}
    rows = build(backtracking, gold_is_1(goes_back), **gold)
    assert train(sft, tmp_path, llama_path, rows, max_length=4096)


RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*/*/data_*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[-3:]))
def test_every_recipe_builds(path, tmp_path, model_path, problems):
    """As it stands, but for the model, the data and the sizes."""
    task, text = path.parent.name, path.read_text()
    text = re.sub(r"AI-MO/NuminaMath-CoT(?=\n)|(?<=dataset_name: )\S+", problems, text)
    copied = tmp_path / path.name
    copied.write_text(text)
    sizes = {"num_generations": 2, "max_completion_length": 24, "batch_size": 4, "mrt_samples": 2}
    overrides = sizes | {"model_name_or_path": model_path, "output_dir": tmp_path / "rows", "mrt_answer_tokens": 4}
    arguments = [str(part) for name, value in overrides.items() for part in (f"--{name}", value)]
    import_module(f"mrt_plugin.data.{task}").run(["--config", str(copied), "--sampler", "transformers", *arguments])
    card = (tmp_path / "rows" / "README.md").read_text()
    assert "| problems | 8 |" in card
    if task == "prefixes":
        assert "| rows | 0 |" not in card
    module = f"mrt {task} \\\n#                    --config {path.relative_to(path.parents[3])}"
    assert module in text  # the launch line of its header
