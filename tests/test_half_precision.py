"""bf16, as weights and by autocast: branches agree with full passes up to its rounding, and nothing becomes NaN."""

import contextlib
import json
import math

import pytest
import torch
from conftest import tiny_model
from test_trainer import build

from mrt_plugin import grpo
from mrt_plugin.engines.branching import _weigh
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings


TOLERANCE = 0.15
"""Nats of a token: bf16 has eight bits, and the logits here are of the size of ten."""


def in_half(model, how: str):
    """The model and the context to call it in."""
    if how == "weights":
        return model.to(torch.bfloat16), contextlib.nullcontext()
    return model, torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(params=["weights", "autocast"])
def half(request, tokenizer):
    model, context = in_half(tiny_model(tokenizer, initializer_range=0.2), request.param)
    with context:
        yield model


def log_probabilities(model, token_ids):
    """(tokens, vocabulary) of one full pass."""
    with torch.no_grad():
        return model(torch.tensor([token_ids])).logits[0].float().log_softmax(-1)


@pytest.fixture
def prompts():
    """Traces of 60, 9 and 1 tokens, cut early, late and at their ends, with a suffix or none; a bare prompt."""
    generator = torch.Generator().manual_seed(0)
    traces = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (60, 9, 1)]
    cuts = [(0, 1), (0, 33), (0, 60), (1, 4), (1, 9), (2, 1)]
    return [Prompt(traces[t], cut, suffix) for t, cut in cuts for suffix in ([7, 8, 9], [])] + [Prompt([5, 6])]


def test_scores_agree_with_a_full_pass(half, tokenizer, prompts):
    targets = [[11, 12, 13], [14]] * (len(prompts) // 2) + [[15]]
    scores = PolicySampler(half, tokenizer).score(prompts, targets)
    for prompt, target, score in zip(prompts, targets, scores, strict=True):
        of_tokens = log_probabilities(half, [*prompt.token_ids, *target])[len(prompt.token_ids) - 1 : -1]
        expected = of_tokens[range(len(target)), target].sum().item()
        assert score == pytest.approx(expected, abs=TOLERANCE * len(target))


def test_greedy_tokens_are_those_of_a_full_pass_where_its_margin_is_clear(half, tokenizer, prompts):
    settings, compared = SamplingSettings(max_new_tokens=8, temperature=0), 0
    for prompt, [completion] in zip(prompts, PolicySampler(half, tokenizer).sample(prompts, 1, settings), strict=True):
        written = completion.token_ids
        of_tokens = log_probabilities(half, [*prompt.token_ids, *written])[len(prompt.token_ids) - 1 : -1]
        best = of_tokens.topk(2).values
        clear = (best[:, 0] - best[:, 1]) > 2 * TOLERANCE
        compared += int(clear.sum())
        assert (of_tokens.argmax(-1) == torch.tensor(written))[clear].all()
    assert compared > 40


def test_rows_that_end_at_once_and_empty_tails_are_finite(half, tokenizer, prompts):
    half.generation_config.eos_token_id = list(range(400))  # whatever is drawn ends the row
    sampler = PolicySampler(half, tokenizer)
    completions = sampler.sample(prompts, 3, SamplingSettings(max_new_tokens=4, seed=0))
    assert {len(one.token_ids) for group in completions for one in group} <= {1, 2, 3, 4}
    assert any(one.ended and len(one.token_ids) == 1 for group in completions for one in group)
    assert all(map(math.isfinite, sampler.score(prompts, [[tokenizer.eos_token_id]] * len(prompts))))


@pytest.mark.parametrize("weights", [False, True], ids=["autocast", "weights"])
@pytest.mark.parametrize(
    "options",
    [
        ["--mrt_credit", "dense", "--mrt_estimator", "likelihood"],
        ["--mrt_credit", "dense", "--mrt_estimator", "sample"],
        ["--mrt_credit", "mixed", "--mrt_prefix", "online", "--mrt_estimator", "likelihood"],
        ["--mrt_credit", "termination", "--mrt_prefix", "online", "--mrt_estimator", "sample"],
    ],
    ids=lambda options: f"{options[1]}-{options[-1]}",
)
def test_a_run_learns(options, weights, recipe, tmp_path):
    half = ["--bf16", "true", *(["--torch_dtype", "bfloat16"] if weights else [])]
    arguments = ["--config", str(recipe), "--logging_steps", "1", *half, *options]
    if "termination" in options:  # which takes the outcome alone, and that is silent here
        arguments += ["--reward_funcs", "mrt_accuracy"]
    grpo.run(["--upstream", "trl", *arguments])
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    norms = [entry["grad_norm"] for entry in log if "grad_norm" in entry]
    assert len(norms) == 2
    assert all(map(math.isfinite, norms))
    assert max(norms) > 0 or "termination" in options


def test_a_static_cache_beside_autocast_is_refused_before_the_first_step(recipe):
    with pytest.raises(ValueError, match="cache_implementation: static .*dtype: bfloat16"):
        grpo.run(["--upstream", "trl", "--config", str(recipe), "--bf16", "true", "--cache_implementation", "static"])


@pytest.mark.parametrize(
    ("dtype", "learning_rate", "warned"),
    [(torch.bfloat16, 1e-6, True), (torch.bfloat16, 1e-2, False), (torch.float32, 1e-6, False)],
)
def test_steps_that_round_to_nothing_are_warned_about(tmp_path, tokenizer, caplog, dtype, learning_rate, warned):
    model = tiny_model(tokenizer, initializer_range=0.02).to(dtype)
    build(tmp_path, tokenizer, model=model, learning_rate=learning_rate)
    assert ("of the trained weights will not change: they are in bfloat16" in caplog.text) is warned


def test_attention_to_a_long_trace_stays_in_the_range_of_fp16():
    output, _ = _weigh(torch.zeros(1, 1, 1, 2**14), torch.full((1, 1, 2**14, 1), 5.0, dtype=torch.float16))
    assert output.item() == pytest.approx(5, rel=1e-2)
