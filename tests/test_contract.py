"""What we lean on inside TRL, each method renamed in turn, and losses that take advantages otherwise."""

import inspect
import logging
import warnings
from types import CodeType, FunctionType, SimpleNamespace

import pytest
import torch
import trl
from conftest import tiny_model
from test_trainer import build
from trl.models import utils

from mrt_plugin import MRTTrainer
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings
from mrt_plugin.upstream.contract import INLINE, LOSS, METHODS, Contract, weighs_tokens_apart
from mrt_plugin.upstream.model import cache_argument
from mrt_plugin.upstream.trainer import GRPOTrainer, fsdp_is_on
from mrt_plugin.upstream.version import TRL_1


ALL = {"credit": True, "graded": True, "per_token": True}


def length(completions, **kwargs):
    return [float(len(str(completion)) % 5) for completion in completions]


class Trainer(GRPOTrainer):
    """Overrides what MRTTrainer does, and gives each token an advantage of its own."""

    used = ALL

    def __init__(self, *args, **kwargs):
        self.contract = Contract(**self.used)
        super().__init__(*args, **kwargs)
        self.contract.watch(self)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.model.training and self.used["per_token"]:
            tokens = torch.linspace(-1, 1, output["completion_ids"].shape[1])
            output["advantages"] = output["advantages"][:, None] + tokens
        return output

    def _tokenize_prompts(self, prompts):
        return super()._tokenize_prompts(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)


@pytest.fixture
def built(tmp_path, tokenizer, model_path):
    def make(cls=Trainer, **settings):
        settings = {"max_completion_length": 8, "mrt": {"mrt_credit": "none"}} | settings
        return build(tmp_path, tokenizer, [length], cls=cls, model=model_path, **settings)

    return make


def rename(monkeypatch, name):
    """What a release of TRL does that calls a method by another name, and keeps the old one for those who call it."""
    cls = GRPOTrainer if name in INLINE else trl.GRPOTrainer
    monkeypatch.setattr(cls, "_renamed", vars(cls)[name], raising=False)

    def renamed(code):
        names = tuple("_renamed" if used == name else used for used in code.co_names)
        constants = tuple(renamed(part) if isinstance(part, CodeType) else part for part in code.co_consts)
        return code.replace(co_names=names, co_consts=constants)

    for attribute, method in list(vars(cls).items()):
        if inspect.isfunction(method):
            method = inspect.unwrap(method)
            calls = FunctionType(
                renamed(method.__code__), method.__globals__, attribute, method.__defaults__, method.__closure__
            )
            calls.__kwdefaults__ = method.__kwdefaults__
            monkeypatch.setattr(cls, attribute, calls)


LOSS_TYPES = ["bnpo", "grpo", "dr_grpo"] + ["dapo", "cispo"] * TRL_1


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_what_is_there_is_watched_for_one_step(built, loss_type, beta):
    trainer = built(loss_type=loss_type, beta=beta)
    assert set(METHODS) <= set(vars(trainer))
    trainer.train()
    assert not set(METHODS) & set(vars(trainer))
    assert not trainer.contract.uncalled
    assert trainer.state.global_step == 2


def test_a_watched_step_is_the_same_to_the_bit(built):
    watched, free = built(), built()
    for name in METHODS:
        vars(free).pop(name)
    free.remove_callback(free.contract)
    for trainer in (watched, free):
        torch.manual_seed(0)
        trainer.train()
    for one, other in zip(watched.model.parameters(), free.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_renamed_is_named(built, monkeypatch, name):
    trainer = built()
    rename(monkeypatch, name)
    with pytest.raises(RuntimeError, match=rf"trl {trl.__version__} does not call GRPOTrainer.{name} to .* Install"):
        trainer.train()
    assert trainer.state.global_step == (name == "_compute_loss")  # the others are missed before an update


@pytest.mark.parametrize("name", METHODS)
def test_our_trainer_holds_trl_to_it(built, monkeypatch, name):
    dense = {"mrt_credit": "dense", "mrt_termination": "answer", "mrt_answer_tokens": 2}
    trainer = built(MRTTrainer, mrt=dense)
    trainer.train()
    assert not set(METHODS) & set(vars(trainer))
    trainer = built(MRTTrainer, mrt=dense)
    rename(monkeypatch, name)
    with pytest.raises(RuntimeError, match=rf"does not call GRPOTrainer.{name}"):
        trainer.train()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in INLINE])
def test_a_method_that_is_gone_is_named_before_the_model_is_loaded(monkeypatch, name):
    monkeypatch.delattr(trl.GRPOTrainer, name)
    with pytest.raises(ImportError, match=rf"trl {trl.__version__} has no GRPOTrainer.{name} that takes \(self"):
        Trainer("no model", length)


def test_other_parameters_are_named(monkeypatch):
    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", lambda self, model, inputs, weights: None)
    with pytest.raises(ImportError, match=r"_compute_loss that takes \(self, model, inputs\)"):
        Trainer("no model", length)


def test_the_unwrapped_policy_is_asked_for(monkeypatch):
    monkeypatch.setattr(utils, "unwrap_model_for_generation", lambda model, accelerator: None)
    with pytest.raises(ImportError, match=r"unwrap_model_for_generation that takes .* gather_deepspeed3_params"):
        Contract(**ALL)


