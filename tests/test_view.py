"""`mrt view`: what the page says of stored rollouts, and what a training keeps for it. Its looks: tests/browser."""

import gzip
import json
import re
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pytest
from test_trainer import FIRST, IDLE, ROWS, SECOND, SUCCESS, build, dataset, scripted, step_inputs  # noqa: F401

from mrt_plugin.analysis import view
from mrt_plugin.analysis.runs import SCHEMA
from mrt_plugin.arguments import MetaProverArguments
from mrt_plugin.jobs.store import RowStore


HOSTILE = "</script><script>alert(1)</script>&amp; 𝑥 日本 {{ body }} <!--\n\n"
CLOSE = "</think>\n\n\\boxed{5}"
SETTINGS = {
    "dataset_name": "problems",
    "max_completion_length": 100,
    "attempts": 1,
    "regret": True,
    "extensions": 0,
    "extension_tokens": 1,
    "model_name_or_path": "nowhere",
} | {
    name: getattr(MetaProverArguments(), name) for name in ("mrt_cues", "mrt_episodes", "mrt_samples", "mrt_estimator")
}


def rollout(thinking, success, ends, answer=5, problem="p", **columns):
    row = dict.fromkeys(SCHEMA.names) | {"problem_id": problem, "problem": f"Find {problem}.", "solution": "5"}
    row |= {
        "completion": thinking + CLOSE,
        "tokens": ends[-1] + 10,
        "right": True,
        "ended": True,
        "stream": 0,
        "attempt": 0,
    }
    row |= {"success_probability": success, "prefix_tokens": [float(end + answer) for end in ends]}
    return row | {"answer_tokens": [float(answer)] * len(ends), "prefix_votes": []} | columns


def stored(folder, rows, **settings):
    with RowStore(folder, SCHEMA, SETTINGS | settings) as store:
        store.write(rows, {row["problem_id"]: None for row in rows})
    return folder


def data_of(page):
    """What the page holds, as its script unpacks it."""
    blocks = re.findall(r'<script type="text/plain" id="([\w-]+)">([\w+/=]*)</script>', page)
    return {name: json.loads(gzip.decompress(b64decode(text))) for name, text in blocks}


@pytest.fixture
def measured(tmp_path):
    """An evaluation of two problems: four rollouts that gain, lose, idle, and whose J is not known."""
    hostile = HOSTILE + "b\n\nc\n\n"
    rows = [
        rollout(FIRST + SECOND + IDLE, [0.0, 0.5, 0.25, 0.25], [0, 20, 40, 70]),
        rollout(hostile + SECOND, [0.0, np.nan, 1.0], [0, 30, 50], stream=1, right=False),
        rollout(FIRST, [0.5, 1.0], [0, 40], problem=HOSTILE),
        rollout("", [0.5], [0], problem=HOSTILE, stream=1, answer=0),
    ]
    return stored(tmp_path / "run", rows)


def test_the_page_says_what_was_stored(measured, tmp_path, capsys):
    view.run([str(measured), "--output", str(tmp_path / "pages" / "view.html")])
    page = (tmp_path / "pages" / "view.html").read_text()
    assert "open it in a browser" in capsys.readouterr().out
    data = data_of(page)
    assert data["data"]["budgets"] == [25, 50, 75, 100]
    by_problem = {problem["text"]: number for number, problem in enumerate(data["data"]["problems"])}
    number = by_problem["Find p."]
    [[first, second]] = data["data"]["problems"][number]["runs"]
    assert (first["J"], first["ends"], first["spent"]) == ([0, 0.5, 0.25, 0.25], [0, 20, 40, 70], [5, 25, 45, 75])
    assert (first["idle"], first["lost"], first["tokens"], first["reward"]) == (30, 0.25, 80, 1)
    # By hand: J rises from 0 at 5 tokens to 0.5 at 25.
    assert first["regret"][0] == pytest.approx(1 - (20 * 0.5 / 2) / 25)
    assert (second["J"], second["idle"], second["lost"], second["reward"]) == ([0, None, 1], 0, 0, 0)
    [[one, other]] = data[f"texts-{number}"]
    assert one["pieces"] == ["", FIRST, SECOND, IDLE, CLOSE]
    assert other["pieces"] == ["", HOSTILE + "b\n\nc\n\n", SECOND, CLOSE]
    assert data[f"texts-{by_problem[f'Find {HOSTILE}.']}"][0][1]["pieces"] == ["", CLOSE]  # does not think


