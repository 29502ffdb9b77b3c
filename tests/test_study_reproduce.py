"""The study's runner, its plan, and what it keeps of a training."""

import json
from dataclasses import asdict
from itertools import product

import pytest

from mrt_plugin.engines.sampling import Completion
from study import count_tokens, measure, plan, reproduce, train
from study.plan import HARD, MAIN, UNEVEN
from study.rewards import within
from study.settings import TASKS, Setting


def record(setting, regret, drawn=1000):
    held_out = {"regret": {str(TASKS[setting.task].budget): regret}, "accuracy": 1 - regret}
    return asdict(setting) | {
        "validation": held_out,
        "curve": {"drawn": [10, drawn], "scored": [0, 0], "regret": [2.0]},
    }


def swept(best):
    """Records of the search, in which each method does best at one rate, with cosine decay."""
    found = []
    for method in MAIN:
        regrets = {}
        while more := [one for one in plan.grid(HARD, method, {}, regrets) if one not in regrets]:
            rate, schedule = more[0]
            regrets[more[0]] = abs(rate - best[method]) + (schedule == "constant")
            found.append(record(Setting(HARD, method, rate, schedule, 0, 100), regrets[more[0]]))
    return found


def test_rates_rise_until_one_does_worse_and_the_best_two_are_tried_with_decay():
    low, middle, high = ((rate, "constant") for rate in plan.RATES)
    assert plan.searched({}) == [low]
    assert plan.searched({low: 0.2}) == [low, middle]
    worse = plan.searched({low: 0.2, middle: 0.3})
    assert worse == [low, middle, (4e-4, "cosine"), (8e-4, "cosine")]
    assert plan.searched({low: 0.2, middle: 0.1}) == [low, middle, high]
    edge = plan.searched({low: 0.2, middle: 0.1, high: 0.3})
    assert edge == [low, middle, high, (8e-4, "cosine"), (4e-4, "cosine")]


def test_seeds_follow_when_the_search_of_their_method_is_done():
    assert {setting.seed for setting in plan.plan([]) if setting.task.startswith("revise")} == {0}
    best = dict(zip(MAIN, (8e-4, 4e-4, 1.6e-3), strict=True))
    some = [one for one in swept(best) if one["method"] != "GRPO" or one["schedule"] == "constant"]
    known = [one for one in plan.plan(some) if one.seed and one.task == HARD and one.method in MAIN]
    assert {one.method for one in known} == {"MRT dense", "length penalty"}
    listed, count = list(plan.plan(swept(best))), len(swept(best))
    assert len(listed) == len(set(listed))
    assert listed[count : count + 3] == [Setting(HARD, method, best[method], "cosine", 1, 100) for method in MAIN]
    shuffled = [one for one in listed if one.method == "progress shuffled"]
    assert shuffled == [Setting(HARD, "progress shuffled", 4e-4, "cosine", seed, 100) for seed in (1, 2, 3)]
    uneven = [one for one in listed if one.task == UNEVEN]
    assert [(one.learning_rate, one.seed) for one in uneven[:2]] == [(8e-4, 0), (4e-4, 0)]
    assert {one.seed for one in uneven} == {0}  # none has its rate yet


def test_a_task_takes_the_better_of_two_rates():
    found = swept(dict.fromkeys(MAIN, 8e-4))
    found += [record(Setting(UNEVEN, "GRPO", rate, "cosine", 0, 100), rate) for rate in (8e-4, 4e-4)]
    assert plan.choices(found)[UNEVEN, "GRPO"] == (4e-4, "cosine")
    assert (UNEVEN, "MRT dense") not in plan.choices(found)


def test_what_collapses_with_any_seed_is_no_choice():
    found = swept(dict.fromkeys(MAIN, 8e-4))
    assert plan.choices(found)[HARD, "GRPO"] == (8e-4, "cosine")
    found.append(record(Setting(HARD, "GRPO", 8e-4, "cosine", 2, 100), regret=2.5))
    assert plan.choices(found)[HARD, "GRPO"] == (4e-4, "cosine")
    assert plan.choices(found)[HARD, "MRT dense"] == (8e-4, "cosine")


def test_updates_at_equal_tokens_are_those_that_mrts_tokens_buy():
    found = swept(dict.fromkeys(MAIN, 8e-4))
    drawn = dict(zip(MAIN, (1000, 1493, 2000), strict=True))
    reported = [Setting(HARD, method, 8e-4, "cosine", seed, 100) for method in MAIN for seed in range(1, 6)]
    found += [record(setting, 0.1, drawn[setting.method]) for setting in reported]
    more = [one for one in plan.plan(found) if one.task == HARD and one.steps != 100]
    assert {(one.method, one.steps) for one in more} == {("GRPO", 150)}  # the penalty took more than MRT
    assert len(more) == 5
    assert not [one for one in plan.plan(found[:-1]) if one.task == HARD and one.steps != 100]


