r"""What we lean on inside TRL, and the check that it is still there.

MRT overrides private methods of [`~trl.GRPOTrainer`] and reads private attributes. Were one of them renamed, a run
would go on as plain GRPO. So a [`Contract`] looks for them when a trainer is built, and sees in its first step whether
the methods are called and whether the loss weighs each token by its own advantage.
"""

import inspect
from functools import partial
from operator import attrgetter

import torch
import trl
from transformers import TrainerCallback
from trl.models import utils

from .version import TRL_1


ROWS = ["_generate_and_score_completions"]
REWARDS = ["_tokenize_prompts", "_calculate_rewards"]
LOSS = ["_compute_loss", "_get_per_token_logps_and_entropies" if TRL_1 else "_get_per_token_logps"]
METHODS = {  # of GRPOTrainer, which a step calls: with which parameters, and what for
    ROWS[0]: (["inputs"], "to make the rows of a step and their advantages"),
    REWARDS[0]: (["prompts"], "to give the token ids that rollouts start from"),
    REWARDS[1]: (["inputs", "prompts", "completions", "completion_ids_list"], "to call the reward functions"),
    LOSS[0]: (["model", "inputs"], "to weigh each token by its own advantage"),
    LOSS[1]: (["model", "input_ids", "attention_mask", "logits_to_keep"], "to give what the loss weighs"),
}
INLINE = () if TRL_1 else REWARDS  # trl 0.18 has no methods for them; GRPOTrainer18 has
UNWRAP = ["gather_deepspeed3_params", "gradient_checkpointing_kwargs"][: 1 + TRL_1]  # of unwrap_model_for_generation
METRICS = ["_metrics"]  # by `train` or `eval`, and by name
TOKENIZER = ["_tokenizer"] if TRL_1 else ["max_prompt_length"]  # what prompts are made with
VLLM = ["_last_loaded_step"]  # whose weights vLLM has; then what gives it those of now, and what asks it
VLLM += ["vllm_generation.sync_weights", "vllm_generation.generate"] if TRL_1 else ["_move_model_to_vllm"]


class Contract(TrainerCallback):
    """
    Holds TRL to what MRT leans on, up to the end of a trainer's first step. It is made before the model is loaded.

    Args:
        credit, graded, per_token (`bool`):
            Whether MRT gives credit, whether a reward reads what MRT adds to the rows, and whether the credit gives
            each token its own advantage.

    Raises:
        `ImportError`: If TRL lacks a method, or its parameters are others.
    """

    def __init__(self, credit: bool, graded: bool, per_token: bool):
        self.credit, self.log_probabilities = credit, None
        self.uncalled = dict.fromkeys(ROWS * credit + REWARDS * (credit or graded) + LOSS * per_token)
        for name in self.uncalled:
            if name not in INLINE:
                _check_parameters(trl.GRPOTrainer, name, ["self", *METHODS[name][0]])
        if credit:
            _check_parameters(utils, "unwrap_model_for_generation", ["model", "accelerator"], UNWRAP)

    def watch(self, trainer) -> None:
        """
        Checks a trainer that has been built, and its first step when that comes: until then, what stands on the
        trainer itself in place of each method reports that it is called.

        Raises:
            `ImportError`: If the trainer lacks an attribute.
            `RuntimeError`: In the first step, if its loss mixes tokens, or a method is not called.
        """
        for name in (METRICS + TOKENIZER) * self.credit + VLLM * (self.credit and trainer.args.use_vllm):
            try:
                attrgetter(name)(trainer)
            except AttributeError as error:
                raise ImportError(_moved(f"has no GRPOTrainer.{name}")) from error
        self.trainer = trainer
        if getattr(trainer, "rollout_func", None) is not None:  # makes its own token ids
            self.uncalled.pop("_tokenize_prompts", None)
        watching = {LOSS[0]: self._compute_loss, LOSS[1]: self._give_log_probabilities}
        for name in self.uncalled:
            setattr(trainer, name, watching.get(name, partial(self._call, name)))
        trainer.add_callback(self)

    def on_step_end(self, *args, **kwargs) -> None:
        self.check_called()

    def check_called(self, *names: str) -> None:
        """Raises a `RuntimeError` for a method, one of these if any are given, which the step has not called."""
        for name in [name for name in self.uncalled if not names or name in names]:
            raise RuntimeError(_moved(f"does not call GRPOTrainer.{name} {METHODS[name][1]}"))

    def _call(self, name: str, *args, **kwargs):
        self.uncalled.pop(name, None)
        if name not in LOSS:
            delattr(self.trainer, name)
        return getattr(type(self.trainer), name)(self.trainer, *args, **kwargs)

    def _give_log_probabilities(self, *args, **kwargs):
        given = self._call(LOSS[1], *args, **kwargs)
        if torch.is_grad_enabled():
            self.log_probabilities = given[0] if isinstance(given, tuple) else given
        return given

    def _compute_loss(self, model, inputs):
        if not torch.is_grad_enabled():  # an evaluation, with one advantage for each row
            return type(self.trainer)._compute_loss(self.trainer, model, inputs)
        advantages = inputs["advantages"].detach().requires_grad_()
        loss = self._call(LOSS[0], model, {**inputs, "advantages": advantages})
        self.check_called()  # before the update
        apart = weighs_tokens_apart(loss, advantages, self.log_probabilities, inputs["completion_mask"])
        if apart is False:
            raise RuntimeError(_moved(f"mixes the advantages of tokens in GRPOTrainer.{LOSS[0]}"))
        for name in LOSS * bool(apart):  # else the next batch tells
            delattr(self.trainer, name)
        self.log_probabilities = None
        return loss


