"""
The tables and figures of the first study on docs/first-study.md, out of its records.

    python -m study.first.results

One line for each training goes to runs.csv, beside the folder of the records.

A page has its tables between two comments, `<!-- table NAME TASK -->` and `<!-- end -->`, and is written anew there; a
page that does not exist yet gets all tables. Seed 0 has chosen the learning rates and is left out.
"""

import argparse
import csv
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import ArrayLike

from mrt_plugin.analysis.figures import COLORS, DASHES, STYLE
from mrt_plugin.analysis.runs import markdown

from ..compare import interval
from ..reproduce import read
from ..settings import BASELINE, CHOSEN, METHODS, VARIANTS, varied
from .compare import BUDGETS, START, TRAINED, Results, at, fewer_tokens, gain_ratio, gains, heights, over, reached


TASKS = ("search", "clues")
REGRET = ["80", "160", "240", "320", "400"]
SHARES = ["repeats", "idle", "cut"]


def difference(statistic: Callable[..., float], ours: np.ndarray, other: np.ndarray) -> str:
    """How much greater a statistic is of one than of the other."""
    found = interval(lambda a, b: statistic(a) - statistic(b), ours, other)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def ratio(statistic: Callable[..., float], *samples: np.ndarray) -> str:
    """A statistic with its interval, as factors are written."""
    found = interval(statistic, *samples)
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def main_table(results: Results) -> list[dict]:
    """Accuracy on test problems, beside the baseline's."""
    start, rows = results.accuracy(START), []
    for method in results.methods:
        curve = results.accuracy(method)
        row = {"method": method, "seeds": f"{len(curve)}", "accuracy": str(interval(at(TRAINED), curve))}
        row[f"at {BUDGETS[-1]} tokens"] = str(interval(at(BUDGETS[-1]), curve))
        if method != START:
            row["learning rate"] = f"{results.rates[method]:g}"
        if results.beside_baseline(method):
            base = results.accuracy(BASELINE)
            row["less GRPO's"] = difference(at(TRAINED), curve, base)
            row[f"less GRPO's at {BUDGETS[-1]}"] = difference(at(BUDGETS[-1]), curve, base)
            for name, statistic in (("gain / GRPO's", gain_ratio), ("times fewer tokens", fewer_tokens)):
                row[name] = ratio(statistic, curve, base, start)
        rows.append(row)
    return rows


def variants_table(results: Results) -> list[dict]:
    """Accuracy of variants, beside the methods that they vary and the baseline, and how soon it rises."""
    rows = []
    names = dict.fromkeys(name for one in VARIANTS if "bf16" not in one for name in (varied(one), one))
    for method in (name for name in names if name in results.runs):
        curve = results.accuracy(method)
        row = {"credit": method, "seeds": f"{len(curve)}", "accuracy": str(interval(at(TRAINED), curve))}
        for name, other in (("less what it varies", varied(method)), ("less GRPO's", BASELINE)):
            if other != method and other in results.runs:
                row[name] = difference(at(TRAINED), curve, results.accuracy(other))
        row["mean over updates"] = over_seeds(heights(results.learning_curves(method), 0, results.steps))
        rows.append(row)
    return rows


def behaviour_table(results: Results) -> list[dict]:
    """How the models think: what they take, what it brings, and what training took."""
    rows = []
    for method in results.methods:
        runs = results.runs[method]
        row = {"method": method, "tokens": f"{np.mean([run['tokens'] for run in runs]):.0f}"}
        for budget in REGRET:
            regret = results.regret(method, budget)
            if results.beside_baseline(method):
                less = difference(float, regret, results.regret(BASELINE, budget))
                row[f"regret@{budget}"] = f"{regret.mean():.3f}; {less}"
            else:
                row[f"regret@{budget}"] = str(interval(float, regret))
        row["episodes"] = f"{np.mean([run['episodes'] for run in runs]):.1f}"
        row |= {name: f"{np.mean([run[name] for run in runs]):.1%}" for name in SHARES}
        if all("training_tokens" in run for run in runs):
            for kind in ("drawn", "scored"):
                row[f"{kind} in training"] = f"{np.mean([run['training_tokens'][kind] for run in runs]) / 1e6:.2f} M"
        rows.append(row)
    return rows


