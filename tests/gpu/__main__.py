r"""What half precision, attention and memory do on a GPU: ten minutes on one card, without a network.

    make gpu-check                              # all parts; without a GPU it says so and ends
    python -m tests.gpu fault trainings         # some; the tables of the others stay as they were

Prints tables, and writes them to runs/gpu as JSON and to docs/gpu.md. Times of one run: read the ratios.
"""

import json
import platform
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from mrt_plugin.analysis.runs import markdown

from . import attention, colocate, cost, fault, trainings


OUTPUT = Path("runs/gpu")
PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
PARTS = {
    "fault": fault.run,
    "trainings": lambda device: trainings.run(OUTPUT / "trainings", device),
    "attention": attention.run,
    "colocate": lambda device: colocate.run(OUTPUT / "colocate", device),
    "cost": lambda device: [
        row for size in cost.SIZES for tokens in (4096, 8192) for row in cost.measure(size, tokens)
    ],
}
TEXTS = {
    "fault": """## Gradients of attention in bf16 and fp16

`scaled_dot_product_attention` with a boolean mask, forward and backward, for several numbers of keys. In *left
padding* some rows look at nothing, as padding does in a batch of prompts of several lengths; in *left padding,
unmasked* such rows look at each other; in *sharp* every logit is about -120.
""",
    "trainings": """## Trainings in half precision

GRPO and MRT dense on problems of the demo's task, of two lengths, from its warm start, all at once on one card: at
most 100 updates or three minutes. A training ends at the first gradient that is not finite; there the loss is
differentiated once more, on the same batch with the same weights, with cuDNN's attention and without. The model never
saw the shorter problems, so what is right says little here.
""",
    "attention": f"""## Implementations of attention

Of the warm start of the demo's task: the log-probability of an answer behind {len(attention.CUTS)} cuts of each of
{cost.ROLLOUTS} traces, by the branches that MRT scores with, and the gradient of the traces' log-probability in a
batch of {attention.KEYS} tokens that is padded on the left. Distances are from sdpa in float32.
""",
    "colocate": """## vLLM in the process that trains

The demo's task, rollouts and branches by vLLM (`vllm_mode: colocate`), bf16, J from 4 samples; with `sleep mode` vLLM
gives its memory back while the model is trained. "GiB in use" is the most on the card at the end of an update.
""",
    "cost": f"""## What MRT adds to a step

{cost.ROLLOUTS} rollouts, bf16 weights, random, gradient checkpointing, six episodes, `mrt_termination: answer`,
16 tokens to answer. The rollouts are given; the time of writing them with transformers is that of {cost.PROBE} tokens
at half the length, times the tokens of a trace. With vLLM writing takes less, and the ratios are higher. Median of the
middle steps.
""",
}
INTRODUCTION = """# On a GPU

What `make gpu-check` measured; a part that is missing was not run. Times are of one run.
"""


def machine() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "vllm", "flash_attn")
    found = {name: version(name) if find_spec(name) else "not installed" for name in names}
    cudnn = torch.backends.cudnn.version()
    return {"card": torch.cuda.get_device_name(), "python": platform.python_version(), "cuDNN": str(cudnn), **found}


def table(rows: list[dict]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return markdown([{name: shown(row.get(name, "")) for name in names} for row in rows])


def shown(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def section(name: str, found: dict | None) -> str:
    if found is None:
        return f"{TEXTS[name]}\nNot run.\n"
    where = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    return f"{TEXTS[name]}\nOn {where}.\n\n{table(found['rows'])}\n"


def page(old: str, measured: dict[str, dict]) -> str:
    """The page with a section for each part: anew where it was measured, else as it was."""
    known = {text.partition("\n")[0]: text for text in re.split(r"^(?=## )", old, flags=re.MULTILINE)[1:]}
    parts = [INTRODUCTION]
    for name, text in TEXTS.items():
        as_it_was = known.get(text.partition("\n")[0])
        parts.append(as_it_was if as_it_was and name not in measured else section(name, measured.get(name)))
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def main(parts: list[str]) -> None:
    if not torch.cuda.is_available():
        print("There is no GPU here; nothing is measured.")
        return
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for part in parts or PARTS:
        if rows := PARTS[part]("cuda"):
            found = {"machine": machine(), "rows": rows}
            (OUTPUT / f"{part}.json").write_text(json.dumps(found, indent=1))
            print(table(rows), flush=True)
            PAGE.write_text(page(PAGE.read_text(), {part: found}))


if __name__ == "__main__":
    main(sys.argv[1:])
