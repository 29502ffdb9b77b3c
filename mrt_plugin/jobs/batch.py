r"""One batch of problems through the policy: its rollouts, and what became of each problem where the engine fails."""

import hashlib
import logging
from collections.abc import Callable, Sequence

from transformers import AutoTokenizer
from trl import ModelConfig

from ..arguments import MetaProverArguments
from ..engines.load import load_sampler
from ..engines.sampling import Prompt, SamplingError, SamplingSettings
from ..meta_prover import check_termination
from ..tokens import tokenize
from ..traces import Trace, segment
from .arguments import JobArguments
from .problems import Policy, Problem, usable


logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""Batches, or problems of one, that the engine fails on in a row before it is taken for dead."""


def load_policy(args: JobArguments, model_args: ModelConfig) -> Policy:
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    if args.chat_template is not None:
        tokenizer.chat_template = args.chat_template
    if tokenizer.chat_template is None:
        raise ValueError(f"{model_args.model_name_or_path} has no chat template. Set chat_template in the recipe.")
    return Policy(load_sampler(args.sampler, model_args, tokenizer, args.server_url), tokenizer)


def rollout_settings(args: JobArguments, seed: int) -> SamplingSettings:
    return SamplingSettings(args.max_completion_length, args.temperature, args.top_p, seed)


def roll_out(
    problems: Sequence[Problem], policy: Policy, seed: int, args: JobArguments, mrt_args: MetaProverArguments
) -> tuple[dict[Problem, list[tuple[list[int], Trace]]], dict[str, str | None]]:
    """
    Rollouts that think, in one call: of each usable problem the completions, in tokens, with their traces. And for the
    id of each other problem, why it is none.
    """
    stop = tokenize(policy.tokenizer, check_termination(mrt_args.mrt_termination))
    room = args.max_completion_length + len(stop) + mrt_args.mrt_answer_tokens
    prompts, outcome = usable(problems, policy, room)
    drawn = policy.sampler.sample(
        [Prompt(prompt_ids) for prompt_ids in prompts.values()], args.num_generations, rollout_settings(args, seed)
    )
    rollouts = {}
    for (problem, prompt_ids), completions in zip(prompts.items(), drawn, strict=True):
        rollouts[problem] = [
            (ids, segment(policy.tokenizer, prompt_ids, ids, problem.solution, mrt_args.mrt_episodes))
            for ids in completions
        ]
    return rollouts, outcome


def attempt(
    build: Callable, batch: list[Problem], policy: Policy, seed: int, args, mrt_args
) -> tuple[list[dict], dict[str, str | None], dict[str, str]]:
    """
    Rows and outcome of a batch, and for the id of each problem that the engine failed on, why. Where it fails, the
    problems are built one by one, so that one that cannot be had does not keep the others from it.
    """
    try:
        return *build(batch, policy, seed, args, mrt_args), {}
    except SamplingError as error:
        if len(batch) == 1:
            logger.warning("Problem %s is not built: %s", batch[0].id, error)
            return [], {}, {batch[0].id: str(error)}
    rows, outcome, failed = [], {}, {}
    for problem in batch:
        if len(failed) >= GIVE_UP_AFTER and not outcome:
            failed[problem.id] = "the engine failed on the problems before it."
            continue
        more = attempt(build, [problem], policy, seed, args, mrt_args)
        rows, outcome, failed = rows + more[0], outcome | more[1], failed | more[2]
    return rows, outcome, failed


def batch_seed(seed: int, batch: Sequence[Problem]) -> int:
    ids = ",".join(problem.id for problem in batch)
    return int(hashlib.sha256(f"{seed}:{ids}".encode()).hexdigest()[:8], 16) % 2**31
