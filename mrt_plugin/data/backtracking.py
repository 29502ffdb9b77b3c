r"""Backtracking search: warm-start rows and prefixes for RL (section 6 and Figs. 13 to 15 of arXiv 2503.07572).

    python -m mrt_plugin.data.backtracking --config recipes/Llama-3.1-8B-Instruct/backtracking/data_backtrack.yaml

Problem -> step-labelled attempts -> one row, by scheme:

- `star`: a right attempt;
- `rise`: failed attempts and a right one, stitched at random;
- `backtrack` (MRT's warm start): a failed attempt, a backtrack to the step whose prefix has the highest success
  probability (`mrt_samples` rollouts from each), and a right path from there;
- `mrt` (STaR on the warm-started model): a response that backtracks and gets it right, by the backtrack's progress;
- `rl`: a first attempt of the warm-started model, and its J under forced termination.

Rows of the first four are plain strings: `prompt`, the rendered conversation and all that is context, and
`completion`, the suffix, on which alone SFT puts its loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from trl import ModelConfig

from ..arguments import MetaProverArguments
from ..engines.sampling import Prompt, Sampler
from ..episodes import CLOSE
from ..grading import share_right
from ..jobs.arguments import JobArguments
from ..jobs.batch import answer_room, draw, rollout_settings
from ..jobs.job import launch_job, run_job
from ..jobs.problems import Problem
from ..meta_prover import MetaProver, build_meta_prover, check_termination
from ..mistakes import as_command
from ..steps import Steps, backtrack, best_step, episodes_of, parse_steps, rise
from ..tokens import token_boundaries
from ..traces import trace_at
from .attempts import Attempt, grade_attempts


TEXT = pa.string()
COMMON = {"problem_id": TEXT, "problem": TEXT, "solution": TEXT}
# J after 0, 1, ... steps (`backtrack`), or before and after the backtrack (`mrt`).
MEASURED = {"success_probabilities": pa.list_(pa.float64())}
SFT_SCHEMA = pa.schema({**COMMON, "prompt": TEXT, "completion": TEXT, **MEASURED, "tokens": pa.int64()})
RL_SCHEMA = pa.schema({**COMMON, "prefix": TEXT, "prefix_success": pa.float64()})

FORCED = ("mrt", "rl")  # the success probabilities of these are those of forced termination


@dataclass
class BacktrackingArguments(JobArguments):
    """Arguments of the backtracking builder."""

    scheme: Literal["star", "rise", "backtrack", "mrt", "rl"] = field(
        default="backtrack",
        metadata={"help": "Which rows: star, rise and backtrack for the warm start, mrt or rl after it."},
    )
    max_length: int = field(
        default=4096, metadata={"help": "Rows with more tokens are dropped and counted. The paper: 4096."}
    )


@dataclass(frozen=True)
class Row:
    """What is context, what is trained, and the success probabilities that decided it."""

    context: str
    suffix: str
    success: Sequence[float] | None = None


class Dropped(str):
    """Why no row can be made of a problem's attempts."""


def build(
    problems: Sequence[Problem], sampler: Sampler, seed: int, args: BacktrackingArguments, mrt_args
) -> tuple[list[dict], dict[str, str | None]]:
    """Rows of backtracking search. The setting `scheme` says which; loss belongs on `completion` alone."""
    prover = build_meta_prover(mrt_args, sampler, seed + 1) if args.scheme in FORCED else None  # refuses before a draw
    behind = {"max_completion_length from a step on": args.max_completion_length} if args.scheme == "backtrack" else {}
    if args.scheme in FORCED:
        behind = answer_room(sampler.tokenizer, mrt_args)
    drawn, finished = draw(problems, sampler, seed, args, behind)
    prompts = {problem: prompt_ids for problem, (prompt_ids, _) in drawn.items()}
    groups = [completions for _, completions in drawn.values()]
    graded = grade_attempts(sampler.tokenizer, groups, [problem.solution for problem in drawn])
    attempts = dict(zip(drawn, graded, strict=True))
    if args.scheme == "star":
        found = {problem: star_row(mine) for problem, mine in attempts.items()}
    elif args.scheme == "rise":
        found = {problem: rise_row(mine, problem.random(args.seed)) for problem, mine in attempts.items()}
    elif args.scheme == "backtrack":
        found = backtrack_rows(attempts, prompts, sampler, args, mrt_args.mrt_samples, seed + 1)
    else:
        found = (mrt_rows if args.scheme == "mrt" else rl_rows)(attempts, prompts, prover)
    rows = []
    for problem, row in found.items():
        if isinstance(row, Row):
            row = sft_row(problem, row, sampler.tokenizer, args.max_length)
        finished[problem.id] = row if isinstance(row, Dropped) else None
        if not isinstance(row, Dropped):
            rows.append({"problem_id": problem.id, "problem": problem.text, "solution": problem.solution, **row})
    return rows, finished


