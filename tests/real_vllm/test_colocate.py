"""A trainer with the vLLM engine in its process: `make test-vllm`. Sleep mode and groups of ranks need GPUs."""

import os
from unittest.mock import patch

import pytest
import torch
from conftest import CPU, tiny_model
from datasets import Dataset

from mrt_plugin import MRTConfig, MRTTrainer, mrt_progress
from mrt_plugin.engines.rollouts import live_sampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings
from mrt_plugin.tokens import tokenize


pytest.importorskip("vllm")
GREEDY = SamplingSettings(max_new_tokens=12, temperature=0.0)
TRACE = "Find x.<think>\nTry x = 2.\n\nNot 5.\n\nHm.\n\nWait, try x = 5.\n\nit works.\n\n"


def length(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


@torch.no_grad()
def farthest_from_greedy(model, prompts, drawn):
    """The most, in nats, by which a drawn token is less likely than the likeliest; vLLM computes in bfloat16 here."""
    gaps = []
    for prompt, group in zip(prompts, drawn, strict=True):
        for completion in group:
            token_ids = completion.token_ids
            logits = model(torch.tensor([[*prompt.token_ids, *token_ids]])).logits[0, len(prompt.token_ids) - 1 : -1]
            chosen = logits.gather(-1, torch.tensor(token_ids)[:, None])[:, 0]
            gaps.append((logits.amax(-1) - chosen).max().item())
    return max(gaps)


@patch.dict(os.environ)  # TRL puts ranks and ports there, which the server of the other tests would read
def test_branches_come_from_the_updated_weights_in_one_call_a_step(tmp_path, tokenizer, monkeypatch):
    from vllm.model_executor.layers import utils

    def plain(layer, remove_weight):  # vLLM packs weights on a CPU, where they could not be exchanged
        layer.cpu_linear = torch.nn.functional.linear

    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", plain)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    tokenizer.save_pretrained(tmp_path)
    initial = tiny_model(tokenizer, hidden_size=128, num_attention_heads=2, num_key_value_heads=1)
    initial.save_pretrained(tmp_path)
    settings = {"num_generations": 4, "max_completion_length": 32, "use_vllm": True, "vllm_max_model_length": 256}
    mrt = {"mrt_termination": "answer", "mrt_answer_tokens": 8, "mrt_samples": 2}
    trainer = MRTTrainer(
        str(tmp_path),
        [length, mrt_progress],
        MRTConfig(output_dir=str(tmp_path / "out"), **CPU | settings | mrt),
        train_dataset=Dataset.from_list([{"prompt": "Find x.<think>\n", "solution": "5"}] * 8),
    )
    calls, generate = [], trainer.vllm_generation.llm.generate
    monkeypatch.setattr(
        trainer.vllm_generation.llm, "generate", lambda *given, **named: calls.append(1) or generate(*given, **named)
    )
    trainer.train()
    assert len(calls) == 2 * trainer.state.global_step == 4  # the rollouts, and all branches

    trace, stop = tokenize(tokenizer, TRACE), tokenize(tokenizer, "</think>\n\\boxed{")
    branches = [Prompt(trace, cut, stop) for cut in (4, 12, len(trace))]
    with live_sampler(trainer) as sampler:
        drawn = sampler.sample(branches, 2, GREEDY)
        short, long, too_long = sampler.sample([Prompt([7] * n) for n in (9, 250, 256)], 1, SamplingSettings(12))
    assert farthest_from_greedy(trainer.model.eval(), branches, drawn) < 1
    assert farthest_from_greedy(initial, branches, drawn) > 5
    # An answer ends with the context of 256 tokens, and does not shorten the others.
    assert len(short[0].token_ids) > 6 or short[0].ended
    assert len(long[0].token_ids) <= 6
    assert too_long is None
