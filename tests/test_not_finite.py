"""A number that is not finite stops the run before the optimizer takes it; what was saved before stays as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM


INJECTED = """
import sys

import torch

import mrt_plugin.grpo
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.upstream.trainer import GRPOTrainer

what, trainer = sys.argv.pop(1), mrt_plugin.grpo.MRTTrainer
second = lambda self: self.state.global_step == 1


class Injected(trainer):
    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if what == "gradient" and second(self):
            next(self.model.parameters()).grad[0, 0] = torch.inf
        return loss

    def _advantages(self, inputs, output):
        if what == "score" and second(self):
            score = PolicySampler.score
            PolicySampler.score = lambda *args: [float("nan")] * len(score(*args))
        if what == "advantage" and second(self):
            output["advantages"][0] = torch.nan
        return super()._advantages(inputs, output)


compute_loss = GRPOTrainer.compute_loss
GRPOTrainer.compute_loss = lambda self, *args: compute_loss(self, *args) * (
    torch.nan if what == "loss" and second(self) and self.accelerator.is_main_process else 1
)
mrt_plugin.grpo.MRTTrainer = Injected
mrt_plugin.grpo.run(["--upstream", "trl", *sys.argv[1:]])
"""

WHAT = {
    "loss": "The loss is not finite at step 2 on rank 0",
    "gradient": "A gradient is not finite at step 2 on rank 0",
    "advantage": "An advantage is not finite at step 2 on rank 0",
    "score": "The log-probability of a gold answer is not finite at step 2 on rank 0",
}


@pytest.mark.parametrize("what", WHAT)
def test_the_run_stops_before_the_weights_take_it(what, recipe, tmp_path, model_path):
    result, saved = run([sys.executable], what, recipe, tmp_path)
    assert WHAT[what] in result.stderr.strip().splitlines()[-1]
    assert "Try attn_implementation: eager" in result.stderr
    assert [path.name for path in saved] == ["checkpoint-1"]
    weights = AutoModelForCausalLM.from_pretrained(saved[0]).state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    begun = AutoModelForCausalLM.from_pretrained(model_path).state_dict()
    assert not all(torch.equal(begun[name], value) for name, value in weights.items())


def test_two_processes_stop_where_one_of_them_meets_it(recipe, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    result, saved = run(launcher, "loss", recipe, tmp_path)
    assert WHAT["loss"] in result.stderr
    assert [path.name for path in saved] == ["checkpoint-1"]


def run(launcher: list[str], what: str, recipe, tmp_path) -> tuple[subprocess.CompletedProcess, list]:
    script = tmp_path / "injected.py"
    script.write_text(INJECTED)
    options = ["--mrt_credit", "dense", "--mrt_estimator", "likelihood", "--max_steps", "3"]
    options += ["--save_strategy", "steps", "--save_steps", "1"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [*launcher, script, what, "--config", recipe, *options]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode
    return result, sorted(tmp_path.rglob("checkpoint-*"))
