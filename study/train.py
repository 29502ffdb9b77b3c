"""One training, from a kept warm start to a model, and what its log says; and how a warm start is made."""

import json
import shutil
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from .measure import call, evaluate, rates, solved
from .settings import EVERY, EXACT, RECIPES, ROLLOUTS, TASKS, Setting, Task
from .tasks.revise import SETTINGS


STAR_MODELS, STAR_ROWS = ("model-1", "model-2", "model"), 4  # of the iterations; rows of a problem

UPDATES = {  # what is kept of the updates between two evaluations: their mean, of grad_norm the last
    "silent": "frac_reward_zero_std",
    "cut": "completions/clipped_ratio",
    "length": "completions/mean_length",
    "episodes": "mrt/episodes_mean",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "regret": "mrt/regret",  # on validation problems, after the last of them
}
HELD_OUT = {
    "accuracy": "eval_rewards/mrt_accuracy/mean",
    "within_quarter": "eval_rewards/within_quarter/mean",
    "tokens": "eval_completions/mean_length",
}


def prepare(name: str, start: Path, scratch: Path) -> None:
    """What all trainings of a task begin from, in the folder `start`: problems and the warm start."""
    if start.exists():
        return
    shutil.rmtree(scratch, ignore_errors=True)
    log, task = scratch.with_suffix(".log"), TASKS[name]
    call(log, "-m", *task.make, "--output", scratch)
    recipe = ["-m", "mrt_plugin.sft", "--config", RECIPES / "sft/config_warm_start.yaml"]
    data = ["--model_name_or_path", scratch / "base", "--dataset_name", scratch / "warm_start"]
    data += ["--max_length", task.longest, "--output_dir", scratch / "trained"]
    call(log, *recipe, "--max_steps", task.warm_up, *data)
    keep(scratch, scratch / "start", name)
    start.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch / "start", start)
    shutil.rmtree(scratch)


def keep(scratch: Path, start: Path, name: str) -> None:
    """Problems, the trained model in half precision, and how often it errs beside how often its traces do."""
    shutil.copytree(scratch / "problems", start / "problems")
    half = AutoModelForCausalLM.from_pretrained(scratch / "trained", dtype=torch.float16)  # half the size
    half.save_pretrained(start / "warm-start")
    AutoTokenizer.from_pretrained(scratch / "trained").save_pretrained(start / "warm-start")
    module, *which = TASKS[name].make
    if module.endswith("revise"):
        evaluate(start / "warm-start", TASKS[name], start, scratch, "validation", "--num_generations", 32)
        found = rates(
            SETTINGS[which[0]].attempts, scratch / "warm_start" / "train.jsonl", scratch / "warm-start-validation"
        )
        (start / "rates.json").write_text(json.dumps(found, indent=1) + "\n")


def with_prefixes(task: Task, start: Path, scratch: Path) -> Path:
    """The problems again, with a prefix for each; those for validation start at the bare problem."""
    made = start / "prefixed"
    if not made.exists():
        recipe = ["-m", "mrt_plugin.data.prefixes", "--config", RECIPES / "prefixes/data_mrt.yaml", *EXACT]
        recipe += ["--max_completion_length", task.budget, "--mrt_episodes", task.episodes]
        data = ["--dataset_name", start / "problems", "--output_dir", scratch / "prefixes"]
        call(scratch / "log", *recipe, "--model_name_or_path", start / "warm-start", *data)
        held_out = load_dataset("json", data_files=str(start / "problems" / "validation.jsonl"), split="train")
        held_out = held_out.map(lambda row: {"prefix": "", "prefix_success": 0.0})
        rows = load_dataset(str(scratch / "prefixes"), split="train").select_columns(held_out.column_names)
        for name, some in (("validation", held_out), ("train", rows)):
            some.to_json(str(made / f"{name}.jsonl"))
    return made


