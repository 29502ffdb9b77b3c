"""Models whose branches cannot share a trace: a tiny one of each kind of attention that transformers has."""

import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import changed, write
from datasets import load_dataset
from test_policy import naive_greedy
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, GenerationConfig

from mrt_plugin import grpo
from mrt_plugin.analysis import evaluate
from mrt_plugin.analysis.runs import load_run
from mrt_plugin.data import prefixes
from mrt_plugin.engines import policy
from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings
from mrt_plugin.engines.sharing import sharing
from mrt_plugin.upstream.version import TRL_1


SIZES = {
    "vocab_size": 150,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 149,
    "bos_token_id": None,
}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
LATENT |= {"v_head_dim": 8, "head_dim": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
LATENT |= {"first_k_dense_replace": 1, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
WINDOW = {"head_dim": 8, "sliding_window": 8}
GEMMA = WINDOW | {"query_pre_attn_scalar": 8}
STATE = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
KINDS = {
    "llama": {},
    "qwen2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},  # ignores logits_to_keep before 5
    "deepseek_v2": LATENT | {"topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "mistral": WINDOW,
    "cohere2": WINDOW,
    "gemma2": GEMMA | {"attn_logit_softcapping": 1.0},
    "gemma3_text": GEMMA | {"sliding_window_pattern": 2},
    "gpt_oss": WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_next": EXPERTS
    | LINEAR
    | {"head_dim": 8, "shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 4}
    | {"use_mamba_kernels": False},
    "bamba": STATE | {"attn_layer_indices": [1]},
    "falcon_h1": STATE | {"head_dim": 8, "mamba_d_ssm": 64},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "zamba2": {"num_hidden_layers": 3, "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16, "chunk_size": 8}
    | {"mamba_ngroups": 1, "layers_block_type": ["mamba", "hybrid", "mamba"], "num_mem_blocks": 1, "adapter_rank": 4},
}
INSTALLED = [kind for kind in KINDS if kind in CONFIG_MAPPING]
SHARES = {"llama", "qwen2", "gpt2"} | (set() if TRL_1 else {"deepseek_v3"})  # transformers 5 caches its latents
STATEFUL = {"qwen3_next", "mamba", "mamba2", "jamba", "bamba", "falcon_h1", "lfm2", "zamba2"}
TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=149)


def model_of(kind: str, spread: float = 0.3, **fields):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | KINDS[kind] | fields)).eval()
    for name, weight in model.named_parameters():
        if weight.dim() > 1 or name.endswith("sinks"):
            weight.data.normal_(0, spread)  # sharp enough that greedy decoding has no ties
    return model


def branches():
    """Prompts beyond the window of 8 tokens and within, some of one length, from 2 to 43 tokens."""
    generator = torch.Generator().manual_seed(0)
    long, short = (torch.randint(3, 140, (length,), generator=generator).tolist() for length in (40, 12))
    prompts = [Prompt(long, cut, suffix) for cut in (10, 25, 40) for suffix in ([9, 8, 7], [])]
    return [*prompts, Prompt(short, 9, [4]), Prompt(short, 12), Prompt([5, 6])]


@pytest.mark.parametrize("kind", INSTALLED)
@torch.no_grad()
def test_a_model_of_each_kind_equals_a_full_pass_token_for_token(kind):
    model, prompts = model_of(kind), branches()
    sampler = PolicySampler(model, TOKENIZER)
    assert (sampler.plain is None) == (kind in SHARES)
    assert sharing(model).padding == (kind not in STATEFUL)
    drawn = sampler.sample(prompts, 2, SamplingSettings(5, temperature=0))
    expected = [naive_greedy(model, prompt.token_ids, 5, 149) for prompt in prompts]
    assert [[one.token_ids for one in group] for group in drawn] == [[tokens] * 2 for tokens in expected]
    assert len({tuple(tokens) for tokens in expected}) > len(prompts) // 2
    targets = [[11, 12, 13], [14], [15, 16]] * 3
    for prompt, target, score in zip(prompts, targets, sampler.score(prompts, targets), strict=True):
        rows = model(torch.tensor([prompt.token_ids + target])).logits[0].log_softmax(-1)[prompt.length - 1 :]
        assert score == pytest.approx(rows[range(len(target)), target].sum().item(), abs=1e-3)


def widths(model, work) -> list[tuple[int, bool]]:
    """How wide each batch is that a model reads, and whether there is padding in it."""
    seen = []

    def note(_, args, kwargs):
        if kwargs["input_ids"].shape[1] > 1:  # not a token that it has written
            seen.append((kwargs["input_ids"].shape[1], bool((kwargs["input_ids"] == TOKENIZER.pad_token_id).any())))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    work()
    hook.remove()
    return seen


@pytest.mark.parametrize(("kind", "batches"), [("mistral", [(40, True), (20, False), (10, False)]), ("mamba", None)])
def test_a_batch_holds_rows_of_similar_length_and_of_equal_length_where_there_is_a_state(kind, batches):
    model, trace = model_of(kind), list(range(1, 41))
    sampler, prompts = PolicySampler(model, TOKENIZER), [Prompt(trace, cut) for cut in (40, 10, 30, 20, 40)]
    batches = batches or [(40, False), (30, False), (20, False), (10, False)]
    assert widths(model, lambda: sampler.sample(prompts, 2, SamplingSettings(2, seed=0))) == batches
    targets = [[7]] * len(prompts)
    scored = [(width + 1, padded) for width, padded in batches]
    assert widths(model, lambda: sampler.score(prompts, targets)) == scored


def test_samples_follow_the_temperature_and_no_other_setting():
    """The model's generation config, which transformers fills with top_k: 50."""
    model, settings = model_of("mistral"), SamplingSettings(1, temperature=100.0, seed=0)
    [draws] = PolicySampler(model, TOKENIZER).sample([Prompt([5, 6, 7])], 2000, settings)
    counts = torch.bincount(torch.tensor([draw.token_ids[0] for draw in draws]), minlength=150)
    expected = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 100).softmax(-1)
    assert (counts / 2000 - expected).abs().max() < 0.01


@pytest.mark.parametrize("kind", ["mistral", "mamba"])
def test_batches_stay_within_their_bound(kind):
    model = model_of(kind)
    sampler = PolicySampler(model, TOKENIZER, max_batch_tokens=50)
    prompts = [Prompt([5] * 20), Prompt([6] * 20), Prompt([7] * 20)]
    assert [width for width, _ in widths(model, lambda: sampler.sample(prompts, 1, SamplingSettings(5)))] == [20, 20]


def test_eager_scores_bound_a_batch_of_long_rows():
    model = model_of("mistral", max_position_embeddings=8192)
    model.set_attn_implementation("eager") if TRL_1 else setattr(model.config, "_attn_implementation", "eager")
    plain = PolicySampler(model, TOKENIZER).plain
    assert [len(batch) for batch in plain._batches(list(range(40)), lambda row: 4096)] == [4] * 10
    assert [len(batch) for batch in plain._batches(list(range(40)), lambda row: 512)] == [40]


def test_eager_scores_bound_the_traces_that_are_read_together(monkeypatch):
    model, shapes = model_of("qwen2", max_position_embeddings=8192), []
    model.set_attn_implementation("eager") if TRL_1 else setattr(model.config, "_attn_implementation", "eager")
    monkeypatch.setattr(policy, "read", lambda _, ids: shapes.append(tuple(ids.shape)) or [])
    prompts = [Prompt([5] * 4096, suffix=[1]) for _ in range(8)]
    list(PolicySampler(model, TOKENIZER)._batches(prompts, [[]] * 8, n=1, new_tokens=1))
    assert shapes == [(4, 4096)] * 2


def test_the_cost_is_said_once_and_the_model_stays_as_it_is(caplog):
    model = model_of("mistral").train()
    frozen = model.model.norm.eval()
    settings = model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=9.0)
    with caplog.at_level(logging.WARNING, logger="mrt_plugin"):
        for _ in range(3):
            [draws] = PolicySampler(model, TOKENIZER).sample([Prompt([5] * 9)], 50, SamplingSettings(2, seed=0))
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("mrt_plugin")]
    for part in ("MistralForCausalLM cannot share a trace", "8 tokens", "n * k / 2 readings"):
        assert part in said
    assert len({tuple(one.token_ids) for one in draws}) > 1  # not by the top_k of the model's own settings
    assert model.generation_config is settings
    assert [model.training, model.model.layers[0].training, frozen.training] == [True, True, False]


