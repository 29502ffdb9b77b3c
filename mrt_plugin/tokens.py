r"""Text <-> tokens: sampled tokens are decoded, never made anew. Left out: chat templates."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

from .episodes import CLOSE, OPEN


REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def token_boundaries(
    tokenizer, token_ids: Sequence[int], offsets: Sequence[int], straddling: bool = True
) -> list[int]:
    r"""
    Carries character offsets of a decoded text over to its tokens.

    The tokens are those that the policy sampled, which need not be those that the tokenizer would choose for the
    same text; so they are decoded, never made anew. A token that begins inside a multi-byte character begins where
    that character does.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer to decode with.
        token_ids (`Sequence[int]`): T token ids. Special tokens decode to nothing, but for the tags of thinking.
        offsets (`Sequence[int]`): Ascending offsets into `decode(tokenizer, token_ids)`, in characters.
        straddling (`bool`, *optional*, defaults to `True`):
            Whether a token that begins before an offset and ends behind it counts as before.

    Returns:
        `list[int]`:
            For each offset the number of leading tokens before it, in 0..T.
    """
    # Neighbours that hold parts of characters are decoded together, any other token by itself. The anchor of a token:
    # the first one that it is decoded with, and where that begins, in characters.
    pieces, anchors, parts, length = [_piece(tokenizer, token) for token in token_ids], [], [], 0
    for broken, run in groupby(range(len(pieces)), key=lambda index: REPLACEMENT in pieces[index]):
        run = list(run)
        for first, size in [(run[0], len(run))] if broken else [(index, 1) for index in run]:
            anchors += [(first, length)] * size
            parts.append(decode(tokenizer, token_ids[first : first + size]) if broken else pieces[first])
            length += len(parts[-1])
    anchors.append((len(pieces), length))
    if "".join(parts) != decode(tokenizer, token_ids):  # a decoder for which other neighbours matter as well
        anchors = [(0, 0)] * len(anchors)

    def start(index: int) -> int:
        # Bytes of an unfinished character decode to replacement characters; some decoders then spoil its neighbours
        # too, so look back to where all was whole.
        begin, before = anchors[index]
        text = decode(tokenizer, token_ids[begin:index])
        settled = len(text.rstrip(REPLACEMENT))
        for shorter in range(index - 1, max(index - 4, begin - 1), -1):
            if not text.endswith(REPLACEMENT):
                break
            text = decode(tokenizer, token_ids[begin:shorter])
        return before + (settled if text.endswith(REPLACEMENT) else max(settled, len(text)))

    boundaries, low = [], 0
    for offset in offsets:

        def behind(index: int, offset: int = offset) -> bool:
            return start(index) >= offset or (not straddling and start(index + 1) > offset)

        low = bisect_left(range(len(token_ids)), True, lo=low, key=behind)
        boundaries.append(low)
    return boundaries


@lru_cache(maxsize=2**18)
def _piece(tokenizer, token: int) -> str:
    return decode(tokenizer, [token])


def decode(tokenizer, token_ids: Sequence[int]) -> str:
    """
    The text of sampled tokens as it is: without cleaning up, and without special tokens, but for the tags of thinking,
    which some tokenizers register as special.
    """
    kept = without_special(tokenizer, token_ids)
    return tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def without_special(tokenizer, token_ids: Sequence[int]) -> list[int]:
    """The tokens that are text, as [`special_ids`] says."""
    dropped = special_ids(tokenizer)
    return [token for token in map(int, token_ids) if token not in dropped]


def eos_ids(generation_config) -> list[int]:
    """The end-of-sequence tokens of a model, which may have one, several or none."""
    eos = generation_config.eos_token_id
    return [eos] if isinstance(eos, int) else list(eos or [])


@lru_cache(maxsize=64)
def special_ids(tokenizer) -> frozenset[int]:
    """Ids of the special tokens that are no text: all but the tags of thinking."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
    return frozenset(token for token in special if token not in added or added[token].content not in (OPEN, CLOSE))


def hides_tags(tokenizer) -> bool:
    """Whether decoding without special tokens, as TRL does for rewards, loses the tags of thinking."""
    return any(entry.special and entry.content in (OPEN, CLOSE) for entry in tokenizer.added_tokens_decoder.values())


def tokenize(tokenizer, text: str) -> list[int]:
    """Tokens to append to others: no special ones are added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
