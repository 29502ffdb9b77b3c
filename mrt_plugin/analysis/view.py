r"""Stored rollouts -> one page that shows what each episode of a thinking was worth, problem by problem.

    mrt view runs/evaluation/grpo runs/evaluation/mrt
    mrt view runs/mrt                                    # a training with mrt_keep_rollouts

The page needs no other file and no network. It holds the numbers of all rollouts and, compressed for each problem, the
texts, which the browser unpacks when the problem is opened. Numbers are computed here; the browser only draws them.
Left out: the thinking that budget forcing adds, whose text is not stored.
"""

import argparse
import gzip
import json
import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import fields
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arguments import MRTArguments
from ..credit import token_progress
from ..episodes import episode_spans, merge_spans, thinking_span
from ..jobs.store import read_store
from ..kept import read_kept
from ..meta_prover import ESTIMATORS
from ..mistakes import as_command
from ..progress import progress
from ..rollouts import Rollout, curve, regret_at
from .runs import SCHEMA, load_runs, run_names


IDLE = 0.04
"""An episode is idle if its absolute progress is smaller: less than one of 20 answers."""

STEP = 0.02
"""Credit is shown in multiples of it."""


class Shown(NamedTuple):
    """A run to show: its rollouts as they are stored, by problem."""

    name: str
    settings: dict
    problems: dict[str, list[dict]]
    trained: bool  # kept by a training; else measured by an evaluation


def load(folders: Sequence[str | Path]) -> list[Shown]:
    """
    Reads runs to be shown beside each other: evaluations, or trainings. Of trainings, only the problems that all of
    them met in the same step are shown.

    Raises:
        `ValueError`: If a folder has no rollouts with success probabilities, or the runs do not go together.
    """
    names, kept = run_names(folders), [read_kept(folder) for folder in folders]
    if any(rows for _, rows in kept):
        if missing := [name for name, (_, rows) in zip(names, kept, strict=True) if not rows]:
            raise ValueError(f"{missing[0]} is no training that kept rollouts, as another one is. Show it by itself.")
        runs = [
            Shown(name, settings, _by_problem(rows), True) for name, (settings, rows) in zip(names, kept, strict=True)
        ]
        common = set.intersection(*(set(run.problems) for run in runs))
        if not common:
            raise ValueError("The trainings have no problem of the same step in common. Show each by itself.")
        return [run._replace(problems={p: run.problems[p] for p in run.problems if p in common}) for run in runs]
    for name, folder in zip(names, folders, strict=True):
        if (Path(folder) / "trainer_state.json").exists():
            raise ValueError(
                f"{name} is a training that kept no rollouts. Show what mrt evaluate measures of it, or train with "
                "mrt_keep_rollouts."
            )
    for run in load_runs(folders):
        if not run.has_regret:
            raise ValueError(
                f"{run.name} has no success probabilities. Measure it with regret: true, in another folder."
            )
    stored = [read_store(Path(folder), SCHEMA.names) for folder in folders]
    return [Shown(name, one.settings, _by_problem(one.rows), False) for name, one in zip(names, stored, strict=True)]


def _by_problem(rows: list[dict]) -> dict[str, list[dict]]:
    problems: dict[str, list[dict]] = {}
    for row in rows:
        key = row["problem_id"] if "problem_id" in row else f"step {row['step']}: {row['problem']}"
        problems.setdefault(key, []).append(row)
    return problems


