r"""Stops a run at the first number that is not finite, before the optimizer writes it into the weights.

A NaN that reaches the weights ruins every step after it, and the log shows it late: transformers leaves such a loss
out of its mean. What is checked: log-probabilities behind J, advantages, the loss, and the gradients of each step. The
gradients of fp16 are left to its scaler, which skips a step that overflows; DeepSpeed steps before anybody can look.
"""

from torch.nn.utils import get_total_norm
from transformers import TrainerCallback


class NotFiniteError(FloatingPointError):
    """What is not finite, at which step and on which rank, why that may be, and what to try."""

    def __init__(self, what: str, step: int, rank: int):
        super().__init__(
            f"{what} is not finite at step {step} on rank {rank}, so the run stops here, before the optimizer writes "
            "it into the weights. Likely reasons: half precision (fp16 overflows; the backward pass of attention can "
            "be NaN on some GPUs), or a learning rate that is too high. Try attn_implementation: eager, bf16: false, "
            "or a lower learning_rate; the run resumes from its last checkpoint."
        )


class FiniteGradients(TrainerCallback):
    """Looks at the gradients that the optimizer is about to take, once a step."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.trainer.accelerator.scaler is None:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            shards = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
            if shards and not get_total_norm(shards).isfinite():  # one pass without a copy, one transfer
                raise self.trainer.not_finite("A gradient")
