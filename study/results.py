"""
The tables and figures of docs/results.md, out of the records that reproduce.py keeps.

    make results                                                          # docs/results.md
    python -m study.results runs/reproduce-fast/records --page runs/reproduce-fast/results.md

A page has its tables between two comments, `<!-- table NAME TASK -->` and `<!-- end -->`, and is written anew there; a
page that does not exist yet gets all tables of the tasks that have records. The tables of the first study are made by
study/first/results.py.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from mrt_plugin.analysis.runs import markdown

from .compare import LEVEL, START, Results, gain_ratio, interval, reach, tokens_to
from .figures import draw, draw_search, draw_when
from .plan import setting_of
from .reproduce import read
from .settings import BASELINE, CHOSEN, METHODS, RECORDS, RIVAL, TASKS, VARIANTS, varied


def mean(value: float) -> float:
    return float(value)


def difference(statistic: Callable[..., float], ours: np.ndarray, other: np.ndarray, digits: int = 3) -> str:
    """How much greater a statistic is of one than of the other."""
    found = interval(lambda a, b: statistic(a) - statistic(b), ours, other)
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def written(found, digits: int = 3) -> str:
    if np.isnan(found.mean):
        return ""
    if found.low == found.high:  # of one seed, where seeds alone are drawn
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def end_table(results: Results) -> list[dict]:
    """Test problems at the end of training; of a method the numbers, and their difference from the baseline's."""
    rows = []
    for method in results.methods:
        measures = {
            f"within {results.quarter} tokens": (mean, results.accuracy(method, results.quarter), 3),
            f"within {results.budget}": (mean, results.accuracy(method, results.budget), 3),
            "tokens": (mean, results.tokens(method), 0),
            f"tokens to be right in {LEVEL}": (tokens_to, results.right(method), 0),
            "first attempt": (mean, results.first(method), 3),
        }
        if "regret" in results.runs[method][0]:  # else greedy, where J is that of other answers
            regret = results.regret(method, results.budget)
            measures = {f"regret@{results.budget}": (mean, regret, 3)} | measures
        row = {"method": method, "seeds": f"{len(results.runs[method])}"}
        if choice := results.chosen.get(method):
            row["rate"] = f"{choice[0]:g}, {choice[1]}"
        for name, (statistic, ours, digits) in measures.items():
            row[name] = written(interval(statistic, ours), digits).replace("inf", f"more than {results.budget}")
        rows.append(row)
        if greedy := [run["greedy"] for run in results.runs[method] if "greedy" in run]:
            rows += end_table(results.with_runs({f"{method}, temperature 0": greedy}))
    return rows


def versus_table(results: Results) -> list[dict]:
    """Differences from the baseline, and MRT's from the rival, at the end of training, and ratios of gains."""
    rows, start = [], results.accuracy(START, results.quarter)
    pairs = [(method, BASELINE) for method in results.methods if method not in (START, BASELINE)]
    for pair in [*pairs, (CHOSEN, RIVAL)]:
        if not all(one in results.runs for one in pair):
            continue
        row = {"difference": " less ".join(pair)}
        for budget in (results.budget * quarters // 4 for quarters in (1, 2, 3, 4)):
            row[f"regret@{budget}"] = difference(mean, *(results.regret(one, budget) for one in pair))
        for budget in (results.quarter, results.budget):
            row[f"within {budget}"] = difference(mean, *(results.accuracy(one, budget) for one in pair))
        gains = (results.accuracy(one, results.quarter) for one in pair)
        row["ratio of gains"] = written(interval(gain_ratio, *gains, start), 2)
        rows.append(row)
    return rows


def variants_table(results: Results) -> list[dict]:
    """
    What each variant of a method comes to, less the method itself, at the same rate and schedule and with the same
    seeds; of one seed without an interval, which would say nothing of others.
    """
    rows = []
    for variant in (one for one in results.runs if one in VARIANTS and varied(one) in results.runs):
        pair = variant, varied(variant)
        seeds = set.intersection(*({run["seed"] for run in results.runs[one]} for one in pair))
        if not seeds:
            continue
        same = {one: [run for run in results.runs[one] if run["seed"] in seeds] for one in pair}
        rows.append({"variant": variant, "of": pair[1], "seeds": ", ".join(map(str, sorted(seeds)))})
        rows[-1] |= _variant(results.with_runs(same), pair)
    return rows


def _variant(results: Results, pair: tuple[str, str]) -> dict[str, str]:
    row = {
        f"regret@{results.budget}": difference(mean, *(results.regret(one, results.budget) for one in pair)),
        f"within {results.quarter}": difference(mean, *(results.accuracy(one, results.quarter) for one in pair)),
        "tokens": difference(mean, *map(results.tokens, pair), digits=0),
        "first attempt": difference(mean, *map(results.first, pair)),
    }
    one_seed = len(results.runs[pair[0]]) == 1
    return {name: text.partition(" ")[0] if one_seed else text for name, text in row.items()}


def equal_table(results: Results) -> list[dict]:
    """MRT against the others with as many updates as its tokens of training would buy them."""
    rows = []
    for method, runs in results.longer.items():
        longer = results.with_runs({CHOSEN: results.runs[CHOSEN], method: runs})
        row = {"MRT dense less": method, "updates": f"{runs[0]['steps']}", "seeds": f"{len(runs)}"}
        for budget in (results.quarter, results.budget):
            row[f"regret@{budget}"] = difference(mean, *(longer.regret(one, budget) for one in (CHOSEN, method)))
        pair = (longer.accuracy(one, results.quarter) for one in (CHOSEN, method))
        row[f"within {results.quarter}"] = difference(mean, *pair)
        rows.append(row)
    return rows


def terms_table(results: Results) -> list[dict]:
    """Accuracy within the budget by the number of terms of a problem; an attempt on a long one is right less often."""
    terms = np.array([problem.count("+") for problem in results.problems])  # of a*x + b + c, two
    rows = []
    for method in results.methods if len(np.unique(terms)) > 1 else ():
        right = results.accuracy(method, results.budget)
        row = {"method": method, "seeds": f"{len(right)}"}
        for count in np.unique(terms):
            row[f"{count} terms ({(terms == count).sum()})"] = written(interval(mean, right[:, terms == count]))
        rows.append(row)
    return rows


def learning_table(results: Results) -> list[dict]:
    """How soon methods learn, on validation problems, and what training takes."""
    rows = []
    third = results.steps // 3
    for method in (one for one in results.methods if one != START):
        updates = results.curves(method, "updates")[0]
        spent = results.spent(method)[:, -1].mean() / 1e6
        silent = results.curves(method, "silent")[:, 1:].mean(axis=0)  # from the first update on
        row = {"method": method, "million tokens": f"{spent:.2f}"}
        row |= {"silent groups at first": f"{silent[0]:.2f}", "on average": f"{silent.mean():.2f}"}
        rows.append(row)
        if "within_quarter" not in results.runs[method][0]["curve"]:  # termination takes no second reward to log it
            continue
        curves = results.curves(method, "within_quarter")
        early = [np.interp(third, updates, curve) for curve in curves]
        row[f"within {results.quarter} after {third} updates"] = f"{np.mean(early):.3f}"
        if method != BASELINE and BASELINE in results.runs:
            other = results.curves(BASELINE, "within_quarter")
            samples = [np.array([[np.interp(third, updates, c)] for c in some]) for some in (curves, other)]
            start = np.full((1, 1), results.at_start("within_quarter"))
            row["gain / GRPO's there"] = written(interval(gain_ratio, *samples, start), 2)
            for name, axis in (("updates", lambda one: results.curves(one, "updates")), ("tokens", results.spent)):
                row[f"times fewer {name} to GRPO's end"] = written(reach(results, method, axis), 2)
    return rows


def rates_table(results: Results) -> list[dict]:
    """What each rate and schedule of a method's search comes to on validation problems: seed 0, and how others end."""
    rows, budget = [], str(results.budget)
    order = [*METHODS, *VARIANTS]
    swept = [record for record in results.all if record.get("seed") == 0]
    for record in sorted(swept, key=lambda r: (order.index(r["method"]), r["learning_rate"], r["schedule"])):
        held_out, curve = record["validation"], record["curve"]
        choice = record["learning_rate"], record["schedule"]
        chosen = results.chosen.get(record["method"]) == choice
        row = {"method": record["method"], "rate": f"{choice[0]:g}, {choice[1]}" + ", chosen" * chosen}
        for update in (results.steps * 3 // 10, results.steps * 6 // 10):
            regret = np.interp(update, curve["updates"], curve["regret"])
            row[f"regret@{results.budget} after {update} updates"] = f"{regret:.3f}"
        row["at the end"] = f"{held_out['regret'][budget]:.3f}"
        same = [one for one in results.trained if replace(setting_of(one), seed=0) == setting_of(record)]
        regrets = [one["validation"]["regret"][budget] for one in sorted(same, key=itemgetter("seed"))]
        row["other seeds"] = ", ".join(f"{regret:.3f}" for regret in regrets)
        row[f"within {results.quarter} tokens"] = f"{held_out['within_quarter']:.3f}"
        row["tokens"] = f"{held_out['tokens']:.0f}"
        row["million tokens of training"] = f"{(curve['drawn'][-1] + curve['scored'][-1]) / 1e6:.2f}"
        rows.append(row)
    return rows


TABLES = {
    "end": end_table,
    "versus": versus_table,
    "learning": learning_table,
    "variants": variants_table,
    "equal": equal_table,
    "terms": terms_table,
    "rates": rates_table,
}


def main(records: Path, page: Path) -> None:
    found = read(records)
    measured = {record["task"] for record in found if record["method"] == START}
    tasks = {task: Results(found, task) for task in TASKS if task in measured}
    text = (
        page.read_text()
        if page.exists()
        else "\n\n".join(
            f"<!-- table {name} {task} -->\n<!-- end -->"
            for task, results in tasks.items()
            for name, rows in TABLES.items()
            if rows(results)
        )
    )

    def table(match: re.Match) -> str:
        name, task = match[1], match[2]
        if name not in TABLES:
            return match[0]
        rows = TABLES[name](tasks[task]) if task in tasks else []
        shown = f"{markdown(rows)}\n\n{tasks[task].source}" if rows else "Not run yet."
        return f"<!-- table {name} {task} -->\n\n{shown}\n\n<!-- end -->"

    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(re.sub(r"<!-- table (\w+) ([\w-]+) -->.*?<!-- end -->", table, text, flags=re.S))
    for results in tasks.values():
        draw(results, page.parent / "figures")
        if any(record.get("seed") == 0 for record in results.all):
            draw_search(results, page.parent / "figures")
    trained = [results for results in tasks.values() if len(results.runs) > 1]
    if len(trained) > 1:  # of one task it says nothing
        draw_when(trained, page.parent / "figures")
    print(f"wrote {page}, from {len(found)} records")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("records", type=Path, nargs="?", default=RECORDS)
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    main(arguments.records, arguments.page)