@pytest.mark.parametrize(
    "taken",
    [
        lambda advantages: advantages.mean(1),
        lambda advantages: advantages.mean(1, keepdim=True).expand_as(advantages),
        lambda advantages: advantages[:, :1].expand_as(advantages),
        lambda advantages: advantages.roll(1, dims=1),
        lambda advantages: advantages.roll(1, dims=0),
        lambda advantages: advantages.detach(),
        lambda advantages: torch.ones_like(advantages),
    ],
)
def test_a_loss_that_takes_advantages_otherwise_does_not_update(built, monkeypatch, taken):
    compute_loss = GRPOTrainer._compute_loss
    monkeypatch.setattr(
        GRPOTrainer,
        "_compute_loss",
        lambda self, model, inputs: compute_loss(self, model, inputs | {"advantages": taken(inputs["advantages"])}),
    )
    trainer = built()
    with pytest.raises(RuntimeError, match=r"mixes the advantages of tokens in GRPOTrainer._compute_loss"):
        trainer.train()
    assert trainer.state.global_step == 0


def weighs_apart(weights):
    """As a loss sees it that multiplies the probabilities of three rows, of 3, 1 and 2 tokens, with its weights."""
    advantages, log_probabilities = torch.ones(2, 3, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    loss = (weights(advantages) * log_probabilities.exp() * mask).sum()
    apart = weighs_tokens_apart(loss, advantages, log_probabilities, mask)
    loss.backward()  # its graph is kept
    return apart


def test_padded_rows_tell_as_well():
    assert weighs_apart(lambda advantages: advantages)
    assert weighs_apart(lambda advantages: advantages.clamp(-2, 2) / 7)
    assert weighs_apart(lambda advantages: advantages * torch.tensor([[0], [1], [0]]))  # as rows may be left out
    assert weighs_apart(lambda advantages: advantages.unsqueeze(1)) is False
    assert weighs_apart(lambda advantages: advantages[:, -1:]) is False
    assert weighs_apart(lambda advantages: advantages.flip(0)) is False
    assert weighs_apart(lambda advantages: advantages.roll(2, dims=1)) is False
    assert weighs_apart(lambda advantages: advantages * 0) is None


@pytest.mark.skipif(TRL_1, reason="that of 1.x does without")
def test_the_loss_of_trl_18_is_seen_to_need_our_shim(built, monkeypatch):
    monkeypatch.delattr(GRPOTrainer, "_compute_loss")
    with pytest.raises(RuntimeError, match="mixes the advantages"):
        built().train()


def test_rows_that_are_all_masked_wait_for_the_next_step(built, monkeypatch):
    masks = iter([0, 1, 1])
    compute_loss = GRPOTrainer._compute_loss

    def masked(self, model, inputs):
        inputs["completion_mask"] = inputs["completion_mask"] * next(masks)
        return compute_loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", masked)
    trainer = built(max_steps=1)
    trainer.train()
    assert set(LOSS) & set(vars(trainer)) == set(LOSS)
    trainer = built(max_steps=2)
    masks = iter([0, 1])
    trainer.train()
    assert not set(METHODS) & set(vars(trainer))


def test_an_attribute_that_is_gone_is_named(built):
    class Renamed(Trainer):
        _metrics = property(lambda self: self.metrics, lambda self, metrics: None)

    with pytest.raises(ImportError, match="has no GRPOTrainer._metrics"):
        built(Renamed)


def test_vllm_is_asked_for_its_weights():
    trainer = SimpleNamespace(args=SimpleNamespace(use_vllm=True), _metrics={}, _tokenizer=0, max_prompt_length=0)
    trainer._last_loaded_step = -1
    with pytest.raises(ImportError, match="sync_weights" if TRL_1 else "_move_model_to_vllm"):
        Contract(**ALL).watch(trainer)


def test_plain_grpo_leans_on_nothing(built, monkeypatch):
    class Plain(Trainer):
        used = dict.fromkeys(ALL, False)

    monkeypatch.delattr(utils, "unwrap_model_for_generation")
    trainer = built(Plain)
    assert not set(METHODS) & set(vars(trainer))
    assert not trainer.contract.uncalled


def test_advantages_of_rows_are_not_looked_at(built):
    class Rows(Trainer):
        used = ALL | {"per_token": False}

    trainer = built(Rows, eval_strategy="no")
    assert not set(LOSS) & set(vars(trainer))
    trainer.train()


@pytest.mark.skipif(not TRL_1, reason="trl 0.18 has no rollout_func")
def test_a_rollout_func_makes_its_own_token_ids():
    trainer = SimpleNamespace(rollout_func=print, add_callback=lambda callback: None)
    contract = Contract(credit=False, graded=True, per_token=False)
    contract.watch(trainer)
    assert list(contract.uncalled) == ["_calculate_rewards"]


def test_fsdp_shows_before_the_model_is_loaded(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert fsdp_is_on(SimpleNamespace(fsdp=["full_shard"]))
    assert not fsdp_is_on(SimpleNamespace(fsdp=[]))
    assert not fsdp_is_on(SimpleNamespace(fsdp=None))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # accelerate launch --use_fsdp
    assert fsdp_is_on(SimpleNamespace(fsdp=None))


def test_the_cache_goes_by_the_name_of_the_model(tokenizer, monkeypatch):
    model = tiny_model(tokenizer)
    name = cache_argument(model)
    assert cache_argument(SimpleNamespace(get_base_model=lambda: model)) == name
    told = []
    monkeypatch.setattr(logging.Logger, "warning_once", lambda self, message: told.append(message), raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PolicySampler(model, tokenizer).sample([Prompt([5, 6, 7])], 2, SamplingSettings(2))
        assert len(model(torch.tensor([[5]]), use_cache=True)[name]) == 2  # layers
    assert not told
