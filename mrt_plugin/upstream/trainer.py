r"""The trainer that [`~mrt_plugin.MRTTrainer`] is built on, TRL's own on 1.x, and its live policy."""

from contextlib import contextmanager

import torch
import trl
from trl.models.utils import unwrap_model_for_generation

from .trainer18 import GRPOTrainer18
from .version import TRL_1


GRPOTrainer = trl.GRPOTrainer if TRL_1 else GRPOTrainer18


def text_tokenizer(trainer):
    """The tokenizer of a trainer, also where it was given a processor."""
    return getattr(trainer, "_tokenizer", trainer.processing_class)


@contextmanager
def generating_policy(trainer):
    """The live policy, unwrapped from DDP or DeepSpeed and ready to generate, without gradients."""
    args, gather_params = trainer.args, {"gather_deepspeed3_params": trainer.args.ds3_gather_for_generation}
    if TRL_1:
        gather_params["gradient_checkpointing_kwargs"] = args.gradient_checkpointing_kwargs
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **gather_params) as model:
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
