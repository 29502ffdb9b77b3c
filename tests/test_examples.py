"""`examples/`, run as users run them but for the model, the data, the sizes, and what a CPU cannot do."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import CPU, ROOT, changed, write

from mrt_plugin.upstream.version import TRL_1


EXAMPLES = ROOT / "examples"
MODEL, DATA = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "trl-lib/DeepMath-103K"
SMALL = CPU | {"report_to": "none", "num_generations": 4, "max_completion_length": 8}
# No answer of a random model is right, so another outcome is there too.
OUTCOME = {"[mrt_accuracy, ": "[mrt_accuracy, __import__('test_registration').letters, "}


@pytest.fixture
def rows(tmp_path):
    """A data set with the columns of `DATA`."""
    row = {"prompt": [{"role": "user", "content": "Find x with 3 x = 15."}], "solution": "5"}
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("\n".join([json.dumps(row)] * 8))
    return str(tmp_path / "rows")


def run(tmp_path, text, changes, *arguments, package=ROOT):
    """Runs a script in an empty folder, with other texts in it, all of which it has to hold."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "script.py").write_text(text)
    path = os.pathsep.join([str(package), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "script.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ten_lines_train_with_the_wheel_alone(tmp_path, model_path, rows, installed):
    text = (EXAMPLES / "mrt_in_ten_lines.py").read_text()
    settings = ", ".join(f"{name}={value!r}" for name, value in SMALL.items())
    changes = OUTCOME | {MODEL: model_path, DATA: rows, 'report_to="trackio"': settings}
    run(tmp_path, text, changes, package=installed)
    assert len(changed(model_path, tmp_path / "runs/mrt")) > 20


def test_lora_trains_by_its_launch_line(tmp_path, model_path, rows):
    text, changes = (EXAMPLES / "lora_on_one_gpu.py").read_text(), dict(OUTCOME)
    line = re.search(r"```\npython examples/lora_on_one_gpu.py (.*?)```", text, re.DOTALL).group(1)
    arguments = shlex.split(line.replace("\\\n", ""))
    smaller = SMALL | {"model_name_or_path": model_path, "dataset_name": rows, "dtype": "float32", "use_vllm": False}
    arguments += [part for name, value in smaller.items() for part in (f"--{name}", value)]
    if not TRL_1:
        changes |= {'"dtype": model_args.dtype': '"torch_dtype": model_args.torch_dtype'}
        arguments = ["--torch_dtype" if part == "--dtype" else part for part in arguments]
    run(tmp_path, text, changes, *arguments, "--gradient_accumulation_steps", 1)
    assert len(changed(model_path, tmp_path / "runs/mrt-lora")) == 14  # 7 matrices of each layer


FORK = """
from datasets import load_dataset
from test_registration import letters
from trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser


def main(script_args, training_args, model_args):
    rows = load_dataset(script_args.dataset_name)["train"]
    trainer = GRPOTrainer(model_args.model_name_or_path, [letters], training_args, rows)
    trainer.train()
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, GRPOConfig, ModelConfig)).parse_args_and_config())
"""


def test_the_launcher_of_a_fork_trains_mrt(tmp_path, model_path, rows):
    (tmp_path / "fork").mkdir()
    (tmp_path / "fork" / "grpo.py").write_text(FORK)
    recipe = SMALL | {"model_name_or_path": model_path, "dataset_name": rows, "output_dir": "out", "logging_steps": 1}
    recipe = write(tmp_path / "fork.yaml", recipe | {"mrt_credit": "dense", "mrt_answer_tokens": 4})
    run(tmp_path, (EXAMPLES / "fork_launcher.py").read_text(), {"open_r1.grpo": "fork.grpo"}, "--config", recipe)
    assert len(changed(model_path, tmp_path / "out")) > 20
    assert "mrt/progress_mean" in (tmp_path / "out" / "trainer_state.json").read_text()


def test_every_cell_of_the_notebook_runs(tmp_path, model_path):
    cells = json.loads((EXAMPLES / "mrt_in_colab.ipynb").read_text())["cells"]
    cells = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text = re.sub("^%pip .*$", "", "\n\n".join(cells), flags=re.MULTILINE)
    text += "\ntrainer.save_model()\n"
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "display.py").write_text("HTML = print\n")
    smaller = {"Qwen/Qwen3-0.6B": model_path, "STEPS = 30": "STEPS = 2", "TOKENS = 1024": "TOKENS = 24"}
    out = run(tmp_path, text, OUTCOME | smaller | {"learning_rate=2e-5": "learning_rate=1e-2"})
    assert "J = 0.00 after     0 tokens" in out
    assert '<iframe srcdoc="&lt;!doctype html' in out
    assert len(changed(model_path, tmp_path / "runs/mrt")) == 14
