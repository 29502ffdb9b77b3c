r"""The sampler in this process: a transformers model, the one being trained for instance.

It reads every trace once and lets all prompts that branch off it share the keys and values; where a model does not
allow that, [`~mrt_plugin.engines.plain`] reads each prompt in full. Left out: a paged cache.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import TopPLogitsWarper

from ..tokens import eos_ids
from .branching import Branches, read
from .plain import PlainReader, chunks, memory
from .sampling import Completion, Prompt, SamplingSettings
from .sharing import sharing


MAX_BATCH_TOKENS = 2**16
SCORED = 2**22
"""Bound on the pairs of query and key, for each head, whose scores are held at once."""


class PolicySampler:
    """
    Samples from, and scores with, a causal language model of transformers in this process.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model. Where its branches cannot share a trace, it warns.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        max_batch_tokens (`int`, *optional*, defaults to `65536`):
            Bound on the tokens, rows times width, whose keys and values are held at once for the traces, and as
            many again for what branches add to them; or for the rows of a batch, where nothing is shared. A single
            sequence may exceed it.

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
        self.model, self.tokenizer, self.max_batch_tokens = model, tokenizer, max_batch_tokens
        self.max_length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.eos_token_ids = {tokenizer.eos_token_id, *eos_ids(model.generation_config)} - {None}
        special = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_token_id = next(token for token in special if token is not None)
        shown, tokens = sharing(model), (self.eos_token_ids, self.pad_token_id)
        self.plain = PlainReader(model, shown, *tokens, max_batch_tokens) if shown.obstacle else None

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
            if self.plain:
                return self.plain.sample(_whole(prompts), n, settings)
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
        if self.plain:
            return self.plain.score(_whole(prompts), targets)
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
        sizes = {trace: memory(self.model, len(head)) for trace, head in longest.items()}
        for traces in chunks(list(branching), sizes.get, self.max_batch_tokens):
            input_ids, _ = self._pad([longest[trace] for trace in traces], left=False)
            keys_values = read(self.model, input_ids) if input_ids.shape[1] else []
            row_of = {index: row for row, trace in enumerate(traces) for index in branching[trace]}
            width = max(len(heads[index]) for index in row_of)
            tokens = {i: n * (len(tails[i]) + new_tokens) for i in row_of}
            scored = {i: max(n, len(tails[i])) * width for i in row_of}
            for rows in chunks(list(row_of), tokens.get, self.max_batch_tokens):
                for batch in chunks(rows, scored.get, SCORED):
                    trace = torch.tensor([row_of[i] for i in batch], device=device)
                    cut = torch.tensor([len(heads[i]) for i in batch], device=device)
                    needed, trace = trace.unique(return_inverse=True)
                    some = keys_values
                    if len(needed) < len(traces):
                        some = [(keys[needed], values[needed]) for keys, values in keys_values]
                    branches = Branches(self.model, some, trace, cut)
                    yield batch, branches, *self._pad([tails[i] for i in batch], left=True)

    def _pad(self, rows: list[Sequence[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids, and where they are no padding, (rows, width)."""
        width = max(map(len, rows))
        padding = [[-1] * (width - len(row)) for row in rows]
        padded = [[*pad, *row] if left else [*row, *pad] for pad, row in zip(padding, rows, strict=True)]
        ids = torch.tensor(padded, dtype=torch.long, device=self.model.device)
        return ids.masked_fill(ids < 0, self.pad_token_id), ids >= 0


def _whole(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of the prompts."""
    whole = [prompt.token_ids for prompt in prompts]
    if [] in whole:
        raise ValueError(f"Prompt {whole.index([])} is empty.")
    return whole


def _choose(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """The next token of each row."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / settings.temperature
    if settings.top_p < 1:
        scores = TopPLogitsWarper(settings.top_p)(None, scores)
    return torch.multinomial(scores.softmax(-1), 1)[:, 0]
