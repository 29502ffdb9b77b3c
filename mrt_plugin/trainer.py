r"""GRPO with progress credit (section 6 of arXiv 2503.07572).

[`MRTTrainer`] changes two things of TRL's `GRPOTrainer` and calls it for all else: the prompts that go into a step
(`mrt_prefix`) and the advantages that come out of it (`mrt_credit`). The policy being trained is its own meta-prover.

Left out: copies of TRL's code. What the credit modes mean is in [`~mrt_plugin.credit`], and which settings go
together in [`~mrt_plugin.settings`].
"""

import copy
import inspect
import logging
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from accelerate.utils import gather_object

from .arguments import MRTConfig
from .callback import MRTCallback, step_metrics
from .credit import Step
from .engines.rollouts import live_sampler, rollout_engine
from .grading_pool import warm_up
from .meta_prover import ESTIMATORS, Measurement, build_meta_prover
from .rewards import completion_text
from .settings import resolve
from .starts import Start, starting_points
from .traces import Trace, opening_ids, segment
from .upstream.contract import Contract
from .upstream.trainer import GRPOTrainer, text_tokenizer


logger = logging.getLogger(__name__)


@dataclass
class StepInProgress:
    """
    What the hooks of one step hand to each other.

    Args:
        starts (`list[Start]`): Where its rows start; empty where they start at the bare problem.
        prompt_ids (`list[list[int]]`, *optional*):
            Prompts as they are given to the policy; a `rollout_func` does without.
        rewards (`torch.Tensor` of shape (B, F), *optional*):
            Rewards of this rank's rows; NaN where a function skipped the row.
    """

    starts: list[Start] = field(default_factory=list)
    prompt_ids: list[list[int]] | None = None
    rewards: torch.Tensor | None = None