def star_row(attempts: Sequence[Attempt]) -> Row | Dropped:
    right = [attempt.text for attempt in attempts if attempt.right]
    return Row("", right[0]) if right else Dropped("no attempt is right")


def rise_row(attempts: Sequence[Attempt], generator) -> Row | Dropped:
    right = [attempt.text for attempt in attempts if attempt.right]
    failed = [attempt.text for attempt in attempts if attempt.failed]
    if not right or not failed:
        return Dropped("no attempt is right" if not right else "no attempt failed")
    return Row(*rise(generator.sample(failed, generator.randint(1, len(failed))), generator.choice(right)))


def backtrack_rows(
    attempts: dict[Problem, list[Attempt]], prompts: dict, sampler: Sampler, args, samples: int, seed: int
) -> dict[Problem, Row | Dropped]:
    """Each problem's first failed attempt with usable steps, rolled out from every step's prefix in one call."""
    found, chosen, branches = {}, {}, []
    for problem, mine in attempts.items():
        failed = [(attempt, parse_steps(attempt.text)) for attempt in mine if attempt.failed]
        usable_ones = [pair for pair in failed if pair[1].usable]
        if not usable_ones:
            why = f"no failed attempt has usable steps: {failed[0][1].faults[0]}" if failed else "no attempt failed"
            found[problem] = Dropped(why)
            continue
        attempt, solution = chosen[problem] = usable_ones[0]
        trace = [*prompts[problem], *attempt.token_ids]
        ends = [0, *(step.end for step in solution.steps[:-1])]
        cuts = [0, *token_boundaries(sampler.tokenizer, attempt.token_ids, ends, straddling=False)[1:]]
        branches += [(problem, Prompt(trace, len(prompts[problem]) + cut)) for cut in cuts]
    drawn = sampler.sample([prompt for _, prompt in branches], samples, rollout_settings(args, seed))
    graded = grade_attempts(sampler.tokenizer, drawn, [problem.solution for problem, _ in branches])
    rollouts: dict[Problem, list[list[Attempt]]] = {}
    for (problem, _), group in zip(branches, graded, strict=True):
        rollouts.setdefault(problem, []).append(group)
    return found | {problem: backtrack_row(*pair, rollouts[problem]) for problem, pair in chosen.items()}


def backtrack_row(attempt: Attempt, solution: Steps, rollouts: list[list[Attempt]]) -> Row | Dropped:
    success = [share_right([attempt.verdict for attempt in group]) for group in rollouts]
    if np.isnan(success).all() or not np.nanmax(success) > 0:
        return Dropped("no step's prefix leads to a right answer")
    best = best_step([*success, np.nan])
    for continuation in rollouts[best]:
        try:
            if continuation.right:
                return Row(*backtrack(attempt.text, solution, best, continuation.text.strip()), success)
        except ValueError:  # its steps are not numbered on from the best step
            continue
    return Dropped("no right path from the best step numbers its steps on")


