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
from .callback import SILENT, MRTCallback, step_metrics
from .credit import Step
from .engines.rollouts import live_sampler, rollout_engine
from .finite import FiniteGradients, NotFiniteError
from .golds import gold_text
from .grading_pool import warm_up
from .kept import kept_row
from .meta_prover import ESTIMATORS, Measurement, build_meta_prover
from .rounding import warn_of_rounding
from .settings import check_prompt_room, resolve, reward_name
from .starts import Start, starting_points, with_room
from .tokens import decode, hides_tags
from .traces import Trace, opens_thinking, segment
from .upstream.attention import avoid_cudnn_attention
from .upstream.contract import REWARDS, Contract
from .upstream.trainer import GRPOTrainer, OrderOfEpochs, outcome_advantages, text_tokenizer
from .upstream.vllm import context_length


logger = logging.getLogger(__name__)

PAPER = {
    "title": "Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning",
    "id": "2503.07572",
    "citation": """\
@inproceedings{qu2025optimizing,
    title        = {{Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning}},
    author       = {Yuxiao Qu and Matthew Y. R. Yang and Amrith Setlur and Lewis Tunstall and Edward Emanuel Beeching and Ruslan Salakhutdinov and Aviral Kumar},
    booktitle    = {International Conference on Machine Learning (ICML)},
    year         = 2025,
    eprint       = {arXiv:2503.07572},
}
""",  # noqa: E501
}
"""Of MRT, as model cards name it."""


@dataclass
class StepInProgress:
    """What the hooks of one step hand to each other."""

    starts: list[Start] = field(default_factory=list)  # of its rows; empty where they start at the bare problem
    opened: list[bool] | None = None  # whether a prompt, without its prefix, ends in <think>; None in a `rollout_func`
    rewards: torch.Tensor | None = None  # (B, F), of this rank's rows; NaN where a function skipped the row
    kept: list[dict] = field(default_factory=list)  # what `mrt view` shows of its first rows