def test_draws_follow_the_model_end_and_repeat_with_a_seed():
    model = model_of("mistral", spread=0.05)
    model.generation_config.eos_token_id = list(range(50))
    sampler, prompts = PolicySampler(model, TOKENIZER), [Prompt([60, 61, 62])]
    [draws] = sampler.sample(prompts, 4000, SamplingSettings(1, seed=0))
    counts = torch.bincount(torch.tensor([draw.token_ids[0] for draw in draws]), minlength=150)
    with torch.no_grad():
        expected = model(torch.tensor([[60, 61, 62]])).logits[0, -1].softmax(-1)
    assert (counts / 4000 - expected).abs().max() < 0.03
    settings, state = SamplingSettings(4, seed=0), torch.get_rng_state()
    [draws] = sampler.sample(prompts, 50, settings)
    assert torch.equal(state, torch.get_rng_state())
    assert sampler.sample(prompts, 50, settings) == [draws]
    ends = {*range(50), 149}
    assert all(not ends & set(one.token_ids[:-1]) for one in draws)
    assert all(one.ended == (one.token_ids[-1] in ends) for one in draws)
    assert {one.ended for one in draws} == {True, False}
    [nucleus] = sampler.sample(prompts, 50, SamplingSettings(1, top_p=1e-6, seed=0))
    assert {draw.token_ids[0] for draw in nucleus} == {expected.argmax().item()}