def train(setting: Setting, start: Path, out: Path) -> dict:
    """Leaves the trained model in out / "model"; returns what is kept of the training."""
    recipe, *options = setting.arguments
    common = ["--config", RECIPES / recipe, "--learning_rate", setting.learning_rate, "--seed", setting.seed]
    if recipe.startswith("sft"):
        return fine_tune(setting, start, out, common, options)
    problems = with_prefixes(TASKS[setting.task], start, out) if "dataset" in options else start / "problems"
    count = len((start / "problems" / "validation.jsonl").read_text().splitlines())
    held_out = ["--dataset_test_split", "validation", "--eval_strategy", "steps", "--eval_steps", EVERY]
    held_out += ["--num_generations_eval", 2, "--per_device_eval_batch_size", 2 * count]
    held_out += ["--mrt_regret_steps", EVERY, "--mrt_regret_problems", count]
    prover = ["--mrt_termination", "answer", "--mrt_answer_tokens", 8, "--mrt_answer_temperature", 1]
    data = ["--model_name_or_path", start / "warm-start", "--dataset_name", problems, "--output_dir", out / "model"]
    length = ["--max_steps", setting.steps, "--logging_steps", EVERY]
    call(out / "log", "-m", "mrt_plugin.grpo", *common, *data, *length, *held_out, *prover, *options)
    return history(out / "model", drawn="likelihood" not in options or "sample" in options)


def history(model: Path, drawn: bool) -> dict:
    """
    What a training cost, and how it went, a column for each number; `drawn` says whether tokens of branches were
    drawn, or else scored.
    """
    log = json.loads((model / "trainer_state.json").read_text())["log_history"]
    spent, curve = {"drawn": 0.0, "scored": 0.0}, {}
    for entry in log:
        if "completions/mean_length" in entry:
            written = ROLLOUTS * entry["completions/mean_length"] + entry.get("mrt/prefix_tokens", 0.0)
            spent["drawn"] += EVERY * written
            spent["drawn" if drawn else "scored"] += EVERY * entry.get("mrt/branch_tokens", 0.0)
            point = {"updates": entry["step"], **{kind: round(count) for kind, count in spent.items()}}
            names = UPDATES
        elif HELD_OUT["accuracy"] in entry:
            point, names = {}, HELD_OUT
        else:
            continue
        point |= {name: round(entry[key], 5) for name, key in names.items() if key in entry}
        for name, value in point.items():
            curve.setdefault(name, []).append(value)
    return {"curve": curve}


def fine_tune(setting: Setting, start: Path, out: Path, common: list, selection: list) -> dict:
    """STaR: in each iteration a third of the rollouts and of the updates."""
    model, problems = start / "warm-start", len((start / "problems" / "train.jsonl").read_text().splitlines())
    updates, drawn, curve, kept = setting.steps // len(STAR_MODELS), 0, {}, []
    task = TASKS[setting.task]
    sizes = ["--num_generations", max(1, setting.steps * ROLLOUTS // len(STAR_MODELS) // problems)]
    sizes += ["--rows_per_problem", STAR_ROWS, "--max_completion_length", task.budget, "--mrt_episodes", task.episodes]
    for iteration, name in enumerate(STAR_MODELS):
        rows, tuned = out / f"rows-{iteration}", out / name
        recipe = ["--config", RECIPES / "star/data_mrt.yaml", "--seed", 1000 * iteration + setting.seed]
        data = ["--model_name_or_path", model, "--dataset_name", start / "problems", "--output_dir", rows]
        counted = ["-m", "study.count_tokens", "--count", out / "tokens"]
        call(out / "log", *counted, *recipe, *data, *sizes, *selection)
        drawn += int((out / "tokens").read_text())
        # In two columns, so that the problem is no target.
        turns = load_dataset(str(rows), split="train")
        kept.append([len(turns), solved(turns)])
        turns = turns.map(lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]})
        turns.select_columns(["prompt", "completion"]).to_json(str(out / f"turns-{iteration}" / "train.jsonl"))
        data = ["--model_name_or_path", model, "--dataset_name", out / f"turns-{iteration}", "--output_dir", tuned]
        length = ["--max_length", task.longest, "--max_steps", updates]
        call(out / "log", "-m", "mrt_plugin.sft", *common, *data, *length)
        model = tuned
        run = evaluate(model, task, start, out, "validation")
        point = {"updates": (iteration + 1) * updates, "drawn": drawn, "scored": 0}
        point |= {"accuracy": run.pass_at_1().mean(), "within_quarter": run.pass_at_1(task.budget // 4).mean()}
        point |= {"tokens": sum(r.tokens for r in run.rollouts) / len(run.rollouts)}
        for column, value in point.items():
            curve.setdefault(column, []).append(round(float(value), 5))
    return {"curve": curve, "rows": kept}