def test_credit_is_that_of_dense_with_the_runs_mean_episode(measured):
    [[one, other]] = data_of(view.page(view.load([measured])))["texts-0"]
    lengths = [20, 20, 30, 30, 20, 40]
    [expected] = view.token_progress([[0, 20, 40, 70]], [np.array([0, 0.5, 0.25, 0.25])], 80, np.mean(lengths))
    credit = [steps for count, steps in one["credit"] for _ in range(count)]
    assert np.array(credit) * view.STEP == pytest.approx(expected, abs=view.STEP * 0.51)
    # By hand: a mean episode has 26.7 tokens, so the second episode, which ends at 40, pays from token 14 on.
    assert np.array(credit)[[0, 13, 14, 20]] * view.STEP == pytest.approx([0.5, 0.5, 0.25, -0.25], abs=view.STEP)
    assert sum(count for count, _ in other["credit"]) == 60


def test_nothing_that_a_model_writes_ends_the_data_or_is_fetched(measured):
    page = view.page(view.load([measured]))
    assert "alert(1)" not in page
    assert page.count("<script") == page.count("</script>") == 4  # the numbers, two problems, and what draws them
    assert "default-src 'none'" in page
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {"https://arxiv.org/abs/2503.07572"}
    assert "{{" not in re.sub(r"<script.*</script>", "", page, flags=re.S)


def test_runs_are_shown_beside_each_other(measured, tmp_path):
    rows = [rollout(FIRST, [0.0, 1.0], [0, 20], problem=problem) for problem in ("p", HOSTILE)]
    other = stored(tmp_path / "other", rows)
    data = data_of(view.page(view.load([measured, other])))
    assert [run["name"] for run in data["data"]["runs"]] == ["run", "other"]
    assert [[len(group) for group in problem["runs"]] for problem in data["data"]["problems"]] == [[2, 1], [2, 1]]
    stored(tmp_path / "less", [rollout(FIRST, [0.0, 1.0], [0, 20])])
    with pytest.raises(ValueError, match="less lacks 1 of the 2 problems of run"):
        view.load([measured, tmp_path / "less"])


def test_a_rollout_that_nobody_judged_and_one_that_does_not_think():
    row = rollout("", [0.5], [4]) | {"reward": np.nan, "tokens": 1}
    shown = view._numbers(row, [10])
    assert (shown["reward"], shown["ends"]) == (None, [1])


def test_what_cannot_be_shown_is_named(measured, tmp_path):
    with pytest.raises(ValueError, match="nothing holds no rollouts"):
        view.load([tmp_path / "nothing"])
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match="training is a training that kept no rollouts"):
        view.load([tmp_path / "training"])
    plain = stored(tmp_path / "plain", [rollout(FIRST, [0.0, 1.0], [0, 20])], regret=False)
    with pytest.raises(ValueError, match="plain has no success probabilities. Measure it with regret: true"):
        view.load([plain])
    cut_otherwise = stored(tmp_path / "old", [rollout(FIRST, [0.0, 0.5, 1.0], [0, 20, 30])])
    with pytest.raises(ValueError, match="measured after 2 episodes, and has 1 now"):
        view.page(view.load([cut_otherwise]))


# What a training keeps.


