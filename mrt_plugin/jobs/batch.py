r"""One batch of problems through the policy: its completions, its rows, and what is done where the engine fails."""

import hashlib
import logging
from collections.abc import Callable, Sequence

from trl import ModelConfig

from ..arguments import MetaProverArguments
from ..engines.load import load_sampler
from ..engines.sampling import Completion, Prompt, Sampler, SamplingError, SamplingSettings
from ..episodes import CLOSE
from ..meta_prover import check_termination
from ..tokens import tokenize
from ..traces import Trace, segment
from ..upstream.model import load_tokenizer
from .arguments import JobArguments
from .problems import Problem, usable


logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""Batches, or problems of one, that the engine fails on in a row before it is taken for dead."""


def load_policy(args: JobArguments, model_args: ModelConfig) -> Sampler:
    tokenizer = load_tokenizer(model_args, args.chat_template)
    if tokenizer.chat_template is None:
        raise ValueError(f"{model_args.model_name_or_path} has no chat template. Set chat_template in the recipe.")
    return load_sampler(args, model_args, tokenizer)


def rollout_settings(args: JobArguments, seed: int) -> SamplingSettings:
    return SamplingSettings(args.max_completion_length, args.temperature, args.top_p, seed)


def draw(
    problems: Sequence[Problem], sampler: Sampler, seed: int, args: JobArguments, behind: dict[str, int]
) -> tuple[dict[Problem, tuple[list[int], list[Completion]]], dict[str, str | None]]:
    """
    Draws `num_generations` completions of each usable problem, in one call. `behind` says for each setting how many
    tokens are to fit behind one. Returns the token ids of each problem's prompt with its completions, and for the id
    of each other problem the reason.
    """
    room = {"max_completion_length": args.max_completion_length} | behind
    prompts, dropped = usable(problems, sampler, {setting: tokens for setting, tokens in room.items() if tokens})
    bare = [Prompt(prompt_ids) for prompt_ids in prompts.values()]
    groups = sampler.sample(bare, args.num_generations, rollout_settings(args, seed))
    drawn = {}
    for (problem, prompt_ids), group in zip(prompts.items(), groups, strict=True):
        if group is None:
            dropped[problem.id] = "the engine has no room for a completion"
        else:
            drawn[problem] = (prompt_ids, group)
    return drawn, dropped


def draw_traces(
    problems: Sequence[Problem], sampler: Sampler, seed: int, args: JobArguments, mrt_args: MetaProverArguments
) -> tuple[dict[Problem, list[tuple[Completion, Trace]]], dict[str, str | None]]:
    """
    As [`draw`], with the trace of each completion, and with room for the meta-prover's answers.

    Raises:
        `ValueError`: If the termination is one for responses without thinking tags.
    """
    if CLOSE not in check_termination(mrt_args.mrt_termination):
        raise ValueError(f"mrt_termination: episodes are found between thinking tags. Set one with {CLOSE}.")
    drawn, dropped = draw(problems, sampler, seed, args, answer_room(sampler.tokenizer, mrt_args))
    episodes, cues, tokenizer = mrt_args.mrt_episodes, mrt_args.mrt_cues, sampler.tokenizer
    rollouts = {}
    for problem, (prompt_ids, completions) in drawn.items():
        rollouts[problem] = [
            (one, segment(tokenizer, prompt_ids, one.token_ids, problem.solution, episodes, cues))
            for one in completions
        ]
    return rollouts, dropped


def answer_room(tokenizer, mrt_args: MetaProverArguments) -> dict[str, int]:
    """Most tokens that the meta-prover puts behind a prefix, by setting."""
    termination = tokenize(tokenizer, check_termination(mrt_args.mrt_termination))
    return {"mrt_termination": len(termination), "mrt_answer_tokens": mrt_args.mrt_answer_tokens}


def build_batch(
    build: Callable, batch: list[Problem], sampler: Sampler, seed: int, args, mrt_args
) -> tuple[list[dict], dict[str, str | None], dict[str, str]]:
    """
    Rows of a batch, its finished problems, and for the id of each problem that the engine failed on, why. Where it
    fails, the problems are built one by one, so that one that cannot be had does not keep the others from it.
    """
    try:
        return *build(batch, sampler, seed, args, mrt_args), {}
    except SamplingError as error:
        if len(batch) == 1:
            logger.warning("Problem %s is not built: %s", batch[0].id, error)
            return [], {}, {batch[0].id: str(error)}
    rows, finished, failed = [], {}, {}
    for problem in batch:
        if len(failed) >= GIVE_UP_AFTER and not finished:
            failed[problem.id] = "the engine failed on the problems before it."
            continue
        more = build_batch(build, [problem], sampler, seed, args, mrt_args)
        rows, finished, failed = rows + more[0], finished | more[1], failed | more[2]
    return rows, finished, failed


def batch_seed(seed: int, batch: Sequence[Problem]) -> int:
    ids = ",".join(problem.id for problem in batch)
    return int(hashlib.sha256(f"{seed}:{ids}".encode()).hexdigest()[:8], 16) % 2**31