def page(runs: Sequence[Shown]) -> str:
    """The page of runs, as HTML."""
    budget = runs[0].settings["max_completion_length"]
    budgets = sorted({budget * quarter // 4 for quarter in (1, 2, 3, 4)} - {0})
    index, texts = [], []
    horizons = [_mean_episode(run) for run in runs]
    for key, first in runs[0].problems.items():
        groups = [run.problems[key] for run in runs]
        index.append(
            {
                "text": first[0]["problem"],
                "gold": first[0]["solution"],
                "step": first[0].get("step"),
                "runs": [[_numbers(row, budgets) for row in group] for group in groups],
            }
        )
        texts.append(
            [
                [{"pieces": pieces(row, run.settings), "credit": _credit(row, horizon)} for row in group]
                for run, group, horizon in zip(runs, groups, horizons, strict=True)
            ]
        )
    data = {
        "runs": [{"name": run.name, "trained": run.trained, **_words(run)} for run in runs],
        "budgets": budgets,
        "idle": IDLE,
        "step": STEP,
        "problems": index,
    }
    blocks = [_block("data", data), *(_block(f"texts-{number}", text) for number, text in enumerate(texts))]
    return fill("view.html", ", ".join(run.name for run in runs), "\n".join(blocks))


def fill(template: str, title: str, body: str) -> str:
    """A page of the package, with its style."""
    here = files(__package__)
    text = (here / template).read_text(encoding="utf-8")
    parts = {"title": escape(title), "style": (here / "page.css").read_text(encoding="utf-8"), "body": body}
    for name, part in parts.items():
        text = text.replace(f"{{{{ {name} }}}}", part)
    return text


def pieces(row: dict, settings: dict) -> list[str]:
    """
    The text of a completion: what comes before the thinking, its G episodes, and what comes behind them.

    ```python
    >>> row = {"completion": "<think>\\nHm.\\n</think>\\nIt is 5.", "success_probability": [0.5, 1.0], "tokens": 8}
    >>> row |= {"prefix_tokens": [2, 4], "answer_tokens": [0, 0]}
    >>> pieces(row, {"mrt_episodes": 6, "mrt_cues": ["Wait"]})
    ['<think>\\n', 'Hm.\\n', '</think>\\nIt is 5.']

    ```
    """
    completion, episodes = row["completion"], len(row["success_probability"]) - 1
    if not episodes:
        return ["", completion]
    start, end = thinking_span(completion, opened=not episode_ends(row)[0])
    spans = episode_spans(completion[start:end], cues=settings["mrt_cues"])
    ends = [start, *(start + end for _, end in merge_spans(spans, settings["mrt_episodes"]))]
    if len(ends) != episodes + 1:
        raise ValueError(
            f"A rollout of {row['problem']!r} was measured after {episodes} episodes, and has {len(ends) - 1} now: "
            "another version of the package cut it. Measure the run again, in another output_dir."
        )
    return [completion[a:b] for a, b in zip([0, *ends], [*ends, len(completion)], strict=True)]


def idle_tokens(success_probability: Sequence[float], ends: Sequence[int]) -> int:
    """
    Tokens of the episodes that hardly change J.

    ```python
    >>> idle_tokens([0.25, 0.25, 1.0], [0, 40, 100])
    40

    ```
    """
    return int(np.diff(ends)[np.abs(progress(success_probability)) < IDLE].sum())


def lost_success(success_probability: Sequence[float]) -> float:
    """
    The highest J minus the last one: how much success probability the thinking lost.

    ```python
    >>> lost_success([0.25, 1.0, 0.75])
    0.25

    ```
    """
    return float(np.max(success_probability) - success_probability[-1])


def episode_ends(row: dict) -> list[int]:
    """Where the thinking begins and where its episodes end, in tokens of the completion."""
    ends = np.rint(np.array(row["prefix_tokens"]) - np.nan_to_num(row["answer_tokens"])).astype(int)
    return ends.clip(max=row["tokens"]).tolist()  # of a completion that does not think, what opens it is not its own


def _mean_episode(run: Shown) -> float:
    lengths = np.concatenate([np.diff(episode_ends(row)) for group in run.problems.values() for row in group])
    return float(lengths.mean()) if len(lengths) else 0.0


def _numbers(row: dict, budgets: Sequence[int]) -> dict:
    """What the page knows of a rollout before its text is opened."""
    names = {field.name for field in fields(Rollout)}
    rollout = Rollout(**{"problem_id": ""} | {name: row[name] for name in row.keys() & names if row[name] is not None})
    known, ends = curve(rollout)[0], episode_ends(row)
    reward = float(row.get("reward", rollout.right))  # NaN where no function judged the row
    return {
        "J": [None if np.isnan(value) else round(value, 4) for value in rollout.success_probability],
        "ends": ends,
        "spent": [round(tokens) for tokens in rollout.prefix_tokens],
        "tokens": rollout.tokens,
        "ended": rollout.ended,
        "reward": None if math.isnan(reward) else round(reward, 4),
        "regret": [round(regret_at([rollout], budget), 4) for budget in budgets],
        "idle": idle_tokens(rollout.success_probability, ends),
        "lost": round(lost_success(known), 4),
    }


def _credit(row: dict, horizon: float) -> list[tuple[int, int]]:
    """
    Of each token of a completion: the advantage that it was trained with, or the credit that `dense` would give it,
    with a horizon of the run's mean episode. As runs of equal values: how many tokens, and how many [`STEP`]s.
    """
    if (credit := row.get("advantages")) is None:
        ends, success = [episode_ends(row)], [np.array(row["success_probability"])]
        [credit] = token_progress(ends, success, row["tokens"], horizon * MRTArguments.mrt_horizon)
    steps = np.rint(np.array(credit) / STEP).astype(int)
    begins = np.flatnonzero(np.diff(steps, prepend=np.nan))
    return list(zip(np.diff([*begins, len(steps)]).tolist(), steps[begins].tolist(), strict=True))


def _words(run: Shown) -> dict[str, str]:
    """How J was measured, with its greatest standard error, and all settings."""
    samples, how = run.settings["mrt_samples"], "the likelihood of the gold answer"
    if ESTIMATORS[run.settings["mrt_estimator"]].draws_answers:
        how = f"the share of {samples} answers that are right, give or take {0.5 / samples**0.5:.2f}"
    return {"measured": how, "settings": json.dumps(run.settings, indent=1, ensure_ascii=False)}


def _block(name: str, value) -> str:
    """Data of the page that cannot end the element it stands in, whatever a model wrote."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return f'<script type="text/plain" id="{name}">{b64encode(gzip.compress(text, mtime=0)).decode()}</script>'


def run(arguments: list[str] | None = None) -> None:
    """Writes the page of the runs that a command line names."""
    parser = argparse.ArgumentParser("mrt view", description="Shows rollouts and what each of their episodes earned.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders that mrt evaluate wrote (regret: true), or trainings with mrt_keep_rollouts",
    )
    parser.add_argument("--output", type=Path, default=Path("view.html"), help="the page; view.html by default")
    args = parser.parse_args(arguments)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(page(load(args.runs)), encoding="utf-8")
    print(f"wrote {args.output} ({args.output.stat().st_size / 1e6:.1f} MB): open it in a browser")


if __name__ == "__main__":
    as_command("view", run)
