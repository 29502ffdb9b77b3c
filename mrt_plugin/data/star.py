r"""MRT (STaR): demonstrations that make progress (section 5 and Fig. 6, left, of arXiv 2503.07572).

    python -m mrt_plugin.data.star --config recipes/DeepSeek-R1-Distill-Qwen-1.5B/star/data_mrt.yaml

Problem -> rollouts -> episodes -> success probability at every prefix -> the prefix that ends where it is highest, and
a right answer that the policy gave there. `selection: outcome` is the baseline, STaR: a rollout whose answer is right.
With the same seed and settings both choose among the same rollouts. For another iteration, run the recipe again on
the model that was fine-tuned on these rows. The highest of many estimates is often a lucky one: where an answer can be
guessed, estimate J with more samples (docs/first-study.md compares 4 with 16).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from trl import ModelConfig

from ..arguments import MetaProverArguments
from ..engines.sampling import Completion, Sampler
from ..episodes import CLOSE, OPEN, split_answer
from ..grading import Verdict, grade
from ..jobs.arguments import JobArguments
from ..jobs.batch import draw_traces
from ..jobs.job import launch_job, run_job
from ..jobs.problems import Problem
from ..meta_prover import ESTIMATORS, Measurement, build_meta_prover
from ..mistakes import as_command
from ..tokens import decode, tokenize
from ..traces import Trace, opens_thinking


MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "trace": pa.int64(),  # which of the problem's rollouts
        "messages": MESSAGES,
        "problem": pa.string(),
        "solution": pa.string(),
        "success_probabilities": pa.list_(pa.float64()),  # after 0, ..., G episodes; null where it was not measured
        "kept_episodes": pa.int64(),
        "episodes": pa.int64(),  # G
        "tokens": pa.int64(),  # of the assistant's turn
    }
)


@dataclass
class StarArguments(JobArguments):
    """Arguments of the STaR builder."""

    selection: Literal["mrt", "outcome"] = field(
        default="mrt",
        metadata={
            "help": "'mrt': thinking up to the highest success probability, and a right answer from there. 'outcome' "
            "(STaR): whole rollouts with a right answer."
        },
    )
    rows_per_problem: int = field(default=1, metadata={"help": "Most rows to keep of a problem."})

    def __post_init__(self):
        super().__post_init__()
        if self.rows_per_problem < 1:
            raise ValueError(f"rows_per_problem must be at least 1, got {self.rows_per_problem}.")


def build(
    problems: Sequence[Problem], sampler: Sampler, seed: int, args: StarArguments, mrt_args: MetaProverArguments
) -> tuple[list[dict], dict[str, str | None]]:
    """Demonstrations for SFT: `messages`, where the assistant's turn is thinking in tags and an answer."""
    tokenizer = sampler.tokenizer
    rollouts, finished = draw_traces(problems, sampler, seed, args, mrt_args)
    if args.selection == "mrt":
        traces = [trace for group in rollouts.values() for _, trace in group]
        measured = iter(build_meta_prover(mrt_args, sampler, seed + 1).success_probabilities(traces))
        found = {
            problem: select_mrt(tokenizer, [(trace, next(measured)) for _, trace in group])
            for problem, group in rollouts.items()
        }
        why = "no rollout raised the success probability"
    else:
        found = {problem: select_outcome(tokenizer, problem, group) for problem, group in rollouts.items()}
        why = "no rollout was right"
    rows = []
    for problem, kept in found.items():
        finished[problem.id] = None if kept else why
        for row in kept[: args.rows_per_problem]:
            content = row.pop("content")
            rows.append(
                {
                    "problem_id": problem.id,
                    "messages": [*problem.messages, {"role": "assistant", "content": content}],
                    "problem": problem.text,
                    "solution": problem.solution,
                    "tokens": len(tokenize(tokenizer, content)),
                    **row,
                }
            )
    return rows, finished


def select_mrt(tokenizer, measured: Sequence[tuple[Trace, Measurement]]) -> list[dict]:
    """
    What is kept of a problem's traces: of each its prefix with the highest J, the earliest of equals, if that is above
    J_0 and a right answer was given there. The trace with the most progress first; equals stay in the order in which
    they were drawn, since the shorter ones among them are those that were lucky.
    """
    kept = []
    for index, (trace, measurement) in enumerate(measured):
        success = measurement.success_probability
        best = int(np.argmax(np.nan_to_num(success, nan=-1.0)))
        answer = measurement.right_answer(best)
        if not success[best] > success[0] or answer is None:
            continue
        thinking = decode(tokenizer, trace.token_ids[trace.prefix_ends[0] : trace.prefix_ends[best]])
        row = {
            "trace": index,
            "content": f"{OPEN}\n{thinking.rstrip()}\n{CLOSE}{answer}",
            "success_probabilities": success.tolist(),
            "kept_episodes": best,
            "episodes": trace.episodes,
        }
        kept.append((success[0] - success[best], row))
    return [row for _, row in sorted(kept, key=lambda item: item[0])]


def select_outcome(tokenizer, problem: Problem, rollouts: Sequence[tuple[Completion, Trace]]) -> list[dict]:
    """The rollouts of a problem that end with a right answer, as they were written, in the order of their drawing."""
    opened = opens_thinking(tokenizer, problem.prompt_ids(tokenizer))
    texts = [decode(tokenizer, completion.token_ids) for completion, _ in rollouts]
    verdicts = grade([split_answer(text, opened) for text in texts], [problem.solution] * len(texts))
    return [
        {
            "trace": index,
            "content": (f"{OPEN}\n" if opened else "") + text,
            "success_probabilities": None,
            "kept_episodes": trace.episodes,
            "episodes": trace.episodes,
        }
        for index, ((completion, trace), text, verdict) in enumerate(zip(rollouts, texts, verdicts, strict=True))
        if completion.ended and verdict is Verdict.RIGHT
    ]


def main(args: StarArguments, model_args: ModelConfig, mrt_args: MetaProverArguments) -> None:
    if args.selection == "mrt" and not ESTIMATORS[mrt_args.mrt_estimator].draws_answers:
        raise ValueError("selection: mrt keeps an answer that the meta-prover wrote; set mrt_estimator: sample.")
    run_job(build, SCHEMA, args, model_args, mrt_args)


def run(arguments: list[str] | None = None) -> None:
    """Runs a recipe; `arguments` are those of the command line."""
    launch_job("star", StarArguments, main, arguments)


if __name__ == "__main__":
    as_command("star", run)
