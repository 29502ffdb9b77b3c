r"""Longer than trained: budget forcing for models that think in tags, linearized search for those that backtrack.

Both make a model that has come to an end go on, in the same stream of tokens. Nothing is tokenised again.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..engines.sampling import Prompt, Sampler, SamplingSettings
from ..episodes import CLOSE
from ..tokens import decode, token_boundaries, tokenize
from ..traces import Trace, trace_at


EXTENSION_CUES = ("Wait", "But wait", "Alternatively", "But hold on")
"""What the thinking is made to go on with, in turn (the authors' analysis, after arXiv 2501.19393)."""

MEASURED_EVERY = 2
"""J is measured after every second extension."""


def extend(
    sampler: Sampler, tokenizer, traces: Sequence[Trace], extensions: int, settings: SamplingSettings
) -> list[Trace]:
    """
    Budget forcing: makes finished thinking go on.

    Each extension appends a line break and a cue, and lets the model think to its next `</think>`. Where it does not
    come to one, its last paragraph is dropped.

    Args:
        sampler ([`~mrt_plugin.engines.sampling.Sampler`]):
            The policy.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        traces (`Sequence[Trace]`):
            N traces.
        extensions (`int`):
            How many, one after the other; one call to the sampler each.
        settings ([`~mrt_plugin.engines.sampling.SamplingSettings`]):
            How to draw one.

    Returns:
        `list[Trace]`:
            N traces whose prefixes are the whole thinking after 2, 4, ... extensions.
    """
    states, measured = [list(trace.token_ids) for trace in traces], [[] for _ in traces]
    for index in range(extensions):
        cue = tokenize(tokenizer, "\n" + EXTENSION_CUES[index % len(EXTENSION_CUES)])
        drawn = sampler.sample([Prompt([*state, *cue]) for state in states], 1, _reseeded(settings, index))
        for state, ends, [token_ids] in zip(states, measured, drawn, strict=True):
            state += [*cue, *_thinking(tokenizer, token_ids, settings.max_new_tokens)]
            if (index + 1) % MEASURED_EVERY == 0:
                ends.append(len(state))
    extended = []
    for trace, state, ends in zip(traces, states, measured, strict=True):
        begin = trace.cuts[0]
        lengths = [len(decode(tokenizer, state[begin:end])) for end in ends]
        extended.append(trace_at(tokenizer, state[:begin], state[begin:], trace.solution, 0, lengths))
    return extended


def _thinking(tokenizer, token_ids: list[int], most: int) -> list[int]:
    """What of an extension belongs to the thinking."""
    text = decode(tokenizer, token_ids)
    if CLOSE in text:
        return token_ids[: token_boundaries(tokenizer, token_ids, [text.index(CLOSE)], straddling=False)[0]]
    if len(token_ids) < most:  # it ended without closing
        return _without_special(tokenizer, token_ids)
    whole = text.rpartition("\n\n")[0]
    kept = token_ids[: token_boundaries(tokenizer, token_ids, [len(whole)], straddling=False)[0]]
    return [*kept, *tokenize(tokenizer, "\n")]


def linearize(
    sampler: Sampler,
    tokenizer,
    prompts: Sequence[Sequence[int]],
    first: Sequence[Sequence[int]],
    attempts: int,
    window: int,
    continuation: str,
    settings: SamplingSettings,
) -> list[list[list[int]]]:
    """
    Linearized search: attempts that follow each other in one stream, of which the model sees the most recent.

    Args:
        sampler ([`~mrt_plugin.engines.sampling.Sampler`]):
            The policy.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        prompts, first (`Sequence[Sequence[int]]`):
            Token ids of N prompts, and of a first attempt at each.
        attempts (`int`):
            Attempts in a stream, the first included; one call to the sampler for each further one.
        window (`int`):
            How many of the last attempts the model sees when it begins the next.
        continuation (`str`):
            What the next one begins with, after a blank line.
        settings ([`~mrt_plugin.engines.sampling.SamplingSettings`]):
            How to draw one.

    Returns:
        `list[list[list[int]]]`:
            N streams of `attempts` attempts: token ids, without the continuation.
    """
    cue = tokenize(tokenizer, f"\n\n{continuation}")
    streams = [[list(token_ids)] for token_ids in first]
    for index in range(1, attempts):
        seen = [
            [token for attempt in stream[-window:] for token in [*_without_special(tokenizer, attempt), *cue]]
            for stream in streams
        ]
        contexts = [Prompt([*prompt, *mine]) for prompt, mine in zip(prompts, seen, strict=True)]
        drawn = sampler.sample(contexts, 1, _reseeded(settings, index))
        for stream, [token_ids] in zip(streams, drawn, strict=True):
            stream.append(token_ids)
    return streams


def _reseeded(settings: SamplingSettings, index: int) -> SamplingSettings:
    return settings if settings.seed is None else replace(settings, seed=settings.seed + index)


def _without_special(tokenizer, token_ids: Sequence[int]) -> list[int]:
    special = set(tokenizer.all_special_ids)
    return [token for token in token_ids if token not in special]
