r"""Rollouts that a training keeps for `mrt view`: a Parquet file for each step that it logs."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .arguments import MRTArguments
from .meta_prover import Measurement
from .rewards import completion_text
from .rollouts import spent_tokens
from .tokens import decode, special_ids
from .traces import Trace


SETTINGS = b"mrt_plugin"
"""Key of a run's settings in the metadata of a file."""


def kept_row(
    tokenizer,
    example: dict,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    trace: Trace,
    measurement: Measurement | None,
) -> dict:
    """
    A rollout in the columns of an evaluation. J is NaN where it was not measured, as the completion does not think. To
    add: its `reward`, and `advantages`, one for each token.
    """
    prompt = example["prompt"]
    unknown, begin = [math.nan], [0.0]
    return {
        "problem": prompt if isinstance(prompt, str) else completion_text(prompt),
        "solution": str(example["solution"]),
        "completion": decode(tokenizer, completion_ids),
        "prompt_tokens": len(prompt_ids),
        "tokens": len(completion_ids),
        "ended": bool(completion_ids) and completion_ids[-1] in special_ids(tokenizer),
        "success_probability": measurement.success_probability.tolist() if measurement else unknown,
        "answer_tokens": measurement.answer_tokens.tolist() if measurement else unknown,
        "prefix_tokens": spent_tokens(trace, measurement, len(prompt_ids)) if measurement else begin,
    }


def write_kept(args, step: int, rows: Sequence[dict], mrt_args: MRTArguments) -> None:
    """Writes the rollouts of a step. One that is trained again, after a resume, takes the place of the first."""
    settings = {field.name: getattr(mrt_args, field.name) for field in fields(MRTArguments)}
    settings["max_completion_length"] = args.max_completion_length
    table = pa.Table.from_pylist([{**row, "step": step} for row in rows])
    path = Path(args.output_dir) / "rollouts" / f"step-{step:06}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    pq.write_table(table.replace_schema_metadata({SETTINGS: json.dumps(settings)}), partial)
    partial.replace(path)


def read_kept(output_dir: str | Path) -> tuple[dict, list[dict]]:
    """The settings and the rollouts that a training kept, in the order of its steps; both empty if it kept none."""
    settings, rows = {}, []
    for path in sorted((Path(output_dir) / "rollouts").glob("step-*.parquet")):
        table = pq.read_table(path)
        settings = json.loads(table.schema.metadata[SETTINGS])
        rows += table.to_pylist()
    return settings, rows
