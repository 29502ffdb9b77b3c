r"""Runs -> figures in the paper's manner, each as PNG and SVG.

    mrt figures --runs runs/base runs/grpo runs/mrt --output_dir runs/figures

A figure is drawn where the runs hold what it shows; those of regret and progress need runs with `regret: true`.
Colours are those of Okabe and Ito, which the colour-blind tell apart; dashes and markers differ as well, for print.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from ..meta_prover import ESTIMATORS
from ..progress import majority_curve, pass_at, progress
from ..rollouts import Rollout
from .runs import Run, estimate, standard_error


COLORS = ["#666666", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
DASHES = ["--", "-.", "-", ":", (0, (5, 1, 1, 1)), (0, (1, 1))]
MARKERS = ["s", "^", "o", "D", "v", "P"]
SHADES = matplotlib.colors.LinearSegmentedColormap.from_list("episodes", plt.get_cmap("viridis")([0.1, 0.5, 0.85]))
STYLE = {
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "savefig.dpi": 160,
    "svg.hashsalt": "mrt",
}


def draw_majority(runs: Sequence[Run], figure) -> None:
    """maj@k against the tokens of all k rollouts, for k = 1, ..., N; bands: one standard error over problems."""
    axes = figure.subplots()
    for run, look in _looks(runs):
        tokens, accuracy = run.majority()
        mean, error = accuracy.mean(axis=0), np.array([standard_error(column) for column in accuracy.T])
        axes.plot(tokens.mean(axis=0), mean, **look)
        axes.fill_between(tokens.mean(axis=0), mean - error, mean + error, color=look["color"], alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="total tokens (log scale)", ylabel="maj@k")
    _legend(axes)


def draw_regret(runs: Sequence[Run], figure, variant: str = "definition") -> None:
    """Normalised regret (lower is better) against the token budget; bands: 95% intervals over problems."""
    axes = _against_budget(runs, figure, lambda run, budget: run.regret(budget, variant), "top")
    axes.set_ylabel("normalised regret")


def draw_scaling(runs: Sequence[Run], figure) -> None:
    """
    Success probability of a policy that is made to answer within a token budget. It can exceed pass@1, which counts a
    completion cut by the budget as wrong. Bands: 95% intervals.
    """
    axes = _against_budget(runs, figure, lambda run, budget: run.success_at(budget), "bottom")
    axes.set_ylabel("success probability")


def _against_budget(runs: Sequence[Run], figure, measure: Callable[[Run, float], np.ndarray], free: str):
    axes = figure.subplots()
    budgets, trained = runs[0].budgets(), runs[0].trained
    if budgets[-1] > trained:
        axes.axvspan(trained, budgets[-1], color="0.93", lw=0)
        middle, height = (trained + budgets[-1]) / 2, {"top": 0.98, "bottom": 0.02}[free]
        where = {"ha": "center", "va": free, "transform": axes.get_xaxis_transform(), "fontsize": "small"}
        axes.text(middle, height, "extrapolated by budget forcing", **where)
    marked = sorted({trained * part / 16 for part in range(2, 17)} | set(budgets))
    for run, look in _looks(runs):
        mean, low, high = zip(*(estimate(measure(run, budget)) for budget in marked), strict=True)
        axes.plot(marked, mean, markevery=[marked.index(budget) for budget in budgets], **look)
        axes.fill_between(marked, low, high, color=look["color"], alpha=0.12, lw=0)
    axes.axvline(trained, color="0.6", lw=1)
    where = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "size": "small"}
    axes.annotate(f"trained within {trained}", (trained, 1), **where)
    axes.set(xlabel="tokens allowed", xlim=(marked[0], marked[-1] * 1.02))
    _legend(axes)
    return axes


def draw_episodes(runs: Sequence[Run], figure) -> None:
    """
    [maj@p]_j: a majority vote among p forced answers after j episodes, against its tokens, for traces with the most
    common number of episodes; for comparison, pass@k of k answers without any thinking.
    """
    for run, axes in zip(runs, figure.subplots(1, len(runs), sharey=True, squeeze=False)[0], strict=True):
        answered = _with_votes(run)
        [(points, _)] = Counter(len(r.prefix_votes) for r in answered).most_common(1)
        traces = [r for r in answered if len(r.prefix_votes) == points]
        episodes, samples = points - 1, len(traces[0].prefix_votes[0])
        votes = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
        shades = plt.get_cmap(SHADES)(np.linspace(0, 1, episodes + 1))
        for j, shade in enumerate(shades):
            answer = np.mean([trace.answer_tokens[j] for trace in traces])
            written = np.mean([trace.prefix_tokens[j] for trace in traces]) - answer
            maj = np.mean([majority_curve(trace.prefix_votes[j], 0) for trace in traces], axis=0)
            spent = [written + p * answer for p in votes]
            axes.plot(spent, [maj[p - 1] for p in votes], "-o", color=shade, markersize=3)
        direct = np.mean([[pass_at(k, t.prefix_votes[0].count(0), samples) for k in votes] for t in traces], axis=0)
        answer = np.mean([trace.answer_tokens[0] for trace in traces])
        axes.plot([k * answer for k in votes], direct, "--s", color="#D55E00", markersize=4, label="direct pass@k")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tokens (log scale)", title=f"{run.name}: {len(traces)} traces, G = {episodes}")
        axes.title.set_size("medium")
    figure.axes[0].set_ylabel("$[\\mathrm{maj@p}]_j$")
    figure.axes[0].legend()
    colors = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), SHADES)
    bar = figure.colorbar(colors, ax=figure.axes, ticks=[0, 1], fraction=0.02)
    bar.set_ticklabels(["j = 0", "j = G"])


def draw_progress(runs: Sequence[Run], figure) -> None:
    """Distribution of progress: share of the episodes by how much each added to the success probability."""
    axes = figure.subplots()
    for run, look in _looks(runs):
        drawn = ESTIMATORS[run.settings["mrt_estimator"]].draws_answers
        steps = run.settings["mrt_samples"] if drawn else 10
        edges = (np.arange(-steps, steps + 2) - 0.5) / steps  # J is a multiple of 1 / samples
        gains = np.concatenate([progress(r.success_probability) for r in run.rollouts])
        gains = gains[~np.isnan(gains)]
        shares = np.histogram(gains, edges)[0] / max(len(gains), 1)
        look["label"] += f" (mean {gains.mean():+.3f})" if len(gains) else " (no episodes)"
        axes.plot((edges[1:] + edges[:-1]) / 2, shares, **look)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set(xlabel="progress of an episode", ylabel="share of episodes (log scale above 0.01)", ylim=(0, 1))
    _legend(axes)


def draw_lengths(runs: Sequence[Run], figure) -> None:
    """Cumulative distributions of the tokens of a completion and of the episodes of a trace."""
    tokens, episodes = figure.subplots(1, 2, sharey=True)
    for run, look in _looks(runs):
        look.pop("marker")
        tokens.ecdf([rollout.tokens for rollout in run.rollouts], **look)
        if run.has_regret:
            episodes.ecdf([len(rollout.success_probability) - 1 for rollout in run.rollouts], **look)
    tokens.set(xlabel="tokens of a completion", ylabel="share with at most so many")
    _legend(tokens)
    episodes.set(xlabel="episodes of a trace")


def draw_training(runs: Sequence[Run], figure) -> None:
    """Length of the completions while the models were trained, as their trainers logged it."""
    axes = figure.subplots()
    for run, look in _looks(runs):
        if lengths := training_lengths(run):
            look["marker"] = None
            axes.plot(*zip(*lengths, strict=True), **look)
    axes.set(xlabel="optimiser step", ylabel="mean tokens of a completion")
    _legend(axes)


def training_lengths(run: Run) -> list[tuple[int, float]]:
    """Steps and mean lengths from the `trainer_state.json` of the run's model, or of its last checkpoint."""
    model = Path(str(run.settings["model_name_or_path"]))
    saved = sorted(model.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    states = [path for path in (model / "trainer_state.json", *saved[-1:]) if path.exists()]
    history = json.loads(states[0].read_text())["log_history"] if states else []
    length = "completions/mean_length"
    return [(entry["step"], entry[length]) for entry in history if length in entry]


def _looks(runs: Sequence[Run]):
    for run, color, dashes, marker in zip(runs, cycle(COLORS), cycle(DASHES), cycle(MARKERS), strict=False):
        yield run, {"color": color, "linestyle": dashes, "marker": marker, "label": run.name}


def _legend(axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    in_one_line = sum(map(len, labels)) <= 40
    axes.figure.legend(handles, labels, loc="outside upper left", ncols=len(labels) if in_one_line else 1)


def _with_votes(run: Run) -> list[Rollout]:
    return [r for r in run.rollouts if len(r.prefix_votes) > 1 and all(r.prefix_votes)]


FIGURES: dict[str, tuple[Callable, Callable[[Sequence[Run]], bool]]] = {
    "majority": (draw_majority, lambda runs: True),
    "regret": (draw_regret, lambda runs: all(run.has_regret for run in runs)),
    "scaling": (draw_scaling, lambda runs: all(run.has_regret for run in runs)),
    "episodes": (draw_episodes, lambda runs: all(map(_with_votes, runs))),
    "progress": (draw_progress, lambda runs: all(run.has_regret for run in runs)),
    "lengths": (draw_lengths, lambda runs: True),
    "training": (draw_training, lambda runs: any(training_lengths(run) for run in runs)),
}
"""By file name: how to draw it, and whether the runs hold what it shows."""


def draw(runs: Sequence[Run], folder: Path, variant: str = "definition") -> dict[str, str]:
    """
    Draws every figure for which runs of the same problems and budget have the data, and returns a caption for each
    name. `variant` is the variant of regret.
    """
    folder.mkdir(parents=True, exist_ok=True)
    captions = {}
    for name, (draw_one, wanted) in FIGURES.items():
        if not wanted(runs):
            continue
        with matplotlib.rc_context(STYLE):
            width = 2.9 * len(runs) + 1 if name == "episodes" else 7.5 if name == "lengths" else 5.6
            figure = plt.figure(figsize=(width, 3.8))
            draw_one(runs, figure, *([variant] if name == "regret" else []))
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
        captions[name] = " ".join(draw_one.__doc__.split())
    return captions
