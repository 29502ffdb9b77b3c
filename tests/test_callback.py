import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_trainer import FIRST, SUCCESS, build, dataset, scripted  # noqa: F401

from mrt_plugin.arguments import MRTArguments
from mrt_plugin.callback import MRTCallback, step_metrics
from mrt_plugin.engines.sampling import SamplingSettings
from mrt_plugin.meta_prover import Measurement
from mrt_plugin.progress import normalized_regret
from mrt_plugin.rollouts import Rollout


def measurement(*values, tokens=10, timeouts=0):
    return Measurement(np.array(values), np.full(len(values), 3.0), tokens=tokens, timeouts=timeouts)


def test_metrics_of_traces():
    metrics = step_metrics([measurement(0.0, 0.5, 1.0), measurement(0.5, 0.25, timeouts=2)], seconds=1.5)
    assert metrics == {
        "mrt/progress_mean": pytest.approx((0.5 + 0.5 - 0.25) / 3),
        "mrt/episodes_mean": 1.5,
        "mrt/branch_tokens": 20,
        "mrt/branch_seconds": 1.5,
        "mrt/grader_timeouts": 2,
        "mrt/unanswered_prefixes": 0,
        "mrt/success_probability/episode_0": 0.25,
        "mrt/success_probability/episode_1": 0.375,
        "mrt/success_probability/episode_2": 1.0,
    }


def test_metrics_of_prefixes_and_of_nothing():
    assert step_metrics([measurement(0.5), measurement(1.0)], 1.0)["mrt/prefix_success"] == 0.75
    assert math.isnan(step_metrics([], 1.0)["mrt/prefix_success"])


def test_unknown_success_is_left_out():
    metrics = step_metrics([measurement(np.nan, np.nan), measurement(0.5, 1.0)], 1.0)
    assert metrics["mrt/progress_mean"] == 0.5


def test_regret_is_logged_every_so_many_steps(tmp_path, tokenizer, monkeypatch, scripted):  # noqa: F811
    import mrt_plugin.callback

    monkeypatch.setattr(mrt_plugin.callback, "PolicySampler", mrt_plugin.engines.rollouts.PolicySampler)
    mrt = {"mrt_credit": "dense", "mrt_regret_steps": 2, "mrt_regret_problems": 3}
    trainer = build(tmp_path, tokenizer, data=dataset(rows=8), eval_data=dataset(rows=5), mrt=mrt, max_steps=4)
    trainer.train()
    logged = {entry["step"]: entry["mrt/regret"] for entry in trainer.state.log_history if "mrt/regret" in entry}
    # The scripted policy always writes FIRST, SECOND and IDLE; its answers are two tokens long.
    ends = [len(tokenizer(prefix)["input_ids"]) + len(tokenizer("5}")["input_ids"]) for prefix in SUCCESS]
    expected = normalized_regret(list(SUCCESS.values()), ends, trainer.args.max_completion_length)
    assert logged == {2: pytest.approx(expected), 4: pytest.approx(expected)}


def test_each_rank_measures_its_share_of_the_problems(tmp_path, tokenizer, monkeypatch):
    mrt = {"mrt_credit": "dense", "mrt_regret_steps": 1, "mrt_regret_problems": 4}
    trainer = build(tmp_path, tokenizer, eval_data=dataset(rows=5), mrt=mrt, temperature=0.8, top_p=0.9)
    monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self: 1))
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", property(lambda self: 2))

    def fake_roll_out(meta_prover, prompts, solutions, settings, episodes, cues):
        assert settings == SamplingSettings(40, 0.8, 0.9, seed=trainer.args.seed)
        return [Rollout(index, [1.0], [1.0]) for index in range(len(prompts))]

    gathered = []
    monkeypatch.setattr("mrt_plugin.callback.roll_out", fake_roll_out)
    monkeypatch.setattr("mrt_plugin.callback.gather_object", lambda mine: gathered.extend(mine) or mine)
    next(c for c in trainer.callback_handler.callbacks if isinstance(c, MRTCallback)).measure_regret()
    assert [rollout.problem_id for rollout in gathered] == [1, 3]


def test_regret_is_unknown_where_no_gold_can_be_graded(tmp_path, tokenizer):
    mrt = {"mrt_credit": "dense", "mrt_regret_steps": 1, "mrt_regret_problems": 1}
    trainer = build(tmp_path, tokenizer, eval_data=dataset("\\text{}"), mrt=mrt)
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, MRTCallback))
    assert math.isnan(callback.measure_regret())


@pytest.mark.parametrize(
    "held_out", [dataset().to_iterable_dataset(), dataset().rename_column("prompt", "problem")], ids=["stream", "name"]
)
def test_problems_that_regret_cannot_be_measured_on_are_refused_at_once(held_out):
    trainer = SimpleNamespace(eval_dataset=held_out, mrt_args=MRTArguments(mrt_regret_steps=1))
    with pytest.raises(ValueError, match="mrt_regret_steps needs held-out problems"):
        MRTCallback().bind(trainer)


def test_measuring_regret_leaves_the_run_as_it_is(tmp_path, tokenizer):
    """With and without it, a run draws the same random numbers; the measure itself repeats with the seed."""

    def lengths(completions, **kwargs):
        return [float(len(completion[0]["content"]) % 7) for completion in completions]

    finals = []
    for steps in (0, 1):
        mrt = {"mrt_credit": "dense", "mrt_answer_tokens": 4, "mrt_regret_steps": steps, "mrt_regret_problems": 2}
        trainer = build(
            tmp_path,
            tokenizer,
            [lengths],
            eval_data=dataset(rows=2),
            mrt=mrt,
            max_completion_length=8,
            temperature=1.0,
        )
        trainer.train()
        finals.append(trainer.model.state_dict())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, MRTCallback))
    assert callback.measure_regret() == callback.measure_regret()
