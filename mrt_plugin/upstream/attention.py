r"""A fault of cuDNN's attention on Hopper that turns gradients into NaN, and how a training stays clear of it.

From torch 2.11 on, `scaled_dot_product_attention` prefers cuDNN on H100 and H200. Its backward pass in half precision
returns NaN where a mask is given, the keys number 64 modulo 128, and a row's log-sum-exp is below -88.7, as that of a
row of padding is, which attends to nothing (https://github.com/pytorch/pytorch/issues/196678). Flash and memory-
efficient attention take over without it.
"""

import logging
import os

import torch
from packaging.version import Version


logger = logging.getLogger(__name__)

KEEP = "MRT_CUDNN_ATTENTION"
"""Environment variable: 1 keeps cuDNN's attention."""


def can_strike(attention: str | None, half: bool) -> bool:
    """
    Whether a training on this machine can meet the fault.

    Args:
        attention (`str`, *optional*): The model's `attn_implementation`; `None` is transformers' choice, sdpa.
        half (`bool`): Whether it computes in bf16 or fp16.
    """
    return (
        half
        and attention in (None, "sdpa")
        and Version(torch.__version__).release >= (2, 11)
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability()[0] == 9
    )


def avoid_cudnn_attention(attention: str | None, half: bool) -> None:
    """Switches cuDNN's attention off where the fault can strike, and says so once; see [`can_strike`]."""
    if can_strike(attention, half) and torch.backends.cuda.cudnn_sdp_enabled() and os.environ.get(KEEP) != "1":
        torch.backends.cuda.enable_cudnn_sdp(False)
        logger.warning(
            "cuDNN's attention is off in this run: on this GPU its gradients can be NaN in half precision "
            "(pytorch issue 196678). %s=1 keeps it on.",
            KEEP,
        )
