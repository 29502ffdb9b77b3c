"""What `make gpu-check` does that needs no GPU."""

import subprocess
import sys

import pytest

from mrt_plugin.upstream.version import TRL_1
from tests.gpu import __main__ as gpu
from tests.gpu import attention, trainings


@pytest.mark.skipif(not TRL_1, reason="the kept warm start needs the current transformers")
def test_branches_and_gradients_are_those_of_sdpa_under_eager_attention():
    rows = {(row["attention"], row["weights"]): row for row in attention.run("cpu")}
    scores, gradient = "log-probability, nats off at most", "gradient, relative distance"
    assert all(row["shares traces"] for row in rows.values())
    assert rows["eager", "float32"][scores] < 1e-3
    assert rows["eager", "float32"][gradient] < 1e-4
    assert 0 < rows["sdpa", "bfloat16"][scores] < 1.5  # nats of a target of eight tokens
    assert 0 < rows["sdpa", "bfloat16"][gradient] < 0.2


def test_a_training_that_broke_off_has_failed_though_it_left_a_record(tmp_path):
    (tmp_path / "one.json").write_text('{"updates": 7, "right": [1], "lengths": [64], "seconds": 3}')
    (tmp_path / "one.log").write_text("Traceback\nOut of | memory\n")
    ends = {code: subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (0, 3)}
    assert trainings.outcome(tmp_path / "one.json", ends[0])["s per update"] == pytest.approx(3 / 7)
    broken = trainings.outcome(tmp_path / "one.json", ends[3])
    assert broken == {"updates": 7, "failed": "Traceback Out of / memory"}


def test_a_part_is_written_anew_and_the_others_stay():
    old = gpu.page("", {"fault": {"machine": {"card": "A"}, "rows": [{"keys": 448}]}})
    assert old.count("Not run.") == len(gpu.TEXTS) - 1
    new = gpu.page(old, {"cost": {"machine": {"card": "B"}, "rows": [{"model": "135M", "s": 1.23456}]}})
    assert new.count("Not run.") == len(gpu.TEXTS) - 2
    assert "On card A.\n\n| keys |" in new
    assert "On card B.\n\n| model | s    |" in new
    assert gpu.page(new, {}) == new
