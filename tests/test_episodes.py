import time
from itertools import accumulate

import pytest
from conftest import byte_fallback_tokenizer, byte_level_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from mrt_plugin.episodes import CUES, episode_spans, merge_spans, split_answer, thinking_span
from mrt_plugin.tokens import decode, token_boundaries


def episodes(thinking, **settings):
    return [thinking[start:end] for start, end in episode_spans(thinking, **settings)]


def paragraphs(episode):
    return [paragraph for paragraph in episode.split("\n\n") if paragraph]


def test_golden_segmentation():
    thinking = "\n\n".join(["a", "b", "Wait c", "d", "Alternatively e", "f", "g", "But wait h"])
    assert list(map(paragraphs, episodes(thinking))) == [
        ["a", "b", "Wait c", "d"],
        ["Alternatively e", "f", "g"],
        ["But wait h"],
    ]


@pytest.mark.parametrize(("max_splits", "count"), [(49, 50), (45, 46), (0, 1), (99, 60), (None, 60)])
def test_golden_number_of_splits(max_splits, count):
    assert len(episodes("\n\n".join(["x", "y", "Wait z"] * 60), max_splits=max_splits)) == count


def test_groups_are_merged_and_the_last_may_be_smaller():
    thinking = "\n\n".join(["Wait x", "y", "z"] * 8)
    assert [len(paragraphs(episode)) for episode in episodes(thinking, group_size=3)] == [9, 9, 6]


@pytest.mark.parametrize("cue", CUES)
def test_every_cue_starts_an_episode(cue):
    assert len(episodes(f"a\n\nb\n\nc\n\n{cue} d")) == 2


@pytest.mark.parametrize("paragraph", ["wait", " Wait", "Hm. Wait", "\nWait", "Alternative"])
def test_a_cue_is_case_sensitive_and_not_stripped(paragraph):
    assert len(episodes(f"a\n\nb\n\nc\n\n{paragraph}")) == 1


def test_a_cue_in_the_first_paragraph_or_too_soon_is_ignored():
    assert len(episodes("Wait a\n\nb\n\nWait c")) == 1
    assert len(episodes("Wait a\n\nb\n\nc\n\nWait d")) == 2


def test_windows_line_ends():
    thinking = "a\r\n\r\nb\r\n\r\nc\r\n\r\nWait d"
    assert episodes(thinking) == ["a\r\n\r\nb\r\n\r\nc\r\n\r\n", "Wait d"]


def test_empty_thinking_has_no_episode():
    assert episode_spans("") == []


@pytest.mark.parametrize("settings", [{"max_splits": -1}, {"group_size": 0}])
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match="max_splits"):
        episode_spans("a", **settings)


@given(
    st.lists(st.sampled_from([*CUES, "a", "b\nc", "", "\n", "\r\n", "é€🎉", "Wait", "\n\n", "\r\n\r\n"]), max_size=60),
    st.integers(0, 10),
    st.integers(1, 4),
)
def test_episodes_give_the_text_back(parts, max_splits, group_size):
    for separator in ("\n\n", "\r\n\r\n", ""):
        text = separator.join(parts)
        assert "".join(episodes(text, max_splits=max_splits, group_size=group_size)) == (text if text.strip() else "")


@given(st.integers(0, 40), st.integers(1, 10))
def test_merged_spans_tile_and_are_as_many_as_allowed(count, at_most):
    spans = [(i, i + 1) for i in range(count)]
    merged = merge_spans(spans, at_most)
    assert len(merged) <= at_most
    assert [merged[0][0], merged[-1][1]] == [0, count] if count else merged == []
    assert all(left[1] == right[0] for left, right in zip(merged, merged[1:], strict=False))
    if count <= at_most:
        assert merged == spans


def test_a_megabyte_takes_less_than_a_second():
    thinking = "\n\n".join(["Wait, let me see.", "1 + 1 = 2", "x" * 40] * 16_000)
    assert len(thinking) > 1_000_000
    begin = time.perf_counter()
    spans = episode_spans(thinking, max_splits=100_000)
    assert time.perf_counter() - begin < 1
    assert len(spans) == 16_000


@pytest.mark.parametrize(
    ("completion", "opened", "thinking"),
    [
        ("Hm.\n</think>\n5", True, "Hm.\n"),
        ("<think>\nHm.\n</think>\n5", False, "Hm.\n"),
        ("<think>\nHm.\n</think>\n5", True, "Hm.\n"),  # the model repeats the tag of its prompt
        ("<think>\r\nHm.", False, "Hm."),
        ("<think>Hm", False, "Hm"),
        ("Hm", True, "Hm"),  # cut by length
        ("Hm.</think>5", False, "Hm."),  # the opening tag got lost
        ("</think>5", True, ""),
        ("<think></think>5", False, ""),
        ("", True, ""),
        ("a</think>b<think>c</think>", True, "a"),
        ("I think inside <think> tags.</think>5", True, "I think inside <think> tags."),
        ("I will.<think>Hm.</think>5", False, "Hm."),
    ],
)
def test_thinking_span(completion, opened, thinking):
    start, end = thinking_span(completion, opened)
    assert completion[start:end] == thinking


def test_a_completion_that_does_not_think_has_no_span():
    assert thinking_span("5", opened=False) is None


