"""A row that no reward could judge: trl 0.18 counted it as wrong."""

import pytest
import torch
from test_trainer import build, group_normalised, scripted, step_inputs  # noqa: F401
from trl import GRPOTrainer

from mrt_plugin.upstream.version import TRL_1


def judged(*rewards):
    """A reward function that gives these to the rows of a step."""

    def judge(completions, **kwargs):
        return list(rewards)

    return judge


def advantages(tmp_path, tokenizer, reward, **settings):
    return step_inputs(build(tmp_path, tokenizer, [reward], **settings))["advantages"]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize(
    ("rewards", "known"),
    [([1, None, 0, 1], [0, 2, 3]), ([None, None, 0, 1], [2, 3]), ([None, 1, None, None], [1]), ([None] * 4, [])],
)
def test_it_has_no_advantage_and_counts_for_nobody(tmp_path, tokenizer, scripted, rewards, known, scale):  # noqa: F811
    mrt = {"mrt_credit": "dense", "mrt_alpha": 0.0}
    found = advantages(tmp_path, tokenizer, judged(*rewards), mrt=mrt, scale_rewards=scale)
    expected = torch.zeros(4)
    if len(known) > 1:
        kept = [float(rewards[row]) for row in known]
        mean = sum(kept) / len(kept)
        expected[known] = torch.tensor(group_normalised(kept) if scale else [reward - mean for reward in kept])
    torch.testing.assert_close(found, expected[:, None].expand_as(found), atol=1e-5, rtol=1e-4)


def test_the_other_groups_stay_as_they_are(tmp_path, tokenizer, scripted):  # noqa: F811
    settings = {"num_generations": 2, "mrt": {"mrt_credit": "dense", "mrt_alpha": 0.0}}
    found = advantages(tmp_path, tokenizer, judged(1, None, 0, 1), **settings)
    usual = advantages(tmp_path, tokenizer, judged(1, 1, 0, 1), **settings)
    assert not found[:2].any()
    assert found[2:].tolist() == usual[2:].tolist()
    assert found[2:].any()


def test_without_credit_it_is_what_trl_makes_of_it(tmp_path, tokenizer, scripted):  # noqa: F811
    reward = judged(1, None, 0, 1)
    ours = advantages(tmp_path, tokenizer, reward, mrt={"mrt_credit": "none"})
    theirs = advantages(tmp_path, tokenizer, reward, cls=GRPOTrainer)
    assert ours.tolist() == theirs.tolist()
    assert (ours[1] == 0) == TRL_1
