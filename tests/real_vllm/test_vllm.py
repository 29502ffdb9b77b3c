"""The vLLM samplers against the engine itself, in this process and served: `make test-vllm`."""

import os
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from conftest import CPU, tiny_model
from datasets import Dataset

from mrt_plugin import MRTConfig, MRTTrainer, mrt_accuracy, mrt_progress
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.rollouts import live_sampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings
from mrt_plugin.engines.server import ServerSampler
from mrt_plugin.engines.vllm import VLLMSampler
from mrt_plugin.episodes import CUES
from mrt_plugin.meta_prover import MetaProver, SampledAnswers
from mrt_plugin.tokens import tokenize
from mrt_plugin.traces import segment


pytest.importorskip("vllm")
GREEDY = SamplingSettings(max_new_tokens=12, temperature=0.0)
DRAWN = SamplingSettings(max_new_tokens=12, temperature=1.0, seed=5)
TRACE = "Find x.<think>\nTry x = 2.\n\nNot 5.\n\nHm.\n\nWait, try x = 5.\n\nit works.\n\n"


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A model that vLLM can run: its heads are not as small as those of the other tests."""
    path = tmp_path_factory.mktemp("vllm")
    model = tiny_model(tokenizer, hidden_size=128, num_attention_heads=2, num_key_value_heads=1)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model, str(path)


@pytest.fixture(scope="module")
def in_process(saved, tokenizer):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return VLLMSampler(saved[1], tokenizer, dtype="float32", max_model_len=512)


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    """Its address; it also answers what TRL asks of a server."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", saved[1], "--port", "8123"]
    options = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--enable-prefix-caching"]
    options += ["--no-enable-chunked-prefill"]  # on a CPU, a prompt with a seed that is read in parts ends the engine
    with open(log, "w") as output:
        environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1"}
        process = subprocess.Popen(
            [sys.executable, *command, *options], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(240):
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen("http://127.0.0.1:8123/health")
                    break
                except OSError:
                    time.sleep(1)
            yield "http://127.0.0.1:8123"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def served(saved, server, tokenizer):
    return ServerSampler(saved[1], tokenizer, f"{server}/v1", concurrency=64, timeout=600)


@pytest.fixture(params=["in_process", "served"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def branches(tokenizer):
    """Prompts that branch off one trace, and one that does not."""
    trace, stop = tokenize(tokenizer, TRACE), tokenize(tokenizer, "</think>\n\\boxed{")
    return [Prompt(trace, cut, stop) for cut in (4, 12, len(trace))] + [Prompt(stop)]


def test_greedy_tokens_are_those_of_transformers(engine, saved, tokenizer, branches):
    expected = PolicySampler(saved[0], tokenizer).sample(branches, 2, GREEDY)
    assert engine.sample(branches, 2, GREEDY) == expected
    assert engine.max_length == 512


def test_a_seed_reproduces_and_completions_differ(engine, branches):
    drawn = engine.sample(branches, 4, DRAWN)
    assert engine.sample(branches, 4, DRAWN) == drawn
    assert all(len({tuple(one.token_ids) for one in group}) > 1 for group in drawn)
    assert engine.sample(branches, 4, SamplingSettings(12, 1.0, seed=6)) != drawn


def test_the_end_of_the_sequence_is_part_of_a_completion(engine, saved, tokenizer, branches):
    drawn = [one for group in engine.sample(branches, 64, SamplingSettings(64, 2.0, seed=1)) for one in group]
    assert {one.ended for one in drawn} == {True, False}
    assert all(one.ended == (tokenizer.eos_token_id in one.token_ids) for one in drawn)
    assert all(tokenizer.eos_token_id not in one.token_ids[:-1] for one in drawn)
    assert all(one.ended or len(one.token_ids) == 64 for one in drawn)


def test_a_prompt_without_room_gets_nothing_and_one_with_little_is_cut(engine):
    first, second = engine.sample([Prompt([7] * 512), Prompt([7] * 508)], 1, SamplingSettings(4, 0.0))
    assert first is None
    assert second[0].ended or len(second[0].token_ids) == 4


def test_temperature_and_nucleus_follow_the_policy(in_process, saved, tokenizer):
    """Shares of the first token, against the model's own probabilities."""
    prompt = Prompt(tokenize(tokenizer, TRACE))
    drawn = in_process.sample([prompt], 4000, SamplingSettings(1, 0.7, seed=2))[0]
    shares = torch.bincount(torch.tensor([one.token_ids[0] for one in drawn]), minlength=len(tokenizer)) / len(drawn)
    with torch.no_grad():
        expected = (saved[0](torch.tensor([prompt.token_ids])).logits[0, -1] / 0.7).softmax(-1)
    assert (shares - expected[: len(shares)]).abs().max() < 0.04


def test_the_meta_prover_measures_the_same(engine, saved, tokenizer):
    prompt, completion = TRACE.partition("\n")[0] + "\n", TRACE.partition("\n")[2]
    trace = segment(tokenizer, tokenize(tokenizer, prompt), tokenize(tokenizer, completion), "5", 4, CUES)
    measured = [
        MetaProver(sampler, SampledAnswers(2, GREEDY), "answer").success_probabilities([trace])[0]
        for sampler in (engine, PolicySampler(saved[0], tokenizer))
    ]
    assert measured[0].success_probability.tolist() == measured[1].success_probability.tolist()
    assert measured[0].answer_tokens.tolist() == measured[1].answer_tokens.tolist()


def test_a_trainer_has_rollouts_and_branches_from_the_server(
    server, saved, tokenizer, branches, tmp_path, monkeypatch
):
    """All but the weights, which would go there by NCCL: the server keeps those it has."""
    from trl.generation.vllm_client import VLLMClient

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda *given, **named: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", lambda *given: None)
    settings = {"num_generations": 4, "max_completion_length": 32, "temperature": 1.0}
    settings |= {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": server}
    mrt = {"mrt_termination": "answer", "mrt_answer_tokens": 8, "mrt_samples": 2}
    trainer = MRTTrainer(
        saved[1],
        [mrt_accuracy, mrt_progress],
        MRTConfig(output_dir=str(tmp_path), **CPU | settings | mrt),
        train_dataset=Dataset.from_list([{"prompt": "Find x.<think>\n", "solution": "5"}] * 8),
    )
    calls, generate = [], VLLMClient.generate
    monkeypatch.setattr(VLLMClient, "generate", lambda *given, **named: calls.append(1) or generate(*given, **named))
    trainer.train()
    assert len(calls) == 2 * trainer.state.global_step == 4  # the rollouts, and all branches
    assert trainer.rollout_engine.max_length == 512
    with live_sampler(trainer) as sampler:
        assert sampler.sample(branches, 2, GREEDY) == PolicySampler(saved[0], tokenizer).sample(branches, 2, GREEDY)
        assert [len(group) for group in sampler.sample(branches, 3, SamplingSettings(12))] == [3] * len(branches)
