"""Open-R1's recipes for GRPO through our own `main`, on either trl: its repository is needed, not its installation."""

import os
from pathlib import Path

import pytest
from conftest import CPU, changed

from mrt_plugin import grpo


CHECKOUT = Path(os.environ.get("OPEN_R1_CHECKOUT", "nowhere"))
THEIRS = sorted(CHECKOUT.glob("recipes/*/grpo/*.yaml"))
pytestmark = pytest.mark.skipif(not THEIRS, reason="OPEN_R1_CHECKOUT names no repository of Open-R1")

NOT_HERE = {"attn_implementation": "eager", "torch_dtype": "float32", "use_vllm": False, "use_liger_kernel": False}
NOT_HERE |= {"push_to_hub": False, "log_completions": False, "num_generations": 4, "max_completion_length": 8}


@pytest.mark.parametrize("path", THEIRS, ids=lambda path: "/".join(path.parts[-3:]))
def test_its_recipe_trains_or_says_whose_the_reward_is(path, tmp_path, model_path, problems):
    fields = CPU | NOT_HERE | {"dataset_name": problems, "model_name_or_path": model_path}
    fields |= {"output_dir": str(tmp_path / "out"), "report_to": "none", "weight_decay": 0.0}
    arguments = [str(part) for name, value in fields.items() for part in (f"--{name}", value)]
    command = ["--upstream", "trl", "--config", str(path), *arguments]
    if path.name == "config_demo.yaml":
        rewards = ["accuracy", "format", "tag_count", "mrt_progress", "test_launch.letters"]
        rewards[0] = "accuracy" if "accuracy" in grpo.KNOWN_REWARDS else "mrt_accuracy"
        grpo.run([*command, "--mrt_answer_tokens", "4", "--reward_funcs", *rewards])
        assert changed(model_path, tmp_path / "out")
        return
    emptied = ["--benchmarks", "--callbacks", "--hub_model_revision", "main"] if "codeforces" in path.name else []
    with pytest.raises(ValueError, match=r"code\S* is a (reward|field) of Open-R1's.*; install Open-R1"):
        grpo.run([*command, *emptied])
