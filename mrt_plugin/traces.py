r"""Completions -> traces: episodes in tokens, exactly as they were sampled. Nothing is tokenised again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .episodes import OPEN, episode_spans, lacks_cues, merge_spans, thinking_span
from .tokens import decode, token_boundaries, tokenize


@dataclass(frozen=True)
class Trace:
    """
    A thinking trace of G episodes, in tokens.

    Args:
        token_ids (`list[int]`): The prompt, the opening tag, and the thinking as the policy wrote it.
        prefix_ends (`list[int]`):
            G + 1 ascending numbers of tokens: where prefixes 0, ..., G end. Prefix 0 ends where the thinking begins.
        solution (`str`): Gold answer.
        credit_ends (`list[int]`, *optional*, defaults to `prefix_ends`):
            Where credit passes from one episode to the next: where the thinking begins, then where the text of each of
            the G episodes ends. The blank line behind it is not part of it: there the policy decides to go on, and
            that decision belongs to what it leads to, just as the decision to stop belongs to the answer.
        cueless (`bool`, *optional*, defaults to `False`):
            Whether the thinking is long enough for two episodes, but no paragraph of it starts with a cue.
    """

    token_ids: list[int]
    prefix_ends: list[int]
    solution: str
    credit_ends: list[int] = field(default_factory=list)
    cueless: bool = False

    def __post_init__(self):
        if not self.credit_ends:
            object.__setattr__(self, "credit_ends", self.prefix_ends)

    @property
    def episodes(self) -> int:
        return len(self.prefix_ends) - 1

    def prefix(self, episodes: int) -> "Trace":
        """What was written up to the end of that many episodes, as a trace of which nothing but that is known."""
        cut = self.prefix_ends[episodes]
        return Trace(self.token_ids[:cut], [cut], self.solution, self.credit_ends[episodes : episodes + 1])


LAST = 16
"""Tokens of a prompt that its last word, with white space, may take."""


def segment(
    tokenizer,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    solution: str,
    episodes: int,
    cues: Sequence[str],
    opened: bool | None = None,
) -> Trace:
    r"""
    Cuts a completion into episodes without moving a token.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the policy.
        prompt_ids (`Sequence[int]`): Token ids of the prompt.
        completion_ids (`Sequence[int]`): Token ids that the policy wrote.
        solution (`str`): Gold answer.
        episodes (`int`): Most episodes to tell apart; where there are more, neighbours are merged evenly.
        cues (`Sequence[str]`): What an episode begins with, as in [`~mrt_plugin.episodes.episode_spans`].
        opened (`bool`, *optional*):
            Whether the prompt ends within a thinking. By default, whether its template opens one at the end.

    Returns:
        [`Trace`]:
            The trace. It has no episode if the completion does not think; its only prefix is then an opened, empty
            thinking.
    """
    if opened is None:
        opened = opens_thinking(tokenizer, prompt_ids)
    completion = decode(tokenizer, completion_ids)
    span = thinking_span(completion, opened)
    if span is None:
        token_ids = [*prompt_ids, *opening_ids(tokenizer)]
        return Trace(token_ids, [len(token_ids)], solution)
    start, end = span
    spans = merge_spans(episode_spans(completion[start:end], cues=cues), episodes)
    trace = trace_at(tokenizer, prompt_ids, completion_ids, solution, start, [0, *(end for _, end in spans)])
    last = trace.prefix_ends[-1]
    if len(decode(tokenizer, trace.token_ids[len(prompt_ids) :])) > end:  # a token like `.</`, which begins the tag
        last = max(last - 1, trace.prefix_ends[-2])
    ends, cueless = [*trace.prefix_ends[:-1], last], lacks_cues(completion[start:end], cues)
    return replace(trace, token_ids=trace.token_ids[:last], prefix_ends=ends, cueless=cueless)


def trace_at(
    tokenizer,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    solution: str,
    start: int,
    lengths: Sequence[int],
) -> Trace:
    """The trace whose prefixes have these lengths, in characters, from the character `start` of a completion on."""
    completion = decode(tokenizer, completion_ids)[start:]
    begin, *cuts = token_boundaries(tokenizer, completion_ids, [start, *(start + length for length in lengths)])
    text_ends = [start + len(completion[:length].rstrip()) for length in lengths]
    ends = [max(begin, end) for end in token_boundaries(tokenizer, completion_ids, text_ends, straddling=False)]
    shift = len(prompt_ids)
    token_ids = [*prompt_ids, *completion_ids[: cuts[-1]]]
    return Trace(token_ids, [shift + cut for cut in cuts], solution, [shift + end for end in ends])


def stop_after(tokenizer, trace: Trace, episodes: int, text: str) -> tuple[int, list[int]]:
    r"""
    How to make a trace stop after some of its episodes: how many of its tokens to keep, and the tokens to append. A
    text that begins with a line break takes the place of the blank line behind the episode.
    """
    cut = trace.prefix_ends[episodes]
    if not text.startswith("\n"):
        return cut, tokenize(tokenizer, text)
    end = trace.credit_ends[episodes]
    half = decode(tokenizer, trace.token_ids[end:cut]).rstrip()  # of a token that holds a full stop and the line break
    return end, tokenize(tokenizer, half + text)


def opens_thinking(tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether the chat template has opened the thinking: a rendered prompt ends in the tag. A mention is none."""
    return decode(tokenizer, prompt_ids[-LAST:]).rstrip().endswith(OPEN)


def opening_ids(tokenizer) -> list[int]:
    """Tokens that open the thinking where the chat template does not."""
    return tokenize(tokenizer, f"{OPEN}\n")
