"""MRTTrainer against values computed by hand. What the policy writes is scripted; TRL, the grader and the loss are
real."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2ForCausalLM
from trl import GRPOTrainer

import mrt_plugin.engines.rollouts
import mrt_plugin.starts
import mrt_plugin.trainer
from mrt_plugin import MRTConfig, MRTTrainer, mrt_accuracy, mrt_progress
from mrt_plugin.credit import CREDITS, token_progress
from mrt_plugin.engines.rollouts import live_sampler
from mrt_plugin.engines.sampling import Completion, Prompt, SamplingSettings
from mrt_plugin.meta_prover import TERMINATIONS
from mrt_plugin.settings import resolve
from mrt_plugin.starts import Prefix, starting_points
from mrt_plugin.tokens import decode
from mrt_plugin.trainer import StepInProgress
from mrt_plugin.upstream.version import TRL_1


ANSWER = "</think>\n\n**Final Answer**\n\n\\boxed{{{}}}"
FIRST = "Try x = 2.\n\nNot 5.\n\nHm.\n\n"
SECOND = "Wait, try x = 5.\n\nit works.\n\nNice.\n\n"
IDLE = "Alternatively, again.\n\nit works.\n"
SUCCESS = {"": 0.25, FIRST: 0.5, FIRST + SECOND: 1.0, FIRST + SECOND + IDLE: 0.75}
"""J that the scripted policy has after each prefix."""

LOSS_TYPES = ["bnpo", "grpo", "dr_grpo"] + ["dapo", "cispo"] * TRL_1

ROWS = [  # of one group: thinking and answer, whether it ends, reward
    (FIRST + SECOND, ANSWER.format(5), True, 1.0),
    (FIRST + SECOND + IDLE, ANSWER.format(4), True, 0.0),
    (FIRST, "", False, 0.0),  # cut by length while thinking
    ("", ANSWER.format(5), True, 1.0),  # does not think
]


HALF_OF_DENSE = replace(CREDITS["dense"], advantages=lambda step: CREDITS["dense"].advantages(step) / 2)


class ScriptedSampler:
    """Answers rightly as often as `SUCCESS` says, out of four."""

    max_length, scores = None, False

    def __init__(self, policy, tokenizer):
        self.tokenizer = tokenizer

    def sample(self, prompts, n, settings):
        completions = []
        for prompt in prompts:
            text = decode(self.tokenizer, prompt.token_ids)
            thinking = text.rpartition("<think>\n")[2].removesuffix(TERMINATIONS["answer"])
            if text.endswith(TERMINATIONS["answer"]):
                right = round({prefix.rstrip(): J for prefix, J in SUCCESS.items()}.get(thinking, 0.5) * n)
                written = ["5}"] * right + ["3}"] * (n - right)
            else:
                written = [FIRST + SECOND + IDLE + ANSWER.format(5)] * n
            completions.append([Completion(self.tokenizer(answer)["input_ids"], ended=True) for answer in written])
        return completions


def config(tmp_path, **settings):
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 40,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return MRTConfig(output_dir=str(tmp_path), **defaults | settings)


def dataset(solution="5", rows=4, **columns):
    prompt = [{"role": "user", "content": "Find x."}]
    return Dataset.from_list([{"prompt": prompt, "solution": solution, "id": i, **columns} for i in range(rows)])


def build(
    tmp_path,
    tokenizer,
    rewards=(mrt_accuracy,),
    data=None,
    model=None,
    cls=MRTTrainer,
    mrt=None,
    eval_data=None,
    **settings,
):
    return cls(
        model or tiny_model(tokenizer, initializer_range=0.02),
        list(rewards),
        config(tmp_path, **settings, **({"mrt_termination": "answer"} | (mrt or {}))),
        train_dataset=data or dataset(),
        eval_dataset=eval_data,
        processing_class=tokenizer,
    )


@pytest.fixture
def scripted(monkeypatch, tokenizer):
    """Completions in turn from `ROWS` (from a prefix: what is left of them), success probabilities from `SUCCESS`."""
    monkeypatch.setattr(mrt_plugin.engines.rollouts, "PolicySampler", ScriptedSampler)
    seen = []

    def generate(self, input_ids, attention_mask, **_):
        completions = []
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            thinking, answer, ends, _ = ROWS[row % len(ROWS)]
            text = decode(tokenizer, ids[mask.bool()])
            seen.append(text)
            begun = text.rpartition("<think>\n")[2]
            if begun.endswith(TERMINATIONS["answer"]):  # forced to stop: odd rows are right
                written = tokenizer("5}" if row % 2 else "3}")["input_ids"]
            else:
                written = tokenizer(thinking.removeprefix(begun) + answer or "Hm.")["input_ids"]
            completions.append(torch.tensor(written + [tokenizer.eos_token_id] * ends))
        # As `generate` does: a row that ends before the others is padded.
        return torch.cat([input_ids, pad_sequence(completions, True, tokenizer.pad_token_id)], dim=1)

    monkeypatch.setattr(Qwen2ForCausalLM, "generate", generate)
    return seen


def step_inputs(trainer):
    """What a step trains on: TRL's batch after generation and scoring, in the order of the rows."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    return trainer._generate_and_score_completions(batch)


def hand_written_gains(tokenizer, row):
    """Episode and its progress for each token of a scripted row, by decoding one token more at a time."""
    thinking, answer, *_ = ROWS[row]
    token_ids = tokenizer(thinking + answer)["input_ids"]
    prefixes = [prefix for prefix in SUCCESS if thinking.startswith(prefix)]
    gains = []
    for index in range(len(token_ids)):
        # The white space behind an episode is where the policy decides to go on: it counts to what follows.
        ends_at = len(decode(tokenizer, token_ids[: index + 1]))
        episode = next((j for j, prefix in enumerate(prefixes[1:], 1) if ends_at <= len(prefix.rstrip())), 0)
        gains.append((episode, SUCCESS[prefixes[episode]] - SUCCESS[prefixes[episode - 1]] if episode else 0.0))
    return gains


