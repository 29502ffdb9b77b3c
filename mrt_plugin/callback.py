r"""What a run says about its episodes: the `mrt/*` metrics, beside TRL's own, wherever `report_to` points."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from accelerate.utils import gather_object
from transformers import TrainerCallback

from .collapse import best_checkpoint, grown_share
from .engines.policy import PolicySampler
from .engines.sampling import SamplingSettings
from .golds import gold_text
from .kept import write_kept
from .meta_prover import Measurement, build_meta_prover
from .progress import progress
from .rollouts import regret_at, roll_out
from .upstream.checkpoints import checkpoints
from .upstream.trainer import generating_policy, text_tokenizer


logger = logging.getLogger(__name__)


def step_metrics(measurements: Sequence[Measurement], seconds: float) -> dict[str, float]:
    """
    Metrics of one training step, from what the meta-prover did on all ranks and how many seconds it took.

    Returns:
        `dict[str, float]`:
            `mrt/branch_tokens`, `mrt/branch_seconds`, `mrt/grader_timeouts`, `mrt/unanswered_prefixes`; for traces
            `mrt/progress_mean` (of an episode), `mrt/episodes_mean` (of a trace) and
            `mrt/success_probability/episode_<j>` (over the traces that have one); for prefixes to start from
            `mrt/prefix_success`.

    Example:
    ```python
    >>> measurement = Measurement(np.array([0.25, 1.0]), np.array([3.0, 3.0]), tokens=24, timeouts=0)
    >>> step_metrics([measurement], seconds=0.5)["mrt/progress_mean"]
    0.75

    ```
    """
    curves = [measurement.success_probability for measurement in measurements]
    metrics = {
        "mrt/branch_tokens": float(sum(measurement.tokens for measurement in measurements)),
        "mrt/branch_seconds": seconds,
        "mrt/grader_timeouts": float(sum(measurement.timeouts for measurement in measurements)),
        "mrt/unanswered_prefixes": float(sum(measurement.unanswered for measurement in measurements)),
    }
    if not any(len(curve) > 1 for curve in curves):  # prefixes to start from, not traces
        return metrics | {"mrt/prefix_success": _mean([curve[0] for curve in curves])}
    metrics["mrt/progress_mean"] = _mean(np.concatenate([progress(curve) for curve in curves]))
    metrics["mrt/episodes_mean"] = _mean([len(curve) - 1 for curve in curves])
    for episode, values in enumerate(zip_longest(*curves, fillvalue=math.nan)):
        metrics[f"mrt/success_probability/episode_{episode}"] = _mean(values)
    return metrics


SILENT = {  # metrics that are 1 where credit has nothing to fall on, and what is likely then
    "mrt/without_episodes": "no rollout has an episode for credit to fall on. Episodes are found between <think> and "
    "</think>: is the model one that thinks in these tags, does its chat template open them, and do "
    "completions come to more than white space",
    "mrt/without_cues": "no paragraph of any trace starts with one of mrt_cues, so each trace is one episode. Set "
    "mrt_cues to what this model begins a new attempt with, or to an empty list for an episode every three paragraphs",
}
FIRST_STEPS = 3
"""After so many steps a run that is silent so far is warned about."""


class MRTCallback(TrainerCallback):
    """
    Measures regret on held-out problems with the live policy, every `mrt_regret_steps` optimiser steps: one
    rollout for each of the first `mrt_regret_problems` rows of the evaluation split, normalised regret at a budget
    of `max_completion_length` tokens, as `mrt/regret`. The training run draws the same random numbers with and
    without it. [`~mrt_plugin.MRTTrainer`] adds one to itself.
    """

    trainer = None

    def bind(self, trainer) -> None:
        """Gives the callback its trainer, which transformers does not hand to callbacks."""
        columns = getattr(trainer.eval_dataset, "column_names", None)
        known = hasattr(trainer.eval_dataset, "__len__") and {"prompt", "solution"} <= set(columns or ())
        if trainer.mrt_args.mrt_regret_steps and not known:
            raise ValueError(
                "mrt_regret_steps needs held-out problems: one evaluation data set (dataset_test_split) with the "
                f"columns `prompt` and `solution`, not {type(trainer.eval_dataset).__name__} with {columns}. Or set "
                "mrt_regret_steps: 0."
            )
        self.trainer, self.silent, self.collapsed = trainer, {}, False

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer is None:
            raise ValueError(
                "callbacks: mrt_progress measures for MRTTrainer, and this trainer is another. Build "
                "mrt_plugin.MRTTrainer, or call mrt_plugin.register() before the trainer is built."
            )

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step <= FIRST_STEPS:
            self.warn_if_silent(state.global_step)
        every = self.trainer.mrt_args.mrt_regret_steps
        if every and state.global_step % every == 0:
            self.trainer._metrics["train"]["mrt/regret"].append(self.measure_regret())

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.warn_if_collapsing(args, state)
        # The rollouts of the last step that are to be kept, which only the main process holds.
        if self.trainer.kept_rollouts:
            write_kept(args, state.global_step, self.trainer.kept_rollouts, self.trainer.mrt_args)
            self.trainer.kept_rollouts = []

    def warn_if_silent(self, step: int) -> None:
        """Warns once, after the first steps, where credit has had nothing to fall on in any of them."""
        metrics = self.trainer._metrics["train"]
        for name in SILENT:
            if metrics.get(name):  # else the step has cut no traces: it takes earlier rollouts, or there is no credit
                self.silent[name] = self.silent.get(name, True) and metrics[name][-1] == 1.0
        for name in (name for name, silent in self.silent.items() if silent and step == FIRST_STEPS):
            logger.warning("%s is 1 in each of the first %d steps: %s.", name, FIRST_STEPS, SILENT[name])

    def warn_if_collapsing(self, args, state) -> None:
        """Warns once where completions run into their limit, or episodes vanish, that did not before."""
        if self.collapsed or not (grown := grown_share(state.log_history)):
            return
        self.collapsed = True
        best = best_checkpoint(state.log_history, checkpoints(args.output_dir))
        back = f"The best checkpoint by {best[1]} is that of step {best[0]}." if best else "No checkpoint is saved."
        rates = "A lower learning_rate or lr_scheduler_type: cosine may keep it."
        logger.warning("The training may be collapsing: the %s. %s %s", grown, back, rates)

    def measure_regret(self) -> float:
        """Mean normalised regret of the live policy; each rank takes its share of the problems."""
        trainer, mrt = self.trainer, self.trainer.mrt_args
        total = min(mrt.mrt_regret_problems, len(trainer.eval_dataset))
        mine = range(trainer.accelerator.process_index, total, trainer.accelerator.num_processes)
        rows = [trainer.eval_dataset[index] for index in mine]
        settings = SamplingSettings(
            trainer.args.max_completion_length, trainer.args.temperature, trainer.args.top_p, seed=trainer.args.seed
        )
        with generating_policy(trainer) as policy:
            meta_prover = build_meta_prover(mrt, PolicySampler(policy, text_tokenizer(trainer)), trainer.args.seed)
            prompts, solutions = trainer.bare_prompt_ids(rows), [gold_text(row["solution"]) or "" for row in rows]
            rollouts = roll_out(meta_prover, prompts, solutions, settings, mrt.mrt_episodes, mrt.mrt_cues)
        rollouts = [replace(rollout, problem_id=mine[rollout.problem_id]) for rollout in rollouts]
        rollouts = gather_object(rollouts)  # none where no gold answer can be graded
        return regret_at(rollouts, trainer.args.max_completion_length) if rollouts else math.nan


def _mean(values: Sequence[float]) -> float:
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan
