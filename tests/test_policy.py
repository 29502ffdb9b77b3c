import copy

import pytest
import torch
from conftest import tiny_model

from mrt_plugin.engines.branching import Branches
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Completion, Prompt, SamplingSettings


GREEDY = SamplingSettings(max_new_tokens=12, temperature=0)


def naive_greedy(model, token_ids, max_new_tokens, eos_token_id):
    """One token after the other, each from a forward pass over everything: no cache, no padding, no batch."""
    written = []
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([[*token_ids, *written]])).logits[0, -1]
        written.append(logits.argmax().item())
        if written[-1] == eos_token_id:
            break
    return written


@pytest.fixture
def prompts(tokenizer):
    """Three traces of different lengths, cut at several places, with different suffixes, and a bare prompt."""
    generator = torch.Generator().manual_seed(0)
    traces = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (60, 35, 7)]
    suffixes = [tokenizer("Time is up.\n</think>")["input_ids"], [7, 8], []]
    cuts = {0: [1, 20, 41, 60], 1: [5, 35], 2: [7]}
    return [Prompt(traces[t], cut, suffix) for t in cuts for cut in cuts[t] for suffix in suffixes] + [Prompt([5, 6])]


@pytest.mark.parametrize("max_batch_tokens", [2**16, 300, 1])
def test_branches_equal_a_full_prefill_token_for_token(model, tokenizer, prompts, max_batch_tokens):
    sampler = PolicySampler(model, tokenizer, max_batch_tokens)
    completions = sampler.sample(prompts, 2, GREEDY)
    expected = [naive_greedy(model, prompt.token_ids, 12, tokenizer.eos_token_id) for prompt in prompts]
    assert [first.token_ids for first, _ in completions] == expected
    assert [second.token_ids for _, second in completions] == expected
    assert len({tuple(tokens) for tokens in expected}) > len(prompts) // 2  # the model does not say one thing always


def test_a_trace_is_read_once_for_all_its_branches(model, tokenizer):
    sampler, trace, read = PolicySampler(model, tokenizer), list(range(10, 110)), []
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True)
    settings = SamplingSettings(max_new_tokens=1, temperature=0)
    sampler.sample([Prompt(trace, cut, [7]) for cut in range(10, 101, 10)], 1, settings)
    assert read == [100, 10]  # the trace, then one suffix token for each of ten branches


@pytest.mark.parametrize("max_batch_tokens", [2**16, 100])
def test_scores_equal_a_full_pass(model, tokenizer, prompts, max_batch_tokens):
    targets = [[11, 12, 13], [14]] * (len(prompts) // 2) + [[15, 16]] * (len(prompts) % 2)
    scores = PolicySampler(model, tokenizer, max_batch_tokens).score(prompts, targets)
    for prompt, target, score in zip(prompts, targets, scores, strict=True):
        token_ids = prompt.token_ids
        log_probabilities = model(torch.tensor([token_ids + target])).logits[0].log_softmax(-1)
        expected = sum(log_probabilities[len(token_ids) + i - 1, token].item() for i, token in enumerate(target))
        assert score == pytest.approx(expected, abs=1e-3)


def test_a_seed_repeats_and_leaves_the_global_generator_alone(model, tokenizer):
    sampler, prompts = PolicySampler(model, tokenizer), [Prompt([5, 6, 7])]
    settings = SamplingSettings(max_new_tokens=8, seed=3)
    state = torch.get_rng_state()
    first = sampler.sample(prompts, 4, settings)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(1)
    assert sampler.sample(prompts, 4, settings) == first
    assert sampler.sample(prompts, 4, SamplingSettings(max_new_tokens=8, seed=4)) != first


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_distribution_of_the_model(model, tokenizer, temperature):
    settings = SamplingSettings(1, temperature, seed=0)
    [draws] = PolicySampler(model, tokenizer).sample([Prompt([5, 6, 7])], 4000, settings)
    counts = torch.bincount(torch.tensor([draw.token_ids[0] for draw in draws]), minlength=len(tokenizer))
    expected = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / temperature).softmax(-1)
    assert (counts / 4000 - expected).abs().max() < 0.03


def test_completions_end_with_the_first_end_of_sequence(tokenizer):
    model = tiny_model(tokenizer)
    model.generation_config.eos_token_id = list(range(150))  # likely
    [completions] = PolicySampler(model, tokenizer).sample([Prompt([5])], 50, SamplingSettings(3, seed=0))
    ends = set(range(150)) | {tokenizer.eos_token_id}
    assert all(not ends & set(one.token_ids[:-1]) for one in completions)
    assert {one.ended for one in completions} == {True, False}
    assert all(one.ended == (one.token_ids[-1] in ends) for one in completions)
    assert any(one.ended and len(one.token_ids) == 3 for one in completions)  # with the last token allowed


def test_the_tokenizers_end_counts_where_the_model_names_none(tokenizer):
    model, other = tiny_model(tokenizer), copy.deepcopy(tokenizer)
    model.generation_config.eos_token_id = None
    first = model(torch.tensor([[5, 6]])).logits[0, -1].argmax().item()
    other.eos_token = tokenizer.convert_ids_to_tokens(first)
    [[one]] = PolicySampler(model, other).sample([Prompt([5, 6])], 1, SamplingSettings(4, temperature=0))
    assert one == Completion([first], ended=True)


def test_an_empty_prompt_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        PolicySampler(model, tokenizer).sample([Prompt([5]), Prompt([5], 0)], 1, GREEDY)


def test_a_batch_holds_only_the_traces_that_it_branches_off(tokenizer, monkeypatch):
    model = tiny_model(tokenizer)
    traces = [[token] * 9 for token in (5, 6, 7)]
    prompts = [Prompt(trace, cut, [8]) for trace in traces for cut in (3, 6, 9)]
    whole = PolicySampler(model, tokenizer).sample(prompts, 2, GREEDY)
    held = []

    def spy(model, keys_values, *rows):
        held.append(len(keys_values[0][0]))
        return Branches(model, keys_values, *rows)

    monkeypatch.setattr("mrt_plugin.engines.policy.Branches", spy)
    monkeypatch.setattr("mrt_plugin.engines.policy.SCORED", 3 * 2 * 9)  # three prompts at a time
    assert PolicySampler(model, tokenizer).sample(prompts, 2, GREEDY) == whole
    assert held == [1, 1, 1]


def test_rows_that_have_ended_leave_the_batch(tokenizer):
    model = tiny_model(tokenizer)
    model.generation_config.eos_token_id = list(range(150))  # likely
    sampler, read = PolicySampler(model, tokenizer), []
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True)
    [completions] = sampler.sample([Prompt([5, 6], 1, [7])], 50, SamplingSettings(10, seed=0))
    decoding = [rows for rows, _ in read[2:]]
    assert decoding == [
        sum(len(one.token_ids) > written for one in completions) for written in range(1, len(decoding) + 1)
    ]
    assert decoding[-1] < decoding[0] < 50


def test_a_nucleus_leaves_the_rest_out(model, tokenizer):
    [draws] = PolicySampler(model, tokenizer).sample([Prompt([5, 6])], 500, SamplingSettings(1, top_p=0.5, seed=0))
    probabilities, tokens = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1).sort(descending=True)
    nucleus = tokens[: int((probabilities.cumsum(0) < 0.5).sum()) + 1].tolist()
    assert {draw.token_ids[0] for draw in draws} <= set(nucleus)
    assert len({draw.token_ids[0] for draw in draws}) > 1


def test_the_models_own_attention_is_back_after_a_call(model, tokenizer):
    usual = model.config._attn_implementation
    PolicySampler(model, tokenizer).sample([Prompt([5, 6])], 1, GREEDY)
    assert model.config._attn_implementation == usual


def test_bfloat16_branches_equal_a_full_prefill(tokenizer, prompts):
    """To within the rounding of logits: the likeliest first token, where it is likeliest by a margin."""
    model = tiny_model(tokenizer).to(torch.bfloat16)
    drawn = PolicySampler(model, tokenizer).sample(prompts, 1, SamplingSettings(1, 0))
    for prompt, [first] in zip(prompts, drawn, strict=True):
        [token] = first.token_ids
        logits = model(torch.tensor([prompt.token_ids])).logits[0, -1].float()
        assert logits[token] >= logits.max() - 0.1
