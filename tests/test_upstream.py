"""What trl 0.18 does differently, where the tests of the trainer do not show it."""

from types import SimpleNamespace

import pytest
import torch
from datasets import concatenate_datasets
from test_trainer import ANSWER, FIRST, SECOND, build, dataset, step_inputs

import mrt_plugin.upstream.version
from mrt_plugin.starts import dataset_prefixes, with_room
from mrt_plugin.upstream.version import TRL_1


pytestmark = pytest.mark.skipif(TRL_1, reason="trl 1.x")

MIXED = {"mrt_credit": "mixed", "mrt_prefix": "dataset"}


class Engine:
    """What TRL calls of a vLLM engine: writes the same for every prompt, and remembers the prompts."""

    llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=512))

    def __init__(self, token_ids):
        self.token_ids, self.prompts = token_ids, []

    def generate(self, prompts, sampling_params, use_tqdm):
        self.prompts += prompts
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.token_ids)]) for _ in prompts]


@pytest.fixture
def with_engine(monkeypatch, tokenizer):
    monkeypatch.setattr("trl.trainer.grpo_trainer.SamplingParams", lambda **settings: settings, raising=False)

    def attach(trainer):
        trainer.args.use_vllm, trainer.args.vllm_mode = True, "colocate"
        trainer.llm = Engine(tokenizer(SECOND + ANSWER.format(5))["input_ids"] + [tokenizer.eos_token_id])
        trainer.use_vllm, trainer.vllm_mode, trainer.guided_decoding_regex = True, "colocate", None
        trainer._last_loaded_step = trainer.state.global_step
        return trainer.llm

    return attach


def test_vllm_in_process_reads_the_token_ids_that_are_trained_on(tmp_path, tokenizer, with_engine):
    data = dataset(prefix=FIRST, prefix_success=0.25)
    trainer = build(tmp_path, tokenizer, data=data, mrt=MIXED)
    engine = with_engine(trainer)
    batch = step_inputs(trainer)
    trained = [ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
    assert [prompt["prompt_token_ids"] for prompt in engine.prompts] == trained
    assert tokenizer.decode(trained[0]).endswith("<think>\n" + FIRST)
    assert trainer.llm is engine


def test_a_prompt_that_vllm_has_no_room_for_is_named(tmp_path, tokenizer, with_engine):
    data = dataset(prefix=FIRST, prefix_success=0.25)
    trainer = build(tmp_path, tokenizer, data=data, mrt=MIXED, max_prompt_length=20)
    with_engine(trainer)
    with pytest.raises(ValueError, match=r"has \d+ tokens; raise max_prompt_length: 20"):
        step_inputs(trainer)
    assert trainer.processing_class is tokenizer


def test_rows_that_vllm_has_no_room_for_are_left_out(tmp_path, tokenizer, with_engine, caplog):
    data = concatenate_datasets([dataset(prefix=text, prefix_success=0.25, rows=1) for text in (FIRST, FIRST * 9, "")])
    trainer = build(tmp_path, tokenizer, data=data, mrt=MIXED, per_device_train_batch_size=4)
    assert len(trainer.train_dataset) == 3  # without vLLM there is room
    with_engine(trainer)
    prompt, [longest] = trainer.bare_prompt_ids([data[0]])[0], dataset_prefixes(trainer, {0: data[0]}).values()
    most = trainer.args.max_prompt_length = len(prompt) + len(longest.stopping)
    assert with_room(trainer, data)["prefix"] == [FIRST, ""]
    assert f"1 of 3 prompts have more than {most} tokens (max_prompt_length) and are left out" in caplog.text
    trainer.args.max_prompt_length -= 1
    assert with_room(trainer, data)["prefix"] == [""]
    trainer.args.max_prompt_length = 1
    with pytest.raises(ValueError, match="max_prompt_length: none of 3 prompts has at most 1 tokens"):
        with_room(trainer, data)
    trainer.args.max_prompt_length = None
    assert with_room(trainer, data) is data


def test_online_prefixes_need_room_in_vllm(tmp_path, tokenizer):
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "online"}
    with pytest.raises(ValueError, match="longer by up to max_completion_length: 40 .* of 40. Raise max_prompt"):
        build(tmp_path, tokenizer, mrt=mrt, use_vllm=True, vllm_mode="colocate", max_prompt_length=40)


def test_max_prompt_length_cuts_the_problem_as_upstream_does_but_never_a_prefix(tmp_path, tokenizer, monkeypatch):
    data = dataset(prefix=FIRST, prefix_success=0.25)
    trainer = build(tmp_path, tokenizer, data=data, mrt=MIXED, max_prompt_length=4, max_completion_length=4)
    batch = step_inputs(trainer)
    bare = tokenizer("<|user|>Find x.<|eos|><|assistant|><think>\n")["input_ids"][-4:]
    assert batch["prompt_ids"][0][batch["prompt_mask"][0].bool()].tolist() == bare + tokenizer(FIRST)["input_ids"]


def test_reward_models_are_refused(tmp_path, tokenizer):
    trainer = build(tmp_path, tokenizer)
    trainer.reward_funcs = [torch.nn.Linear(1, 1)]
    with pytest.raises(ValueError, match="no reward models"):
        step_inputs(trainer)


def test_an_unknown_trl_is_refused(monkeypatch):
    import importlib

    monkeypatch.setattr("trl.__version__", "0.21.0")
    with pytest.raises(ImportError, match=r"trl 0.18, Open-R1's pin; this is 0.21.0"):
        importlib.reload(mrt_plugin.upstream.version)
