"""One recipe for both generations of TRL: every field means the same, or is named in an error."""

from dataclasses import dataclass, field

import pytest
import yaml
from conftest import write
from trl import GRPOConfig, ModelConfig, SFTConfig

from mrt_plugin.datasets import DataArguments
from mrt_plugin.upstream.recipe import FIXED, RENAMED, RecipeParser
from mrt_plugin.upstream.version import TRL_1


def parse(tmp_path, recipe, *arguments, config=GRPOConfig):
    """The configurations that a recipe and a command line come to."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"output_dir": "out", "bf16": False, "use_cpu": True} | recipe))
    return RecipeParser((config, ModelConfig)).parse_args_and_config(["--config", str(path), *arguments])


def share(config):
    """Warm-up, as a share of the steps or as a number of them."""
    return config.warmup_steps or getattr(config, "warmup_ratio", 0)


@pytest.mark.parametrize(
    ("recipe", "arguments", "expected"),
    [
        ({"warmup_ratio": 0.1}, [], 0.1),
        ({"warmup_steps": 0.1}, [], 0.1),
        ({"warmup_steps": 20}, [], 20),
        ({"warmup_ratio": 0.1, "warmup_steps": 20}, [], 20),  # as in transformers 4
        ({"warmup_ratio": 0.1}, ["--warmup_ratio", "0.2"], 0.2),
        ({"warmup_ratio": 0.1}, ["--warmup_steps", "20"], 20),
        ({}, ["--warmup_steps", "0.2"], 0.2),
    ],
)
def test_warm_up(tmp_path, recipe, arguments, expected):
    assert share(parse(tmp_path, recipe, *arguments)[0]) == expected


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_dtype(tmp_path, name):
    for model in (parse(tmp_path, {name: "bfloat16"})[1], parse(tmp_path, {}, f"--{name}", "bfloat16")[1]):
        assert getattr(model, "dtype" if TRL_1 else "torch_dtype") == "bfloat16"


@pytest.mark.parametrize(("value", "old", "new"), [(True, True, "group"), ("group", True, "group")])
def test_scaling_of_rewards(tmp_path, value, old, new):
    assert parse(tmp_path, {"scale_rewards": value})[0].scale_rewards == (new if TRL_1 else old)
    assert parse(tmp_path, {}, "--scale_rewards", str(value))[0].scale_rewards == (new if TRL_1 else old)


@pytest.mark.parametrize(("value", "new"), [(False, "none"), ("none", "none")])
def test_no_scaling_of_rewards(tmp_path, value, new):
    assert parse(tmp_path, {"scale_rewards": value})[0].scale_rewards == (new if TRL_1 else False)


@pytest.mark.parametrize("name", ["max_seq_length", "max_length"])
def test_length_of_rows(tmp_path, name):
    config = parse(tmp_path, {name: 77}, config=SFTConfig)[0]
    assert 77 in (config.max_length, getattr(config, "max_seq_length", None))


@pytest.mark.parametrize("name", sorted(RENAMED) + sorted(RENAMED.values()))
def test_a_renamed_field_is_never_dropped(tmp_path, name):
    """It sets something, or it is named in an error."""
    value = {"torch_dtype": "bfloat16", "dtype": "bfloat16", "train_sampling_strategy": "random"}.get(name, 1)
    value = {"group_by_length": False, "log_unique_prompts": True, "wandb_log_unique_prompts": True}.get(name, value)
    if "regex" in name:
        value = "[0-9]+"
    config = SFTConfig if name in ("max_seq_length", "max_length") else GRPOConfig
    try:
        parsed = parse(tmp_path, {name: value}, config=config)
    except ValueError as error:
        assert f"has no field '{name}'" in str(error)  # noqa: PT017
    else:
        held = [getattr(part, alias, None) for part in parsed for alias in (name, RENAMED.get(name, ""), *RENAMED)]
        assert value in held or "random" in held or False in held


@pytest.mark.parametrize("name", [name for name in FIXED if not hasattr(GRPOConfig, name)])
def test_a_field_that_exists_elsewhere_may_only_say_what_holds_here(tmp_path, name):
    parse(tmp_path, {name: FIXED[name]})
    other = {"token": "sequence", True: False, False: True, "main": "v2"}.get(str(FIXED[name]), "other")
    with pytest.raises(ValueError, match=f"{name}: .* has no equivalent here"):
        parse(tmp_path, {name: other})


@pytest.mark.parametrize(
    ("recipe", "arguments", "match"),
    [
        ({"mrt_credits": "mixed"}, [], "no field 'mrt_credits'. Did you mean 'mrt_credit'"),
        ({"lerning_rate": 1}, [], "no field 'lerning_rate'. Did you mean 'learning_rate'"),
        ({}, ["--lerning_rate", "1"], "no field '--lerning_rate'. Did you mean 'learning_rate'"),
        ({"lr_scheduler_type": "cosin"}, [], "'cosin'"),
        ({}, ["stray"], "stray"),
    ],
)
def test_what_is_unknown_is_named(tmp_path, recipe, arguments, match):
    with pytest.raises(ValueError, match=match):
        parse(tmp_path, recipe, *arguments)


def test_a_field_without_effect_is_let_through(tmp_path, caplog):
    parse(tmp_path, {"overwrite_output_dir": True, "vllm_device": "auto"})
    assert ("overwrite_output_dir is left out" in caplog.text) == TRL_1
    assert "vllm_device is left out" in caplog.text


def test_the_command_line_empties_a_list(tmp_path):
    assert parse(tmp_path, {"reward_weights": [1.0, 0.5]}, "--reward_weights")[0].reward_weights == []
    with pytest.raises(ValueError, match="benchmarks"):
        parse(tmp_path, {"benchmarks": ["lcb_v4"]})
    parse(tmp_path, {"benchmarks": ["lcb_v4"]}, "--benchmarks")


def test_a_data_set_of_the_command_line_wins_over_the_mixture_of_the_recipe(tmp_path):
    recipe = {"dataset_mixture": {"datasets": [{"id": "a"}]}}
    command = ["--config", str(write(tmp_path / "config.yaml", recipe))]
    for more, mixture in ([], recipe["dataset_mixture"]), (["--dataset_name", "b"], None):
        assert RecipeParser(DataArguments).parse_args_and_config(command + more)[0].dataset_mixture == mixture


@dataclass
class Script:
    reward_funcs: list[str] = field(default_factory=lambda: ["accuracy", "format"])


@pytest.mark.parametrize(
    ("recipe", "arguments", "expected"),
    [
        ({"reward_funcs": ["code", "format"], "reward_weights": [1, 0.1]}, ["format", "mrt_progress"], [0.1, 1.0]),
        ({"reward_weights": [0.5, 0.1]}, ["format", "mrt_progress"], [0.1, 1.0]),  # of the script's default
        ({"reward_funcs": ["code"], "reward_weights": [2]}, ["format", "--reward_weights", "3"], [3.0]),
        ({"reward_funcs": ["code"]}, ["format"], None),
    ],
)
def test_weights_go_by_the_names_of_rewards(tmp_path, caplog, recipe, arguments, expected):
    path = write(tmp_path / "config.yaml", {"output_dir": "out", "bf16": False, "use_cpu": True} | recipe)
    command = ["--config", str(path), "--reward_funcs", *arguments]
    assert RecipeParser((Script, GRPOConfig)).parse_args_and_config(command)[1].reward_weights == expected
    assert caplog.text.count("format 0.1, mrt_progress 1.0 (new)") == ("mrt_progress" in arguments)


@pytest.mark.parametrize("names", [["code"], ["code", "code"]])
def test_weights_that_cannot_be_told_are_asked_for(tmp_path, names):
    recipe = {"output_dir": "out", "reward_funcs": names, "reward_weights": [1, 0.1]}
    command = ["--config", str(write(tmp_path / "config.yaml", recipe)), "--reward_funcs", "code", "mrt_progress"]
    with pytest.raises(ValueError, match=r"'code'.* 'mrt_progress'.* Add one for each: --reward_weights 1.0 1.0"):
        RecipeParser((Script, GRPOConfig)).parse_args_and_config(command)