def weighs_tokens_apart(
    loss: torch.Tensor, advantages: torch.Tensor, log_probabilities: torch.Tensor, mask: torch.Tensor
) -> bool | None:
    """
    Whether a loss weighs the log-probability of each token by that token's advantage and by no other; `None` where it
    does not show, as no token is trained on.

    The loss, whose graph is kept, is differentiated by the advantages of some tokens, then by the log-probabilities:
    only those of the same tokens may show. Tokens are chosen by a bit of their number, so that any two are told apart.
    The model is left out. The tensors have shape (B, T); the mask is 0 where a token is not trained on.

    ```python
    >>> advantages, log_probabilities = torch.zeros(2, 2, 3, requires_grad=True)
    >>> loss, of_rows = (advantages * log_probabilities).sum(), (advantages.mean(1) * log_probabilities.sum(1)).sum()
    >>> [weighs_tokens_apart(x, advantages, log_probabilities, torch.ones(2, 3)) for x in (loss, of_rows)]
    [True, False]

    ```
    """
    if advantages.shape != mask.shape:
        return False
    [weights] = torch.autograd.grad(loss, advantages, create_graph=True, allow_unused=True)
    if weights is None or not weights.requires_grad:
        return False
    number, shows = torch.arange(mask.numel(), device=mask.device).view(mask.shape), False
    for bit in range(mask.numel().bit_length()):
        for value in (0, 1):
            chosen = (number >> bit) % 2 == value
            [moved] = torch.autograd.grad(
                weights, log_probabilities, chosen.to(weights), retain_graph=True, allow_unused=True
            )
            if moved is None or moved.nan_to_num()[~chosen | (mask == 0)].any():
                return False
            shows = shows or bool(moved.nan_to_num().any())
    return shows or None


def _check_parameters(owner, name: str, given: list[str], named: list[str] = ()) -> None:
    try:
        inspect.signature(getattr(owner, name)).bind(*given, **dict.fromkeys(named))
    except (AttributeError, TypeError) as error:
        what = f"has no {owner.__name__}.{name} that takes ({', '.join([*given, *named])})"
        raise ImportError(_moved(what)) from error


def _moved(what: str) -> str:
    return (
        f"trl {trl.__version__} {what}, so this run would not be MRT. Install trl 1.16.0, or 0.18.0 as Open-R1 pins "
        "it; or set mrt_credit: none, and take no reward of ours."
    )