@pytest.fixture
def start(tmp_path, monkeypatch):
    folder = tmp_path / "starts" / "search"
    (folder / "warm-start").mkdir(parents=True)
    (folder / "warm-start" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(reproduce, "train", lambda *given: {})
    monkeypatch.setattr(reproduce, "measurements", lambda *given: {"validation": {"regret": {"160": 0.5}}})
    return folder


def test_a_training_that_is_recorded_or_claimed_is_not_made_again(tmp_path, monkeypatch, start):
    setting = Setting("search", "GRPO", 1e-4, "constant", 1, 150)
    monkeypatch.setattr(reproduce, "short", lambda: [setting])
    work, records = tmp_path / "work", tmp_path / "records"
    (work / setting.name).mkdir(parents=True)  # of a process that was stopped
    with reproduce.claim(setting.name, work) as mine:
        assert mine
        assert not reproduce.attempt(setting.name, setting, work, records, start.parent)
    reproduce.work(work, records, start.parent, fast=True)
    assert [one["method"] for one in reproduce.read(records)] == ["GRPO", "warm start"]
    monkeypatch.setattr(reproduce, "train", lambda *given: pytest.fail("trained again"))
    reproduce.work(work, records, start.parent, fast=True)
    assert len(reproduce.trainings(records, start.parent)) == 1
    (start / "warm-start" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="is of another warm start"):
        reproduce.trainings(records, start.parent)


def test_the_short_run_has_the_rates_that_the_study_chose():
    chosen = plan.choices(reproduce.trainings(reproduce.RECORDS))
    settings = reproduce.short()
    assert {(one.method, one.seed) for one in settings} == set(product(MAIN, (1, 2)))
    assert all((one.learning_rate, one.schedule) == chosen[HARD, one.method] for one in settings)


def test_a_training_that_fails_does_not_keep_others_from_theirs(tmp_path, monkeypatch, start):
    settings = [Setting("search", "GRPO", rate, "constant", 1, 150) for rate in (1.0, 1e-4)]
    monkeypatch.setattr(reproduce, "short", lambda: settings)
    monkeypatch.setattr(reproduce, "train", lambda setting, *_: measure.call(tmp_path / "log", "-c", "1 / 0") or {})
    monkeypatch.setattr(reproduce, "WAIT", 0)
    with pytest.raises(SystemExit, match=settings[0].name):
        reproduce.work(tmp_path / "work", tmp_path / "records", start.parent, fast=True)
    assert [one["method"] for one in reproduce.read(tmp_path / "records")] == ["warm start"]


def test_a_failing_run_says_where_its_log_is(tmp_path):
    with pytest.raises(RuntimeError, match=r"failed; see .*log:\n(?s:.*)ModuleNotFoundError"):
        measure.call(tmp_path / "log", "-c", "import no_such_module")


def test_the_history_of_a_training_counts_tokens_of_branches_and_prefixes(tmp_path):
    held_out = {"eval_rewards/mrt_accuracy/mean": 0.5, "eval_completions/mean_length": 80.0}
    written = {"completions/mean_length": 100.0, "completions/clipped_ratio": 0.25, "mrt/episodes_mean": 3.5}
    log = [
        {"step": 5, **written, "frac_reward_zero_std": 0.5, "mrt/branch_tokens": 600.0, "mrt/prefix_tokens": 1000.0},
        {"step": 5, **held_out, "eval_rewards/within_quarter/mean": 0.25},
        {"step": 10, **written, "completions/mean_length": 50.0},
        {"step": 10, **held_out},
        {"step": 10, "train_runtime": 3.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert train.history(tmp_path, drawn=False)["curve"] == {
        "updates": [5, 10],
        "drawn": [5 * 7400, 5 * 10600],
        "scored": [3000, 3000],
        "silent": [0.5],
        "cut": [0.25, 0.25],
        "length": [100.0, 50.0],
        "episodes": [3.5, 3.5],
        "accuracy": [0.5, 0.5],
        "within_quarter": [0.25],
        "tokens": [80.0, 80.0],
    }
    assert train.history(tmp_path, drawn=True)["curve"]["drawn"] == [5 * 8000, 5 * 11200]


def test_what_is_within_a_quarter_is_right_and_short():
    texts = ["Hm.\n</think>\n\\boxed{5}", "Hm.\n</think>\n\\boxed{5}", "Hm.\n</think>\n\\boxed{4}"]
    rewards = within(20)(completions=texts, completion_ids=[[1] * 20, [1] * 21, [1]], solution=["5"] * 3)
    assert rewards == [1.0, 0.0, 0.0]


def test_tokens_of_a_builder_are_those_of_all_its_calls(tmp_path):
    class Sampler:
        def sample(self, prompts, n, settings):
            return [[Completion([7] * len(prompt), True)] * n if prompt else None for prompt in prompts]

    sampler = count_tokens.counting(Sampler(), tmp_path / "tokens")
    assert sampler.sample([[1], [1, 2], []], 2, None)[1:] == [[Completion([7, 7], True)] * 2, None]
    sampler.sample([[1, 2, 3]], 1, None)
    assert (tmp_path / "tokens").read_text() == "9"


def test_a_row_is_solved_where_nothing_is_left_to_guess():
    def share(solution, *paragraphs):
        text = "\n\n".join(paragraphs) + "\n</think>\n\n**Final Answer**\n\n\\boxed{" + solution + "}"
        return measure.solved([{"messages": [{"content": "?"}, {"content": text}], "solution": solution}])

    assert share("5", "Let me try x=5.", "3*5=1.", "1+4=5, 5+2=0 (yes).") == 1
    assert share("5", "Let me try x=4.", "3*4=5.", "5+4=2, 2+2=4 (no).") == 0
    assert share("12", "So A: 1.", "So B: 2.") == share("12", "So A: 2.", "So B: 2.", "So A: 1.") == 1
    assert share("12", "So A: 1.", "So A: 1.") == share("12", "") == 0
