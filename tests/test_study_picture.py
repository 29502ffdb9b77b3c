"""The picture of the method, from rollouts made by hand."""

import xml.etree.ElementTree as ElementTree

import pytest
from test_view import FIRST, IDLE, SECOND, rollout, stored

from study import picture


THINKING = FIRST + SECOND + IDLE


def test_it_draws_the_rollout_with_the_greatest_loss(tmp_path):
    rows = [
        rollout(THINKING, [0.0, 0.9, 0.4, 0.4], [0, 20, 40, 70]),
        rollout(THINKING, [0.0, 0.9, 0.2, 0.2], [0, 20, 40, 70], stream=1),
        rollout(THINKING, [0.0, 0.9, 0.1, 0.1], [0, 20, 40, 300], stream=2),  # too long
        rollout(THINKING, [0.0, 0.9, 0.0, 0.0], [0, 20, 40, 70], stream=3, right=False),
    ]
    run = stored(tmp_path / "run", rows, max_completion_length=400)
    picture.main([str(run), "--output", str(tmp_path / "figures")])
    for name in ("light", "dark"):
        svg = ElementTree.parse(tmp_path / "figures" / f"method-{name}.svg").getroot()
        texts = " | ".join(svg.itertext())
        for said in (
            "Find p.",
            "+0.90 gain",
            "−0.70 loss",
            "±0.00 idle",
            "Wait, try x = 5.",
            "3 of 4 rollouts of this problem are right",
        ):
            assert said in texts, said
        assert "so each token gets the same 0.25" in texts  # 1 less the mean of the group
    assert (tmp_path / "figures" / "method-light.svg").read_text().count("<path") == 2  # credit above and below 0


def test_a_run_without_such_a_rollout_is_named(tmp_path):
    run = stored(tmp_path / "run", [rollout(FIRST, [0.0, 1.0], [0, 20])])
    with pytest.raises(ValueError, match="run has no rollout .* with a gain, a loss and an idle episode"):
        picture.main([str(run), "--output", str(tmp_path)])
