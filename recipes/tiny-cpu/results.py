"""
The tables and figures of docs/results.md, out of the files that reproduce.py keeps.

    make results                                                  # docs/results.md
    python recipes/tiny-cpu/results.py runs/reproduce-fast/records --page runs/reproduce-fast/results.md

A page has its tables between two comments, `<!-- table NAME TASK -->` and `<!-- end -->`, and is written anew there; a
page that does not exist yet gets all tables. Intervals are percentile bootstraps of 95%, over seeds and over problems:
a draw takes the same problems for all methods and seeds of each method by itself (as rliable does over runs).
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from reproduce import BASELINE, BUDGETS, EVAL_STEPS, METHODS, TASKS, VARIANTS, best_rates, read

from mrt_plugin.analysis.compare import token_ratio
from mrt_plugin.analysis.figures import COLORS, DASHES, STYLE
from mrt_plugin.analysis.runs import Estimate, markdown


RESAMPLES = 1000
TRAINED = 160
START = "warm start"
REGRET = ["160", "320", "400"]


class Results:
    """The runs of one task: for each method those with its learning rate, one for each seed."""

    def __init__(self, found: list[dict], task: str):
        mine = [record for record in found if record["task"] == task]
        self.steps = max((record["steps"] for record in mine if "steps" in record), default=0)
        self.swept = [r for r in mine if r.get("steps") == self.steps and r["seed"] == 0 and r["method"] in METHODS]
        self.rates = {method: rate for (_, method), rate in best_rates(mine, self.steps).items()}
        self.runs: dict[str, list[dict]] = {}
        for record in mine:
            rate = self.rates.get(record["method"])
            if record["method"] in (START, *VARIANTS) or record["learning_rate"] == rate:
                self.runs.setdefault(record["method"], []).append(record)
        order = [START, *METHODS, *VARIANTS]
        self.runs = {method: self.runs[method] for method in order if method in self.runs}

    def accuracy(self, method: str) -> np.ndarray:
        """(seeds, problems, budgets)"""
        runs = self.runs[method]
        return np.array([[run["accuracy"][str(budget)] for budget in BUDGETS] for run in runs]).transpose(0, 2, 1)

    def each(self, method: str, *keys: str) -> np.ndarray:
        """(seeds, problems)"""
        values = self.runs[method]
        for key in keys:
            values = [value[key] for value in values]
        return np.array(values)

    def mean(self, method: str, key: str) -> float:
        return float(np.mean([run.get(key, np.nan) for run in self.runs[method]]))


def interval(statistic: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """
    A statistic of the means over seeds and problems, and its bootstrap.

    Args:
        statistic (`Callable`):
            Takes the mean of each sample.
        samples (`np.ndarray` of shape (S, P, ...)):
            Numbers by seed and problem; the problems are the same in all.
    """
    generator, problems, drawn = np.random.default_rng(0), samples[0].shape[1], []
    for _ in range(RESAMPLES):
        some = generator.integers(problems, size=problems)
        seeds = [generator.integers(len(sample), size=len(sample)) for sample in samples]
        drawn.append(statistic(*(s[of_s][:, some].mean((0, 1)) for s, of_s in zip(samples, seeds, strict=True))))
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Estimate(float(statistic(*(sample.mean((0, 1)) for sample in samples))), low, high)


def at_trained(curve: np.ndarray) -> float:
    return curve[BUDGETS.index(TRAINED)]


def gain_ratio(curve, baseline, start) -> float:
    """What a method gains over the warm start, in gains of the baseline."""
    return (at_trained(curve) - at_trained(start)) / max(at_trained(baseline) - at_trained(start), 1e-9)


def fewer_tokens(curve, baseline) -> float:
    """How many times fewer tokens it takes to the accuracy that both reach within the budget of training."""
    last = BUDGETS.index(TRAINED) + 1
    return token_ratio(BUDGETS[:last], baseline[:last], BUDGETS[:last], curve[:last])


def main_table(results: Results) -> list[dict]:
    """Accuracy on test problems, beside the baseline's."""
    base, start = (results.accuracy(method) for method in (BASELINE, START))
    rows = []
    for method in results.runs:
        curve = results.accuracy(method)
        row = {"method": method, "seeds": f"{len(curve)}", "accuracy": str(interval(at_trained, curve))}
        if method != START:
            row["learning rate"] = f"{results.runs[method][0]['learning_rate']:g}"
        if method not in (START, BASELINE):
            gain = interval(lambda a, b: at_trained(a) - at_trained(b), curve, base)
            row["less GRPO's"] = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            ratio = interval(gain_ratio, curve, base, start)
            row["gain / GRPO's"] = f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            tokens = interval(fewer_tokens, curve, base)
            row["times fewer tokens"] = f"{tokens.mean:.2f} [{tokens.low:.2f}, {tokens.high:.2f}]"
        rows.append(row)
    return rows


