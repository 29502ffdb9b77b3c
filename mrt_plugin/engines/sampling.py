r"""One seam between the method and the engine that writes text: prompts of token ids in, [`Completion`]s out.

A [`Prompt`] is a cut-off trace and a suffix, so that an engine can see which prompts share their beginning, and tokens
are appended, never made anew. [`Sampler`]s are in the files beside this one: a model in this process, vLLM, a server,
and the trainer's vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Prompt:
    """
    The first `cut` tokens of a trace, then a suffix. Prompts that hold the same `trace` object share its computation.

    Args:
        trace (`Sequence[int]`): Token ids.
        cut (`int`, *optional*): How many of them to keep, in tokens. Defaults to all.
        suffix (`Sequence[int]`, *optional*, defaults to `()`): Token ids that follow.

    ```python
    >>> Prompt([5, 6, 7], cut=2, suffix=[1]).token_ids
    [5, 6, 1]

    ```
    """

    trace: Sequence[int]
    cut: int | None = None
    suffix: Sequence[int] = ()

    @property
    def token_ids(self) -> list[int]:
        return [*self.trace[: self.cut], *self.suffix]

    @property
    def length(self) -> int:
        return len(self.trace[: self.cut]) + len(self.suffix)

    def fits(self, max_length: int | None, new_tokens: int = 1) -> bool:
        """Whether a context of so many tokens, where that is known, has room for new ones behind it."""
        return max_length is None or self.length + new_tokens <= max_length


@dataclass(frozen=True)
class SamplingSettings:
    """
    How to sample.

    Args:
        max_new_tokens (`int`): Most tokens to write.
        temperature (`float`, *optional*, defaults to `1.0`): Temperature; 0 takes the likeliest token.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus to sample from.
        seed (`int`, *optional*):
            Makes the call reproducible. Without it, draws are from torch's global generator, which checkpoints save.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """
    What an engine wrote behind a prompt.

    Args:
        token_ids (`list[int]`): Token ids, the end-of-sequence token included where there is one.
        ended (`bool`): Whether the policy came to an end by itself, as the engine says, and was not cut by length.
    """

    token_ids: list[int]
    ended: bool


class Sampler(Protocol):
    """
    What writes.

    Attributes:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer of the policy.
        max_length (`int` or `None`): The model's context in tokens, if it is known.
        scores (`bool`): Whether it has `score(prompts, targets)`: the log-probability of each target, in nats.
    """

    tokenizer: object
    max_length: int | None
    scores: bool

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[Completion] | None]:
        """Writes `n` completions for each prompt; `None` for a prompt that has no room, or got no answer."""


class SamplingError(Exception):
    """
    An engine failed on some prompts of a call, after all its retries: `failed` maps their indices to reasons. Another
    call may succeed, which it cannot where there is no room: those prompts get `None`.
    """

    def __init__(self, failed: dict[int, str]):
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        return f"{len(self.failed)} prompts have no completions, the first because: {next(iter(self.failed.values()))}"
