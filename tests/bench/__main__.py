r"""What the progress signal costs, beside what a user would do otherwise.

    make bench

Prints tables, and writes them to runs/bench as Markdown and JSON. Times are noisy; read the ratios. Peers are called
through their public functions, in the same run. The estimators are measured on the model of `make demo`, and on that
of `make smoke` if it is there. Not measured yet: vLLM.
"""

import json
import os
from pathlib import Path

import branching
import estimators
import grading

from mrt_plugin.analysis.runs import markdown


OUTPUT = Path("runs/bench")


def table(title: str, rows: list[dict]) -> str:
    cells = [{name: f"{v:.2f}" if isinstance(v, float) else str(v) for name, v in row.items()} for row in rows]
    return f"## {title}\n\n{markdown(cells)}\n"


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    sizes = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in branching.SIZES.items())
    results = {
        f"Branching: {sizes}; {threads} threads": branching.run(threads),
        "Grading 2,000 completions": grading.run(),
    }
    if Path("runs/demo/warm-start").exists():
        agreement, steps = estimators.run()
        results |= {"Likelihood against sampling": agreement, "A training step of the demo": steps}
    else:
        print("no runs/demo: the estimators are not measured; make demo first")
    tables = [table(title, rows) for title, rows in results.items()]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "bench.json").write_text(json.dumps(results, indent=2))
    (OUTPUT / "bench.md").write_text("\n".join(tables))
    print(*tables, sep="\n")


if __name__ == "__main__":
    main()