def hand_written_dense(tokenizer, row, alpha, width):
    """alpha x the progress of its episode for each token."""
    credit = [alpha * gain for _, gain in hand_written_gains(tokenizer, row)]
    return credit + [0.0] * (width - len(credit))


def hand_written_horizon(tokenizer, row, width, horizon):
    """For each token of a thinking the progress of the episodes that end within so many tokens."""
    gains = hand_written_gains(tokenizer, row)
    ends = {episode: (t + 1, gain) for t, (episode, gain) in enumerate(gains) if episode}
    credit = [
        sum(gain for end, gain in ends.values() if t < end <= t + horizon) if episode else 0.0
        for t, (episode, _) in enumerate(gains)
    ]
    return credit + [0.0] * (width - len(credit))


def group_normalised(rewards):
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / (std + 1e-4) for reward in rewards]


def completion_log_probabilities(model, batch):
    width = batch["completion_ids"].shape[1]
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -width - 1 : -1]
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]


def hand_computed_gradient(model, batch, advantages, loss_type, max_completion_length):
    """Gradient of the on-policy loss, -sum of advantage x log-probability, with each loss type's normaliser."""
    model.zero_grad()
    mask = batch["completion_mask"]
    terms = -(advantages * completion_log_probabilities(model, batch) * mask)
    loss = {
        "grpo": (terms.sum(1) / mask.sum(1)).mean(),
        "bnpo": terms.sum() / mask.sum(),
        "dapo": terms.sum() / mask.sum(),
        "dr_grpo": terms.sum() / (len(mask) * max_completion_length),
        "cispo": terms.sum() / mask.sum(),
    }[loss_type]
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_gradients_equal(trainer, batch, advantages, loss_type="dapo"):
    expected = hand_computed_gradient(trainer.model, batch, advantages, loss_type, trainer.max_completion_length)
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, batch).backward()
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-3  # the comparison is about something
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5 * largest.item() + 1e-7, rtol=1e-3)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_dense_credit_by_hand(tmp_path, tokenizer, scripted, loss_type, alpha):
    mrt = {"mrt_credit": "dense", "mrt_alpha": alpha, "mrt_horizon": 0}
    trainer = build(tmp_path, tokenizer, mrt=mrt, loss_type=loss_type, epsilon_high=5.0, max_completion_length=60)
    batch = step_inputs(trainer)
    width = batch["completion_ids"].shape[1]
    outcome = group_normalised([reward for *_, reward in ROWS])
    expected = torch.tensor(
        [
            [advantage + credit for credit in hand_written_dense(tokenizer, row, alpha, width)]
            for row, advantage in enumerate(outcome)
        ]
    )
    torch.testing.assert_close(batch["advantages"], expected, atol=1e-4, rtol=1e-4)
    assert batch["advantages"][1].unique().numel() == 4  # three episodes and the answer
    assert batch["advantages"][3].unique().numel() == 1  # without thinking: the outcome only
    assert_gradients_equal(trainer, batch, expected, loss_type)


def credit_of_equal_episodes(*success, horizon):
    ends = np.linspace(0, 20, len(success)).astype(int).tolist()
    [credit] = token_progress([ends], [np.array(success)], 20, horizon)
    return credit


def test_merging_episodes_pays_by_episode_and_not_within_a_horizon():
    credit = credit_of_equal_episodes
    early, late, even, merged = (0.0, 0.8, 1.0), (0.0, 0.2, 1.0), (0.0, 0.5, 1.0), (0.0, 1.0)
    for apart in (early, late, even):
        assert credit(*merged, horizon=0).sum() == pytest.approx(2 * credit(*apart, horizon=0).sum())
        assert credit(*merged, horizon=7).sum() == pytest.approx(credit(*apart, horizon=7).sum())
    assert credit(*merged, horizon=7).tolist() == [0.0] * 13 + [1.0] * 7
    assert credit(*early, horizon=7) == pytest.approx([0] * 3 + [0.8] * 7 + [0] * 3 + [0.2] * 7)


@pytest.mark.parametrize("horizon", [0, 7, 10, 14])
def test_the_token_that_spoils_an_episode_earns_no_more_than_the_one_that_does_not(horizon):
    """Behind the same nine tokens one trace says that it is right, and one denies it and repairs that."""
    right, denied = (credit_of_equal_episodes(0.0, *after, horizon=horizon) for after in ((1.0, 1.0), (0.1, 1.0)))
    assert right[9] > denied[9] - 1e-9


@pytest.mark.parametrize("rank", [0, 1])
def test_credit_sees_the_rows_of_all_ranks(tmp_path, tokenizer, scripted, monkeypatch, rank):
    """The other rank's rows count in the mean length of an episode; each rank takes its own, of its own width."""
    seen = []

    def credit(step):
        seen.append(step)
        return CREDITS["dense"].advantages(step)

    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "dense", "mrt_horizon": 1.0}, max_completion_length=60)
    batch = step_inputs(trainer)
    trainer.credit = replace(CREDITS["dense"], advantages=credit)
    monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self: rank))
    other = (np.zeros(4, np.float32), np.ones(4, np.float32), [np.array([0.0, 1.0])] * 4, [[0, 90]] * 4, 90)

    def gather(mine):
        if not isinstance(mine[0], tuple):  # what was measured, for the log
            return mine
        return [other, *mine] if rank else [*mine, other]

    monkeypatch.setattr(mrt_plugin.trainer, "gather_object", gather)
    trainer._in_progress = StepInProgress(rewards=torch.ones(4, 1))
    advantages = trainer._advantages([{"solution": "5"}] * 4, batch | {"advantages": torch.zeros(4)})
    assert advantages.shape == batch["completion_ids"].shape
    [step] = seen
    assert (step.width, len(step.success), step.group_size) == (90, 8, 4)
    lengths = [end - begin for ends in step.credit_ends for begin, end in zip(ends, ends[1:], strict=False)]
    assert len(lengths) == 4 + 6
    expected = token_progress(step.credit_ends, step.success, 90, np.mean(lengths))[4 * rank : 4 * rank + 4]
    assert advantages.numpy() == pytest.approx(expected[:, : advantages.shape[1]], abs=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_keeps_the_rewards_of_its_rows(tmp_path, tokenizer, monkeypatch, rank):
    trainer, rewards = build(tmp_path, tokenizer, mrt={"mrt_credit": "dense"}), torch.arange(8.0)[:, None]
    monkeypatch.setattr(MRTTrainer.__mro__[1], "_calculate_rewards", lambda *args: rewards)
    monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self: rank))
    assert trainer._calculate_rewards([{}] * 4, ["?"] * 4, ["5"] * 4, [[5]] * 4) is rewards
    assert torch.equal(trainer._in_progress.rewards, rewards[4 * rank : 4 * rank + 4])


def test_what_is_kept_of_a_row_has_its_weighted_reward_and_its_own_tokens(tmp_path, tokenizer, scripted, monkeypatch):
    """Prompts of different lengths are padded, as completions are: padding is no part of what J is measured behind."""

    def judge(completions, **kwargs):
        return [1.0, None, None, 1.0]

    def also(completions, **kwargs):
        return [1.0, 1.0, None, 1.0]

    rows = [
        {"prompt": [{"role": "user", "content": text}], "solution": "5"} for text in ("Find x.", "Find x, at last.")
    ]
    mrt = {"mrt_credit": "dense", "mrt_keep_rollouts": 4}
    settings = {"reward_weights": [2.0, 0.5], "num_generations": 2}
    trainer = build(tmp_path, tokenizer, [judge, also], Dataset.from_list(rows), mrt=mrt, **settings)
    measured, measure = [], trainer.measure
    monkeypatch.setattr(trainer, "measure", lambda traces: measured.extend(traces) or measure(traces))
    batch = step_inputs(trainer)
    assert [kept["reward"] for kept in trainer.kept_rollouts] == pytest.approx([2.5, 0.5, math.nan, 2.5], nan_ok=True)
    assert [kept["tokens"] for kept in trainer.kept_rollouts] == batch["completion_mask"].sum(1).tolist()
    assert (batch["prompt_ids"] == tokenizer.pad_token_id).any()
    assert all(tokenizer.pad_token_id not in trace.token_ids for trace in measured)


def test_an_unknown_success_probability_gives_no_progress():
    """Between two that are known, either: neither episode is known to have made it."""
    assert not token_progress([[0, 2, 4]], [np.array([0.2, math.nan, 0.8])], width=4, horizon=2).any()


def test_a_credit_of_ones_own_is_named_by_its_path(tmp_path, tokenizer, scripted):
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "test_trainer.HALF_OF_DENSE"})
    dense = step_inputs(build(tmp_path, tokenizer, mrt={"mrt_credit": "dense"}))["advantages"]
    torch.testing.assert_close(step_inputs(trainer)["advantages"], dense / 2)
    with pytest.raises(ValueError, match="mrt_credit: test_trainer.ROWS is a list"):
        build(tmp_path, tokenizer, mrt={"mrt_credit": "test_trainer.ROWS"})
    with pytest.raises(ValueError, match="mrt_credit: 'test_trainer.NONE' cannot be imported"):
        build(tmp_path, tokenizer, mrt={"mrt_credit": "test_trainer.NONE"})
    with pytest.raises(ValueError, match="mrt_credit: unknown 'dens'. Did you mean 'dense'"):
        build(tmp_path, tokenizer, mrt={"mrt_credit": "dens"})


def test_a_step_leaves_nothing_behind_when_it_fails(tmp_path, tokenizer, scripted):
    def fails(completions, **kwargs):
        raise RuntimeError("no reward")

    data = dataset(prefix=FIRST, prefix_success=0.25)
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "dataset"}
    trainer = build(tmp_path, tokenizer, [fails], data, mrt=mrt)
    with pytest.raises(RuntimeError, match="no reward"):
        step_inputs(trainer)
    assert trainer._in_progress == StepInProgress()


