"""A training that turns bad late is reported once, with the checkpoint to go back to."""

import logging
import math
from types import SimpleNamespace

import pytest

from mrt_plugin.callback import MRTCallback
from mrt_plugin.collapse import best_checkpoint, grown_share


def entries(name, *values):
    return [{"step": 10 * count, name: value} for count, value in enumerate(values, 1)]


@pytest.mark.parametrize("name", ["completions/clipped_ratio", "mrt/without_episodes"])
def test_a_share_is_reported_that_has_grown_twice_in_a_row(name):
    assert "from 0.10 at step 20 to 0.60 at step 40" in grown_share(entries(name, 0.5, 0.1, 0.5, 0.6))


@pytest.mark.parametrize(
    "values",
    [
        (0.9, 0.8, 0.6, 0.3),  # it falls
        (0.1, 0.1, 0.1, 0.9),  # once may be noise
        (0.1, 0.2, 0.3, 0.35),  # little
        (0.5, 0.9),  # too short a log
        (),
    ],
)
def test_what_is_no_collapse_is_not_reported(values):
    assert grown_share(entries("completions/clipped_ratio", *values)) is None


def test_the_best_checkpoint_is_judged_by_regret_where_it_is_measured():
    log = entries("reward", 0.1, 0.9, 0.2) + [{"step": 10, "mrt/regret": 0.3}, {"step": 30, "mrt/regret": 0.2}]
    assert best_checkpoint(log, [10, 20, 30]) == (30, "mrt/regret")
    assert best_checkpoint(entries("reward", 0.1, 0.9, 0.2), [10, 20, 30]) == (20, "reward")
    assert best_checkpoint(log + [{"step": 40, "mrt/regret": math.nan}], [30, 40]) == (30, "mrt/regret")
    assert best_checkpoint([{"step": 10, "mrt/regret": math.nan, "reward": 0.5}], [10]) == (10, "reward")
    assert best_checkpoint(log, []) is None
    assert best_checkpoint(log, [5]) is None  # saved before anything was logged


def test_a_run_is_warned_once(tmp_path, caplog):
    for step in (10, 20, "best"):
        (tmp_path / f"checkpoint-{step}").mkdir()
    log = entries("completions/clipped_ratio", 0.1, 0.2, 0.8, 0.9) + entries("reward", 0.5, 0.7, None, 0.1)
    callback = MRTCallback()
    trainer = SimpleNamespace(eval_dataset=None, mrt_args=SimpleNamespace(mrt_regret_steps=0), kept_rollouts=[])
    callback.bind(trainer)
    state = SimpleNamespace(log_history=log, is_world_process_zero=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            callback.on_log(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert caplog.text.count("may be collapsing") == 1
    assert "The best checkpoint by reward is that of step 20." in caplog.text
