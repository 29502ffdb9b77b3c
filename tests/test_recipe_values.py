"""Values that YAML makes something else of than their field is, and fields that argparse would not convert."""

import pytest
import yaml
from conftest import changed
from datasets import Dataset
from test_launch import run
from trl import ModelConfig

from mrt_plugin.arguments import MRTConfig
from mrt_plugin.datasets import load_mixture
from mrt_plugin.grpo import GRPOScriptArguments
from mrt_plugin.upstream.recipe import RecipeParser


def parse(tmp_path, text, *arguments):
    """The fields that a recipe, as text, and a command line come to."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: out\nuse_cpu: true\nbf16: false\n{text}\n")
    parser = RecipeParser((GRPOScriptArguments, MRTConfig, ModelConfig))
    parsed = parser.parse_args_and_config(["--config", str(path), *arguments])
    return {name: value for part in parsed for name, value in vars(part).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # numbers as text, and YAML 1.1's text of numbers
        ("learning_rate: 1e-5", 1e-5),
        ("learning_rate: '3'", 3.0),
        ("mrt_alpha: 2e-1", 0.2),
        ("mrt_samples: '8'", 8),
        ("save_steps: '2'", 2),
        ("lr_scheduler_kwargs: {min_lr: 1e-6}", {"min_lr": 1e-6}),
        ("reward_weights: ['1', 1e-1]", [1.0, 0.1]),
        # whole numbers as others
        ("mrt_samples: 4.0", 4),
        ("num_generations: 4.0", 4),
        ("max_steps: 1e3", 1000),
        ("max_steps: 0x10", 16),
        # one for a list
        ("reward_funcs: mrt_accuracy", ["mrt_accuracy"]),
        ("callbacks: mrt_progress", ["mrt_progress"]),
        ("reward_weights: 0.5", [0.5]),
        ("mrt_cues: Wait", ["Wait"]),
        ("lora_target_modules: all-linear", "all-linear"),  # as TRL has it from the command line
        # text that YAML takes for a switch, a number, a date
        ("eval_strategy: no", "no"),
        ("eval_strategy: off", "no"),
        ("save_strategy: false", "no"),
        ("mrt_prefix: no", "none"),
        ("mrt_cues: [No, Wait, 1.10]", ["No", "Wait", "1.10"]),
        ("system_prompt: yes", "yes"),
        ("model_revision: 1.10", "1.10"),
        ("run_name: 007", "007"),
        ("dataset_config: 2024-01-01", "2024-01-01"),
        # switches
        ("gradient_checkpointing: off", False),
        ("gradient_checkpointing: 'no'", False),
        ("gradient_checkpointing: 0", False),
        ("use_vllm: 'on'", True),
        # nothing: the default, where the field takes no null
        ("mrt_samples:", 4),
        ("mrt_credit: null", "auto"),
        ("callbacks:", []),
        ("system_prompt: null", None),
    ],
)
def test_a_value_is_of_its_fields_type(tmp_path, text, expected):
    field = text.partition(":")[0]
    value = parse(tmp_path, text)[field]
    assert value == expected
    assert type(getattr(value, "value", value)) is type(expected) or field == "save_steps"  # of an enumeration


@pytest.mark.parametrize(("written", "share"), [("1e-1", 0.1), ("'1e-1'", 0.1), ("'10'", 10), ("10.0", 10)])
def test_warm_up_steps(tmp_path, written, share):
    for text, arguments in ((f"warmup_steps: {written}", []), ("", ["--warmup_steps", written.strip("'")])):
        fields = parse(tmp_path, text, *arguments)
        assert (fields["warmup_steps"] or fields["warmup_ratio"]) == share


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--mrt_samples", "4.0"], 4),
        (["--num_generations", "4.0"], 4),
        (["--gradient_checkpointing", "off"], False),
        (["--mrt_cues", "No", "Wait"], ["No", "Wait"]),
    ],
)
def test_the_command_line_is_read_alike(tmp_path, options, expected):
    assert parse(tmp_path, "", *options)[options[0].removeprefix("--")] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mrt_samples: 4.5", "mrt_samples: '4.5' is not a whole number."),
        ("mrt_samples: yes", "mrt_samples: 'yes' is not a number."),
        ("mrt_samples: [4]", "mrt_samples: "),
        ("warmup_steps: many", "warmup_steps: 'many' is not a number."),
        ("learning_rate: fast", "learning_rate: could not convert string to float: 'fast'."),
        ("reward_weights: [1, heavy]", "reward_weights: could not convert string to float: 'heavy'."),
        ("use_vllm: maybe", "use_vllm: Truthy value expected: got maybe"),
        ("system_prompt: [Think, twice]", r"system_prompt: \['Think', 'twice'\] is not a text."),
        ("eval_strategy: never", "eval_strategy: 'never' is none of"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse(tmp_path, text)


def test_a_recipe_of_such_values_trains(recipe, tmp_path, model_path):
    fields = yaml.safe_load(recipe.read_text())
    names = ("reward_funcs", "callbacks", "num_generations")
    text = yaml.safe_dump({name: value for name, value in fields.items() if name not in names})
    text += "reward_funcs: test_launch.letters\ncallbacks: mrt_progress\nnum_generations: 4.0\nmrt_credit: dense\n"
    recipe.write_text(f"{text}mrt_samples: 2.0\nwarmup_steps: '1'\neval_strategy: no\nresume_from_checkpoint: no\n")
    run("grpo", recipe)
    assert changed(model_path, tmp_path / "out")
    recipe.write_text(recipe.read_text().replace("'1'", "soon"))
    with pytest.raises(ValueError, match="config.yaml: warmup_steps: 'soon' is not a number."):
        run("grpo", recipe)


def test_a_mixture_takes_one_column_and_a_weight_as_text(tmp_path):
    Dataset.from_list([{"prompt": str(i), "other": i} for i in range(4)]).to_json(tmp_path / "train.jsonl")
    mixture = {"datasets": [{"id": str(tmp_path), "columns": "prompt", "weight": "0.5"}]}
    rows = load_mixture(mixture)["train"]
    assert (rows.column_names, len(rows)) == (["prompt"], 2)
    mixture["datasets"][0]["columns"] = "promt"
    with pytest.raises(ValueError, match="unknown 'promt'. Did you mean 'prompt'"):
        load_mixture(mixture)