@pytest.mark.parametrize("lengths", [0.5, 1.0])
def test_dense_credit_within_a_horizon_by_hand(tmp_path, tokenizer, scripted, lengths):
    trainer = build(tmp_path, tokenizer, mrt={"mrt_horizon": lengths, "mrt_credit": "dense"}, max_completion_length=60)
    batch = step_inputs(trainer)
    thinking = [[episode for episode, _ in hand_written_gains(tokenizer, row) if episode] for row in range(4)]
    horizon = lengths * sum(map(len, thinking)) / 6  # the rows have two, three, one and no episode
    outcome = group_normalised([reward for *_, reward in ROWS])
    width = batch["completion_ids"].shape[1]
    expected = [
        [advantage + credit for credit in hand_written_horizon(tokenizer, row, width, horizon)]
        for row, advantage in enumerate(outcome)
    ]
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_dense_credit_off_policy_and_accumulated_by_hand(tmp_path, tokenizer, scripted, loss_type):
    """Two iterations over one batch, each accumulated from two micro-batches: the weights that plain SGD gives."""
    settings = {"gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 2, "beta": 0.0}
    settings |= {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    settings |= {"loss_type": loss_type, "max_completion_length": 60, "epsilon_high": 0.3}
    trainer = build(tmp_path, tokenizer, data=dataset(rows=8), mrt={"mrt_credit": "dense"}, **settings)
    model = tiny_model(tokenizer, initializer_range=0.02)  # the same weights
    before = copy.deepcopy(model.state_dict())
    seen = []
    compute_loss = trainer.compute_loss

    def recorded(model, inputs, **kwargs):
        seen.append(inputs)
        return compute_loss(model, inputs, **kwargs)

    trainer.compute_loss = recorded
    trainer.train()
    assert len(seen) == 4
    assert seen[0]["advantages"].shape == seen[0]["completion_ids"].shape

    tokens = sum(batch["completion_mask"].sum() for batch in seen[:2])
    ratios = []
    for window in (seen[:2], seen[2:]):
        model.zero_grad()
        for batch in window:
            mask, advantages = batch["completion_mask"], batch["advantages"]
            log_probabilities = completion_log_probabilities(model, batch)
            ratio = (log_probabilities - batch["old_per_token_logps"]).exp()
            ratios.append(ratio[mask.bool()].detach())
            clipped = ratio.clamp(0.8, 1.3)
            terms = -torch.min(ratio * advantages, clipped * advantages) * mask
            if loss_type == "cispo":
                terms = -ratio.clamp(max=0.3).detach() * advantages * log_probabilities * mask
            loss = {
                "grpo": (terms.sum(1) / mask.sum(1)).mean() / 2,
                "bnpo": terms.sum() / mask.sum() / 2,
                "dr_grpo": terms.sum() / (len(mask) * 60) / 2,
                "dapo": terms.sum() / tokens,
                "cispo": terms.sum() / tokens,
            }[loss_type]
            loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
    assert (torch.cat(ratios[:2]) - 1).abs().max() < 1e-4  # on-policy at first
    assert (torch.cat(ratios[2:]) - 1).abs().max() > 1e-2  # and not any more
    for name, parameter in trainer.model.named_parameters():
        change = (parameter - before[name]).abs().max().item()
        torch.testing.assert_close(parameter, model.state_dict()[name], atol=1e-3 * change + 1e-7, rtol=0)


def test_dense_credit_of_a_gold_that_cannot_be_parsed_is_zero(tmp_path, tokenizer, scripted):
    trainer = build(tmp_path, tokenizer, data=dataset(solution="\\text{}"), mrt={"mrt_credit": "dense"})
    assert (step_inputs(trainer)["advantages"] == 0).all()


def test_mixed_credit_by_hand(tmp_path, tokenizer, scripted):
    data = dataset(prefix=FIRST, prefix_success=0.25)
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "dataset", "mrt_alpha": 0.4}
    trainer = build(tmp_path, tokenizer, [mrt_accuracy, mrt_progress], data, mrt=mrt)
    batch = step_inputs(trainer)
    # Rows 0 and 1 continue from FIRST and get r + alpha (r - J); rows 2 and 3 are forced to stop and get r.
    rewards = [1 + 0.4 * (1 - 0.25), 0 + 0.4 * (0 - 0.25), 0.0, 1.0]
    expected = torch.tensor(group_normalised(rewards))
    torch.testing.assert_close(batch["advantages"], expected, atol=1e-5, rtol=1e-4)
    assert_gradients_equal(trainer, batch, expected[:, None])
    prompt = "<|user|>Find x.<|eos|><|assistant|><think>\n" + FIRST
    stopped = prompt.rstrip() + TERMINATIONS["answer"]  # which brings its own line break
    texts = tokenizer.batch_decode(batch["prompt_ids"])
    assert [text.replace("<|pad|>", "") for text in texts] == [prompt, prompt, stopped, stopped]
    trained = [
        decode(tokenizer, ids[mask.bool()])
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    assert trained == [SECOND + ANSWER.format(5), SECOND + IDLE + ANSWER.format(4), "3}", "5}"]  # no forced text


def test_a_model_without_thinking_tags_goes_on_from_its_attempt(tmp_path, tokenizer, scripted):
    tagless = copy.deepcopy(tokenizer)
    tagless.chat_template = tokenizer.chat_template.replace("<think>\n", "")
    stop = "\n\nSo it is \\boxed{"
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "dataset", "mrt_termination": stop}
    data = dataset(prefix="Node 1: 5 x = 3, x = 2.", prefix_success=0.25)
    batch = step_inputs(build(tmp_path, tagless, [mrt_accuracy, mrt_progress], data, mrt=mrt))
    prompt = "<|user|>Find x.<|eos|><|assistant|>Node 1: 5 x = 3, x = 2."
    texts = [text.replace("<|pad|>", "") for text in tokenizer.batch_decode(batch["prompt_ids"])]
    assert texts == [prompt, prompt, prompt + stop, prompt + stop]


@pytest.mark.parametrize("mrt", [{"mrt_credit": "dense"}, {"mrt_credit": "mixed", "mrt_prefix": "online"}])
def test_episodes_of_a_new_trace_need_thinking_tags(tmp_path, tokenizer, mrt):
    with pytest.raises(ValueError, match="found between tags"):
        build(tmp_path, tokenizer, mrt=mrt | {"mrt_termination": "So it is \\boxed{"})


def test_termination_credit_by_hand(tmp_path, tokenizer, scripted):
    data = dataset(prefix=FIRST, prefix_success=0.25)
    mrt = {"mrt_credit": "termination", "mrt_prefix": "dataset"}
    trainer = build(tmp_path, tokenizer, [mrt_accuracy, mrt_progress], data, mrt=mrt)
    batch = step_inputs(trainer)
    expected = torch.tensor([0.75, -0.25, -0.25, 0.75])
    torch.testing.assert_close(batch["advantages"], expected)
    assert_gradients_equal(trainer, batch, expected[:, None])


def test_a_thinking_that_was_cut_has_no_answer_even_if_it_holds_a_box(tmp_path, tokenizer, scripted, monkeypatch):
    monkeypatch.setattr("test_trainer.ROWS", [("Maybe \\boxed{5}?", "", False, 0.0), ROWS[0]] * 2)
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "none"})
    batch = step_inputs(trainer)
    assert trainer._metrics["train"]["reward"] == [0.5]
    assert (batch["advantages"] < 0).tolist() == [True, False, True, False]


