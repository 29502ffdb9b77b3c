r"""Longer than trained: budget forcing for models that think in tags, linearized search for those that backtrack.

Both make a model continue after it has finished, in the same stream of tokens. Nothing is tokenised again.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..engines.sampling import Completion, Prompt, Sampler, SamplingSettings
from ..episodes import CLOSE
from ..tokens import decode, token_boundaries, tokenize, without_special
from ..traces import Trace, trace_at


EXTENSION_CUES = ("Wait", "But wait", "Alternatively", "But hold on")
"""What the thinking is made to go on with, in turn (the authors' analysis, after arXiv 2501.19393)."""

MEASURED_EVERY = 2
"""J is measured after every second extension."""


def extend(sampler: Sampler, traces: Sequence[Trace], extensions: int, settings: SamplingSettings) -> list[Trace]:
    """
    Budget forcing: makes the finished thinking of N traces continue `extensions` times, with one call to the sampler
    each time.

    An extension appends a line break and a cue, and lets the model think to its next `</think>`. If it is cut before
    that, its last paragraph is dropped. If there is no room for it, the thinking stays as it is.

    Returns:
        `list[Trace]`:
            N traces whose prefixes are the whole thinking after 2, 4, ... extensions.
    """
    tokenizer = sampler.tokenizer
    states, measured = [list(trace.token_ids) for trace in traces], [[] for _ in traces]
    for index in range(extensions):
        cue = tokenize(tokenizer, "\n" + EXTENSION_CUES[index % len(EXTENSION_CUES)])
        drawn = sampler.sample([Prompt([*state, *cue]) for state in states], 1, _reseeded(settings, index))
        for state, ends, group in zip(states, measured, drawn, strict=True):
            state += [*cue, *_thinking(tokenizer, group[0])] if group else []
            if (index + 1) % MEASURED_EVERY == 0:
                ends.append(len(state))
    extended = []
    for trace, state, ends in zip(traces, states, measured, strict=True):
        begin = trace.prefix_ends[0]
        lengths = [len(decode(tokenizer, state[begin:end])) for end in ends]
        extended.append(trace_at(tokenizer, state[:begin], state[begin:], trace.solution, 0, lengths))
    return extended


def _thinking(tokenizer, extension: Completion) -> list[int]:
    """What of an extension belongs to the thinking."""
    token_ids, text = extension.token_ids, decode(tokenizer, extension.token_ids)
    if CLOSE in text:
        return token_ids[: token_boundaries(tokenizer, token_ids, [text.index(CLOSE)], straddling=False)[0]]
    if extension.ended:  # without closing
        return without_special(tokenizer, token_ids)
    whole = text.rpartition("\n\n")[0]
    kept = token_ids[: token_boundaries(tokenizer, token_ids, [len(whole)], straddling=False)[0]]
    return [*kept, *tokenize(tokenizer, "\n")]


def linearize(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    first: Sequence[Completion],
    attempts: int,
    window: int,
    continuation: str,
    settings: SamplingSettings,
) -> list[list[Completion]]:
    """
    Linearized search: continues from the `first` attempt at each of N prompts to a stream of `attempts` attempts, with
    one call to the sampler for each further one. A further attempt begins with the `continuation`, after a blank line,
    and the model sees the last `window` attempts before it. An attempt without room is empty and counts as cut.

    Returns:
        `list[list[Completion]]`:
            N streams of `attempts` attempts, without the continuation.
    """
    tokenizer = sampler.tokenizer
    cue = tokenize(tokenizer, f"\n\n{continuation}")
    streams = [[attempt] for attempt in first]
    for index in range(1, attempts):
        seen = [
            [token for one in stream[-window:] for token in [*without_special(tokenizer, one.token_ids), *cue]]
            for stream in streams
        ]
        contexts = [Prompt([*prompt, *mine]) for prompt, mine in zip(prompts, seen, strict=True)]
        drawn = sampler.sample(contexts, 1, _reseeded(settings, index))
        for stream, group in zip(streams, drawn, strict=True):
            stream += group or [Completion([], ended=False)]
    return streams


def _reseeded(settings: SamplingSettings, index: int) -> SamplingSettings:
    return settings if settings.seed is None else replace(settings, seed=settings.seed + index)
