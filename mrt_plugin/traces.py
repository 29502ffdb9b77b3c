r"""Completions -> traces: episodes in tokens, exactly as they were sampled. Nothing is tokenised again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .episodes import CLOSE, OPEN, decode, episode_spans, merge_spans, thinking_span, token_boundaries


@dataclass(frozen=True)
class Trace:
    """
    A thinking trace of G episodes, in tokens.

    Args:
        token_ids (`list[int]`):
            The prompt, the opening tag, and the thinking as the policy wrote it.
        cuts (`list[int]`):
            G + 1 ascending numbers of tokens: where prefixes 0, ..., G end. Prefix 0 ends where the thinking begins.
        solution (`str`):
            Gold answer.
        ends (`list[int]`, *optional*):
            Where credit passes from one episode to the next: where the thinking begins, then where the text of each of
            the G episodes ends. The blank line behind it is not part of it: there the policy decides to go on, and
            that decision belongs to what it leads to, just as the decision to stop belongs to the answer.
    """

    token_ids: list[int]
    cuts: list[int]
    solution: str
    ends: list[int] = field(default_factory=list)

    @property
    def episodes(self) -> int:
        return len(self.cuts) - 1


def segment(
    tokenizer, prompt_ids: Sequence[int], completion_ids: Sequence[int], solution: str, episodes: int
) -> Trace:
    r"""
    Cuts a completion into episodes without moving a token.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the policy.
        prompt_ids (`Sequence[int]`):
            Token ids of the prompt.
        completion_ids (`Sequence[int]`):
            Token ids that the policy wrote.
        solution (`str`):
            Gold answer.
        episodes (`int`):
            Most episodes to tell apart; where there are more, neighbours are merged evenly.

    Returns:
        [`Trace`]:
            The trace. It has no episode if the completion does not think; its only prefix is then an opened, empty
            thinking.
    """
    opening = opening_ids(tokenizer, prompt_ids)
    completion = decode(tokenizer, completion_ids)
    span = thinking_span(completion, opened=not opening)
    if span is None:
        token_ids = [*prompt_ids, *opening]
        return Trace(token_ids, [len(token_ids)], solution)
    start, end = span
    spans = merge_spans(episode_spans(completion[start:end]), episodes)
    offsets = [start, *(start + episode_end for _, episode_end in spans)]
    cuts = token_boundaries(tokenizer, completion_ids, offsets)
    text_ends = [max(start, len(completion[:offset].rstrip())) for offset in offsets[1:]]
    ends = [cuts[0], *token_boundaries(tokenizer, completion_ids, text_ends, straddling=False)]
    shift = len(prompt_ids)
    token_ids = [*prompt_ids, *completion_ids[: cuts[-1]]]
    return Trace(token_ids, [shift + cut for cut in cuts], solution, [shift + end for end in ends])


def opening_ids(tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """Tokens that open the thinking after a prompt: none where the chat template has done so."""
    prompt = decode(tokenizer, prompt_ids)
    return [] if prompt.rfind(OPEN) > prompt.rfind(CLOSE) else tokenize(tokenizer, f"{OPEN}\n")


def tokenize(tokenizer, text: str) -> list[int]:
    """Tokens to append to others: no special ones are added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