def test_a_scalar_progress_cancels(tmp_path, tokenizer, scripted):
    """The trap: with one prefix for a group, r + alpha (r - J) has the advantages of r, whatever alpha is."""

    def scalar(completions, solution, **kwargs):
        return [r + 8 * (r - 0.25) for r in mrt_accuracy(completions, solution)]

    plain = step_inputs(build(tmp_path, tokenizer, mrt={"mrt_credit": "none"}))["advantages"]
    with_progress = step_inputs(build(tmp_path, tokenizer, [scalar], mrt={"mrt_credit": "none"}))["advantages"]
    torch.testing.assert_close(plain, with_progress, atol=1e-3, rtol=1e-3)


def test_online_prefixes(tmp_path, tokenizer, scripted):
    """One fresh trace for each group, cut after a random number of episodes, J from forced terminations."""
    mrt = {"mrt_credit": "termination", "mrt_prefix": "online"}
    cuts = set()
    for seed in range(8):
        trainer = build(tmp_path, tokenizer, data=dataset(rows=2), mrt=mrt, seed=seed, per_device_train_batch_size=8)
        batch = step_inputs(trainer)
        begun = [text.rpartition("<think>\n")[2] for text in tokenizer.batch_decode(batch["prompt_ids"])]
        for group in (0, 4):
            assert len(set(begun[group : group + 4])) == 1
            assert begun[group] in (
                ("", FIRST, FIRST + SECOND)
            )  # never the whole thinking: an episode is left to write
            rewards = [1.0, 0.0, 0.0, 1.0]
            expected = [reward - SUCCESS[begun[group]] for reward in rewards]
            assert batch["advantages"][group : group + 4].tolist() == pytest.approx(expected)
            cuts.add(begun[group])
        again = step_inputs(
            build(tmp_path, tokenizer, data=dataset(rows=2), mrt=mrt, seed=seed, per_device_train_batch_size=8)
        )
        assert torch.equal(batch["prompt_ids"], again["prompt_ids"])
    assert cuts == {"", FIRST, FIRST + SECOND}


@pytest.mark.parametrize(("cut", "credit", "silent"), [(1, "dense", [0.0, 0.25]), (0, "termination", [0.0])])
def test_the_shares_without_episodes_are_those_of_whole_traces(
    tmp_path, tokenizer, scripted, monkeypatch, cut, credit, silent
):
    """Of fresh traces before they are cut, and of rollouts, which think behind a prefix also where they are cut."""
    monkeypatch.setattr(mrt_plugin.starts.torch, "randint", lambda high, size: torch.tensor(cut))
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": credit, "mrt_prefix": "online"})
    step_inputs(trainer)
    assert trainer._metrics["train"]["mrt/without_episodes"] == silent


def test_rows_that_are_masked_for_being_cut_do_not_count_as_without_episodes(
    tmp_path, tokenizer, scripted, monkeypatch
):
    cut = (FIRST + SECOND + IDLE * 9, "", False, 0.0)  # the longest, so without padding
    monkeypatch.setattr("test_trainer.ROWS", [*ROWS[:2], cut, ROWS[3]])
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "dense"}, mask_truncated_completions=True)
    step_inputs(trainer)
    assert trainer._metrics["train"]["mrt/without_episodes"] == [pytest.approx(1 / 3)]


def test_rewards_see_a_prefix_once_also_where_trl_has_parsed_the_prompts_end_into_the_completion(
    tmp_path, tokenizer, scripted
):
    class Parsed(MRTTrainer):
        def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
            begun = [[{"role": "assistant", "content": FIRST + one[0]["content"]}] for one in completions]
            return super()._calculate_rewards(inputs, prompts, begun, completion_ids)

    seen = []

    def keep(completions, **kwargs):
        seen.extend(completion[0]["content"] for completion in completions)
        return [0.0] * len(completions)

    data, mrt = dataset(prefix=FIRST, prefix_success=0.25), {"mrt_credit": "termination", "mrt_prefix": "dataset"}
    step_inputs(build(tmp_path, tokenizer, [keep, mrt_progress], data, cls=Parsed, mrt=mrt))
    assert seen[0].removeprefix("<think>\n") == FIRST + SECOND + ANSWER.format(5)


def test_fresh_traces_are_drawn_as_rollouts_are(tmp_path, tokenizer, scripted, monkeypatch):
    calls, sample = [], ScriptedSampler.sample
    monkeypatch.setattr(
        ScriptedSampler, "sample", lambda self, *call: calls.append((len(call[0]), *call[1:])) or sample(self, *call)
    )
    mrt = {"mrt_credit": "termination", "mrt_prefix": "online"}
    step_inputs(build(tmp_path, tokenizer, mrt=mrt, temperature=0.8, top_p=0.9))
    assert calls[0] == (1, 1, SamplingSettings(40, 0.8, 0.9))  # of the group; then come the answers


