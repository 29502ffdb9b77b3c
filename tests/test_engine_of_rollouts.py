"""The engine of the rollouts, with stand-ins for vLLM that write as the policy does; tests/real_vllm has vLLM."""

import sys
from types import SimpleNamespace

import pytest
from accelerate import debug_launcher
from conftest import tiny_model
from datasets import Dataset
from test_trainer import ScriptedSampler, build, scripted, step_inputs  # noqa: F401 (a fixture)

from mrt_plugin.credit import CREDITS
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.rollouts import RolloutEngine, live_sampler, rollout_engine
from mrt_plugin.engines.sampling import Completion, Prompt, SamplingSettings
from mrt_plugin.settings import check_prompt_room
from mrt_plugin.starts import with_room
from mrt_plugin.tokens import tokenize
from mrt_plugin.upstream.version import TRL_1
from mrt_plugin.upstream.vllm import context_length


PREFIXES = ["Try x = 2.\n\n", "Try x = 2.\n\n" * 9]
DENSE = {"mrt_credit": "dense", "mrt_samples": 2, "mrt_answer_tokens": 6, "mrt_answer_temperature": 0.0}
GREEDY = SamplingSettings(max_new_tokens=6, temperature=0.0)
TRACE = "Find x.<think>\nTry x = 2.\n\nNot 5.\n\nHm.\n\nWait, try x = 5.\n\nit works.\n\n"


class Engine:
    """What TRL calls of a vLLM engine, in this process or of a server."""

    sampler = PolicySampler

    def __init__(self, trainer, tokenizer, context):
        self.trainer, self.tokenizer, self.calls = trainer, tokenizer, []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=context))

    def write(self, prompts, n, temperature, top_p, max_tokens):
        self.calls.append((prompts, n, max_tokens))
        settings = SamplingSettings(max_tokens, temperature, top_p)
        return self.sampler(self.trainer.model, self.tokenizer).sample([Prompt(ids) for ids in prompts], n, settings)


class Engine18(Engine):
    """Of trl 0.18: `generate` of the engine takes `sampling_params`, that of the client takes them one by one."""

    def generate(self, prompts, sampling_params=None, use_tqdm=None, **sampling):
        served = sampling_params is None
        sampling = dict(sampling if served else sampling_params)
        ids = self.tokenizer(prompts)["input_ids"] if served else [prompt["prompt_token_ids"] for prompt in prompts]
        names = ("n", "temperature", "top_p", "max_tokens")
        drawn = self.write(ids, *(sampling[name] for name in names))
        if served:
            return [completion.token_ids for group in drawn for completion in group]
        return [SimpleNamespace(outputs=[self.output(completion) for completion in group]) for group in drawn]

    def output(self, completion):
        return SimpleNamespace(
            token_ids=tuple(completion.token_ids), finish_reason="stop" if completion.ended else "length"
        )


class Engine1(Engine):
    """`trl.generation.VLLMGeneration`: settings are its attributes, and each prompt comes `n` times."""

    temperature, top_p, top_k, min_p, repetition_penalty = 0.9, 1.0, 5, 0.1, 1.2
    max_completion_length, logprobs, structured_outputs_regex, generation_kwargs = 40, 0, "x", {"seed": 1}

    def generate(self, prompts, images, num_generations, profiler=None):
        unset = (self.top_k, self.min_p, self.repetition_penalty, self.logprobs, self.structured_outputs_regex)
        assert num_generations == 1 or unset == (0, None, 1.0, None, None)
        asked = prompts[::num_generations]
        assert prompts == [ids for ids in asked for _ in range(num_generations)]
        drawn = self.write(asked, num_generations, self.temperature, self.top_p, self.max_completion_length)
        return prompts, [completion.token_ids for group in drawn for completion in group], None, None

    def sync_weights(self):
        self.calls.append("weights")

    @property
    def llm(self):
        return self

    @property
    def vllm_client(self):
        return SimpleNamespace(get_server_info=lambda: {"model_config": {"max_model_len": 512}})