def test_an_empty_prompt_is_refused():
    for work in (
        lambda sampler, prompts: sampler.sample(prompts, 1, SamplingSettings(2)),
        lambda sampler, prompts: sampler.score(prompts, [[7], [7]]),
    ):
        with pytest.raises(ValueError, match="Prompt 1 is empty"):
            work(PolicySampler(model_of("mistral"), TOKENIZER), [Prompt([5]), Prompt([5], 0)])


@pytest.mark.parametrize(("window", "shares"), [(16, False), (512, True), (None, True)])
def test_a_window_as_wide_as_the_context_hides_nothing(window, shares):
    model = model_of("mistral", sliding_window=window)
    assert (PolicySampler(model, TOKENIZER).plain is None) == shares


def test_a_window_of_some_layers_is_found():
    model = model_of("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert "8 tokens" in sharing(model).obstacle


@torch.no_grad()
def test_frequencies_that_depend_on_the_length_are_those_of_each_prompt():
    """Beyond 16 tokens; the shortest prompts are within."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    model, prompts = model_of("qwen2", rope_scaling=rope, max_position_embeddings=16), branches()
    model.config.max_position_embeddings = 512  # of the context; the frequencies are made
    assert "rotary frequencies" in sharing(model).obstacle
    targets = [[11, 12, 13], [14], [15, 16]] * 3
    for prompt, target, score in zip(
        prompts, targets, PolicySampler(model, TOKENIZER).score(prompts, targets), strict=True
    ):
        rows = model(torch.tensor([prompt.token_ids + target])).logits[0].log_softmax(-1)[prompt.length - 1 :]
        assert score == pytest.approx(rows[range(len(target)), target].sum().item(), abs=1e-3)


def test_a_model_whose_attention_cannot_be_exchanged_is_read_in_full(monkeypatch):
    model = model_of("llama")
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert "AttentionInterface" in sharing(model).obstacle


@torch.no_grad()
def test_what_a_cache_does_not_hold_is_found_by_what_the_model_says():
    """Somebody's own code, which sums over all tokens outside of its attention: full passes are right."""
    model = model_of("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda _, args, output: output + args[0].cumsum(1))
    shown, prompts = sharing(model), branches()
    assert "differ from those of a full pass" in shown.obstacle
    assert (shown.cache, shown.padding) == (False, False)
    drawn = PolicySampler(model, TOKENIZER).sample(prompts, 1, SamplingSettings(5, temperature=0))
    assert [one.token_ids for [one] in drawn] == [naive_greedy(model, prompt.token_ids, 5, 149) for prompt in prompts]


@pytest.fixture
def windowed_path(tokenizer, tmp_path):
    """A saved tiny model with a window shorter than its traces."""
    model = model_of("mistral", 0.02, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path / "windowed")
    return str(tmp_path / "windowed")


@pytest.mark.parametrize("estimator", ["sample", "likelihood"])
def test_a_run_trains_and_measures_regret(recipe, windowed_path, tmp_path, estimator, caplog):
    arguments = ["--upstream", "trl", "--config", str(recipe), "--model_name_or_path", windowed_path]
    arguments += ["--mrt_estimator", estimator, "--mrt_regret_steps", "1", "--mrt_regret_problems", "2"]
    grpo.run([*arguments, "--max_completion_length", "24", "--logging_steps", "1"])
    assert changed(windowed_path, tmp_path / "out")
    assert caplog.text.count("cannot share a trace") == 1


@pytest.mark.parametrize("estimator", ["sample", "likelihood"])
def test_builders_and_evaluation_measure(windowed_path, problems, tmp_path, estimator):
    fields = {"model_name_or_path": windowed_path, "dataset_name": problems, "sampler": "transformers"}
    fields |= {"num_generations": 2, "max_completion_length": 24, "mrt_termination": "answer", "mrt_answer_tokens": 4}
    recipe = str(write(tmp_path / "recipe.yaml", fields | {"mrt_estimator": estimator}))
    prefixes.run(["--config", recipe, "--output_dir", str(tmp_path / "rows")])
    rows = load_dataset(str(tmp_path / "rows"), split="train")
    assert len(rows) == 16
    assert None not in rows["prefix_success"]
    more = ["--regret", "true", "--extensions", "2", "--extension_tokens", "4", "--output_dir", str(tmp_path / "run")]
    evaluate.run(["--config", recipe, *more])
    run = load_run(tmp_path / "run")
    assert run.has_regret
    assert len(run.rollouts) == 16
