"""Figures of a task's trainings; bands are 95% intervals over seeds and problems."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mrt_plugin.analysis.figures import COLORS, DASHES, STYLE

from .compare import START, WINDOW, Results, gained, interval
from .settings import BASELINE, CHOSEN, EVERY, RIVAL


SHOWN = (START, BASELINE, CHOSEN, RIVAL)


def draw(results: Results, folder: Path) -> None:
    """Accuracy within each budget at the end of training, and how it rose: regret, and accuracy within a quarter."""
    with plt.rc_context(STYLE | {"figure.figsize": (11, 3.4)}):
        figure, (end, regret, quarter) = plt.subplots(1, 3)
        for method, color, dashes in zip(SHOWN, COLORS, DASHES, strict=False):
            if method in results.runs:
                look = {"color": color, "linestyle": dashes}
                curve = results.right(method)[..., 9::10]
                budgets = np.arange(10, results.budget + 1, 10)
                bands = [interval(lambda at, i=i: float(at[i]), curve) for i in range(len(budgets))]
                end.plot(budgets, [band.mean for band in bands], label=method, **look)
                end.fill_between(
                    budgets, [b.low for b in bands], [b.high for b in bands], color=color, alpha=0.12, lw=0
                )
                if method != START:
                    updates = results.curves(method, "updates")[0]
                    regret.plot(updates, results.curves(method, "regret").mean(axis=0), **look)
                    spent = results.spent(method).mean(axis=0) / 1e6
                    quarter.plot(spent, results.curves(method, "within_quarter").mean(axis=0), **look)
        end.axvline(results.quarter, color="0.6", lw=1)
        end.set(xlabel="tokens allowed", ylabel="accuracy", title="test problems, at the end")
        regret.set(xlabel="updates", ylabel=f"regret@{results.budget}", title="validation problems")
        quarter.set(
            xlabel="million tokens of training, scored ones too",
            ylabel=f"accuracy within {results.quarter} tokens",
            title="validation problems",
        )
        figure.legend(loc="outside upper left", ncols=len(SHOWN))
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{results.task}.png")
        plt.close(figure)


def draw_search(results: Results, folder: Path) -> None:
    """How each rate and schedule of a search goes: regret on validation problems, a panel for each method."""
    swept = [record for record in results.all if record.get("seed") == 0]
    methods = [method for method in SHOWN[1:] if any(record["method"] == method for record in swept)]
    rates = sorted({record["learning_rate"] for record in swept})
    with plt.rc_context(STYLE | {"figure.figsize": (11, 3.4)}):
        figure, panels = plt.subplots(1, len(methods), sharey=True, squeeze=False)
        for method, axes in zip(methods, panels[0], strict=True):
            for record in sorted(swept, key=lambda record: (record["learning_rate"], record["schedule"])):
                if record["method"] == method:
                    look = {"color": COLORS[1:][rates.index(record["learning_rate"])]}
                    look["linestyle"] = "-" if record["schedule"] == "cosine" else ":"
                    label = f"{record['learning_rate']:g}, {record['schedule']}"
                    axes.plot(record["curve"]["updates"], record["curve"]["regret"], label=label, **look)
            axes.set(xlabel="updates", title=method, ylim=(0, 0.5))
            axes.legend(fontsize="x-small")
        panels[0][0].set_ylabel(f"regret@{results.budget}, validation problems")
        figure.savefig(folder / f"{results.task}-search.png")
        plt.close(figure)


def draw_when(tasks: list[Results], folder: Path) -> None:
    """
    When progress pays: what GRPO and MRT gain in a stretch of training, beside how often the outcome is silent in it.
    A point for each task, method and stretch, the mean over seeds and its standard error.
    """
    with plt.rc_context(STYLE | {"figure.figsize": (6, 3.8)}):
        figure, axes = plt.subplots()
        for method, color in zip((BASELINE, CHOSEN), COLORS[1:], strict=False):
            for results, marker in zip(tasks, "osD^vP*", strict=False):
                if method in results.runs:
                    silent, gain = gained(results, method)
                    error = gain.std(axis=0, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else None
                    axes.errorbar(
                        silent.mean(axis=0),
                        gain.mean(axis=0),
                        error,
                        fmt=marker,
                        color=color,
                        markersize=4,
                        label=f"{method}, {results.task}",
                    )
        axes.axhline(0, color="0.6", lw=1)
        axes.set(
            xlabel="share of groups in which the outcome is silent",
            ylabel=f"share of regret lost in {WINDOW * EVERY} updates",
        )
        figure.legend(loc="outside right upper", fontsize="x-small")
        figure.savefig(folder / "when.png")
        plt.close(figure)