@pytest.fixture(params=["colocate", "server"])
def attached(request, tmp_path, tokenizer, monkeypatch):
    """A trainer that has built an engine, and the engine."""

    def attach(context=512, **mrt):
        trainer = build(tmp_path, tokenizer, model=tiny_model(tokenizer), mrt=DENSE | mrt)
        engine = (Engine1 if TRL_1 else Engine18)(trainer, tokenizer, context)
        trainer.args.use_vllm, trainer.args.vllm_mode = True, request.param
        trainer._last_loaded_step = -1
        if TRL_1:
            trainer.vllm_generation = engine
        else:
            monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **settings: settings))
            trainer.llm = trainer.vllm_client = engine
            trainer.vllm_mode, trainer.vllm_tensor_parallel_size = request.param, 1
            monkeypatch.setattr(trainer, "_move_model_to_vllm", lambda: engine.calls.append("weights"))
        return trainer, engine

    return attach


@pytest.fixture
def branches(tokenizer):
    trace, stop = tokenize(tokenizer, TRACE), tokenize(tokenizer, "</think>\n\\boxed{")
    return [Prompt(trace, cut, stop) for cut in (4, 12, len(trace))]


def test_one_call_with_current_weights_writes_what_the_policy_does(attached, tokenizer, branches):
    trainer, engine = attached()
    sampler = RolloutEngine(trainer)
    expected = PolicySampler(trainer.model, tokenizer).sample(branches, 2, GREEDY)
    assert (sampler.tokenizer, sampler.scores, sampler.max_length) == (
        tokenizer,
        False,
        512 if TRL_1 or trainer.args.vllm_mode == "colocate" else None,
    )
    assert sampler.sample(branches, 2, GREEDY) == expected
    asked = ([prompt.token_ids for prompt in branches], 1, 6)  # vLLM writes one greedy completion of each
    assert engine.calls == ["weights", asked]
    assert sampler.sample([], 2, GREEDY) == []
    assert sampler.sample(branches[:1], 2, GREEDY) == expected[:1]
    assert len(engine.calls) == 3  # the weights once for a step, and no call for nothing
    if TRL_1:  # its own settings are back
        assert (engine.temperature, engine.max_completion_length, engine.generation_kwargs) == (0.9, 40, {"seed": 1})


@pytest.mark.parametrize("ends_by", ["tokenizer", "generation_config"])
def test_the_end_of_a_sequence_is_seen_where_it_is_the_last_token_allowed(attached, branches, monkeypatch, ends_by):
    """A sampler that writes two tokens, the second of which ends every other completion."""
    trainer, engine = attached()
    eos = engine.tokenizer.eos_token_id
    if ends_by == "generation_config":
        eos = 7
        trainer.model.generation_config.eos_token_id = [engine.tokenizer.eos_token_id, eos]

    class Writes:
        def __init__(self, *_):
            pass

        def sample(self, prompts, n, settings):
            return [[Completion([8, eos], True), Completion([8, 8], False)] for _ in prompts]

    engine.sampler = Writes
    drawn = RolloutEngine(trainer).sample(branches, 2, SamplingSettings(2))
    assert drawn == [[Completion([8, eos], True), Completion([8, 8], False)]] * 3


def test_a_step_measures_on_the_engine(attached, tokenizer, scripted):  # noqa: F811
    trainer, engine = attached(mrt_samples=4, mrt_answer_temperature=1.0)
    in_process = step_inputs(trainer)["advantages"]
    assert not engine.calls
    engine.sampler, trainer.rollout_engine = ScriptedSampler, RolloutEngine(trainer)
    assert step_inputs(trainer)["advantages"].tolist() == in_process.tolist()
    assert in_process.unique().numel() > 4
    assert [call for call in engine.calls if call == "weights"] == ["weights"]
    assert len(engine.calls) == 2  # all branches of the step in one call


def test_what_scores_is_the_policy(attached):
    trainer, _ = attached()
    trainer.rollout_engine = rollout_engine(trainer)
    with live_sampler(trainer) as sampler:
        assert sampler is trainer.rollout_engine
    with live_sampler(trainer, scores=True) as sampler:
        assert isinstance(sampler, PolicySampler)


def test_an_engine_without_room_for_answers_is_left_to_the_rollouts(attached, caplog):
    trainer, _ = attached(context=46)  # max_completion_length: 40, mrt_answer_tokens: 6
    if trainer.args.vllm_mode == "server":
        assert rollout_engine(trainer) is not None
        return
    assert rollout_engine(trainer) is None
    assert "context of 46 tokens" in caplog.text
    assert ("vllm_max_model_length" if TRL_1 else "max_prompt_length") in caplog.text