def test_a_training_keeps_j_and_the_advantage_of_each_token(tmp_path, tokenizer, scripted):  # noqa: F811
    mrt = {"mrt_credit": "dense", "mrt_keep_rollouts": 3}
    trainer = build(tmp_path, tokenizer, mrt=mrt, max_completion_length=60, max_steps=3, logging_steps=2)
    trainer.train()
    [run] = view.load([tmp_path])
    assert run.trained
    assert list(run.problems) == ["step 2: Find x.", "step 3: Find x."]  # logged, and the last one
    rows = run.problems["step 2: Find x."]
    assert [row["completion"] for row in rows] == [thinking + answer for thinking, answer, *_ in ROWS[:3]]
    assert [(row["reward"], row["ended"]) for row in rows[:2]] == [(1.0, True), (0.0, True)]
    assert [row["success_probability"] for row in rows] == [list(SUCCESS.values())[:n] for n in (3, 4, 2)]
    assert view.pieces(rows[1], run.settings) == ["", FIRST, SECOND, IDLE, ROWS[1][1]]
    ends = [len(tokenizer(text)["input_ids"]) for text in ("", FIRST, FIRST + SECOND)]
    assert view.episode_ends(rows[0]) == ends
    batch = step_inputs(trainer)
    for row, advantages in zip(rows, batch["advantages"], strict=False):
        assert row["advantages"] == pytest.approx(advantages[: row["tokens"]].tolist())
        assert len(row["advantages"]) == row["tokens"]
    assert data_of(view.page([run]))["data"]["problems"][1]["step"] == 3


def test_what_is_before_a_tag_that_the_model_wrote_is_no_episode(tokenizer):
    before, thinking, after = "Okay.\n\n<think>\n", "Hm.\n\na\n\nWait, b\n\nc\n", "</think>\n\n5"
    spent = [len(tokenizer(text)["input_ids"]) for text in (before, before + thinking, before + thinking + after)]
    row = {"completion": before + thinking + after, "success_probability": [0.5, 1.0], "answer_tokens": [0, 0]}
    row |= {"prefix_tokens": spent[:2], "tokens": spent[2]}
    assert view.pieces(row, {"mrt_episodes": 6, "mrt_cues": ["Wait"]}) == [before, thinking, after]


def test_a_completion_that_does_not_think_is_kept_too(tmp_path, tokenizer, scripted):  # noqa: F811
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "dense", "mrt_keep_rollouts": 9}, max_steps=1)
    trainer.train()
    rows = view.load([tmp_path])[0].problems["step 1: Find x."]
    assert len(rows) == 4
    assert view.pieces(rows[3], {}) == ["", ROWS[3][1]]
    assert len(data_of(view.page(view.load([tmp_path])))["texts-0"][0]) == 4


def test_a_training_without_the_wish_keeps_nothing(tmp_path, tokenizer, scripted):  # noqa: F811
    build(tmp_path, tokenizer, mrt={"mrt_credit": "dense"}, max_steps=1).train()
    assert not (tmp_path / "rollouts").exists()
    with pytest.raises(ValueError, match="mrt_keep_rollouts .* mrt_credit: none does not measure"):
        build(tmp_path, tokenizer, mrt={"mrt_credit": "none", "mrt_keep_rollouts": 1})
    with pytest.raises(ValueError, match="mrt_keep_rollouts must not be negative"):
        build(tmp_path, tokenizer, mrt={"mrt_credit": "dense", "mrt_keep_rollouts": -1})


def test_trainings_show_the_problems_that_they_share(tmp_path, tokenizer, scripted, measured):  # noqa: F811
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, steps in zip(folders, (1, 2), strict=True):
        mrt = {"mrt_credit": "dense", "mrt_keep_rollouts": 4}
        build(folder, tokenizer, mrt=mrt, data=dataset(rows=8), max_steps=steps).train()
    assert [list(run.problems) for run in view.load(folders)] == [["step 1: Find x."]] * 2
    with pytest.raises(ValueError, match="run is no training that kept rollouts"):
        view.load([folders[0], measured])


def test_the_command_runs_as_users_type_it(measured, tmp_path):
    command = [sys.executable, "-m", "mrt_plugin.cli", "view", str(measured)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert len(data_of((tmp_path / "view.html").read_text())) == 3
