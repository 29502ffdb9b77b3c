r"""Kills a run that saves every step at random moments, until it has been killed often enough to be left to end.

    python tests/kills.py [--kills 20] [--seed 0] [options of the launchers]

Each time it must go on, and it must end with the weights of a run that nobody killed. Each kill prints what it left of
the newest checkpoint.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from conftest import CPU, byte_level_tokenizer, tiny_model, write
from safetensors.torch import load_file

from mrt_plugin.upstream.checkpoints import fault


STEPS = 62
SAVING = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 3, "logging_steps": 1}
SAVING |= {"lr_scheduler_type": "constant", "learning_rate": 1e-3}


def letters(completions, **kwargs):
    """A reward that a random model earns unequally."""
    return [float(len(completion[0]["content"]) % 5) for completion in completions]


def recipes(folder: Path) -> dict[str, Path]:
    """A recipe for each launcher, and what they read: a model of 4 million weights, so that it takes time to save."""
    tokenizer = byte_level_tokenizer()
    for part in (tokenizer, tiny_model(tokenizer, hidden_size=256, intermediate_size=1024, num_hidden_layers=4)):
        part.save_pretrained(folder / "model")
    prompt, completion = "<|user|>{0}+1?<|eos|><|assistant|><think>\n", "Hm {0}.\n</think>\n\n\\boxed{{2}}<|eos|>"
    rows = {
        "grpo": [{"problem": f"Find x with {i} x = {i}.", "solution": "1"} for i in range(8)],
        "sft": [{"prompt": prompt.format(i), "completion": completion.format(i)} for i in range(20)],
    }
    fields = CPU | SAVING | {"model_name_or_path": str(folder / "model")}
    of_grpo = {"dataset_prompt_column": "problem", "num_generations": 4, "max_completion_length": 16}
    of_grpo |= {"reward_funcs": ["mrt_accuracy", "mrt_progress", "kills.letters"], "mrt_prefix": "online"}
    of_grpo |= {"mrt_termination": "answer", "mrt_answer_tokens": 4, "mrt_credit": "mixed"}
    written = {}
    for task, more in (("grpo", of_grpo), ("sft", {})):
        (folder / task).mkdir()
        (folder / task / "train.jsonl").write_text("\n".join(map(json.dumps, rows[task])))
        written[task] = write(folder / f"{task}.yaml", fields | more | {"dataset_name": str(folder / task)})
    return written


def start(task: str, recipe: Path, output: Path, *options: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, sys.path)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"mrt_plugin.{task}", "--config", str(recipe), "--output_dir", str(output)]
    with output.with_suffix(".log").open("a") as log:
        return subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_until_it_saves(run: subprocess.Popen, output: Path) -> None:
    since = time.time()
    while run.poll() is None:
        with suppress(FileNotFoundError):  # a checkpoint that the run itself deletes
            if any(path.stat().st_mtime > since for path in output.glob("checkpoint-*/*")):
                return
        time.sleep(0.005)


def end(run: subprocess.Popen, output: Path) -> None:
    if run.wait():
        sys.exit(output.with_suffix(".log").read_text()[-3000:] + f"\n{output.name} ended with {run.returncode}.")


def newest(output: Path) -> Path:
    return max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def kill_again_and_again(task: str, recipe: Path, folder: Path, kills: int, options: list[str]) -> None:
    whole, killed = folder / f"{task}-whole", folder / f"{task}-killed"
    run = start(task, recipe, whole, *options)
    wait_until_it_saves(run, whole)
    began = time.time()
    end(run, whole)
    written = sorted(path.stat().st_mtime for path in newest(whole).iterdir())
    moments = [written[-1] - written[0], 2 * (time.time() - began) / STEPS]  # within a save, within two steps
    cut_off = 0
    for kill in range(kills):
        run = start(task, recipe, killed, *options)
        wait_until_it_saves(run, killed)
        time.sleep(random.uniform(0, moments[kill % 2]))
        if run.poll() is not None:
            end(run, killed)
            sys.exit(f"{task}: the run ended after {kill} of {kills} kills.")
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        missing = fault(newest(killed))
        cut_off += missing is not None
        print(f"{task}: kill {kill + 1} in {newest(killed).name}: {missing or 'whole'}", flush=True)
    end(start(task, recipe, killed, *options), killed)
    weights, expected = (load_file(output / "model.safetensors") for output in (killed, whole))
    different = [name for name in expected if not expected[name].equal(weights[name])]
    if newest(killed).name != f"checkpoint-{STEPS}" or different:
        sys.exit(f"{task}: after {kills} kills the run ended in {newest(killed).name}, and {different} differ.")
    print(f"{task}: the weights of an undisturbed run after {kills} kills, {cut_off} of them in a checkpoint.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked, options = parser.parse_known_args()
    random.seed(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        for task, recipe in recipes(Path(folder)).items():
            kill_again_and_again(task, recipe, Path(folder), asked.kills, options)
