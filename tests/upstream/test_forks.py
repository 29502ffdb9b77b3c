"""Open-R1's own `grpo.py` and forks of it, as new users make them: each trains MRT, the same, or stops with a word."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


pytest.importorskip("open_r1", reason="Open-R1 is installed from its repository")

import open_r1.configs
import open_r1.grpo
import open_r1.rewards
import open_r1.utils.callbacks
from conftest import write
from test_recipes import RECIPES, name
from trl import ModelConfig, TrlParser

from mrt_plugin import MRTArguments, grpo, register
from mrt_plugin.upstream.recipe import RecipeParser
from mrt_plugin.upstream.rewards import FORM


SCRIPT = Path(open_r1.grpo.__file__).read_text()
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "fork_launcher.py"
CALL = "from mrt_plugin import register; register()\n"
PARSER = "    parser = TrlParser("
PARSE = "    script_args, training_args, model_args = parser.parse"
IMPORTS = "from open_r1.configs import GRPOConfig, GRPOScriptArguments\nfrom trl import ModelConfig, TrlParser\n"
IMPORTS += "from fork.train import main\n"
MAIN = SCRIPT[SCRIPT.index('if __name__ == "__main__":') :]
RUNNER = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", "-m", "mrt_plugin.run"]
FORKS = {  # their grpo.py, beside a package with Open-R1's in it
    "first line": CALL + SCRIPT,
    "below the imports": SCRIPT.replace(PARSER, f"    {CALL}{PARSER}"),
    "below the parser": SCRIPT.replace(PARSE, f"    {CALL}{PARSE}"),
    "above a package": CALL + IMPORTS + MAIN,
    "below a package": IMPORTS + CALL + MAIN,
    "the runner": SCRIPT,
    "the example": EXAMPLE.read_text().replace('"open_r1.grpo"', '"fork.train"'),
}
TYPES = {
    "grpo": (open_r1.configs.GRPOScriptArguments, open_r1.configs.GRPOConfig, ModelConfig),
    "sft": (open_r1.configs.ScriptArguments, open_r1.configs.SFTConfig, ModelConfig),
}


def run(*command):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=290)


def metrics(output):
    """What a run has logged, but for times."""
    entries = json.loads((output / "trainer_state.json").read_text())["log_history"]
    timed = ("seconds", "runtime", "per_second", "time")
    return [{key: value for key, value in entry.items() if not key.endswith(timed)} for entry in entries]


@pytest.fixture
def fork(tmp_path, recipe):
    """Runs a fork's `grpo.py` on a recipe with a reward of Open-R1's and our fields."""
    fields = yaml.safe_load(recipe.read_text()) | {"mrt_credit": "mixed", "mrt_prefix": "online", "mrt_episodes": 3}
    fields |= {"reward_funcs": ["accuracy", "test_launch.letters", "mrt_progress"], "logging_steps": 1}
    (tmp_path / "fork").mkdir()
    (tmp_path / "fork" / "train.py").write_text(SCRIPT)

    def launch(text, output, *options, runner=(), **changes):
        (tmp_path / "grpo.py").write_text(text)
        written = write(recipe, {field: value for field, value in (fields | changes).items() if value is not None})
        command = [*runner, tmp_path / "grpo.py", "--config", written, "--output_dir", tmp_path / output, *options]
        return run(*command)

    return launch


@pytest.mark.timeout(1500)
def test_every_way_into_a_fork_trains_the_same(fork, tmp_path):
    seen = {}
    for way, text in FORKS.items():
        done = fork(text, way, runner=RUNNER if way == "the runner" else ())
        assert done.returncode == 0, f"{way}: {done.stderr[-3000:]}"
        seen[way] = metrics(tmp_path / way)
    first = seen["first line"]
    assert "mrt/prefix_success" in first[0]
    assert first[0]["grad_norm"] > 0
    for way, logged in seen.items():
        assert logged == first, way


@pytest.mark.timeout(600)
def test_a_fork_says_what_it_does_not_know(fork):
    done = fork(SCRIPT, "out", runner=RUNNER, mrt_credit=None, mrt_credits="mixed")
    assert "trl 0.18.0 has no field 'mrt_credits'. Did you mean 'mrt_credit'" in done.stderr
    done = fork(SCRIPT, "out", reward_funcs=["mrt_accuracy"])  # nobody registered
    assert "KeyError: 'mrt_accuracy'" in done.stderr


def test_a_misspelt_reward_of_a_fork_is_suggested(monkeypatch):
    source = Path(open_r1.rewards.__file__).read_text()
    scope = dict(vars(open_r1.rewards))
    function = source[source.index("def get_reward_funcs") :]
    exec(compile(function.replace('"accuracy":', '"brevity": len_reward, "accuracy":'), "fork.py", "exec"), scope)
    monkeypatch.setattr(open_r1.rewards, "get_reward_funcs", scope["get_reward_funcs"])
    register()
    script_args = open_r1.configs.GRPOScriptArguments(dataset_name="x", reward_funcs=["brevity", "mrt_progress"])
    assert [reward.__name__ for reward in scope["get_reward_funcs"](script_args)] == ["len_reward", "mrt_progress"]
    script_args.reward_funcs = ["brevty"]
    with pytest.raises(ValueError, match=r"unknown 'brevty'. Did you mean 'brevity'\? Known: mrt_accuracy, .*tag"):
        scope["get_reward_funcs"](script_args)


def test_its_rewards_of_form_are_the_same_without_it():
    parts = ["<think>", "\n", "Hm.\n- Step 1: x\n", "\n</think>", "\n<answer>\n", "5", "\n</answer>", "\nFirst, no."]
    texts = ["".join(parts[i:j]) for i in range(len(parts)) for j in range(i, len(parts) + 1)]
    texts += [text * 2 for text in texts] + ["1. a\n2. b\nNext, c. Finally, d.\n* e"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    script_args = open_r1.configs.GRPOScriptArguments(dataset_name="x", reward_funcs=list(FORM))
    for ours, theirs in zip(FORM.values(), open_r1.rewards.get_reward_funcs(script_args), strict=True):
        assert ours.__name__ == theirs.__name__
        assert ours(completions) == theirs(completions)
        assert len(set(ours(completions))) > 1


# Recipes: ours in its parser, its own in ours.


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_can_be_copied(path):
    """Its own parser reads every field of a recipe of ours but `mrt_*`, which names a reward that it does not have."""
    text, task = path.read_text(), path.parts[-2]
    fields, command = yaml.safe_load(text), ["--config", str(path), "--bf16", "false"]
    ours = RecipeParser(TYPES[task])
    if "Not for copying" in text:
        with pytest.raises(ValueError, match="trl 0.18.0 has no"):
            ours.parse_args_and_config(command)
        return
    *read, left = TrlParser(TYPES[task]).parse_args_and_config(command, return_remaining_strings=True)
    assert [option for option in left if option.startswith("--") and not option.startswith("--mrt_")] == []
    for theirs, mine in zip(read, ours.parse_args_and_config(command), strict=True):
        plain = {field: value for field, value in vars(mine).items() if not field.startswith("mrt_")}
        plain["logging_dir"] = getattr(theirs, "logging_dir", None)  # named after the minute
        assert {field: str(vars(theirs).get(field)) for field in plain} == {key: str(plain[key]) for key in plain}
    assert task == "sft" or any(reward.startswith("mrt_") for reward in fields["reward_funcs"])


CHECKOUT = Path(os.environ.get("OPEN_R1_CHECKOUT", "nowhere"))
THEIRS = sorted(CHECKOUT.glob("recipes/*/grpo/*.yaml"))
NEEDS_CHECKOUT = pytest.mark.skipif(not THEIRS, reason="OPEN_R1_CHECKOUT names no repository of Open-R1")


@NEEDS_CHECKOUT
def test_the_line_of_the_readme_on_each_of_its_recipes(caplog):
    """`--reward_funcs accuracy mrt_progress`; rewards of the recipe keep their weights, new ones get 1."""
    register()
    assert len(THEIRS) == 5
    for path in THEIRS:
        for rewards in (["accuracy", "mrt_progress"], ["format", "mrt_progress"]):
            command = ["--config", str(path), "--bf16", "false", "--num_generations", "4"]
            command += ["--reward_funcs", *rewards]
            script_args, training_args, _ = TrlParser(TYPES["grpo"]).parse_args_and_config(command)
            fields = yaml.safe_load(path.read_text())
            weights = dict(zip(fields["reward_funcs"], fields["reward_weights"], strict=True))
            assert script_args.reward_funcs == rewards
            assert training_args.reward_weights == [weights.get(rewards[0], 1.0), 1.0]
            assert isinstance(training_args, MRTArguments)
    assert "reward_weights of the recipe, by name: format 0.1, mrt_progress 1.0 (new)." in caplog.text


@NEEDS_CHECKOUT
@pytest.mark.parametrize("path", [path for path in THEIRS if path.name == "config_demo.yaml"], ids=name)
def test_the_line_of_the_readme_trains(path, tmp_path, model_path, problems):
    options = {"model_name_or_path": model_path, "dataset_name": problems, "output_dir": tmp_path / "out"}
    options |= {"attn_implementation": "eager", "torch_dtype": "float32", "use_cpu": True, "bf16": False}
    options |= {"use_vllm": False, "use_liger_kernel": False, "push_to_hub": False, "report_to": "none"}
    options |= {"num_generations": 4, "per_device_train_batch_size": 4, "max_completion_length": 8, "max_steps": 2}
    options |= {"save_strategy": "no", "log_completions": False, "mrt_answer_tokens": 4, "log_level": "error"}
    line = ["--config", path, "--reward_funcs", "accuracy", "mrt_progress"]
    script = [*RUNNER, open_r1.grpo.__file__, *line]
    done = run(*script, *(str(part) for field, value in options.items() for part in (f"--{field}", value)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"reward_weights of the recipe, by name: accuracy 1.0, mrt_progress 1.0 \(new\)", done.stderr)
    assert "mrt/branch_tokens" in metrics(tmp_path / "out")[0]


def test_regret_is_measured_where_there_is_a_split(recipe, tmp_path):
    regret = ["--mrt_regret_steps", "1", "--mrt_regret_problems", "2", "--logging_steps", "1"]
    with pytest.raises(ValueError, match="Set eval_strategy: steps"):
        grpo.run(["--config", str(recipe), *regret, "--model_name_or_path", "there is no model"])
    grpo.run(["--config", str(recipe), *regret, "--eval_strategy", "steps", "--eval_steps", "100"])
    assert "mrt/regret" in metrics(tmp_path / "out")[0]