def sweep_table(results: Results) -> list[dict]:
    """Accuracy on validation problems, seed 0; the highest of a row is the choice."""
    rows: dict[str, dict] = {}
    for record in sorted(results.swept, key=lambda record: record["learning_rate"]):
        row = rows.setdefault(record["method"], {"method": record["method"]})
        chosen = record["learning_rate"] == results.rates[record["method"]]
        row[f"{record['learning_rate']:g}"] = (
            f"**{record['validation']:.3f}**" if chosen else f"{record['validation']:.3f}"
        )
    return [rows[method] for method in METHODS if method in rows]


def tokens_table(results: Results) -> list[dict]:
    """
    Accuracy on validation problems: at equal updates, and at as many tokens of training as both a method and the
    baseline took, followed there by the difference from the baseline's.
    """
    curves = {method: results.learning_curves(method) for method in results.methods}
    curves = {method: some for method, some in curves.items() if len(some)}
    early, rows = results.steps // 3, []
    for method, some in curves.items():
        base = curves.get(BASELINE, some)
        least = min(one[:, -1, 1].mean() for one in (some, base))
        ours, theirs = at_tokens(some, least), at_tokens(base, least)
        row = {
            "method": method,
            f"at {results.steps} updates": over_seeds(some[:, -1, 2]),
            "mean over updates": over_seeds(heights(some, 0, results.steps)),
            "million tokens": f"{least / 1e6:.2f}",
        }
        for name, values in ours.items():
            less = f"; {np.mean(values) - np.mean(theirs[name]):+.3f}" if results.beside_baseline(method) else ""
            row[name] = over_seeds(values) + less
        if results.beside_baseline(method):
            pair = (gains(one, early) for one in (some, base))
            row[f"gain / GRPO's after {early} updates"] = ratio(over, *pair)
        rows.append(row)
    return rows


def at_tokens(curves: np.ndarray, tokens: float) -> dict[str, list[float]]:
    """What the learning curves come to within so many tokens of training."""
    return {
        "at them": reached(curves, 1, tokens),
        "mean over them": heights(curves, 1, tokens),
        "the same, drawn": heights(curves, 4, tokens),
    }


def over_seeds(values: ArrayLike) -> str:
    """The mean and its standard error, which one seed does not have."""
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{error}"


def rows_table(results: Results) -> list[dict]:
    """The rows of STaR's iterations: how many, and the share of them that leaves nothing to guess."""
    rows = []
    for run in (run for run in results.found if "rows" in run):
        row = {"method": run["method"], "learning rate": f"{run['learning_rate']:g}", "seed": f"{run['seed']}"}
        row |= {f"iteration {i}": f"{count}: {share:.1%}" for i, (count, share) in enumerate(run["rows"], 1)}
        rows.append(row)
    return rows


def runs_table(results: Results) -> list[dict]:
    """Numbers of each training, those with other learning rates too."""
    rows = []
    for run in results.found:
        row = {name: run.get(name) for name in ("task", "method", "learning_rate", "seed", "steps", "date")}
        means = {f"accuracy@{budget}": run["accuracy"][str(budget)] for budget in (TRAINED, BUDGETS[-1])}
        means |= {name: run.get(name, np.nan) for name in ("validation", "tokens", "episodes", *SHARES)}
        if run.get("curve"):
            curve = results.learning_curve(run)
            means["mean over updates"] = heights(curve[None], 0, run["steps"])
            means |= {f"after {updates:.0f} updates": right for updates, _, right, *_ in curve[1:]}
        row |= {name: f"{np.mean(numbers):.3f}" for name, numbers in means.items()}
        row |= {f"{kind} in training": count for kind, count in run.get("training_tokens", {}).items()}
        rows.append(row)
    return rows


TABLES = {
    "accuracy": main_table,
    "behaviour": behaviour_table,
    "tokens": tokens_table,
    "variants": variants_table,
    "sweep": sweep_table,
    "rows": rows_table,
}


