r"""Whether branches of a model can share a trace: a trial, on a few tokens, of what its cache holds and what it says.

No model is known by its name, so that new ones, and somebody's own, are read rightly too.
"""

import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from ..upstream.model import cache_argument, generation, layers_of
from .branching import Branches, is_narrow, read


logger = logging.getLogger(__name__)

TOKENS = 8
"""Tokens of a prompt in a trial. It says nothing of shorter ones, which may not fill the kernel of a convolution."""
DEVIATION = 0.1
"""How much logits may differ, as a share of what a prefix changes in them. Rounding in bf16 comes to less."""
SHARED = {"DynamicCache", "DynamicLayer", "DynamicSlidingWindowLayer", "tuple"}
MASKED = SHARED | {"HybridCache", "DummyLayer"}
"""Caches, and layers of them, of nothing but keys and values, which a mask hides where they are of padding."""


@dataclass(frozen=True)
class Sharing:
    """
    What a trial has shown of a model.

    Args:
        obstacle (`str` or `None`): What keeps branches from sharing a trace, if anything does.
        padding (`bool`): Whether padding is harmless: what the cache holds can be masked, and is all.
        cache (`bool`): Whether `generate` writes with its cache what it would without. Not tried without an obstacle.
    """

    obstacle: str | None
    padding: bool
    cache: bool


_known: WeakKeyDictionary = WeakKeyDictionary()


def sharing(model) -> Sharing:
    """What a trial shows of a model. It is made once; where nothing can be shared, a warning says what that costs."""
    if model not in _known:
        modes = {module: module.training for module in model.modules()}
        model.eval()  # dropout would make logits differ
        try:
            with torch.no_grad():
                shown = _known[model] = _try(model)
        finally:
            for module, training in modes.items():
                module.training = training
        if shown.obstacle:
            logger.warning(_cost(model, shown))
    return _known[model]


def _cost(model, shown: Sharing) -> str:
    parts = [
        f"Branches of {type(model).__name__} cannot share a trace: {shown.obstacle}. Each prefix is read in full "
        "instead, once for every answer drawn behind it: n answers behind each of k prefixes cost about n * k / 2 "
        "readings of the trace, not one (n is 1 with mrt_estimator: likelihood)."
    ]
    if not shown.padding:
        parts.append("Only rows of equal length are read together, as padding may change what is read.")
    if not shown.cache:
        parts.append("Its cache went wrong in a trial, so that every new token costs a full pass.")
    return " ".join(parts)


def _try(model) -> Sharing:
    input_ids = torch.arange(1, TOKENS + 1, device=model.device)[None]
    kinds = {"no cache"}
    try:
        output = model(input_ids=input_ids, use_cache=True)
        cache = getattr(output, cache_argument(model), None)
        if cache is not None:
            kinds = {type(held).__name__ for held in (cache, *layers_of(cache))}
        obstacle = _obstacle(model, cache, kinds, input_ids, output.logits)
    except Exception as error:  # of any type: from the model's code, or from branching, which says what it lacks
        obstacle = f"{type(error).__name__}: {error}"
    right = obstacle is None or _cache_is_right(model, input_ids)
    return Sharing(obstacle, padding=right and kinds <= MASKED and not _moving_frequencies(model), cache=right)


def _obstacle(model, cache, kinds: set[str], input_ids: torch.Tensor, logits: torch.Tensor) -> str | None:
    if foreign := ", ".join(sorted(kinds - SHARED)):
        return f"its cache does not hold keys and values of all tokens in each layer ({foreign})"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention is not looked up in transformers' AttentionInterface"
    config = model.config.get_text_config()
    windows = [getattr(layer, "sliding_window", None) for layer in layers_of(cache)]
    for window in (*windows, getattr(config, "attention_chunk_size", None)):
        if is_narrow(window, config):
            return f"a layer attends to {window} tokens at most"
    if _moving_frequencies(model):
        return "its rotary frequencies depend on how many tokens are read"
    trace, cut = torch.zeros(1, dtype=torch.long, device=model.device), TOKENS // 2
    tail = input_ids[:, cut:]
    alone = model(input_ids=tail, use_cache=False).logits
    branches = Branches(model, read(model, input_ids), trace, trace + cut)
    branched = branches.forward(tail, torch.ones_like(tail, dtype=torch.bool), logits_to_keep=TOKENS - cut)
    right = _equal(branched, logits[:, cut:], alone)
    return None if right else "the logits of a branch differ from those of a full pass"


def _moving_frequencies(model) -> bool:
    """Whether keys depend on how much is read with them, by the test of transformers' `dynamic_rope_update`."""
    kinds = [getattr(module, "rope_type", None) for module in model.modules()]  # one, or one for each type of layer
    return any(
        kind == "longrope" or "dynamic" in (kind or "")
        for of_module in kinds
        for kind in (of_module.values() if isinstance(of_module, dict) else [of_module])
    )


def _cache_is_right(model, input_ids: torch.Tensor) -> bool:
    """Whether `generate` has the logits of a full pass, over two rows that it writes."""
    rows = torch.cat([input_ids, input_ids.flip(1)])
    try:
        with generation(model, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0):
            how = {"synced_gpus": False, "return_dict_in_generate": True, "output_logits": True}
            written = model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **how)
    except Exception:  # of any type: from the model's code
        return False
    logits = model(input_ids=written.sequences, use_cache=False).logits[:, TOKENS - 1 : -1]
    alone = model(input_ids=written.sequences[:, TOKENS - 1 : -1], use_cache=False).logits
    return _equal(torch.stack(written.logits, dim=1), logits, alone)


def _equal(logits: torch.Tensor, expected: torch.Tensor, alone: torch.Tensor) -> bool:
    """Whether logits are as expected but for rounding, measured by how far off they are alone, without the prefix."""
    logits, expected, alone = logits.float(), expected.float(), alone.float()
    return bool((logits - expected).norm() <= DEVIATION * (alone - expected).norm())