@pytest.mark.parametrize(
    ("completion", "answer"), [("a</think>b", "b"), ("a</think>b</think>c", "c"), ("b", "b"), ("<think>a", "")]
)
def test_split_answer(completion, answer):
    assert split_answer(completion) == answer


TOKENIZERS = {"byte-level": byte_level_tokenizer(), "byte-fallback": byte_fallback_tokenizer()}
TEXT = "Try x = 2 é.\n\nNot 5, 日本.\n\nHm 🎉\n\nWait, try x = 5.\n\nit is 5 €\n</think>\n\n5"


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_boundaries_are_exact_on_tokens(tokenizer):
    token_ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    text = decode(tokenizer, token_ids)
    assert text == TEXT
    start, end = thinking_span(text)
    offsets = [start, *(start + stop for _, stop in episode_spans(text[start:end]))]
    cuts = token_boundaries(tokenizer, token_ids, offsets)
    assert [decode(tokenizer, token_ids[:cut]) for cut in cuts] == [text[:offset] for offset in offsets]
    assert token_boundaries(tokenizer, token_ids, [len(text)]) == [len(token_ids) - 1]  # EOS stands behind the text


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_boundaries_do_not_depend_on_how_the_text_was_tokenised(tokenizer):
    """One token for each byte, as a policy could have sampled them."""
    backend = tokenizer.backend_tokenizer
    if tokenizer is TOKENIZERS["byte-level"]:
        [(pieces, _)] = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(TEXT)
        token_ids = [backend.token_to_id(byte) for byte in pieces]
    else:
        token_ids = [backend.token_to_id(f"<0x{byte:02X}>") for byte in TEXT.encode()]
    assert decode(tokenizer, token_ids) == TEXT
    for offset in range(len(TEXT) + 1):
        [cut] = token_boundaries(tokenizer, token_ids, [offset])
        assert decode(tokenizer, token_ids[:cut]) == TEXT[:offset]
        assert cut == len(TEXT[:offset].encode())  # all bytes of a character lie on its side


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_was_sampled_is_cut_without_losing_a_token(tokenizer, data):
    """Random tokens hold broken characters; the cuts must still ascend and stay inside."""
    token_ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    text = decode(tokenizer, token_ids)
    offsets = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    cuts = token_boundaries(tokenizer, token_ids, offsets)
    assert cuts == sorted(cuts)
    assert all(0 <= cut <= len(token_ids) for cut in cuts)


def test_a_character_of_several_tokens_does_not_decode_the_whole_again(monkeypatch):
    tokenizer = TOKENIZERS["byte-level"]
    token_ids = tokenizer("Try x = 2.\n\n" * 40 + "🎉 日本\n\n" + "Not 5.\n\n" * 40, add_special_tokens=False)[
        "input_ids"
    ]
    text, read = decode(tokenizer, token_ids), []
    token_boundaries(tokenizer, token_ids, [])  # the pieces are kept
    monkeypatch.setattr("mrt_plugin.tokens.decode", lambda _, ids: read.append(len(ids)) or decode(_, ids))
    offsets = [index for index in range(len(text)) if text.startswith("\n\n", index)]
    cuts = token_boundaries(tokenizer, token_ids, offsets)
    assert [decode(tokenizer, token_ids[:cut]) for cut in cuts] == [text[:offset] for offset in offsets]
    assert sum(read) < 2 * len(token_ids)


def test_a_token_that_straddles_a_boundary_lies_where_it_begins(tokenizer):
    backend_ids = tokenizer("Not 5.", add_special_tokens=False)["input_ids"]
    text = decode(tokenizer, backend_ids)
    middle = next(i for i in range(1, len(text)) if token_boundaries(tokenizer, backend_ids, [i])[0] > 0)
    [cut] = token_boundaries(tokenizer, backend_ids, [middle])
    assert len(decode(tokenizer, backend_ids[: cut - 1])) < middle <= len(decode(tokenizer, backend_ids[:cut]))


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_without_straddling_tokens_a_boundary_holds_what_ends_before_it(tokenizer):
    token_ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    texts = [
        decode(tokenizer, token_ids[:index]).rstrip("\N{REPLACEMENT CHARACTER}") for index in range(len(token_ids))
    ]
    lengths = list(accumulate(map(len, texts), max))
    spans = list(zip(lengths, lengths[1:], strict=False))  # where each token begins and ends
    for offset in range(1, len(TEXT) + 1):
        [cut] = token_boundaries(tokenizer, token_ids, [offset], straddling=False)
        assert cut == sum(begin < offset and end <= offset for begin, end in spans)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("straddling", [True, False])
def test_tokens_that_stand_for_themselves_are_cut_as_others_are(tokenizer, straddling, monkeypatch):
    words = tokenizer("Try x = 2.\n\nNot 5.\n\nWait, it works.", add_special_tokens=False)["input_ids"]
    token_ids = [*words[:6], tokenizer.eos_token_id, *words[6:], tokenizer.eos_token_id]  # which decodes to nothing
    offsets = list(range(len(decode(tokenizer, token_ids)) + 1))
    cuts = token_boundaries(tokenizer, token_ids, offsets, straddling)
    monkeypatch.setattr("mrt_plugin.tokens._piece", lambda *given: "\N{REPLACEMENT CHARACTER}")
    assert token_boundaries(tokenizer, token_ids, offsets, straddling) == cuts