def test_rewards_see_the_whole_assistant_turn(tmp_path, tokenizer, scripted):
    seen = []

    def spy(completions, **kwargs):
        seen.extend(completion[0]["content"] for completion in completions)
        return [0.0] * len(completions)

    data = dataset(prefix=FIRST, prefix_success=0.25)
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "dataset"}
    step_inputs(build(tmp_path, tokenizer, [spy], data, mrt=mrt))
    assert seen[0] == FIRST + SECOND + ANSWER.format(5)
    assert seen[2] == FIRST.rstrip() + "\n" + ANSWER.format(3)


def test_plain_string_prompts_and_completions(tmp_path, tokenizer, scripted):
    data = Dataset.from_list(
        [{"prompt": "Find x. <think>\n", "solution": "5", "prefix": FIRST, "prefix_success": 0.25}] * 4
    )
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "dataset", "mrt_alpha": 0.4}
    batch = step_inputs(build(tmp_path, tokenizer, data=data, mrt=mrt))
    expected = group_normalised([1 + 0.4 * 0.75, -0.4 * 0.25, 0.0, 1.0])
    assert batch["advantages"].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_template_that_does_not_open_the_thinking_gets_the_tag(tmp_path, tokenizer, scripted):
    data = Dataset.from_list([{"prompt": "Find x. ", "solution": "5", "prefix": FIRST, "prefix_success": 0.25}] * 4)
    mrt = {"mrt_credit": "termination", "mrt_prefix": "dataset"}
    batch = step_inputs(build(tmp_path, tokenizer, data=data, mrt=mrt))
    assert tokenizer.decode(batch["prompt_ids"][0]) == "Find x. <think>\n" + FIRST


@pytest.mark.parametrize(
    "mrt",
    [
        {"mrt_credit": "dense"},
        {"mrt_credit": "mixed", "mrt_prefix": "online"},
        {"mrt_credit": "mixed", "mrt_prefix": "dataset"},
        {"mrt_credit": "termination", "mrt_prefix": "online"},
        {"mrt_credit": "termination", "mrt_prefix": "dataset"},
        {"mrt_credit": "dense", "mrt_prefix": "online"},
    ],
)
def test_every_weight_moves(tmp_path, tokenizer, scripted, mrt):
    data = dataset(rows=8, prefix=FIRST, prefix_success=0.25)
    settings = {"gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 4}
    trainer = build(tmp_path, tokenizer, data=data, mrt=mrt, **settings)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    still = [name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still
    logs = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    assert logs["mrt/grader_timeouts"] == 0 if mrt.get("mrt_prefix") != "dataset" else "mrt/branch_tokens" not in logs
    assert (logs.get("mrt/prefix_tokens", 0) > 0) == (mrt.get("mrt_prefix") == "online")
    if mrt["mrt_credit"] == "dense" and "mrt_prefix" not in mrt:
        assert logs["mrt/success_probability/episode_1"] == pytest.approx(0.5)
        assert logs["mrt/success_probability/episode_3"] == pytest.approx(0.75)
        assert logs["mrt/branch_tokens"] > 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_that_spans_ranks_has_one_prefix(tmp_path, tokenizer, monkeypatch, rank):
    """Four rows a rank, groups of six: the rank with a group's first row finds its prefix, for both."""
    settings = {"num_generations": 6, "per_device_train_batch_size": 12}
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "online"}
    trainer = build(tmp_path, tokenizer, mrt=mrt, **settings)
    monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self: rank))
    found = []
    monkeypatch.setattr(mrt_plugin.starts, "online_prefixes", lambda _, leaders: found.append(dict(leaders)) or {})
    prefixes = {0: Prefix([70], [80], 0.25), 1: Prefix([71, 72], [81], 0.5)}
    monkeypatch.setattr(
        mrt_plugin.starts, "gather_object", lambda local: [*local, *({g: p} for g, p in prefixes.items())]
    )
    starts = starting_points(trainer, [{"row": 4 * rank + i} for i in range(4)])
    groups = [0, 0, 0, 0] if rank == 0 else [0, 0, 1, 1]
    assert found == [{0: {"row": 0}} if rank == 0 else {1: {"row": 6}}]
    goes_on = [True] * 3 + [False] if rank == 0 else [False] * 2 + [True] * 2
    assert [start.continues for start in starts] == goes_on
    assert [start.token_ids for start in starts] == [
        prefixes[g][not go] for g, go in zip(groups, goes_on, strict=True)
    ]
    assert [start.success for start in starts] == [prefixes[group][2] for group in groups]


def test_branching_works_with_gradient_checkpointing(tmp_path, tokenizer):
    """TRL's default; transformers then drops the key-value cache of a model in training."""
    mrt = {"mrt_credit": "dense", "mrt_prefix": "online", "mrt_answer_tokens": 4}
    trainer = build(tmp_path, tokenizer, mrt=mrt, gradient_checkpointing=True, max_steps=1, max_completion_length=12)
    trainer.train()
    assert trainer.state.log_history[0]["mrt/branch_tokens"] > 0


@pytest.mark.parametrize("training", [True, False])
def test_success_probabilities_are_measured_without_dropout(tmp_path, tokenizer, training):
    trainer = build(tmp_path, tokenizer, model=tiny_model(tokenizer, attention_dropout=0.5))
    trainer.model.train(training)
    prompts, targets = [Prompt(tokenizer("Find x.")["input_ids"])] * 2, [tokenizer("5}")["input_ids"]] * 2
    with live_sampler(trainer, scores=True) as sampler:
        scores = [sampler.score(prompts, targets) for _ in range(2)]
    assert scores[0] == scores[1]
    assert trainer.model.training == training