def draw_accuracy(results: Results, figure) -> None:
    """Accuracy against the budget, and against updates and tokens of training; bands: 95%."""
    budget, updates, tokens = figure.subplots(1, 3, sharey=True)
    for method, look in list(looks(results))[:3]:
        curve = results.accuracy(method)
        ends = [interval(at(some), curve) for some in BUDGETS]
        budget.plot(BUDGETS, [e.mean for e in ends], label=method, **look)
        budget.fill_between(
            BUDGETS, [e.low for e in ends], [e.high for e in ends], color=look["color"], alpha=0.12, lw=0
        )
        if len(learned := results.learning_curves(method)):
            update, spent, right, *_ = learned.mean(axis=0).T
            updates.plot(update, right, **look)
            tokens.plot(spent / 1e6, right, **look)
    budget.axvline(TRAINED, color="0.6", lw=1)
    budget.set(xlabel=f"tokens allowed (training: {TRAINED})", ylabel="accuracy", title="test problems")
    updates.set(xlabel="updates", title="validation problems")
    tokens.set(xlabel="million tokens of training, branches too", title="validation problems")


def draw_behaviour(results: Results, figure) -> None:
    """Tokens of a completion during training, and what the episodes of test problems come to."""
    lengths, gains = figure.subplots(1, 2)
    shown = dict(looks(results))
    for method, look in shown.items():
        if len(learned := results.learning_curves(method)):
            update, _, _, length, _ = learned.mean(axis=0).T
            lengths.plot(update, length, label=method, **look)
    lengths.set(xlabel="updates", ylabel="mean tokens, validation problems")
    left = np.zeros(len(shown))
    kinds = {
        "gain": (slice(11, 21), COLORS[3]),
        "idle (within 0.05 of 0)": (slice(10, 11), "0.8"),
        "loss": (slice(0, 10), COLORS[2]),
    }
    for kind, (bins, color) in kinds.items():
        counts = np.array([np.sum([run["progress"] for run in results.runs[method]], axis=0) for method in shown])
        share = counts[:, bins].sum(axis=1) / counts.sum(axis=1)
        bars = gains.barh(list(shown), share, left=left, color=color, height=0.6, label=kind)
        gains.bar_label(
            bars, [f"{value:.2f}" if value > 0.05 else "" for value in share], label_type="center", fontsize="x-small"
        )
        left += share
    gains.invert_yaxis()
    gains.grid(visible=False)
    gains.set(xlabel="share of episodes", xlim=(0, 1))


FIGURES = {"accuracy": (draw_accuracy, 11), "behaviour": (draw_behaviour, 7.5)}
SHOWN = (START, BASELINE, CHOSEN, "MRT dense, by episode")


def looks(results: Results):
    for method, color, dashes in zip(SHOWN, COLORS, DASHES, strict=False):
        if method in results.runs:
            yield method, {"color": color, "linestyle": dashes}


def main(records: Path, page: Path) -> None:
    found = read(records)
    tasks = {task: Results(found, task) for task in TASKS if any(record["task"] == task for record in found)}
    text = (
        page.read_text()
        if page.exists()
        else "\n\n".join(f"<!-- table {name} {task} -->\n<!-- end -->" for task in tasks for name in TABLES)
    )

    def table(match: re.Match) -> str:
        name, task = match[1], match[2]
        rows = TABLES[name](tasks[task]) if task in tasks else []
        shown = f"{markdown(rows)}\n\n{tasks[task].source}" if rows else "Not run yet."
        return f"<!-- table {name} {task} -->\n\n{shown}\n\n<!-- end -->"

    page.write_text(re.sub(r"<!-- table (\w+) (\w+) -->.*?<!-- end -->", table, text, flags=re.S))
    for task, results in tasks.items():
        for name, (draw, width) in FIGURES.items():
            with plt.rc_context(STYLE | {"figure.figsize": (width, 3.4)}):
                figure = plt.figure()
                draw(results, figure)
                figure.legend(loc="outside upper left", ncols=3)
                path = page.parent / "figures" / f"{name}-{task}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path)
                plt.close(figure)
    rows = [row for results in tasks.values() for row in runs_table(results)]
    with open(records.parent / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(chain.from_iterable(rows))))
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {page}, from {len(found)} runs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("records", type=Path, nargs="?", default=Path(__file__).parent / "records")
    parser.add_argument("--page", type=Path, default=Path("docs/first-study.md"))
    arguments = parser.parse_args()
    main(arguments.records, arguments.page)