class MRTTrainer(GRPOTrainer):
    """
    GRPO in which the progress of each episode earns credit.

    Args:
        model, reward_funcs, train_dataset, **kwargs:
            As in [`~trl.GRPOTrainer`]. `mrt_progress` among the reward functions switches MRT on, and `args` decide
            what it adds. If it is the only reward function, `mrt_accuracy` is the outcome reward.
            The data set needs the column `solution` and, with `mrt_prefix: dataset`, `prefix` (thinking text) and
            `prefix_success` (its J).
        args ([`MRTConfig`], *optional*):
            What to credit, and how to measure it, beside the arguments of GRPO. With a plain [`~trl.GRPOConfig`], the
            defaults of [`MRTArguments`] apply.

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

    def __init__(self, model, reward_funcs=None, args=None, *more, **kwargs):
        kwargs |= dict(zip(list(inspect.signature(GRPOTrainer.__init__).parameters)[4:], more, strict=False))
        reward_funcs = [] if reward_funcs is None else reward_funcs
        args = MRTConfig(output_dir="mrt") if args is None else copy.copy(args)
        asked = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        settings = resolve(asked, args, kwargs)
        self.mrt_args, self.credit = settings.mrt, settings.credit
        args.reward_weights = settings.reward_weights
        if not self.credit.active and "mrt_progress" in map(reward_name, asked):
            logger.warning(
                "mrt_progress is among the reward functions, but mrt_credit: none makes it a scalar that differs from "
                "the outcome by one constant in each group; group normalisation cancels it. It is left out."
            )
        if self.credit.active:
            self._name, self._paper, self._tag_names = "MRT", PAPER, [*self._tag_names, "mrt"]  # of the model card
        self._in_progress, self.kept_rollouts = StepInProgress(), []
        if settings.grades:
            warm_up()
        self.contract = Contract(self.credit.active, settings.grades, self.credit.per_token)
        super().__init__(model, settings.reward_funcs, args, **kwargs)
        in_half = self.model.dtype in (torch.bfloat16, torch.float16)
        autocast = (args.bf16 or args.fp16) and not in_half
        if autocast and args.cache_implementation == "static":
            raise ValueError(
                "cache_implementation: static holds keys and values in the weights' float32, which bf16: true and "
                "fp16: true do not write. Unset it, or load the weights in half precision (dtype: bfloat16)."
            )
        avoid_cudnn_attention(self.model.config._attn_implementation, half=autocast or in_half)
        warn_of_rounding(self)
        self.contract.watch(self)
        if self.mrt_args.mrt_prefix == "dataset":
            self.train_dataset = with_room(self, self.train_dataset)
        elif self.mrt_args.mrt_prefix == "online":
            check_prompt_room(args, context_length(self))
        self.rollout_engine = rollout_engine(self) if self.credit.active else None
        if not any(isinstance(callback, MRTCallback) for callback in self.callback_handler.callbacks):
            self.add_callback(MRTCallback())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MRTCallback):
                callback.bind(self)
        self.add_callback(FiniteGradients(self))

    def measure(self, traces: list[Trace]) -> list[Measurement]:
        """Measures the success probabilities of a step: one call on every rank, whatever it holds."""
        begin = time.perf_counter()
        with live_sampler(self, scores=ESTIMATORS[self.mrt_args.mrt_estimator].needs_scores) as sampler:
            try:
                measurements = build_meta_prover(self.mrt_args, sampler).success_probabilities(traces)
            except FloatingPointError as error:
                raise self.not_finite("The log-probability of a gold answer") from error
        numbers = gather_object([replace(measurement, answers=()) for measurement in measurements])  # not the texts
        for name, value in step_metrics(numbers, time.perf_counter() - begin).items():
            self._metrics["train"][name].append(value)
        return measurements

    def not_finite(self, what: str) -> NotFiniteError:
        return NotFiniteError(what, self.state.global_step + 1, self.accelerator.process_index)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not loss.isfinite():
            raise self.not_finite("The loss")
        return loss

    def notice(self, traces: list[Trace]) -> None:
        """Logs the shares of a step's traces without an episode to credit, and without a cue. Called on every rank."""
        kinds = gather_object([[trace.episodes == 0, trace.cueless] for trace in traces])
        for name, values in zip(SILENT, zip(*kinds, strict=True), strict=False):
            self._metrics["train"][name].append(float(np.mean(values)))

    # The prompts that go into a step.

    def _get_train_sampler(self, *args, **kwargs):
        return OrderOfEpochs(super()._get_train_sampler(*args, **kwargs), self)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        training = self.credit.active and self.model.training
        if training:
            inputs = [{**row, "solution": gold_text(row["solution"]) or ""} for row in inputs]
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
                self.contract.check_called(*REWARDS)  # which leave what credit is made of
                output["advantages"] = self._advantages(inputs, output)
            return output
        finally:
            self._in_progress = StepInProgress()

    def bare_prompt_ids(self, rows: Collection[dict]) -> list[list[int]]:
        """Token ids of the rows' prompts, as TRL renders them, without a prefix."""
        return super()._tokenize_prompts([row["prompt"] for row in rows])[0] if rows else []

    def _tokenize_prompts(self, prompts: list):
        prompt_ids, *rest = super()._tokenize_prompts(prompts)
        if self.credit.active and rest and rest[0] is not None:
            raise ValueError(
                f"mrt_credit: {self.credit.name} measures J on text alone, and these prompts have images. Leave the "
                "images out, or set mrt_credit: none."
            )
        self._in_progress.opened = [opens_thinking(text_tokenizer(self), ids) for ids in prompt_ids]
        if starts := self._in_progress.starts:
            prompt_ids = [[*ids, *start.token_ids] for ids, start in zip(prompt_ids, starts, strict=True)]
        return prompt_ids, *rest

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Rewards see the whole assistant turn, as they do where it was written in one go."""
        tokenizer, step = text_tokenizer(self), self._in_progress
        if step.opened is not None:
            inputs = [{**row, "thinking_opened": opened} for row, opened in zip(inputs, step.opened, strict=True)]
        if step.starts or hides_tags(tokenizer):  # TRL lacks what was written before, or the tags
            heads = [start.token_ids for start in step.starts] or [[]] * len(completions)
            texts = [decode(tokenizer, [*head, *ids]) for head, ids in zip(heads, completion_ids_list, strict=True)]
            completions = [_with_text(completion, text) for completion, text in zip(completions, texts, strict=True)]
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
        rewards = np.concatenate(rewards)
        outcome = outcome_advantages(self.args, np.concatenate(outcome), rewards, self.num_generations)
        everyone = [outcome, rewards, list(chain(*success)), list(chain(*credit_ends))]
        mrt, first = self.mrt_args, self.accelerator.process_index * rows
        step = Step(*everyone, max(widths), self.num_generations, mrt.mrt_alpha, mrt.mrt_horizon)
        advantages = self.credit.advantages(step)[first : first + rows]
        if self.credit.per_token:
            advantages = advantages[:, :width]
        self.kept_rollouts = self._in_progress.kept
        for kept, reward, row_advantages in zip(self.kept_rollouts, total.tolist(), advantages, strict=False):
            one_for_each = np.broadcast_to(row_advantages, width)[: kept["tokens"]]
            kept |= {"reward": reward, "advantages": one_for_each.astype(np.float32)}
        advantages = torch.from_numpy(np.ascontiguousarray(advantages)).to(output["advantages"])
        if not advantages.isfinite().all():
            raise self.not_finite("An advantage")
        return advantages

    def _measure_episodes(self, inputs: list[dict], output: dict) -> tuple[list[np.ndarray], list[list[int]]]:
        """Of each row J after 0, ..., G episodes, and where these end, in completion tokens."""
        tokenizer, written, traces, credit_ends = text_tokenizer(self), [], [], []
        episodes, cues = self.mrt_args.mrt_episodes, self.mrt_args.mrt_cues
        opened = True if self._in_progress.starts else None
        for row, example in enumerate(inputs):
            prompt_ids = output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()
            completion_ids = output["completion_ids"][row][output["completion_mask"][row].bool()].tolist()
            written.append((prompt_ids, completion_ids))
            traces.append(segment(tokenizer, prompt_ids, completion_ids, example["solution"], episodes, cues, opened))
            credit_ends.append([end - len(prompt_ids) for end in traces[-1].credit_ends])
        self.notice([trace for trace, (_, mine) in zip(traces, written, strict=True) if mine])  # a masked row is empty
        thinks = [row for row, trace in enumerate(traces) if trace.episodes]
        success = [np.zeros(1)] * len(traces)  # without episodes, without progress
        measured = dict(zip(thinks, self.measure([traces[row] for row in thinks]), strict=True))
        for row, measurement in measured.items():
            success[row] = measurement.success_probability
        keep = self.mrt_args.mrt_keep_rollouts * self.accelerator.is_main_process
        self._in_progress.kept = [
            kept_row(tokenizer, inputs[row], *written[row], traces[row], measured.get(row))
            for row in range(min(keep, len(traces)))
        ]
        return success, credit_ends


def _with_text(completion: str | list[dict], text: str):
    """The completion with another text, of the same form."""
    if isinstance(completion, str):
        return text
    message = {key: value for key, value in completion[-1].items() if key != "reasoning_content"}
    return [*completion[:-1], {**message, "content": text}]
