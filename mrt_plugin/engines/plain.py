r"""The way without branching, for models whose attention cannot be shared: every prompt is read in full.

Prompts of similar length are read together, by transformers' own `generate` and `forward`. Left out: anything that is
kept from one batch to the next, and one reading of a prompt for all of its completions.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from ..upstream.model import accepts, generation
from .sampling import Completion, SamplingSettings
from .sharing import TOKENS, Sharing


SHORTEST = 0.75
"""Least length of a row, as a share of the longest one of its batch."""
EAGER = 2**10
"""Tokens of a row from which on the scores of eager attention, quadratic in them, limit a batch."""


class PlainReader:
    """
    Samples and scores without sharing anything between rows.

    Args:
        model ([`~transformers.PreTrainedModel`]): Any causal language model with transformers' `generate`.
        shown ([`~mrt_plugin.engines.sharing.Sharing`]): Whether its padding is harmless, and its cache right.
        eos_token_ids (`set[int]`), pad_token_id (`int`): What ends a completion, and what fills up rows.
        max_batch_tokens (`int`): Bound on rows times width, which a single row may exceed.
    """

    def __init__(self, model, shown: Sharing, eos_token_ids: set[int], pad_token_id: int, max_batch_tokens: int):
        self.model, self.shown, self.max_batch_tokens = model, shown, max_batch_tokens
        self.eos_token_ids, self.pad_token_id = eos_token_ids, pad_token_id

    def sample(self, prompts: list[list[int]], n: int, settings: SamplingSettings) -> list[list[Completion]]:
        """`n` completions of each prompt (token ids)."""
        greedy, completions = settings.temperature == 0, [[] for _ in prompts]
        rows = [index for index in range(len(prompts)) for _ in range(1 if greedy else n)]
        how = {"max_new_tokens": settings.max_new_tokens, "do_sample": not greedy, "pad_token_id": self.pad_token_id}
        if not greedy:
            how |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        with generation(self.model, eos_token_id=sorted(self.eos_token_ids) or None, **how):
            for batch in self._batches(rows, lambda row: len(prompts[row]), settings.max_new_tokens):
                input_ids, mask = self._pad([prompts[row] for row in batch])
                width = input_ids.shape[1]
                use_cache = self.shown.cache and width >= TOKENS
                written = self.model.generate(
                    input_ids=input_ids, attention_mask=mask, use_cache=use_cache, synced_gpus=False
                )
                for row, token_ids in zip(batch, written[:, width:].tolist(), strict=True):
                    completions[row].append(self._completion(token_ids))
        return [group * n for group in completions] if greedy else completions

    def _completion(self, token_ids: list[int]) -> Completion:
        """Up to the first end-of-sequence token; what follows it is padding."""
        end = next((index for index, token in enumerate(token_ids) if token in self.eos_token_ids), None)
        return Completion(token_ids if end is None else token_ids[: end + 1], end is not None)

    def score(self, prompts: list[list[int]], targets: Sequence[Sequence[int]]) -> list[float]:
        """Log-probability of each target (token ids) behind its prompt, in nats."""
        rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
        scores = [0.0] * len(rows)
        for batch in self._batches(list(range(len(rows))), lambda row: len(rows[row])):
            input_ids, mask = self._pad([rows[row] for row in batch])
            longest = max(len(targets[row]) for row in batch)
            more = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "logits_to_keep": longest + 1}
            more = {name: value for name, value in more.items() if accepts(self.model, name)}
            logits = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False, **more).logits
            log_probabilities = logits[:, -longest - 1 : -1].float().log_softmax(-1)
            ends = input_ids[:, input_ids.shape[1] - longest :, None]
            for row, values in zip(batch, log_probabilities.gather(-1, ends)[..., 0], strict=True):
                scores[row] = values[longest - len(targets[row]) :].sum().item()
        return scores

    def _batches(self, rows: list[int], length: Callable[[int], int], new_tokens: int = 0) -> Iterator[list[int]]:
        def size(row: int) -> int:
            return memory(self.model, length(row) + new_tokens)

        # A state may read padding, so that rows are to be equally long.
        return chunks(rows, size, self.max_batch_tokens, SHORTEST if self.shown.padding else 1.0)

    def _pad(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids, and 1 where they are no padding (on the left), (rows, width)."""
        width = max(map(len, rows))
        ids = torch.tensor([[-1] * (width - len(row)) + row for row in rows], device=self.model.device)
        return ids.masked_fill(ids < 0, self.pad_token_id), (ids >= 0).long()


def memory(model, width: int) -> int:
    """What a row of so many tokens takes, in tokens: eager attention holds its scores, which are quadratic."""
    eager = model.config.get_text_config()._attn_implementation == "eager"
    return width * max(1, width // EAGER) if eager else width


def chunks(items: list, size: Callable, budget: int, shortest: float = 0.0) -> Iterator[list]:
    """
    Splits items, longest first, into chunks of which (number of items) x (largest size) stays within the budget, and
    no size is less than a share of the largest.

    ```python
    >>> [*chunks([9, 2, 8, 3], size=lambda item: item, budget=99, shortest=0.5)]
    [[9, 8], [3, 2]]

    ```
    """
    chunk: list = []
    for item in sorted(items, key=size, reverse=True):
        if chunk and ((len(chunk) + 1) * size(chunk[0]) > budget or size(item) < shortest * size(chunk[0])):
            yield chunk
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk
