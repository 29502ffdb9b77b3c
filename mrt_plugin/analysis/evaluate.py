r"""Measures a model on a benchmark: rollouts in Parquet files, and what follows from them.

    python -m mrt_plugin.analysis.evaluate --config recipes/evaluation/aime_2024.yaml --model_name_or_path MODEL

Problem -> rollouts -> grades and votes; with `regret`, -> prefixes -> success probabilities. One row for each rollout.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from trl import ModelConfig

from ..arguments import MetaProverArguments
from ..engines.sampling import Completion, Sampler
from ..episodes import CLOSE, split_answer
from ..grading import Verdict, grade
from ..jobs.arguments import JobArguments
from ..jobs.batch import answer_room, draw, rollout_settings
from ..jobs.job import launch_job, run_job
from ..jobs.problems import Problem
from ..meta_prover import Answer, MetaProver, build_meta_prover, check_termination
from ..mistakes import as_command
from ..rollouts import spent_tokens
from ..steps import GO_BACK
from ..tokens import decode, tokenize
from ..traces import opens_thinking, segment
from .runs import SCHEMA, load_run, markdown, results, summary
from .streams import MEASURED_EVERY, extend, linearize
from .votes import votes


logger = logging.getLogger(__name__)

UNMEASURED = dict.fromkeys(column.name for column in SCHEMA if pa.types.is_list(column.type))
"""The columns of a rollout whose prefixes were not measured."""


@dataclass
class EvaluationArguments(JobArguments):
    """What to measure, beside the arguments of the data builders."""

    num_generations: int = field(default=20, metadata={"help": "Rollouts for each problem. The paper: 20."})
    temperature: float = field(default=0.6, metadata={"help": "Temperature of the rollouts. The paper: 0.6."})
    top_p: float = field(default=0.95, metadata={"help": "top-p of the rollouts. The paper: 0.95."})
    output_dir: str = field(default="data/evaluation", metadata={"help": "Folder for the rollouts. A rerun resumes."})
    regret: bool = field(
        default=False, metadata={"help": "Also measure the success probability at every prefix; mrt_* say how."}
    )
    extensions: int = field(
        default=0,
        metadata={
            "help": "With regret: how many times to make finished thinking continue (budget forcing). J is measured "
            "after every second time. The paper: 8."
        },
    )
    extension_tokens: int = field(default=2048, metadata={"help": "Most tokens of an extension. The paper: 2048."})
    attempts: int = field(
        default=1, metadata={"help": "Linearized search, if above 1: attempts that follow each other in one stream."}
    )
    window: int = field(
        default=1, metadata={"help": "Linearized search: how many of the last attempts the next one sees."}
    )
    continuation: str = field(
        default=GO_BACK.partition(" {step}")[0],
        metadata={"help": "Linearized search: what the next attempt begins with."},
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("attempts", "window", "extension_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.extensions < 0 or self.extensions % MEASURED_EVERY:
            raise ValueError(f"extensions must be 0 or an even number, got {self.extensions}.")
        if self.extensions and not self.regret:
            raise ValueError("extensions: the longer thinking is measured at its prefixes. Set regret: true.")
        if self.attempts > 1 and self.regret:
            raise ValueError("attempts: regret is measured on one attempt with thinking tags. Set regret: false.")


def build(
    problems: Sequence[Problem], sampler: Sampler, seed: int, args: EvaluationArguments, mrt_args: MetaProverArguments
) -> tuple[list[dict], dict[str, str | None]]:
    """Rollouts of a benchmark, graded; `vote` 0 stands for the gold answer, other numbers for other answers."""
    tokenizer = sampler.tokenizer
    prover = build_meta_prover(mrt_args, sampler, seed + 1) if args.regret else None  # refuses before a draw
    drawn, dropped = draw(problems, sampler, seed, args, _room_behind(args, mrt_args, tokenizer))
    streams = [
        Stream(problem, prompt_ids, index, first)
        for problem, (prompt_ids, completions) in drawn.items()
        for index, first in enumerate(completions)
    ]
    starts, firsts = [stream.prompt_ids for stream in streams], [stream.first for stream in streams]
    settings = rollout_settings(args, seed)
    attempts = linearize(sampler, starts, firsts, args.attempts, args.window, args.continuation, settings)
    rows = [
        {
            "problem_id": stream.problem.id,
            "stream": stream.index,
            "attempt": attempt,
            "problem": stream.problem.text,
            "solution": stream.problem.solution,
            "completion": decode(tokenizer, completion.token_ids),
            "prompt_tokens": len(stream.prompt_ids),
            "tokens": len(completion.token_ids),
            "ended": completion.ended,
        }
        for stream, mine in zip(streams, attempts, strict=True)
        for attempt, completion in enumerate(mine)
    ]
    opened = {problem.id: opens_thinking(tokenizer, prompt_ids) for problem, (prompt_ids, _) in drawn.items()}
    # A later attempt of a stream goes on behind an answer, whose thinking is closed.
    texts = [split_answer(row["completion"], opened[row["problem_id"]] and not row["attempt"]) for row in rows]
    verdicts = grade(texts, [row["solution"] for row in rows])
    measured = _measure(streams, prover, seed, args, mrt_args) if prover else [UNMEASURED] * len(rows)
    for row, verdict, columns in zip(rows, verdicts, measured, strict=True):
        row |= {"right": verdict is Verdict.RIGHT, "timed_out": verdict is Verdict.TIMED_OUT, **columns}
    own = [Answer(*graded, True) for graded in zip(texts, verdicts, strict=True)]
    for start in range(0, len(rows), per_problem := args.num_generations * args.attempts):
        _vote(rows[start : start + per_problem], own[start : start + per_problem])
    return rows, dropped | {problem.id: None for problem in drawn}


class Stream(NamedTuple):
    """One of a problem's rollouts: its problem, the token ids of its prompt, which it is, and its first attempt."""

    problem: Problem
    prompt_ids: list[int]
    index: int
    first: Completion


