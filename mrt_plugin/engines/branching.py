r"""Branches off a few traces, computed together: keys and values of a trace are held once, whatever branches off it.

A branch attends to the first tokens of its trace and to its own tail, in one softmax. All queries to a trace are one
matrix product with its keys, so that a branch costs its own tokens and no copy of the trace; the two parts are then
weighed by their sums of exponentials. The model itself is untouched: for the time of a pass, its attention is ours,
registered with transformers' `AttentionInterface`.

Left out: sliding windows, soft-capped scores, attention sinks, latents in place of keys and values, recurrent states.
[`~mrt_plugin.engines.sharing`] finds them.
"""

from collections.abc import Sequence
from contextvars import ContextVar

import torch
from transformers import AttentionInterface, DynamicCache

from ..upstream.model import cache_argument


ATTENTION = "mrt_branches"

KeysValues = Sequence[tuple[torch.Tensor, torch.Tensor]]  # of each layer, (traces, heads, tokens, dimension)
_current: ContextVar["Branches"] = ContextVar("branches")


class Branches:
    """
    The rows of a batch that branch off traces.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model.
        traces (`KeysValues`): Keys and values of T traces, W tokens wide. Empty if no row has any.
        trace (`torch.Tensor` of shape (B,)): Which trace each row branches off.
        cut (`torch.Tensor` of shape (B,)): How many of its tokens the row attends to.
    """

    def __init__(self, model, traces: KeysValues, trace: torch.Tensor, cut: torch.Tensor):
        self.model, self.traces, self.trace, self.cut = model, traces, trace, cut
        self.tails, self.cache = DynamicCache(), cache_argument(model)
        self.tail_mask = torch.zeros(len(trace), 0, dtype=torch.bool, device=trace.device)
        self._arrange()

    def _arrange(self) -> None:
        """Gives each row a slot in a grid of (traces, most rows of a trace), where queries to a trace lie together."""
        if not self.traces:
            return
        keys = self.traces[0][0]
        counts = torch.bincount(self.trace, minlength=len(keys))
        order = self.trace.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.trace[order]]
        self.grid = (len(keys), int(counts.max()))
        self.slots = self.trace * self.grid[1] + rank
        behind = torch.arange(keys.shape[2], device=keys.device) >= self.cut[:, None]
        self.hidden = self._to_grid(behind)[:, None, :, None]  # (T, 1, R, 1, W)

    def _to_grid(self, rows: torch.Tensor) -> torch.Tensor:
        grid = rows.new_zeros(self.grid[0] * self.grid[1], *rows.shape[1:])
        return grid.index_copy_(0, self.slots, rows).view(*self.grid, *rows.shape[1:])

    def _from_grid(self, grid: torch.Tensor) -> torch.Tensor:
        return grid.flatten(0, 1)[self.slots]

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, logits_to_keep: int) -> torch.Tensor:
        """
        Reads the next tokens of every row.

        Args:
            input_ids, mask (`torch.Tensor` of shape (B, L)): Tokens, and where they are no padding (on the left).
            logits_to_keep (`int`): Of how many of the last tokens to return the logits.

        Returns:
            `torch.Tensor` of shape (B, `logits_to_keep`, vocabulary).
        """
        self.tail_mask = torch.cat([self.tail_mask, mask], dim=1)
        positions = self.cut[:, None] + (self.tail_mask.cumsum(-1) - 1).clamp(min=0)
        config, token = self.model.config, _current.set(self)
        usual, config._attn_implementation = config._attn_implementation, ATTENTION
        try:
            return self.model(
                input_ids=input_ids,
                position_ids=positions[:, -input_ids.shape[1] :],
                use_cache=True,
                logits_to_keep=logits_to_keep,
                **{self.cache: self.tails},
            ).logits[:, -logits_to_keep:]  # which some models have all of
        finally:
            config._attn_implementation = usual
            _current.reset(token)

    def select(self, rows: torch.Tensor) -> None:
        """Goes on with some of the rows, or with copies of them: indices of shape (B',)."""
        self.trace, self.cut, self.tail_mask = self.trace[rows], self.cut[rows], self.tail_mask[rows]
        self.tails.batch_select_indices(rows)
        self._arrange()

    def attend(self, layer: int, query, key, value, scaling: float) -> torch.Tensor:
        """Attention, of shape (B, L, heads, dimension), to the traces and to the tails: the keys and values given."""
        rows, heads, length, dimension = query.shape
        groups = heads // key.shape[1]
        query = query.reshape(rows, key.shape[1], groups * length, dimension) * scaling
        scores = (query @ key.transpose(2, 3)).float().view(rows, key.shape[1], groups, length, -1)
        # A token sees itself and what stands before it. Padding sees nothing: its scores are equal, and are not used.
        seen = torch.ones(length, key.shape[2], dtype=torch.bool, device=key.device).tril(key.shape[2] - length)
        scores.masked_fill_(~(seen & self.tail_mask[:, None])[:, None, None], torch.finfo(scores.dtype).min)
        output, total = _weigh(scores.flatten(2, 3), value)
        if self.traces:
            trace_keys, trace_values = self.traces[layer]
            grid = self._to_grid(query).transpose(1, 2)  # (T, heads, R, tokens, dimension)
            scores = (grid.flatten(2, 3) @ trace_keys.transpose(2, 3)).float().view(*grid.shape[:4], -1)
            scores.masked_fill_(self.hidden, torch.finfo(scores.dtype).min)
            trace_output, trace_total = _weigh(scores.flatten(2, 3), trace_values)
            trace_output = self._from_grid(trace_output.view(*grid.shape[:4], -1).transpose(1, 2))
            trace_total = self._from_grid(trace_total.view(*grid.shape[:4], 1).transpose(1, 2))
            share = (trace_total - torch.logaddexp(total, trace_total)).exp().to(output.dtype)
            output = output + share * (trace_output - output)
        return output.view(rows, heads, length, -1).transpose(1, 2).contiguous()


def _weigh(scores: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values weighed by the softmax of the scores, and the logarithms of the sums of exponentials."""
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    return weights.div_(total).to(values.dtype) @ values, largest + total.log()  # divided first: fp16 would overflow


def read(model, input_ids: torch.Tensor) -> KeysValues:
    """Keys and values of traces (T, W), padded on the right; branches are to be cut before the padding."""
    # Without a mask: no token sees what is on its right. Logits of all tokens would dwarf the rest.
    name = cache_argument(model)
    cache = model(input_ids=input_ids, use_cache=True, logits_to_keep=1, **{name: DynamicCache()})[name]
    return [(layer[0], layer[1]) for layer in cache]


def is_narrow(window: int | None, config) -> bool:
    """Whether a window, in tokens, is less than the context of a model."""
    longest = getattr(config, "max_position_embeddings", None)
    return window is not None and (longest is None or window < longest)


def _attention(
    module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None, sliding_window=None, **kwargs
):
    branches = _current.get()
    config = branches.model.config.get_text_config()
    unknown = {"capped scores": softcap is not None, "attention sinks": s_aux is not None}
    unknown[f"a window of {sliding_window} tokens"] = is_narrow(sliding_window, config)
    if branches.traces:  # the cache must hold the very keys, which have heads and a dimension
        unknown["latents in its cache"] = branches.traces[module.layer_idx][0].shape[1::2] != key.shape[1::2]
    if any(unknown.values()):
        raise ValueError(f"{type(module).__name__} has {' and '.join(name for name, has in unknown.items() if has)}")
    scaling = module.head_dim**-0.5 if scaling is None else scaling
    return branches.attend(module.layer_idx, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, _attention)