def test_groups_of_ranks_need_room_for_answers(attached):
    """In them vLLM draws from the ranks' own random states, which answers of the policy would set apart."""
    trainer, _ = attached(context=46)
    trainer.args.vllm_tensor_parallel_size = 2
    if trainer.args.vllm_mode == "colocate":
        with pytest.raises(ValueError, match="context of 46 tokens has no room .* Raise"):
            rollout_engine(trainer)


@pytest.mark.skipif(not TRL_1, reason="test_upstream has those of trl 0.18")
def test_prefixes_need_room_beside_a_completion(attached, tokenizer):
    data = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": "Find x."}], "solution": "5", "prefix": text} for text in PREFIXES]
    ).add_column("prefix_success", [0.25, 0.25])
    trainer, engine = attached()
    assert with_room(trainer, data)["prefix"] == PREFIXES
    context = 512 if trainer.args.vllm_mode == "server" else 200
    engine.llm_engine.model_config.max_model_len = context
    trainer.args.max_completion_length = context - 60
    assert with_room(trainer, data)["prefix"] == PREFIXES[:1]
    with pytest.raises(ValueError, match="prompt of 60. Raise vllm_max_model_length, or --max-model-len"):
        check_prompt_room(trainer.args, context_length(trainer))


def test_answers_end_with_the_context(attached, branches, caplog):
    trainer, engine = attached()
    sampler = RolloutEngine(trainer)
    lengths = [prompt.length for prompt in branches]
    assert lengths == [len(prompt.token_ids) for prompt in branches]
    sampler.max_length = max(lengths) + 2
    drawn = sampler.sample(branches, 1, GREEDY)
    served = trainer.args.vllm_mode == "server"  # and refuses a prompt; in process, vLLM cuts the answer
    assert [group is None for group in drawn] == [False, False, served]
    assert engine.calls[-1][2] == 6
    assert ("no room for an answer behind 1 of 3 prompts" in caplog.text) == served
    assert bool(caplog.text) == served
    caplog.clear()
    sampler.max_length = max(lengths)
    first, second, third = sampler.sample(branches, 2, GREEDY)
    assert third is None
    assert all(completion.token_ids for completion in [*first, *second])
    assert "no room for an answer behind 1 of 3 prompts" in caplog.text


def test_an_engine_that_measures_nothing_is_not_asked_for_room(attached, caplog):
    trainer, _ = attached(context=42, mrt_estimator="likelihood", mrt_termination="answer")
    assert rollout_engine(trainer) is not None  # fresh traces fit, and nothing is drawn behind them
    trainer.credit, trainer.mrt_args.mrt_prefix = CREDITS["mixed"], "dataset"
    assert rollout_engine(trainer) is None
    assert not caplog.text


def test_seeds_are_refused(attached, branches):
    with pytest.raises(ValueError, match="seed has to be None"):
        RolloutEngine(attached()[0]).sample(branches, 1, SamplingSettings(4, seed=1))


def _dealt_out():
    """On each of three ranks: 0, 4 and 1 prompts, each written as its first token, twice."""
    from accelerate import PartialState

    import mrt_plugin.engines.rollouts as module

    PartialState._reset_state()  # that of the process that was forked
    state = PartialState(cpu=True)
    asked = []

    def complete(trainer, prompt_ids, n, settings):
        asked.extend(prompt_ids)
        return [[Completion(ids[:1], ended=False)] * n for ids in prompt_ids]

    module.complete = complete
    module.context_length = module.sync_weights = module.text_tokenizer = lambda trainer: None
    trainer = SimpleNamespace(accelerator=state, args=SimpleNamespace(vllm_mode="colocate"))
    mine = [[], [1, 2, 3, 4], [5]][state.process_index]
    drawn = module.RolloutEngine(trainer).sample([Prompt([token, 9]) for token in mine], 2, GREEDY)
    assert drawn == [[Completion([token], ended=False)] * 2 for token in mine]
    assert [ids[0] for ids in asked] == [[1, 2], [3, 4], [5, 5]][state.process_index]  # the last one fills up


def test_ranks_share_the_work_and_get_their_own_back():
    debug_launcher(_dealt_out, num_processes=3)