def _measure(streams: list[Stream], prover: MetaProver, seed: int, args, mrt_args) -> list[dict]:
    """The columns of each stream that say how often it would be right where; `prefix_votes` still are answers."""
    sampler, episodes, cues = prover.sampler, mrt_args.mrt_episodes, mrt_args.mrt_cues
    traces = [
        segment(sampler.tokenizer, prompt_ids, first.token_ids, problem.solution, episodes, cues)
        for problem, prompt_ids, _, first in streams
    ]
    columns = [
        {
            "success_probability": measurement.success_probability.tolist(),
            "prefix_tokens": spent_tokens(trace, measurement, len(stream.prompt_ids)),
            "prefix_votes": measurement.answers,
            "answer_tokens": measurement.answer_tokens.tolist(),
            "extension_success": [],
            "extension_tokens": [],
        }
        for stream, trace, measurement in zip(streams, traces, prover.success_probabilities(traces), strict=True)
    ]
    if not args.extensions:
        return columns
    thinking = [index for index, trace in enumerate(traces) if trace.episodes]  # the others have nothing to extend
    settings = replace(rollout_settings(args, seed + 2), max_new_tokens=args.extension_tokens)
    longer = extend(sampler, [traces[index] for index in thinking], args.extensions, settings)
    measured = prover.success_probabilities(longer, whole=True)
    for index, trace, measurement in zip(thinking, longer, measured, strict=True):
        columns[index]["extension_success"] = measurement.success_probability.tolist()
        columns[index]["extension_tokens"] = spent_tokens(trace, measurement, len(streams[index].prompt_ids))
    return columns


def _vote(rows: list[dict], own: list[Answer]) -> None:
    """Turns the answers to one problem into votes."""
    answers = own + [answer for row in rows for at_prefix in row["prefix_votes"] or () for answer in at_prefix]
    cast = iter(votes([answer.text for answer in answers], [answer.verdict for answer in answers]))
    for row in rows:
        row["vote"] = next(cast)
    for row in rows:
        if row["prefix_votes"] is not None:
            row["prefix_votes"] = [[next(cast) for _ in at_prefix] for at_prefix in row["prefix_votes"]]


def _room_behind(args: EvaluationArguments, mrt_args: MetaProverArguments, tokenizer) -> dict[str, int]:
    """Most tokens behind a first attempt, by setting."""
    if args.regret:  # with a few for each cue
        longer = {"extensions x extension_tokens": args.extensions * (args.extension_tokens + 8)}
        return longer | answer_room(tokenizer, mrt_args)
    cue = len(tokenize(tokenizer, args.continuation)) + 2
    seen = min(args.window, args.attempts - 1)
    return {"window x max_completion_length": seen * (args.max_completion_length + cue)}


def _nulled(value):
    """A value as JSON has it: what is not known is null."""
    if isinstance(value, dict):
        return {key: _nulled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_nulled(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(args: EvaluationArguments, model_args: ModelConfig, mrt_args: MetaProverArguments) -> None:
    if args.regret and CLOSE not in check_termination(mrt_args.mrt_termination, mrt_args.mrt_estimator):
        raise ValueError("regret: episodes are found between thinking tags. Set an mrt_termination with </think>.")
    run_job(build, SCHEMA, args, model_args, mrt_args)
    run = load_run(args.output_dir)
    for reason, count in run.dropped.items():
        logger.warning("%d problems are not part of the results: %s.", count, reason)
    (Path(args.output_dir) / "results.json").write_text(json.dumps(_nulled(results(run)), indent=2, allow_nan=False))
    print(markdown([summary(run)]))


def run(arguments: list[str] | None = None) -> None:
    """Runs a recipe; `arguments` are those of the command line."""
    launch_job("evaluate", EvaluationArguments, main, arguments)


if __name__ == "__main__":
    as_command("evaluate", run)
