r"""Where the time of a training step goes at a user's size, by torch's profiler: GRPO beside each credit of MRT.

    python -m tests.bench.step MODEL PROBLEMS     # a warm-started model; JSON lines of problem and solution

One card, or one core with OMP_NUM_THREADS=1. The weights are in bf16. Of each method one step warms up and the next
`STEPS` are measured; all begin with the same weights.
"""

import argparse
import functools
import tempfile
import time
from collections import Counter

import torch
from datasets import load_dataset
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from mrt_plugin import MRTConfig, MRTTrainer, mrt_accuracy, mrt_progress, starts
from mrt_plugin.finite import FiniteGradients
from tests.gpu.__main__ import table
from tests.gpu.cost import synchronize


STEPS = 2
ONLINE = {"mrt_prefix": "online", "mrt_estimator": "sample", "mrt_samples": 4}
METHODS = {
    "GRPO": ([mrt_accuracy], {"mrt_credit": "none"}),
    "MRT dense, likelihood": ([mrt_accuracy, mrt_progress], {"mrt_estimator": "likelihood"}),
    "MRT dense, 4 samples": ([mrt_accuracy, mrt_progress], {"mrt_estimator": "sample", "mrt_samples": 4}),
    "MRT mixed, online": ([mrt_accuracy, mrt_progress], {"mrt_credit": "mixed", **ONLINE}),
    "MRT mixed, online, for two updates": (
        [mrt_accuracy, mrt_progress],
        {"mrt_credit": "mixed", "steps_per_generation": 2, **ONLINE},
    ),
    "MRT termination, online": ([mrt_accuracy], {"mrt_credit": "termination", **ONLINE}),
}
PREFIXES, GRADIENT, GUARD = "prefixes", "its gradient", "its check"
SPANS = {
    "_generate_single_turn": "writing rollouts",
    "measure": "measuring J",
    "_calculate_rewards": "grading",
    "compute_loss": "loss",
}


class Clock(TrainerCallback):
    """Clocks the steps; from the second on, the profiler is told their phases."""

    def __init__(self, trainer, profiler):
        self.trainer, self.profiler, self.seconds, self.began = trainer, profiler, [], 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:  # the trainer itself wraps methods until the first is done
            for function, name in SPANS.items():
                setattr(self.trainer, function, spanned(getattr(self.trainer, function), name))
            accelerator = self.trainer.accelerator
            accelerator.backward = spanned(accelerator.backward, GRADIENT)
            [guard] = [one for one in self.trainer.callback_handler.callbacks if isinstance(one, FiniteGradients)]
            guard.on_pre_optimizer_step = spanned(guard.on_pre_optimizer_step, GUARD)
            self.profiler.start()
        synchronize()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        self.seconds.append(time.perf_counter() - self.began)


def spanned(function, name: str):
    @functools.wraps(function)
    def within(*args, **kwargs):
        with record_function(name):
            found = function(*args, **kwargs)
            synchronize()
            return found

    return within


def one(model: str, problems: str, method: str, rollouts: int, tokens: int) -> tuple[dict, dict]:
    """Two rows of a method: its phases, and the operators that take most of its time."""
    rewards, options = METHODS[method]
    data = load_dataset("json", data_files=problems, split="train")
    data = data.map(lambda row: {"prompt": [{"role": "user", "content": row["problem"]}]}, remove_columns="problem")
    with tempfile.TemporaryDirectory() as folder:
        args = MRTConfig(
            output_dir=folder,
            max_steps=1 + STEPS,
            per_device_train_batch_size=rollouts,
            num_generations=8,
            max_completion_length=tokens,
            model_init_kwargs={"dtype": "bfloat16"},
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            learning_rate=1e-6,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            mrt_termination="answer",
            mrt_answer_tokens=16,
            mrt_episodes=6,
            **options,
        )
        trainer = MRTTrainer(model, rewards, args, train_dataset=data)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    profiler = profile(activities=activities)
    clock = Clock(trainer, profiler)
    trainer.add_callback(clock)
    online, starts.online_prefixes = starts.online_prefixes, spanned(starts.online_prefixes, PREFIXES)
    try:
        trainer.train()
    finally:
        starts.online_prefixes = online
        profiler.stop()
    return phases(method, clock, trainer, profiler.key_averages()), operators(method, profiler.key_averages())


def phases(method: str, clock: Clock, trainer, averages) -> dict:
    seconds = sum(clock.seconds[1:]) / STEPS
    spent = Counter({found.key: found.cpu_time_total / 1e6 / STEPS for found in averages})
    log = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry][1:]
    written = [trainer.args.per_device_train_batch_size * entry["completions/mean_length"] for entry in log]
    traces = [entry.get("mrt/prefix_tokens", 0) for entry in log]
    row = {"method": method, "seconds a step": seconds, "tokens written": (sum(written) + sum(traces)) / STEPS}
    row["writing traces"] = (spent[PREFIXES] - spent["measuring J"]) / seconds if spent[PREFIXES] else 0.0
    row |= {name: spent[name] / seconds for name in (*SPANS.values(), GRADIENT, GUARD)}
    row["the rest"] = 1 - sum(row[name] for name in ("writing traces", *SPANS.values(), GRADIENT, GUARD))
    return row


def operators(method: str, averages, most: int = 5) -> dict:
    time_of_its_own = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    phases = {*SPANS.values(), PREFIXES, GRADIENT, GUARD}
    own = {found.key: getattr(found, time_of_its_own) for found in averages if found.key not in phases}
    total = sum(own.values())
    return {"method": method} | {key: own[key] / total for key in sorted(own, key=own.get, reverse=True)[:most]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("problems")
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=320)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    given = parser.parse_args()
    steps, shares = [], []
    for method in given.methods:
        step, share = one(given.model, given.problems, method, given.rollouts, given.tokens)
        steps.append(step | {"times the first": step["seconds a step"] / (steps or [step])[0]["seconds a step"]})
        shares.append(share)
        print(steps[-1], share, sep="\n", flush=True)
    print(table(steps), table(shares), sep="\n\n")


if __name__ == "__main__":
    main()
