r"""Runs -> one page to read and to send: tables and figures in a single HTML file.

mrt figures --runs runs/base runs/grpo runs/mrt --output_dir runs/figures
"""

import argparse
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from ..mistakes import as_command
from ..rollouts import VARIANTS
from .compare import compare
from .runs import BENCHMARK, BUDGET, PROVER, RESAMPLES, Run, load_runs, markdown, summary
from .view import fill, load, page


VIEW = "view.html"
"""Beside the report, where the runs have success probabilities: the page of `mrt view`."""


def report(runs: Sequence[Run], captions: dict[str, str], folder: Path, variant: str = "definition") -> Path:
    """
    Writes `report.html`, which needs no other file, into the folder of the figures. Each run is compared with the
    first and with the one before it. `captions` are those that [`~mrt_plugin.analysis.figures.draw`] returns. Where
    the runs have success probabilities, it links to their page in the same folder.
    """
    first, *others = runs
    settings = {name: first.settings[name] for name in (*BENCHMARK, *BUDGET, *PROVER) if name in first.settings}
    parts = [_table([summary(run, variant) for run in runs])]
    if has_view(runs):
        parts += [f'<p><a href="{VIEW}">Read the rollouts, episode by episode</a></p>']
    how = f"Intervals: 95%, percentile bootstrap over problems, {RESAMPLES} draws. ±: one standard error."
    parts += [f'<p class="note">{how}</p>']
    for before, after in [(first, run) for run in others] + list(pairwise(others)):
        parts += [f"<h2>{escape(after.name)} against {escape(before.name)}</h2>"]
        parts += [_table(compare(before, after, variant))]
    parts += ['<div class="figures">']
    for name, caption in captions.items():
        image = b64encode((folder / f"{name}.svg").read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{name}" src="data:image/svg+xml;base64,{image}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    parts += [
        "</div>",
        "<h2>Settings</h2>",
        _table([{"setting": name, "value": str(settings[name])} for name in settings]),
    ]
    dropped = {reason: count for run in runs for reason, count in run.dropped.items()}
    parts += [f"<p>{count} problems were not measured: {escape(reason)}.</p>" for reason, count in dropped.items()]
    path = folder / "report.html"
    path.write_text(fill("report.html", ", ".join(run.name for run in runs), "\n".join(parts)), encoding="utf-8")
    return path


def has_view(runs: Sequence[Run]) -> bool:
    return all(run.has_regret for run in runs)


def _table(rows: Sequence[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" if name else "<td></td>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(row.get(name, ''))}</td>" for name in names) + "</tr>\n" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>\n{body}</table></div>'


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
    written = report(runs, captions, args.output_dir, args.regret)
    print(markdown([summary(run, args.regret) for run in runs]) + "\n")
    if has_view(runs):
        (args.output_dir / VIEW).write_text(page(load(args.runs)), encoding="utf-8")
        print(f"wrote {args.output_dir / VIEW}, to read the rollouts in")
    print(f"wrote {written}, and {', '.join(captions)} as PNG and SVG")


if __name__ == "__main__":
    as_command("figures", run)