class MRTTrainer(GRPOTrainer):
    """
    GRPO in which the progress of each episode earns credit.

    Args:
        model, reward_funcs, train_dataset, **kwargs:
            As in [`~trl.GRPOTrainer`]. `mrt_progress` among the reward functions switches MRT on; what it adds is
            decided by `args`, and where it is the only one, `mrt_accuracy` stands in as the outcome reward.
            The data set needs the column `solution` and, with `mrt_prefix: dataset`, `prefix` (thinking text) and
            `prefix_success` (its J).
        args ([`MRTConfig`], *optional*):
            What to credit, and how to measure it, beside the arguments of GRPO. A plain [`~trl.GRPOConfig`] has the
            defaults of [`MRTArguments`].

    With `dense`, a thinking that was cut by length has episodes like any other, and its J is measured where it was
    cut; a completion that does not think, and one whose gold answer cannot be parsed, earn no progress. The answer and
    the tags carry the outcome alone. With `mask_truncated_completions`, TRL masks cut rows, and nothing is measured on
    them. The meta-prover is the engine that writes the rollouts: vLLM, in process or served, or the policy itself.

    Raises:
        `ValueError`: If the arguments cannot work together.

    Example:
    ```python
    trainer = MRTTrainer(
        model="Qwen/Qwen3-1.7B",
        reward_funcs=[mrt_accuracy, mrt_progress],
        args=MRTConfig(output_dir="runs/mrt", mrt_credit="dense", mrt_termination="answer"),
        train_dataset=dataset,
    )
    trainer.train()
    ```
    """

    _tag_names = ["trl", "grpo", "mrt"]

    def __init__(self, model, reward_funcs=None, args=None, *more, **kwargs):
        kwargs |= dict(zip(list(inspect.signature(GRPOTrainer.__init__).parameters)[4:], more, strict=False))
        reward_funcs = [] if reward_funcs is None else reward_funcs
        args = MRTConfig(output_dir="mrt") if args is None else copy.copy(args)
        self.settings = resolve(reward_funcs if isinstance(reward_funcs, list) else [reward_funcs], args, kwargs)
        self.mrt_args, self.credit = self.settings.mrt, self.settings.credit
        args.reward_weights = self.settings.reward_weights
        if not self.credit.active and "mrt_progress" in self.settings.asked:
            logger.warning(
                "mrt_progress is among the reward functions, but mrt_credit: none makes it a scalar that differs from "
                "the outcome by one constant in each group; group normalisation cancels it. It is left out."
            )
        self._in_progress = StepInProgress()
        if self.settings.grades:
            warm_up()
        contract = Contract(self.credit.active, self.settings.grades, self.credit.per_token)
        super().__init__(model, self.settings.reward_funcs, args, **kwargs)
        self.rollout_engine = rollout_engine(self) if self.credit.active else None
        if not any(isinstance(callback, MRTCallback) for callback in self.callback_handler.callbacks):
            self.add_callback(MRTCallback())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MRTCallback):
                callback.bind(self)
        contract.watch(self)

    def measure(self, traces: list[Trace]) -> list[Measurement]:
        """Measures the success probabilities of a step: one call on every rank, whatever it holds."""
        begin = time.perf_counter()
        with live_sampler(self, scores=ESTIMATORS[self.mrt_args.mrt_estimator].needs_scores) as sampler:
            measurements = build_meta_prover(self.mrt_args, sampler).success_probabilities(traces)
        numbers = gather_object([replace(measurement, answers=()) for measurement in measurements])  # not the texts
        for name, value in step_metrics(numbers, time.perf_counter() - begin).items():
            self._metrics["train"][name].append(value)
        return measurements

    # The prompts that go into a step.

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        training = self.credit.active and self.model.training
        starts = starting_points(self, inputs) if training and self.mrt_args.mrt_prefix != "none" else []
        if starts:
            inputs = [
                {**row, "prefix_success": start.success, "continues": start.continues}
                for row, start in zip(inputs, starts, strict=True)
            ]
        elif self.credit.mixes_groups:  # an evaluation, at the bare problem: nothing to progress from
            inputs = [{**row, "prefix_success": 0.0, "continues": False} for row in inputs]
        self._in_progress = StepInProgress(starts)
        try:
            output = super()._generate_and_score_completions(inputs)
            if training:
                output["advantages"] = self._advantages(inputs, output)
            return output
        finally:
            self._in_progress = StepInProgress()

    def bare_prompt_ids(self, rows: Collection[dict]) -> list[list[int]]:
        """Token ids of the rows' prompts, as TRL renders them, without a prefix."""
        return super()._tokenize_prompts([row["prompt"] for row in rows])[0] if rows else []

    def _tokenize_prompts(self, prompts: list):
        prompt_ids, *rest = super()._tokenize_prompts(prompts)
        if starts := self._in_progress.starts:
            prompt_ids = [[*ids, *start.token_ids] for ids, start in zip(prompt_ids, starts, strict=True)]
        self._in_progress.prompt_ids = prompt_ids
        return prompt_ids, *rest

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Rewards see the whole assistant turn, as they do where it was written in one go."""
        tokenizer, step = text_tokenizer(self), self._in_progress
        if step.prompt_ids is not None:
            inputs = [
                {**row, "thinking_opened": not opening_ids(tokenizer, prompt_ids)}
                for row, prompt_ids in zip(inputs, step.prompt_ids, strict=True)
            ]
        if step.starts:
            heads = tokenizer.batch_decode([start.token_ids for start in step.starts], skip_special_tokens=True)
            completions = [_prepend(head, completion) for head, completion in zip(heads, completions, strict=True)]
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        step.rewards = rewards[first : first + len(prompts)]
        return rewards

    # The advantages that come out of it.

    def _advantages(self, inputs: list[dict], output: dict) -> torch.Tensor:
        """Advantages of this rank's rows, (B,) or (B, T). Credit sees those of all ranks, so that groups are whole."""
        rows, width = output["completion_ids"].shape
        success, credit_ends = [np.array([start.success]) for start in self._in_progress.starts], []
        if self.credit.measures == "episodes":
            success, credit_ends = self._measure_episodes(inputs, output)
        rewards, weights = self._in_progress.rewards, self.reward_weights.to(self._in_progress.rewards)
        total = (rewards * weights).nansum(1).masked_fill(rewards.isnan().all(1), math.nan)
        mine = (output["advantages"].float().cpu().numpy(), total.cpu().numpy(), success, credit_ends, width)
        outcome, rewards, success, credit_ends, widths = zip(*gather_object([mine]), strict=True)
        advantages = self.credit.advantages(
            Step(
                np.concatenate(outcome),
                np.concatenate(rewards),
                list(chain(*success)),
                list(chain(*credit_ends)),
                max(widths),
                self.num_generations,
                self.mrt_args.mrt_alpha,
                self.mrt_args.mrt_horizon,
            )
        )
        first = self.accelerator.process_index * rows
        advantages = advantages[first : first + rows]
        if self.credit.per_token:
            advantages = advantages[:, :width]
        return torch.from_numpy(np.ascontiguousarray(advantages)).to(output["advantages"])

    def _measure_episodes(self, inputs: list[dict], output: dict) -> tuple[list[np.ndarray], list[list[int]]]:
        """Of each row J after 0, ..., G episodes, and where these end, in completion tokens."""
        traces = []
        for row, example in enumerate(inputs):
            prompt_ids = output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()
            completion_ids = output["completion_ids"][row][output["completion_mask"][row].bool()].tolist()
            traces.append(
                segment(
                    text_tokenizer(self), prompt_ids, completion_ids, example["solution"], self.mrt_args.mrt_episodes
                )
            )
        thinks = [row for row, trace in enumerate(traces) if trace.episodes]
        success = [np.zeros(1)] * len(traces)  # without episodes, without progress
        for row, measurement in zip(thinks, self.measure([traces[row] for row in thinks]), strict=True):
            success[row] = measurement.success_probability
        lengths = output["prompt_mask"].sum(-1).tolist()
        return success, [
            [end - length for end in trace.credit_ends] for trace, length in zip(traces, lengths, strict=True)
        ]


def _prepend(head: str, completion: str | list[dict]):
    if isinstance(completion, str):
        return head + completion
    message = {key: value for key, value in completion[-1].items() if key != "reasoning_content"}
    return [*completion[:-1], {**message, "content": head + completion_text(completion)}]
