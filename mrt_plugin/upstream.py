r"""What differs between the generations of TRL and Open-R1, in one place. Written for trl 1.16; 0.18 follows here."""

from contextlib import contextmanager

import torch
import trl
from packaging.version import Version
from trl.models.utils import unwrap_model_for_generation


if Version(trl.__version__) < Version("1.16"):
    raise ImportError(f"mrt_plugin trains with trl >= 1.16 so far; this is trl {trl.__version__}.")


def text_tokenizer(trainer):
    """The tokenizer of a trainer, also where it was given a processor."""
    return getattr(trainer, "_tokenizer", trainer.processing_class)


@contextmanager
def generating_policy(trainer):
    """The live policy, unwrapped from DDP, FSDP or DeepSpeed and ready to generate, without gradients."""
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        torch.no_grad(),
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        yield model
