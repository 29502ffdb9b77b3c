r"""The sampler in this process: a transformers model, the one being trained for instance.

It reads every trace once and lets all prompts that branch off it share the keys and values. Left out: a paged cache,
and models whose attention does not see the whole context.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import DynamicCache, TopPLogitsWarper

from ..upstream.model import cache_argument
from .branching import Branches
from .sampling import Completion, Prompt, SamplingSettings


MAX_BATCH_TOKENS = 2**16
SCORED = 2**22
"""Bound on the pairs of query and key, for each head, whose scores are held at once."""


class PolicySampler:
    """
    Samples from, and scores with, a causal language model of transformers in this process.

    Args:
        model ([`~transformers.PreTrainedModel`]): Model with full attention in every layer.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        max_batch_tokens (`int`, *optional*, defaults to `65536`):
            Bound on the tokens, rows times width, whose keys and values are held at once for the traces, and as
            many again for what branches add to them. A single sequence may exceed it.

    Raises:
        `ValueError`: If a layer does not attend to the whole context, or not through `AttentionInterface`.

    Example:
    ```python
    >>> from types import SimpleNamespace
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    >>> model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2))
    >>> sampler = PolicySampler(model, SimpleNamespace(pad_token_id=0, eos_token_id=1))
    >>> trace = [5, 6, 7, 8]
    >>> prompts = [Prompt(trace, cut=2, suffix=[9]), Prompt(trace, suffix=[9])]  # the trace is read once
    >>> completions = sampler.sample(prompts, n=3, settings=SamplingSettings(max_new_tokens=4, seed=0))
    >>> [len(group) for group in completions]
    [3, 3]

    ```
    """

    scores = True

    def __init__(self, model, tokenizer, max_batch_tokens: int = MAX_BATCH_TOKENS):
        config = model.config.get_text_config()
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        slides = window is not None and window < config.max_position_embeddings
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if slides else "full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(
                f"{type(model).__name__} has {sorted(kinds)} layers; branching in this process needs full "
                "attention in all of them."
            )
        if not getattr(model, "_supports_attention_backend", False):
            raise ValueError(
                f"{type(model).__name__} does not look its attention up in transformers' AttentionInterface, which "
                "branching in this process needs. Sample with vLLM or a server instead."
            )
        self.model, self.tokenizer, self.max_batch_tokens = model, tokenizer, max_batch_tokens
        self.max_length = getattr(config, "max_position_embeddings", None)
        eos = model.generation_config.eos_token_id
        self.eos_token_ids = {tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])} - {None}
        special = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_token_id = next(token for token in special if token is not None)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[Completion]]:
        """
        As in [`~mrt_plugin.engines.sampling.Sampler`]; no prompt may be empty. A completion has ended where its last
        token is an end-of-sequence token.
        """
        completions: list[list[Completion]] = [[] for _ in prompts]
        none, device = [()] * len(prompts), self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=settings.seed is not None):
            if settings.seed is not None:
                torch.manual_seed(settings.seed)
            for batch, branches, input_ids, mask in self._batches(prompts, none, n, settings.max_new_tokens):
                logits = branches.forward(input_ids, mask, logits_to_keep=1)[:, -1]
                rows = torch.arange(len(batch), device=logits.device).repeat_interleave(n)
                branches.select(rows)
                written = iter(self._write(branches, logits[rows], settings))
                for index in batch:
                    completions[index] = [next(written) for _ in range(n)]
        return completions

    def _write(self, branches: Branches, logits: torch.Tensor, settings: SamplingSettings) -> list[Completion]:
        """Continues every row, token by token; rows that have ended leave the batch."""
        written: list[list[int]] = [[] for _ in logits]
        rows = torch.arange(len(logits), device=logits.device)
        for left in reversed(range(settings.max_new_tokens)):
            tokens = _choose(logits, settings)
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                written[row].append(token)
            goes_on = torch.tensor([token not in self.eos_token_ids for token in tokens.tolist()], device=rows.device)
            if left == 0 or not goes_on.any():
                break
            if not goes_on.all():
                rows, tokens = rows[goes_on], tokens[goes_on]
                branches.select(goes_on.nonzero()[:, 0])
            logits = branches.forward(tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool), 1)[:, -1]
        return [Completion(token_ids, token_ids[-1] in self.eos_token_ids) for token_ids in written]

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]]) -> list[float]:
        """
        Log-probabilities of N targets (token ids), each behind one of N prompts, none of them empty: in nats, at
        temperature 1, from one teacher-forced pass.
        """
        scores = [0.0] * len(prompts)
        for batch, branches, input_ids, mask in self._batches(prompts, targets, n=1, new_tokens=0):
            longest = max(len(targets[index]) for index in batch)
            logits = branches.forward(input_ids, mask, logits_to_keep=longest + 1)[:, :-1].float()
            log_probabilities = logits.log_softmax(-1).gather(-1, input_ids[:, -longest:, None])[..., 0]
            for row, index in enumerate(batch):
                scores[index] = log_probabilities[row, longest - len(targets[index]) :].sum().item()
        return scores

    def _batches(self, prompts, targets, n: int, new_tokens: int) -> Iterator[tuple]:
        """Yields indices of prompts, their [`Branches`], and ids and mask of what each reads: suffix and target."""
        branching: dict[int, list[int]] = {}  # trace -> its prompts
        for index, prompt in enumerate(prompts):
            branching.setdefault(id(prompt.trace), []).append(index)
        # The model has to read at least one token to say what comes next: where nothing follows the cut, the last one.
        heads = [prompt.trace[: prompt.cut] for prompt in prompts]
        tails = [[*prompt.suffix, *target] for prompt, target in zip(prompts, targets, strict=True)]
        for index, tail in enumerate(tails):
            if len(tail) == len(targets[index]):
                if not heads[index]:
                    raise ValueError(f"Prompt {index} is empty.")
                heads[index], tails[index] = heads[index][:-1], [heads[index][-1], *tail]

        longest = {trace: max((heads[i] for i in indices), key=len) for trace, indices in branching.items()}
        device = self.model.device
        for traces in _chunks(list(branching), lambda trace: len(longest[trace]), self.max_batch_tokens):
            keys_values = self._read([longest[trace] for trace in traces])
            row_of = {index: row for row, trace in enumerate(traces) for index in branching[trace]}
            width = max(len(heads[index]) for index in row_of)
            tokens = {i: n * (len(tails[i]) + new_tokens) for i in row_of}
            scored = {i: max(n, len(tails[i])) * width for i in row_of}
            for rows in _chunks(list(row_of), tokens.get, self.max_batch_tokens):
                for batch in _chunks(rows, scored.get, SCORED):
                    trace = torch.tensor([row_of[i] for i in batch], device=device)
                    cut = torch.tensor([len(heads[i]) for i in batch], device=device)
                    read, trace = trace.unique(return_inverse=True)
                    some = keys_values if len(read) == len(traces) else [(k[read], v[read]) for k, v in keys_values]
                    branches = Branches(self.model, some, trace, cut)
                    yield batch, branches, *self._pad([tails[i] for i in batch], left=True)

    def _read(self, heads: list[Sequence[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, (traces, heads, tokens, dimension), of the padded traces."""
        input_ids, _ = self._pad(heads, left=False)
        if not input_ids.shape[1]:
            return []
        # Without a mask: no token sees the padding, which is on its right, and branches are cut before it. Logits of
        # all tokens would dwarf the rest.
        name = cache_argument(self.model)
        cache = self.model(input_ids=input_ids, use_cache=True, logits_to_keep=1, **{name: DynamicCache()})[name]
        return [(layer[0], layer[1]) for layer in cache]

    def _pad(self, rows: list[Sequence[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids, and where they are no padding, (rows, width)."""
        width = max(map(len, rows))
        padding = [[-1] * (width - len(row)) for row in rows]
        padded = [[*pad, *row] if left else [*row, *pad] for pad, row in zip(padding, rows, strict=True)]
        ids = torch.tensor(padded, dtype=torch.long, device=self.model.device)
        return ids.masked_fill(ids < 0, self.pad_token_id), ids >= 0


def _choose(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """The next token of each row."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / settings.temperature
    if settings.top_p < 1:
        scores = TopPLogitsWarper(settings.top_p)(None, scores)
    return torch.multinomial(scores.softmax(-1), 1)[:, 0]


def _chunks(items: list, size, budget: int) -> Iterator[list]:
    """Splits items, longest first, into chunks of which (number of items) x (largest size) stays within the budget."""
    chunk: list = []
    for item in sorted(items, key=size, reverse=True):
        if chunk and (len(chunk) + 1) * size(chunk[0]) > budget:
            yield chunk
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk
