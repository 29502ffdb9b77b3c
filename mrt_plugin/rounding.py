r"""Whether the optimizer's steps are lost to rounding, in weights of half precision."""

import logging
from collections.abc import Iterable

import torch


logger = logging.getLogger(__name__)

SAMPLED = 2**12  # weights of a parameter that are looked at


def share_unmoved(parameters: Iterable[torch.nn.Parameter], step: float) -> float:
    """
    The share of trained weights to which so small a step, added in their own precision, makes no difference.

    ```python
    >>> weights = torch.tensor([0.0001, 0.02, 0.02, 0.02])
    >>> [share_unmoved([torch.nn.Parameter(weights.to(dtype))], 1e-6) for dtype in (torch.bfloat16, torch.float32)]
    [0.75, 0.0]

    ```
    """
    unmoved = total = 0.0
    for parameter in parameters:
        if parameter.requires_grad and parameter.numel():
            some = parameter.detach().flatten()[:: max(1, parameter.numel() // SAMPLED)]
            # Up or down: just below a power of two, half as large a step is enough one way.
            stays = (some + step == some) & (some - step == some)
            unmoved += stays.float().mean().item() * parameter.numel()
            total += parameter.numel()
    return unmoved / total if total else 0.0


def warn_of_rounding(trainer) -> None:
    """Warns where most weights would stay as they are: Adam's steps are about as large as the learning rate."""
    args = trainer.args
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled  # which keep a copy in float32
    if sharded or args.optim not in ("adamw_torch", "adamw_torch_fused"):
        return
    share = share_unmoved(trainer.model.parameters(), args.learning_rate)
    if share > 0.5:
        logger.warning(
            "%.0f%% of the trained weights will not change: they are in %s, to which steps of about learning_rate: %g "
            "round to nothing. Load them in float32 (dtype, or torch_dtype on trl 0.18), with bf16: true, or use "
            "DeepSpeed, which keeps a copy in float32.",
            100 * share,
            str(trainer.model.dtype).removeprefix("torch."),
            args.learning_rate,
        )
