r"""Rollouts, their success probabilities, and what follows from them at a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..episodes import decode, split_answer
from ..grading import Outcome, grade
from ..meta_prover import MetaProver
from ..progress import normalized_regret
from ..sampling import Prompt, SamplingSettings
from ..traces import opening_ids, segment


@dataclass(frozen=True)
class Rollout:
    """
    One measured rollout.

    Args:
        problem (`int`):
            Index of its problem.
        tokens (`int`):
            Length of the completion, in tokens.
        right (`bool`):
            Whether its own answer is right; a rollout that was cut has none.
        success_probability (`list[float]`):
            J after 0, ..., G episodes.
        prefix_tokens (`list[float]`):
            Tokens spent there: completion tokens up to the prefix's end, and the mean length of the forced answers.
    """

    problem: int
    tokens: int
    right: bool
    success_probability: list[float]
    prefix_tokens: list[float]


def roll_out(
    meta_prover: MetaProver,
    prompts: Sequence[Sequence[int]],
    solutions: Sequence[str],
    settings: SamplingSettings,
    n: int = 1,
    episodes: int = 10,
) -> list[Rollout]:
    """
    Draws rollouts and measures J at each of their prefixes, in two calls to the sampler.

    Args:
        meta_prover ([`~mrt_plugin.meta_prover.MetaProver`]):
            The policy, as it answers when forced to; its sampler also draws the rollouts.
        prompts (`Sequence[Sequence[int]]`):
            Token ids of N prompts.
        solutions (`Sequence[str]`):
            Their gold answers.
        settings ([`~mrt_plugin.sampling.SamplingSettings`]):
            How to draw the rollouts.
        n (`int`, *optional*, defaults to `1`):
            Rollouts of each problem.
        episodes (`int`, *optional*, defaults to `10`):
            Most episodes to tell apart in a trace.

    Returns:
        `list[Rollout]`:
            N x `n` rollouts. Problems whose gold answer cannot be parsed are left out.
    """
    tokenizer = meta_prover.tokenizer
    drawn = meta_prover.sampler.sample([Prompt(list(prompt)) for prompt in prompts], n, settings)
    flat = [(problem, completion_ids) for problem, group in enumerate(drawn) for completion_ids in group]
    traces = [segment(tokenizer, prompts[i], ids, solutions[i], episodes) for i, ids in flat]
    texts = [decode(tokenizer, completion_ids) for _, completion_ids in flat]
    opened = [not opening_ids(tokenizer, prompt) for prompt in prompts]
    answers = [split_answer(text, opened[problem]) for text, (problem, _) in zip(texts, flat, strict=True)]
    outcomes = grade(answers, [solutions[problem] for problem, _ in flat])
    rollouts = []
    measurements = meta_prover.success_probabilities(traces)
    for (problem, ids), trace, outcome, measured in zip(flat, traces, outcomes, measurements, strict=True):
        if outcome is not Outcome.UNPARSEABLE_GOLD:
            spent = np.array(trace.cuts) - len(prompts[problem]) + measured.answer_tokens
            rollouts.append(
                Rollout(
                    problem, len(ids), outcome is Outcome.RIGHT, measured.success_probability.tolist(), spent.tolist()
                )
            )
    return rollouts


def regret_at(rollouts: Sequence[Rollout], token_budget: float) -> float:
    """
    Normalised regret at a budget, in tokens: the mean over problems of the mean over their traces. Where a later
    prefix costs fewer tokens than an earlier one, because its answers are shorter, it counts as costing the same.
    """
    return _mean_over_problems(
        rollouts,
        [
            normalized_regret(_known(rollout), np.maximum.accumulate(rollout.prefix_tokens), token_budget)
            for rollout in rollouts
        ],
    )


def accuracy_at(rollouts: Sequence[Rollout], token_budget: float) -> float:
    """pass@1 at a budget, in tokens: a rollout that is longer has no answer there."""
    return _mean_over_problems(rollouts, [rollout.right and rollout.tokens <= token_budget for rollout in rollouts])


def _known(rollout: Rollout) -> np.ndarray:
    """J, with the last known value where the grader gave no verdict."""
    values = np.array(rollout.success_probability)
    for j in np.flatnonzero(np.isnan(values)):
        values[j] = values[j - 1] if j else 0.0
    return values


def _mean_over_problems(rollouts: Sequence[Rollout], values: Sequence[float]) -> float:
    if not rollouts:
        raise ValueError("There are no rollouts to average over.")
    by_problem: dict[int, list[float]] = {}
    for rollout, value in zip(rollouts, values, strict=True):
        by_problem.setdefault(rollout.problem, []).append(value)
    return float(np.mean([np.mean(group) for group in by_problem.values()]))