def test_columns_of_other_tasks_are_left_alone(tmp_path, tokenizer):
    """OpenR1-Math has `messages`."""
    seen = []

    def judge(completions, messages, label, **kwargs):
        seen.extend([*messages, *label])
        return [0.0] * len(completions)

    build(
        tmp_path, tokenizer, [judge], dataset(messages=[{"role": "user", "content": "?"}], label=1), max_steps=1
    ).train()
    assert seen == [[{"role": "user", "content": "?"}]] * 4 + [1] * 4


def test_none_is_grpo_bit_for_bit(tmp_path, tokenizer):
    """The same seeds give the same weights after three steps, sampled from a real (random) model."""

    def lengths(completions, **kwargs):
        return [float(len(completion[0]["content"]) % 7) for completion in completions]

    finals = []
    for cls, mrt in ((GRPOTrainer, None), (MRTTrainer, {"mrt_credit": "none"}), (MRTTrainer, {})):
        trainer = build(tmp_path, tokenizer, [lengths], cls=cls, mrt=mrt, max_steps=3, max_completion_length=12)
        start = copy.deepcopy(trainer.model.state_dict())
        trainer.train()
        finals.append(trainer.model.state_dict())
        assert any(not torch.equal(start[name], finals[-1][name]) for name in start)
    assert all(torch.equal(finals[0][name], other[name]) for other in finals[1:] for name in finals[0])


