r"""Prefixes for RL: where `mrt_prefix: dataset` starts its rollouts (Fig. 6, right, of arXiv 2503.07572).

    python -m mrt_plugin.data.prefixes --config recipes/DeepSeek-R1-Distill-Qwen-1.5B/prefixes/data_mrt.yaml

Problem -> rollout -> its first j episodes, j being random -> success probability there. One row for each rollout.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from ..arguments import MetaProverArguments
from ..engines.sampling import Sampler
from ..jobs.arguments import JobArguments
from ..jobs.batch import draw_traces
from ..jobs.job import launch_job, run_job
from ..jobs.problems import Problem
from ..meta_prover import build_meta_prover
from ..mistakes import as_command
from ..tokens import decode
from .star import MESSAGES


SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "trace": pa.int64(),  # which of the problem's rollouts
        "prompt": MESSAGES,
        "problem": pa.string(),
        "solution": pa.string(),
        "prefix": pa.string(),  # thinking text, without the tag that opens it
        "prefix_success": pa.float64(),  # J
        "prefix_episodes": pa.int64(),  # j
        "episodes": pa.int64(),  # G
    }
)


def build(
    problems: Sequence[Problem], sampler: Sampler, seed: int, args: JobArguments, mrt_args: MetaProverArguments
) -> tuple[list[dict], dict[str, str | None]]:
    """Prefixes of thinking for RL: `prefix`, cut after a random number of episodes, and its J in `prefix_success`."""
    prover = build_meta_prover(mrt_args, sampler, seed + 1)  # refuses before a draw
    rollouts, finished = draw_traces(problems, sampler, seed, args, mrt_args)
    found, traces = [], []
    for problem, group in rollouts.items():
        generator = problem.random(seed=args.seed)
        for index, (_, whole) in enumerate(group):
            episodes = generator.randrange(max(whole.episodes, 1))  # none to all but the last
            traces.append(whole.prefix(episodes))
            found.append(
                {
                    "problem_id": problem.id,
                    "trace": index,
                    "prompt": problem.messages,
                    "problem": problem.text,
                    "solution": problem.solution,
                    "prefix": decode(sampler.tokenizer, traces[-1].token_ids[whole.prefix_ends[0] :]),
                    "prefix_episodes": episodes,
                    "episodes": whole.episodes,
                }
            )
    measurements = prover.success_probabilities(traces)
    rows = [
        {**row, "prefix_success": float(measurement.success_probability[0])}
        for row, measurement in zip(found, measurements, strict=True)
        if not np.isnan(measurement.success_probability[0])
    ]
    kept = {row["problem_id"] for row in rows}
    finished |= {p.id: None if p.id in kept else "no answer of the meta-prover could be graded" for p in rollouts}
    return rows, finished


def run(arguments: list[str] | None = None) -> None:
    """Runs a recipe; `arguments` are those of the command line."""
    launch_job("prefixes", JobArguments, partial(run_job, build, SCHEMA), arguments)


if __name__ == "__main__":
    as_command("prefixes", run)
