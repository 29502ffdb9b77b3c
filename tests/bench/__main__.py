r"""What the progress signal costs, beside what a user would do otherwise.

    make bench                                  # all parts, about half an hour
    .venv/bin/python tests/bench grading        # one of them; the tables of the others stay as they were

Prints tables, and writes them to runs/bench as Markdown and JSON. Times are noisy; read the ratios. Peers are called
through their public functions, in the same run. What needs more is measured where it is there: vLLM in `.venv-vllm`,
Open-R1 in `.venv-open-r1`, the estimators on the models of `make demo` and `make smoke`; make these first.
"""

import json
import sys
from pathlib import Path

import branching
import costs
import estimators
import grading
import scaling

from mrt_plugin.analysis.runs import markdown


OUTPUT = Path("runs/bench")
PARTS = {
    "branching": branching.run,
    "grading": grading.run,
    "estimators": estimators.run,
    "costs": costs.run,
    "scaling": lambda: {"Seconds of measuring a step": scaling.run(OUTPUT)},
}


def table(title: str, rows: list[dict]) -> str:
    cells = [{name: f"{v:.2f}" if isinstance(v, float) else str(v) for name, v in row.items()} for row in rows]
    return f"## {title}\n\n{markdown(cells)}\n"


def main(parts: list[str]) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for part in parts or PARTS:
        (OUTPUT / f"{part}.json").write_text(json.dumps(PARTS[part](), indent=2))
    results = {}
    for part in PARTS:
        if (OUTPUT / f"{part}.json").exists():
            results |= json.loads((OUTPUT / f"{part}.json").read_text())
    tables = [table(title, rows) for title, rows in results.items()]
    (OUTPUT / "bench.md").write_text("\n".join(tables))
    print(*tables, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
