r"""Folders of `mrt evaluate` -> what was measured, one number for each problem, with intervals over problems."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, get_args, get_origin

import numpy as np
import pyarrow as pa
from scipy.stats import bootstrap

from ..jobs.store import read_store
from ..progress import majority_curve
from ..rollouts import Rollout, curve, regret_at
from .streams import MEASURED_EVERY


RESAMPLES = 2000
"""Of the bootstrap over problems."""

BENCHMARK = ("dataset_name", "dataset_config", "dataset_mixture", "dataset_train_split")
BUDGET = ("max_completion_length", "regret", "extensions", "extension_tokens")
PROVER = (
    "mrt_episodes",
    "mrt_cues",
    "mrt_termination",
    "mrt_estimator",
    "mrt_answer_tokens",
    "mrt_answer_temperature",
    "mrt_answer_top_p",
)


def _arrow_type(annotation) -> pa.DataType:
    """Of the field of a dataclass; any may be null."""
    kind, *_ = get_args(annotation) or [annotation]
    if get_origin(annotation) is list:
        return pa.list_(_arrow_type(kind))
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[kind]


SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("problem_id", "problem", "solution", "completion")]
    + [(field.name, _arrow_type(field.type)) for field in fields(Rollout) if field.name != "problem_id"]
)
"""Columns of a stored rollout: its texts, and the fields of [`~mrt_plugin.rollouts.Rollout`]."""


@dataclass(frozen=True)
class Run:
    """What `mrt evaluate` wrote for a model. A measure is one number for each problem, in their order: shape (P,)."""

    name: str  # in tables and figures
    settings: dict  # arguments that the rollouts depend on
    problems: dict[str, list[Rollout]]  # ordered by the problem's id
    dropped: dict[str, int]  # how many problems were not measured, by reason

    @property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group in self.problems.values() for rollout in group]

    @property
    def trained(self) -> int:
        """The budget that completions were cut at, in tokens."""
        return self.settings["max_completion_length"]

    @property
    def has_regret(self) -> bool:
        return bool(self.settings["regret"])

    def left_out(self) -> str:
        """The problems that were not measured, as a sentence behind another, if there are any."""
        reasons = [f"{count} because {reason}" for reason, count in self.dropped.items()]
        return f" {self.name} left out problems: {'; '.join(reasons)}." if reasons else ""

    def each(self, measure: Callable[[list[Rollout]], float]) -> np.ndarray:
        """A measure of the rollouts of each problem."""
        return np.array([measure(group) for group in self.problems.values()])

    def pass_at_1(self, token_budget: float = np.inf) -> np.ndarray:
        """Share of first attempts that are right and no longer than a budget."""
        return self.each(lambda group: np.mean([r.right and r.tokens <= token_budget for r in group if not r.attempt]))

    def majority(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Tokens and maj@k for k = 1, ..., N; both of shape (P, N). Parallel: k of N rollouts, all choices of them.
        Linearized: the first k attempts of a stream, the mean over streams.
        """
        curve_of = _linearized if self.settings["attempts"] > 1 else _parallel
        tokens, accuracy = zip(*map(curve_of, self.problems.values()), strict=True)
        return np.array(tokens), np.array(accuracy)

    def regret(self, token_budget: float, variant: str = "definition") -> np.ndarray:
        """Normalised regret; beyond the trained budget with the thinking that budget forcing added."""
        return self.each(lambda group: regret_at(group, token_budget, self.points_within(token_budget), variant))

    def success_at(self, token_budget: float) -> np.ndarray:
        """J of a policy that is stopped at the last prefix that fits into a budget; 0 where none does."""

        def at(rollout: Rollout) -> float:
            values, tokens = curve(rollout, self.points_within(token_budget))
            return values[tokens <= token_budget][-1] if (tokens <= token_budget).any() else 0.0

        return self.each(lambda group: np.mean([at(rollout) for rollout in group]))

    def points_within(self, token_budget: float) -> int:
        """How many of the points beyond the trained budget lie within a budget."""
        return sum(point <= token_budget for point in self.budgets()[4:])

    def budgets(self) -> list[int]:
        """Where regret is reported: at the quarters of the trained budget, and at the measured extensions."""
        step = MEASURED_EVERY * self.settings["extension_tokens"]
        points = self.settings["extensions"] // MEASURED_EVERY
        return [self.trained * q // 4 for q in (1, 2, 3, 4)] + [self.trained + step * (i + 1) for i in range(points)]


def _parallel(rollouts: list[Rollout]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.mean([rollout.tokens for rollout in rollouts]) * np.arange(1, len(rollouts) + 1)
    return tokens, majority_curve([rollout.vote for rollout in rollouts], gold=0)


def _linearized(rollouts: list[Rollout]) -> tuple[np.ndarray, np.ndarray]:
    streams: dict[int, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.attempt):
        streams.setdefault(rollout.stream, []).append(rollout)
    tokens = [np.cumsum([rollout.tokens for rollout in stream]) for stream in streams.values()]
    votes = [[rollout.vote for rollout in stream] for stream in streams.values()]
    accuracy = [[majority_curve(mine[: k + 1], gold=0)[-1] for k in range(len(mine))] for mine in votes]
    return np.mean(tokens, axis=0), np.mean(accuracy, axis=0)


class Estimate(NamedTuple):
    """A mean over problems with its 95% bootstrap interval, which is NaN if there is only one problem."""

    mean: float
    low: float
    high: float

    def __str__(self):
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean) -> Estimate:
    """
    A statistic of values of shape (P, ...), with a percentile bootstrap over the P problems. All values of a problem
    are drawn together.

    ```python
    >>> estimate(np.array([0.0, 1.0, 1.0, 0.0])).mean
    0.5

    ```
    """
    if len(values) < 2:
        return Estimate(float(statistic(values)), np.nan, np.nan)
    found = bootstrap(
        (np.arange(len(values)),),
        lambda drawn: statistic(values[drawn.astype(int)]),
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Estimate(float(statistic(values)), *map(float, found.confidence_interval))


def standard_error(values: np.ndarray) -> float:
    """Of the mean over problems."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """
    Reads runs to be compared.

    Raises:
        `ValueError`: If they are not of the same problems and budget, or one holds no rollouts.
    """
    runs = [load_run(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]
    first = runs[0]
    for run in runs[1:]:
        for names, what in (
            (BENCHMARK, "are of different benchmarks"),
            (BUDGET, "were measured with different budgets"),
            (PROVER if run.has_regret else (), "were forced to answer in different ways"),
        ):
            pairs = {name: [one.settings.get(name) for one in (first, run)] for name in names}
            if differ := [f"{name}: {one!r} and {other!r}" for name, (one, other) in pairs.items() if one != other]:
                raise ValueError(
                    f"{first.name} and {run.name} {what} ({'; '.join(differ)}), so they cannot be compared. Measure "
                    "one of them again, with the settings of the other."
                )
        for here, there in ((first, run), (run, first)):
            if missing := here.problems.keys() - there.problems.keys():
                raise ValueError(
                    f"{there.name} lacks {len(missing)} of the {len(here.problems)} problems of {here.name}, such as "
                    f"{min(missing)}. If its evaluation was stopped, the same command finishes it; if not, the "
                    f"problems differ, and the runs cannot be compared.{there.left_out()}"
                )
    return runs


def run_names(folders: Sequence[str | Path]) -> list[str]:
    """
    The last parts of the paths or, if two are equal, the paths below their common folder.

    ```python
    >>> run_names(["runs/grpo", "runs/mrt"]), run_names(["a/mrt", "b/mrt"])
    (['grpo', 'mrt'], ['a/mrt', 'b/mrt'])

    ```
    """
    paths = [Path(folder).absolute() for folder in folders]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath(paths)
        names = [os.path.relpath(path, common) for path in paths]
    return names


def load_run(folder: str | Path, name: str | None = None) -> Run:
    """
    Reads a folder that `mrt evaluate` wrote.

    Raises:
        `ValueError`: If it holds no rollouts.
    """
    folder = Path(folder)
    stored = read_store(folder, [field.name for field in fields(Rollout)])
    problems: dict[str, list[Rollout]] = {}
    for row in stored.rows:
        known = {name: value for name, value in row.items() if value is not None}
        problems.setdefault(row["problem_id"], []).append(Rollout(**known))
    dropped = Counter(reason for reason in stored.finished.values() if reason is not None)
    run = Run(name or folder.name, stored.settings, dict(sorted(problems.items())), dict(dropped))
    if not problems:
        hint = f" Measure a model first: mrt evaluate --config RECIPE --output_dir {folder}"
        raise ValueError(f"{folder} holds no rollouts.{run.left_out() or hint}")
    return run


def results(run: Run, variant: str = "definition") -> dict:
    """The numbers of one run, as JSON can hold them: means over problems, and shares of rollouts."""
    lengths = np.array([rollout.tokens for rollout in run.rollouts])
    right, (tokens, majority) = run.pass_at_1(), run.majority()
    return {
        "problems": len(run.problems),
        "dropped": run.dropped,
        "pass@1": {"mean": right.mean(), "standard_error": standard_error(right)},
        "maj@k": {"accuracy": majority.mean(axis=0).tolist(), "tokens": tokens.mean(axis=0).tolist()},
        "tokens": {"mean": lengths.mean(), "90th_percentile": np.percentile(lengths, 90)},
        "cut": np.mean([not rollout.ended for rollout in run.rollouts]),
        "grader_timeouts": sum(rollout.timed_out for rollout in run.rollouts),
        "regret": {b: estimate(run.regret(b, variant))._asdict() for b in run.budgets()} if run.has_regret else {},
    }


def summary(run: Run, variant: str = "definition") -> dict[str, str]:
    """The row of a run in a table."""
    numbers = results(run, variant)
    pass_at_1, majority, tokens = numbers["pass@1"], numbers["maj@k"]["accuracy"], numbers["tokens"]
    cells = {
        "model": run.name,
        "problems": f"{numbers['problems']}",
        "pass@1": f"{pass_at_1['mean']:.3f} ± {pass_at_1['standard_error']:.3f}",
        f"maj@{len(majority)}": f"{majority[-1]:.3f}",
        "tokens": f"{tokens['mean']:.0f}",
        "90% within": f"{tokens['90th_percentile']:.0f}",
        "cut": f"{numbers['cut']:.1%}",
    }
    if numbers["grader_timeouts"]:
        cells["grader time-outs"] = f"{numbers['grader_timeouts']}"
    return cells | {f"regret@{budget}": str(Estimate(**found)) for budget, found in numbers["regret"].items()}


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table whose columns are the keys of the rows, aligned to be read as text too."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)
