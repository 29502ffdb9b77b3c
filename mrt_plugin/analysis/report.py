r"""Runs -> one page to read and to send: tables and figures in a single HTML file.

mrt figures --runs runs/base runs/grpo runs/mrt --output_dir runs/figures
"""

import argparse
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..mistakes import as_command
from ..rollouts import VARIANTS
from .compare import compare
from .runs import BENCHMARK, BUDGET, PROVER, RESAMPLES, Run, load_runs, markdown, summary


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto }}
td, th {{ padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }}
figure {{ margin: 2rem 0 }}
figure img {{ max-width: 100%; height: auto }}
figcaption {{ color: #555 }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def report(runs: Sequence[Run], captions: dict[str, str], folder: Path, variant: str = "definition") -> Path:
    """
    Writes `report.html`, which needs no other file, into the folder of the figures. The first run is what the others
    are compared with; `captions` are those that [`~mrt_plugin.analysis.figures.draw`] returns.
    """
    first, *others = runs
    settings = {name: first.settings[name] for name in (*BENCHMARK, *BUDGET, *PROVER) if name in first.settings}
    parts = [_table([summary(run, variant) for run in runs])]
    parts += [f"<p>Intervals: 95%, percentile bootstrap over problems, {RESAMPLES} draws. ±: one standard error.</p>"]
    for run in others:
        parts += [f"<h2>{escape(run.name)} against {escape(first.name)}</h2>", _table(compare(first, run, variant))]
    for name, caption in captions.items():
        image = b64encode((folder / f"{name}.svg").read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{name}" src="data:image/svg+xml;base64,{image}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    parts += ["<h2>Settings</h2>", _table([{"setting": name, "value": str(settings[name])} for name in settings])]
    dropped = {reason: count for run in runs for reason, count in run.dropped.items()}
    parts += [f"<p>{count} problems were not measured: {escape(reason)}.</p>" for reason, count in dropped.items()]
    path = folder / "report.html"
    path.write_text(PAGE.format(title=escape(", ".join(run.name for run in runs)), body="\n".join(parts)))
    return path


def _table(rows: Sequence[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(row.get(name, ''))}</td>" for name in names) + "</tr>\n" for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def run(arguments: list[str] | None = None) -> None:
    """Draws the runs that a command line names."""
    parser = argparse.ArgumentParser("mrt figures", description="Draws runs beside each other, and writes a report.")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="folders that mrt evaluate wrote")
    parser.add_argument("--output_dir", type=Path, default=Path("figures"), help="folder for the figures and the page")
    parser.add_argument("--regret", choices=VARIANTS, default="definition", help="variant of normalised regret")
    args = parser.parse_args(arguments)
    try:
        from .figures import draw
    except ImportError as error:
        raise ImportError("mrt figures needs matplotlib: pip install 'mrt-plugin[figures]'") from error
    runs = load_runs(args.runs)
    captions = draw(runs, args.output_dir, args.regret)
    page = report(runs, captions, args.output_dir, args.regret)
    print(markdown([summary(run, args.regret) for run in runs]))
    print(f"\nwrote {page}, and {', '.join(captions)} as PNG and SVG")


if __name__ == "__main__":
    as_command("figures", run)