def mrt_rows(
    attempts: dict[Problem, list[Attempt]], prompts: dict, prover: MetaProver
) -> dict[Problem, Row | Dropped]:
    """Of each problem's right responses that backtrack once, the one whose backtrack makes the most progress."""
    candidates = [
        (problem, attempt, episodes)
        for problem, mine in attempts.items()
        for attempt in mine
        if attempt.right and (episodes := episodes_of(attempt.text)) and episodes[2]
    ]
    traces = []
    for problem, attempt, (first, back, _) in candidates:
        lengths = [len(first), len(first) + len(back)]
        traces.append(trace_at(prover.tokenizer, prompts[problem], attempt.token_ids, problem.solution, 0, lengths))
    found = dict.fromkeys(attempts, Dropped("no right response makes progress by a backtrack"))
    most = dict.fromkeys(attempts, 0.0)
    measurements = prover.success_probabilities(traces)
    for (problem, _, (first, back, corrected)), measurement in zip(candidates, measurements, strict=True):
        before, after = success = measurement.success_probability.tolist()
        if after - before > most[problem]:
            most[problem], found[problem] = after - before, Row(first, back + corrected, success)
    return found


def rl_rows(
    attempts: dict[Problem, list[Attempt]], prompts: dict, prover: MetaProver
) -> dict[Problem, dict | Dropped]:
    """Each problem's first attempt that came to an end, and its J."""
    firsts = {}
    for problem, mine in attempts.items():
        for attempt in mine:
            episodes = episodes_of(attempt.text)
            if episodes or attempt.ended:
                firsts[problem] = (episodes[0] if episodes else attempt.text, attempt)
                break
    traces = [
        trace_at(prover.tokenizer, prompts[problem], attempt.token_ids, problem.solution, 0, [len(first)])
        for problem, (first, attempt) in firsts.items()
    ]
    found = dict.fromkeys(attempts, Dropped("no attempt came to an end"))
    for (problem, (first, _)), measurement in zip(firsts.items(), prover.success_probabilities(traces), strict=True):
        success = float(measurement.success_probability[0])
        ungraded = Dropped("no answer of the meta-prover could be graded")
        found[problem] = ungraded if np.isnan(success) else {"prefix": first, "prefix_success": success}
    return found


def sft_row(problem: Problem, row: Row, tokenizer, max_length: int) -> dict | Dropped:
    """A row for SFT with the conversation rendered, which TRL leaves as it is but for what the tokenizer adds."""
    conversation = problem.rendered(tokenizer)
    if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:  # or there would be two
        conversation = conversation.removeprefix(tokenizer.bos_token)
    context = conversation + row.context
    text = context + row.suffix + tokenizer.eos_token
    token_ids = tokenizer(text)["input_ids"]
    if len(token_ids) > max_length:
        return Dropped(f"the row has more than {max_length} tokens")
    # One token may hold the end of the context and the blank line behind it, where the policy decides to go on. That
    # decision is to be learned, so such a token belongs to the completion.
    for boundary in range(len(context), max(len(context) - 32, 0), -1):
        prompt_ids = tokenizer(text[:boundary])["input_ids"]
        if prompt_ids == token_ids[: len(prompt_ids)]:
            return {
                "prompt": text[:boundary],
                "completion": text[boundary:],
                "success_probabilities": row.success,
                "tokens": len(token_ids),
            }
    return Dropped("no token ends where the context does")


def main(args: BacktrackingArguments, model_args: ModelConfig, mrt_args: MetaProverArguments) -> None:
    if args.scheme in FORCED and CLOSE in check_termination(mrt_args.mrt_termination):
        raise ValueError(
            f"scheme: {args.scheme} forces a response without thinking tags to stop; set mrt_termination to a text "
            f"without {CLOSE} that ends in \\boxed{{."
        )
    run_job(build, RL_SCHEMA if args.scheme == "rl" else SFT_SCHEMA, args, model_args, mrt_args)


def run(arguments: list[str] | None = None) -> None:
    """Runs a recipe; `arguments` are those of the command line."""
    launch_job("backtracking", BacktrackingArguments, main, arguments)


if __name__ == "__main__":
    as_command("backtracking", run)
