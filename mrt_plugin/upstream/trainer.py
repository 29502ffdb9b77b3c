r"""The trainer that [`~mrt_plugin.MRTTrainer`] is built on, TRL's own on 1.x, and its live policy."""

from contextlib import contextmanager

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
        # 0.18 leaves checkpointing on, and transformers then drops the key-value cache of a model in training.
        paused = not TRL_1 and model.is_gradient_checkpointing
        if paused:
            model.gradient_checkpointing_disable()
        try:
            with torch.no_grad():
                yield model
        finally:
            if paused:
                model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
