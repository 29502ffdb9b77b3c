r"""What half precision, attention and memory do on a GPU: ten minutes on one card, without a network.

    make gpu-check                              # all parts; without a GPU it says so and ends
    python -m tests.gpu fault trainings         # some; the tables of the others stay as they were

Prints tables, and writes them to runs/gpu as JSON and to docs/gpu.md. Times of one run: read the ratios.
"""

import json
import platform
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from mrt_plugin.analysis.runs import markdown

from . import cost, fault, trainings


OUTPUT = Path("runs/gpu")
PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
PARTS = {
    "fault": ("Gradients of attention in bf16 and fp16", fault.run),
    "trainings": ("Trainings in half precision", lambda device: trainings.run(OUTPUT / "trainings", device)),
    "cost": (
        "What MRT adds to a step",
        lambda device: [row for size in cost.SIZES for tokens in (4096, 8192) for row in cost.measure(size, tokens)],
    ),
}


def machine() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "vllm", "flash_attn")
    found = {name: version(name) if find_spec(name) else "not installed" for name in names}
    cudnn = torch.backends.cudnn.version()
    return {"card": torch.cuda.get_device_name(), "python": platform.python_version(), "cuDNN": str(cudnn), **found}


def table(rows: list[dict]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [{name: row.get(name, "") for name in names} for row in rows]
    return markdown([{name: f"{v:.3g}" if isinstance(v, float) else str(v) for name, v in row.items()} for row in cells])


def main(parts: list[str]) -> None:
    if not torch.cuda.is_available():
        print("There is no GPU here; nothing is measured.")
        return
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for part in parts or PARTS:
        rows = PARTS[part][1]("cuda")
        (OUTPUT / f"{part}.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