def test_a_resumed_run_goes_on_the_same(tmp_path, tokenizer):
    """Two steps, a checkpoint, and two more give the weights of four steps, sampled from a real (random) model."""

    def lengths(completions, **kwargs):
        return [float(len(completion[0]["content"]) % 7) for completion in completions]

    mrt = {"mrt_credit": "dense", "mrt_prefix": "online", "mrt_answer_tokens": 4, "mrt_estimator": "likelihood"}
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "max_completion_length": 12}
    whole = build(tmp_path / "whole", tokenizer, [lengths], mrt=mrt, **settings)
    whole.train()
    resumed = build(tmp_path / "resumed", tokenizer, [lengths], mrt=mrt, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    left, right = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_evaluation_rolls_out_from_the_bare_problem(tmp_path, tokenizer, scripted):
    data = dataset(prefix=FIRST, prefix_success=0.25)
    mrt = {"mrt_credit": "mixed", "mrt_prefix": "dataset"}
    settings = {"per_device_eval_batch_size": 4, "eval_strategy": "no"}
    rewards = [mrt_accuracy, mrt_progress]
    trainer = build(tmp_path, tokenizer, rewards, data, eval_data=dataset(rows=1), mrt=mrt, **settings)
    trainer.evaluate()
    assert trainer.state.log_history[-1]["eval_rewards/mrt_accuracy/mean"] == 0.5
    assert trainer.state.log_history[-1]["eval_rewards/mrt_progress/mean"] == 0.0
    assert {text.rpartition("<think>\n")[2] for text in scripted} == {""}


def test_progress_alone_stands_for_an_outcome_reward_with_token_progress(tmp_path, tokenizer):
    trainer = build(tmp_path, tokenizer, [mrt_progress], mrt={})
    assert trainer.credit.name == "dense"
    assert trainer.reward_func_names == ["mrt_accuracy"]


@pytest.mark.parametrize(("rewards", "starts"), [([mrt_accuracy], 1), ([mrt_accuracy, mrt_progress], 1), ([len], 0)])
def test_the_graders_start_before_the_first_rollouts(tmp_path, tokenizer, monkeypatch, rewards, starts):
    started = []
    monkeypatch.setattr("mrt_plugin.trainer.warm_up", lambda: started.append(1))
    build(tmp_path, tokenizer, rewards)
    assert len(started) == starts


def test_explicit_weights_keep_their_functions(tmp_path, tokenizer):
    def other(completions, **kwargs):
        return [0.0] * len(completions)

    mrt = {"mrt_credit": "mixed", "mrt_prefix": "online", "mrt_alpha": 0.4}
    trainer = build(tmp_path, tokenizer, [mrt_progress, mrt_accuracy, other], mrt=mrt, reward_weights=[1.0, 2.0, 3.0])
    assert trainer.reward_func_names == ["mrt_accuracy", "other", "mrt_progress"]
    assert trainer.reward_weights.tolist() == pytest.approx([2.0, 3.0, 0.4])


def test_a_scalar_that_would_cancel_is_warned_about(tmp_path, tokenizer, caplog):
    build(tmp_path, tokenizer, [mrt_accuracy, mrt_progress], mrt={"mrt_credit": "none"})
    assert "group normalisation cancels it" in caplog.text


NEW_COMBINATIONS = [  # of fields that trl 0.18 does not have
    ({"mrt_credit": "dense"}, {"importance_sampling_level": "sequence"}, "importance_sampling_level"),
    ({"mrt_credit": "dense"}, {"loss_type": "vespo"}, "vespo"),
    ({"mrt_credit": "dense"}, {"off_policy_mask_threshold": 0.1}, "off_policy_mask_threshold"),
    (
        {"mrt_credit": "mixed", "mrt_prefix": "online"},
        {"multi_objective_aggregation": "normalize_then_sum"},
        "multi_objective_aggregation",
    ),
]
OLD_COMBINATIONS = [
    ({"mrt_credit": "dense"}, {"use_liger_loss": True}, "use_liger_loss"),
    (
        {"mrt_credit": "termination", "mrt_prefix": "online"},
        {"use_vllm": True, "vllm_mode": "server"},
        "vllm_mode: colocate",
    ),
    (
        {"mrt_credit": "dense", "mrt_prefix": "online"},
        {"use_vllm": True, "vllm_mode": "colocate", "vllm_tensor_parallel_size": 2},
        "vllm_tensor_parallel_size: 1",
    ),
]


def test_data_smaller_than_a_step_is_refused_which_upstream_would_train_nothing_on():
    args = MRTConfig("out", use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=2)
    rows = Dataset.from_list([{"prompt": "Find x.", "solution": "5"}] * 3)
    with pytest.raises(ValueError, match="has 3 problems, fewer than the 4 that one step takes"):
        resolve([mrt_accuracy], args, {"train_dataset": rows})


@pytest.mark.parametrize(
    ("mrt", "settings", "match"),
    [
        ({"mrt_credit": "mixed"}, {}, "mixed on bare problems"),
        ({"mrt_credit": "termination"}, {}, "termination on bare problems"),
        (
            {"mrt_credit": "mixed", "mrt_prefix": "online"},
            {"num_generations": 3, "per_device_train_batch_size": 3},
            "num_generations: 3 is odd",
        ),
        (
            {"mrt_credit": "mixed", "mrt_prefix": "online"},
            {"use_vllm": True, "vllm_mode": "server"},
            "vllm_mode: server sends one",
        ),
        ({"mrt_credit": "none", "mrt_prefix": "online"}, {}, "mrt_prefix: online needs an mrt_credit"),
        (
            {"mrt_credit": "mixed", "mrt_prefix": "dataset"},
            {},
            "has no column 'prefix' and no 'prefix_success'",
        ),
        ({"mrt_credit": "dense", "mrt_regret_steps": 1}, {}, "mrt_regret_steps needs held-out problems"),
        ({"mrt_credit": "dense"}, {"ds3_gather_for_generation": False}, "ds3_gather_for_generation"),
        ({"mrt_credit": "dense", "mrt_prefix": "online"}, {"top_k": 20}, "top_k"),
        (
            {"mrt_credit": "termination", "mrt_prefix": "online"},
            {"reward_weights": [0.5]},
            "outcome alone, with weight 1",
        ),
        *(NEW_COMBINATIONS if TRL_1 else OLD_COMBINATIONS),
    ],
)
def test_impossible_combinations_are_refused(tmp_path, tokenizer, mrt, settings, match):
    with pytest.raises(ValueError, match=match):
        build(tmp_path, tokenizer, mrt=mrt, **settings)


def test_a_likelihood_that_cannot_be_read_off_is_refused(tmp_path, tokenizer, model):
    args = config(tmp_path, mrt_credit="dense", mrt_estimator="likelihood", mrt_termination="explain")
    with pytest.raises(ValueError, match="mrt_termination: answer"):
        MRTTrainer(model, [mrt_accuracy], args, train_dataset=dataset())


def test_termination_takes_the_outcome_alone(tmp_path, tokenizer):
    def other(completions, **kwargs):
        return [1.0] * len(completions)

    with pytest.raises(ValueError, match="outcome alone"):
        build(tmp_path, tokenizer, [mrt_accuracy, other], mrt={"mrt_credit": "termination", "mrt_prefix": "online"})


def test_a_bad_termination_is_refused_before_regret_needs_it(tmp_path, tokenizer, model):
    args = config(tmp_path, mrt_credit="none", mrt_regret_steps=50, mrt_termination="anwser")
    with pytest.raises(ValueError, match="mrt_termination"):
        MRTTrainer(model, [mrt_accuracy], args, train_dataset=dataset())


def test_a_missing_solution_column_is_named(tmp_path, tokenizer):
    data = dataset().remove_columns("solution")
    with pytest.raises(ValueError, match="has no column 'solution', which"):
        build(tmp_path, tokenizer, data=data, mrt={"mrt_credit": "dense"})


@pytest.mark.skipif(not TRL_1, reason="trl 0.18 has no rollout_func")
def test_plain_grpo_keeps_what_credit_cannot_cut(tmp_path, tokenizer, model):
    def rollout(prompts, trainer):
        return {"prompt_ids": [[5]] * 4, "completion_ids": [[6, 7]] * 4, "logprobs": [[-1.0, -1.0]] * 4}

    settings = {"train_dataset": dataset(), "processing_class": tokenizer, "rollout_func": rollout}
    trainer = MRTTrainer(model, [mrt_accuracy], config(tmp_path, max_steps=1), **settings)
    trainer.train()
    assert trainer.state.log_history[0]["completions/mean_length"] == 2


def test_prompts_with_images_are_refused(tmp_path, tokenizer, scripted, monkeypatch):
    base = mrt_plugin.trainer.GRPOTrainer
    monkeypatch.setattr(base, "_tokenize_prompts", lambda self, prompts: ([[5]] * len(prompts), ["image"], {}))
    with pytest.raises(ValueError, match="mrt_credit: dense measures J on text alone, and these prompts have images"):
        step_inputs(build(tmp_path, tokenizer, mrt={"mrt_credit": "dense"}))
    assert build(tmp_path, tokenizer)._tokenize_prompts([[]])[1] == ["image"]  # plain GRPO takes them


@pytest.mark.skipif(TRL_1, reason="trl 1.x divides by the rows of all ranks")
def test_the_share_of_cut_completions_is_that_of_all_ranks(tmp_path, tokenizer, scripted, monkeypatch):
    trainer = build(tmp_path, tokenizer)
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", lambda self, inputs: shares.append(-6.0))
    shares = trainer._metrics["train"]["completions/clipped_ratio"]
    trainer.model.train()
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 8)
    trainer._generate_and_score_completions(list(dataset()))
    assert shares == [1 - 7 / 8]


def test_tools_are_refused(tmp_path, tokenizer, model):
    with pytest.raises(ValueError, match="tools"):
        MRTTrainer(
            model,
            [mrt_accuracy],
            config(tmp_path, mrt_credit="dense"),
            train_dataset=dataset(),
            tools=[print],
        )
