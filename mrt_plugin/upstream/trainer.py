r"""The trainer that [`~mrt_plugin.MRTTrainer`] is built on, TRL's own on 1.x, and its live policy."""

from contextlib import contextmanager

import numpy as np
import torch
import trl
from accelerate.utils import parse_flag_from_env
from torch.utils.data import Sampler
from trl.models import utils

from .trainer18 import GRPOTrainer18
from .version import TRL_1


GRPOTrainer = trl.GRPOTrainer if TRL_1 else GRPOTrainer18


def text_tokenizer(trainer):
    """The tokenizer of a trainer, also where it was given a processor."""
    return trainer._tokenizer if TRL_1 else trainer.processing_class


def outcome_advantages(args, advantages: np.ndarray, rewards: np.ndarray, group_size: int) -> np.ndarray:
    """
    GRPO's advantages, (B,), where a row that every reward function skipped, whose reward is NaN, has none and does not
    count in its group. So it is on 1.x; 0.18 takes NaN for 0.

    Args:
        args ([`~trl.GRPOConfig`]): Of the trainer.
        advantages, rewards (`np.ndarray` of shape (B,)): TRL's advantages, and the rewards, of the rows of all ranks.
        group_size (`int`): Rollouts in a group.
    """
    if TRL_1:
        return advantages
    groups = torch.from_numpy(rewards).view(-1, group_size)
    centred, judged = groups - groups.nanmean(1, keepdim=True), (~groups.isnan()).sum(1, keepdim=True)
    if args.scale_rewards:
        centred = centred / ((centred.square().nansum(1, keepdim=True) / (judged - 1).clamp(min=1)).sqrt() + 1e-4)
    whole = (judged == group_size).expand_as(groups)
    return torch.where(whole, torch.from_numpy(advantages).view_as(groups), centred.nan_to_num()).flatten().numpy()


def fsdp_is_on(args) -> bool:
    """Whether a run shards its model with FSDP, by its arguments or accelerate's; known before the model is loaded."""
    return bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


class OrderOfEpochs(Sampler):
    """
    TRL's sampler of prompts, which draws the order of an epoch when it begins, from a generator that no checkpoint
    holds. A run that resumes first draws the orders of the epochs that are over; TRL's would begin with the first.
    """

    def __init__(self, sampler: Sampler, trainer):
        self.sampler, self.trainer, self.drawn = sampler, trainer, 0

    def __iter__(self):
        over = int(self.trainer.state.epoch or 0)
        while self.drawn < over:
            next(iter(self.sampler), None)
            self.drawn += 1
        self.drawn += 1
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


@contextmanager
def generating_policy(trainer):
    """The live policy, unwrapped from DDP or DeepSpeed and ready to generate, without gradients."""
    args, gather_params = trainer.args, {"gather_deepspeed3_params": trainer.args.ds3_gather_for_generation}
    if TRL_1:
        gather_params["gradient_checkpointing_kwargs"] = args.gradient_checkpointing_kwargs
    with utils.unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **gather_params) as model:
        # In training mode, J would be that of a policy with dropout; and where 0.18 leaves checkpointing on,
        # transformers would drop the key-value cache.
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                yield model
        finally:
            model.train(training)
