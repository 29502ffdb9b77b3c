r"""What each credit mode adds to GRPO, and which settings cannot go with it.

For rollouts from the bare problem the progress of all episodes telescopes to J_G - J_0, and J_0 is one constant
for a group; likewise r - J differs from r by a constant where a group shares its prefix. GRPO's group mean cancels
both. Progress changes the update only where a group *mixes* continuing and forced rollouts (`mixed`), where J
*replaces* the group mean (`termination`), or where credit *varies* within a rollout (`dense`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, update_wrapper

import numpy as np
import torch

from .arguments import MRTArguments, did_you_mean
from .episodes import CLOSE
from .meta_prover import check_termination
from .progress import progress
from .rewards import mrt_accuracy, mrt_length_penalty, mrt_progress
from .upstream.version import TRL_1


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """
    Where a rollout starts, beyond its prompt.

    Args:
        token_ids (`list[int]`):
            Thinking that it continues and, if it is forced to stop, the text that makes it: context, never a target.
        success (`float`):
            J of the prefix.
        continues (`bool`):
            Whether it thinks on.
    """

    token_ids: list[int]
    success: float
    continues: bool


def termination_credit(rewards: torch.Tensor, weights: torch.Tensor, success: torch.Tensor) -> torch.Tensor:
    """
    Advantage R - J(prefix): the chance of success on stopping at the prefix is the baseline, and nothing is scaled.

    Args:
        rewards (`torch.Tensor` of shape (B, F)):
            Rewards, NaN where a function skipped the row.
        weights (`torch.Tensor` of shape (F,)):
            Weight of each function.
        success (`torch.Tensor` of shape (B,)):
            J of each row's prefix.

    Returns:
        `torch.Tensor` of shape (B,):
            Advantages; 0 where every function skipped the row or J is unknown.

    Example:
    ```python
    >>> rewards = torch.tensor([[1.0], [0.0], [float("nan")]])
    >>> termination_credit(rewards, torch.ones(1), torch.full((3,), 0.25)).tolist()
    [0.75, -0.25, 0.0]

    ```
    """
    total = (rewards * weights.to(rewards)).nansum(1)
    total[rewards.isnan().all(1)] = torch.nan
    return torch.nan_to_num(total - success.to(total), nan=0.0)


def dense_credit(
    ends: Sequence[Sequence[int]], success: Sequence[np.ndarray], width: int, horizon: float = 0.0
) -> np.ndarray:
    """
    Progress for every token of a thinking; 0 before and behind.

    With a horizon of h tokens, token t gets J(t + h) - J(t), where J rises evenly within an episode and stays as it is
    behind the last: an n-step advantage with J as the value function. h = 0 is not its limit but another credit: each
    token gets the whole progress of its episode, however long that is.

    Args:
        ends (`Sequence[Sequence[int]]`):
            For each of B rows, where the thinking begins and where its episodes 1, ..., G end, in completion tokens.
        success (`Sequence[np.ndarray]`):
            For each row, J after 0, ..., G episodes. Progress to or from an unknown J (NaN) counts as 0.
        width (`int`):
            Tokens T of the padded completions.
        horizon (`float`, *optional*, defaults to `0.0`):
            How far ahead a token's progress looks, in tokens.

    Returns:
        `np.ndarray` of shape (B, T)

    Example:
    ```python
    >>> dense_credit([[0, 2, 5]], [np.array([0.25, 0.25, 1.0])], width=7).tolist()
    [[0.0, 0.0, 0.75, 0.75, 0.75, 0.0, 0.0]]
    >>> dense_credit([[0, 2, 5]], [np.array([0.25, 0.25, 1.0])], width=7, horizon=2).tolist()
    [[0.0, 0.25, 0.5, 0.5, 0.25, 0.0, 0.0]]

    ```
    """
    credit = np.zeros((len(ends), width))
    for row, (row_ends, row_success) in enumerate(zip(ends, success, strict=True)):
        gains = np.nan_to_num(progress(row_success))
        if horizon:
            rise, tokens = np.cumsum([0.0, *gains]), np.arange(row_ends[0], row_ends[-1])
            gained = np.interp(tokens + horizon, row_ends, rise) - np.interp(tokens, row_ends, rise)
        else:
            gained = np.repeat(gains, np.diff(row_ends))
        credit[row, row_ends[0] : row_ends[-1]] = gained
    return credit


def prepare(reward_funcs: list, args, trainer_kwargs: dict) -> tuple[str, list, list[float] | None]:
    """
    The credit mode, the reward functions and their weights that a trainer's arguments come to.

    Args:
        reward_funcs (`list`):
            Reward functions.
        args ([`~mrt_plugin.MRTConfig`] or [`~trl.GRPOConfig`]):
            Arguments of the trainer.
        trainer_kwargs (`dict`):
            What else the trainer is given: the data set, tools, ...

    Raises:
        `ValueError`: If the arguments cannot work together.
    """
    mrt_args = args if isinstance(args, MRTArguments) else MRTArguments()
    credit = credit_mode(mrt_args, reward_funcs)
    reward_funcs, weights = rewards_for(credit, reward_funcs, args.reward_weights, mrt_args)
    check_combination(credit, mrt_args, reward_funcs, weights, args, trainer_kwargs)
    return credit, reward_funcs, weights


def reward_name(reward: str | Callable) -> str:
    return getattr(reward, "__name__", str(reward))


def grades(credit: str, reward_funcs: list) -> bool:
    """Whether answers are graded, for which the data needs solutions."""
    return credit != "none" or any(reward_name(reward).startswith("mrt_") for reward in reward_funcs)


def credit_mode(mrt_args: MRTArguments, reward_funcs: list) -> str:
    """The credit mode, with `auto` resolved: `dense` if `mrt_progress` is among the rewards, else plain GRPO."""
    named = "mrt_progress" in map(reward_name, reward_funcs)
    if mrt_args.mrt_credit == "none" and named:
        logger.warning(
            "mrt_progress is among the reward functions, but mrt_credit: none makes it a scalar that differs from the "
            "outcome by one constant in each group; group normalisation cancels it. It is left out."
        )
    if mrt_args.mrt_credit == "auto":
        return "dense" if named else "none"
    return mrt_args.mrt_credit


def rewards_for(
    credit: str, reward_funcs: list, weights: list[float] | None, mrt_args: MRTArguments
) -> tuple[list, list[float] | None]:
    """
    Reward functions and their weights for a credit mode. `mixed` adds `mrt_alpha` x `mrt_progress` to the reward; the
    other modes give progress through the advantages. Without an outcome reward, `mrt_accuracy` is it.

    ```python
    >>> funcs, weights = rewards_for("mixed", [mrt_progress], None, MRTArguments(mrt_alpha=0.4))
    >>> [reward_name(reward) for reward in funcs], weights
    (['mrt_accuracy', 'mrt_progress'], [1.0, 0.4])

    ```
    """
    penalty = update_wrapper(partial(mrt_length_penalty, alpha=mrt_args.mrt_length_alpha), mrt_length_penalty)
    reward_funcs = [penalty if reward is mrt_length_penalty else reward for reward in reward_funcs]
    if credit == "none" and "mrt_progress" not in map(reward_name, reward_funcs):
        return reward_funcs, weights
    if weights is not None and len(weights) != len(reward_funcs):
        raise ValueError(f"reward_weights has {len(weights)} entries for {len(reward_funcs)} reward functions.")
    weights = weights or [1.0] * len(reward_funcs)
    outcome = [
        (reward, weight)
        for reward, weight in zip(reward_funcs, weights, strict=True)
        if reward_name(reward) != "mrt_progress"
    ] or [(mrt_accuracy, 1.0)]
    if credit == "mixed":
        outcome.append((mrt_progress, mrt_args.mrt_alpha))
    reward_funcs, weights = map(list, zip(*outcome, strict=True))
    return reward_funcs, weights


def check_combination(
    credit: str, mrt_args: MRTArguments, reward_funcs: list, weights: list[float] | None, args, trainer_kwargs: dict
) -> None:
    """
    Refuses settings that would do nothing, or something else, in silence; arguments as in [`prepare`].

    Raises:
        `ValueError`: Says which setting, why, and what to do.
    """
    prefix = mrt_args.mrt_prefix
    if credit != "none" or mrt_args.mrt_regret_steps:
        tags = CLOSE in check_termination(mrt_args.mrt_termination, mrt_args.mrt_estimator)
        if not tags and (credit == "dense" or prefix != "dataset" or mrt_args.mrt_regret_steps):
            raise ValueError(
                f"mrt_termination without {CLOSE} is for rollouts that go on from the column `prefix`; the episodes "
                "of a new trace are found between tags. Set mrt_prefix: dataset, mrt_credit: mixed or termination, "
                "and mrt_regret_steps: 0."
            )
        if not args.ds3_gather_for_generation:
            raise ValueError("The meta-prover generates on each rank by itself; set ds3_gather_for_generation: true.")
    if prefix == "online" or mrt_args.mrt_regret_steps:
        unset = {"top_k": (0, None), "min_p": (None,), "repetition_penalty": (1.0,), "generation_kwargs": (None,)}
        for name, values in unset.items():
            if getattr(args, name, None) not in values:
                raise ValueError(
                    f"{name} is set, but the traces of mrt_prefix: online and of mrt_regret_steps are drawn with "
                    "temperature and top_p alone, so they would come from another policy. Leave it out."
                )
    columns = getattr(trainer_kwargs.get("train_dataset"), "column_names", None)
    needed = ["solution"] * grades(credit, reward_funcs) + ["prefix", "prefix_success"] * (prefix == "dataset")
    missing = [column for column in needed if columns is not None and column not in columns]
    if missing:
        raise ValueError(
            f"The training data lacks the column(s) {missing}, which mrt_credit: {credit} with mrt_prefix: {prefix} "
            f"and {[reward_name(reward) for reward in reward_funcs]} need; it has {columns}."
            + "".join(did_you_mean(column, missing) for column in columns)
        )
    if credit == "none":
        if prefix != "none":
            raise ValueError(f"mrt_prefix: {prefix} needs mrt_credit: mixed, termination or dense; it is none.")
        return
    if credit == "termination" and (len(reward_funcs) > 1 or weights not in (None, [1.0])):
        raise ValueError(
            "mrt_credit: termination subtracts J, the chance of a right answer, from the reward, so that has to be "
            f"the outcome alone, with weight 1; it is {[reward_name(reward) for reward in reward_funcs]} with weights "
            f"{weights}."
        )
    if credit in ("mixed", "termination") and prefix == "none":
        why = {
            "mixed": "there is no prefix after which half of the group could be forced to stop",
            "termination": "the baseline J(prefix) is one constant for each problem, the same for every rollout",
        }[credit]
        raise ValueError(f"mrt_credit: {credit} on bare problems: {why}. Set mrt_prefix: online or dataset.")
    if credit == "mixed" and args.num_generations % 2:
        raise ValueError(
            f"mrt_credit: mixed splits each group in two halves; num_generations: {args.num_generations} is odd."
        )
    if (
        credit == "mixed"
        and getattr(args, "multi_objective_aggregation", "sum_then_normalize") != "sum_then_normalize"
    ):
        raise ValueError(
            "mrt_credit: mixed adds alpha (r - J) to r before normalisation; use "
            "multi_objective_aggregation: sum_then_normalize."
        )
    if credit == "mixed" and args.use_vllm and args.vllm_mode == "server":
        raise ValueError(
            "mrt_credit: mixed gives two prompts to a group, but TRL's vLLM server mode sends one for each group. Use "
            "vllm_mode: colocate."
        )
    if credit == "dense" and getattr(args, "use_liger_loss", False):
        raise ValueError(
            "mrt_credit: dense gives each token its own advantage, but use_liger_loss takes one for each sequence. "
            "Set use_liger_loss: false."
        )
    if (
        prefix != "none"
        and args.use_vllm
        and not TRL_1
        and (args.vllm_mode, args.vllm_tensor_parallel_size) != ("colocate", 1)
    ):
        raise ValueError(
            f"mrt_prefix: {prefix} gives vLLM prompts in token ids, which trl 0.18 can only do in process and without "
            "tensor parallelism. Set vllm_mode: colocate and vllm_tensor_parallel_size: 1, or use the current trl."
        )
    if credit == "dense" and getattr(args, "importance_sampling_level", "token") != "token":
        raise ValueError(
            "mrt_credit: dense gives each token its own advantage, which importance_sampling_level: "
            f"{args.importance_sampling_level} averages away over the sequence. Use importance_sampling_level: token."
        )
    if credit == "dense" and getattr(args, "off_policy_mask_threshold", None) is not None:
        raise ValueError(
            "mrt_credit: dense gives each token its own advantage, but off_policy_mask_threshold masks whole "
            "sequences by the sign of one. Leave it out."
        )
    if credit == "dense" and args.loss_type == "vespo":
        raise ValueError(
            "mrt_credit: dense gives each token its own advantage, but loss_type: vespo weighs whole sequences. Use "
            "dapo, bnpo, grpo, dr_grpo or cispo."
        )
    for name in ("tools", "environment_factory", "rollout_func"):
        if trainer_kwargs.get(name):
            raise ValueError(f"mrt_credit: {credit} does not know how to cut a rollout that {name} takes part in.")