def behaviour_table(results: Results) -> list[dict]:
    """How the models think: what they take, what it brings, and what training took."""
    rows = []
    for method in results.runs:
        row = {"method": method, "tokens": f"{results.each(method, 'tokens').mean():.0f}"}
        row |= {f"regret@{b}": str(interval(float, results.each(method, "regret", b))) for b in REGRET}
        row["episodes"] = f"{results.mean(method, 'episodes'):.1f}"
        row["idle"] = f"{results.mean(method, 'idle'):.1%}"
        row["cut"] = f"{results.mean(method, 'cut'):.1%}"
        if np.isfinite(tokens := results.mean(method, "training_tokens")):
            row["tokens of training"] = f"{tokens / 1e6:.2f} million"
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
    """Accuracy on validation problems at equal updates and at equal tokens of training, branches included."""
    curves = {method: curve for method in results.runs if (curve := learning_curve(results, method)) is not None}
    least = min(curve[-1, 1] for curve in curves.values())
    return [
        {
            "method": method,
            f"at {curve[-1, 0]:.0f} updates": f"{curve[-1, 2]:.3f}",
            f"at {least / 1e6:.2f} million tokens": f"{np.interp(least, curve[:, 1], curve[:, 2]):.3f}",
        }
        for method, curve in curves.items()
    ]


def learning_curve(results: Results, method: str) -> np.ndarray | None:
    """Updates, tokens and accuracy on validation problems from the warm start on, (points, 3), the mean over seeds."""
    curves = [run["curve"] for run in results.runs[method] if run.get("curve")]
    if not curves:
        return None
    return np.vstack([[0, 0, results.runs[START][0]["validation"]], np.mean(curves, axis=0)])


TABLES = {"accuracy": main_table, "behaviour": behaviour_table, "tokens": tokens_table, "sweep": sweep_table}


def draw(results: Results, path: Path) -> None:
    """Accuracy against the budget, and against updates and tokens of training; bands: 95%."""
    shown = [
        method for method in (START, BASELINE, "MRT dense, likelihood", "MRT mixed, online") if method in results.runs
    ]
    with plt.rc_context(STYLE | {"figure.figsize": (11, 3.4)}):
        figure, (budget, updates, tokens) = plt.subplots(1, 3, sharey=True)
        for method, color, dashes in zip(shown, COLORS, DASHES, strict=False):
            look = {"color": color, "linestyle": dashes}
            curve = results.accuracy(method)
            ends = [interval(lambda c, i=i: c[i], curve) for i in range(len(BUDGETS))]
            budget.plot(BUDGETS, [e.mean for e in ends], label=method, **look)
            budget.fill_between(BUDGETS, [e.low for e in ends], [e.high for e in ends], color=color, alpha=0.12, lw=0)
            if (learned := learning_curve(results, method)) is not None:
                updates.plot(learned[:, 0], learned[:, 2], **look)
                tokens.plot(learned[:, 1] / 1e6, learned[:, 2], **look)
        budget.axvline(TRAINED, color="0.6", lw=1)
        budget.set(xlabel="tokens allowed (training: 160)", ylabel="accuracy on test problems")
        updates.set(xlabel=f"updates (measured every {EVAL_STEPS})", title="validation problems")
        tokens.set(xlabel="million tokens of training, branches included", title="validation problems")
        figure.legend(loc="outside upper left", ncols=len(shown))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


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
        return f"<!-- table {name} {task} -->\n\n{markdown(TABLES[name](tasks[task]))}\n\n<!-- end -->"

    page.write_text(re.sub(r"<!-- table (\w+) (\w+) -->.*?<!-- end -->", table, text, flags=re.S))
    for task, results in tasks.items():
        draw(results, page.parent / "figures" / f"results-{task}.png")
    print(f"wrote {page}, from {len(found)} runs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("records", type=Path, nargs="?", default=Path("docs/results/runs"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    main(arguments.records, arguments.page)
