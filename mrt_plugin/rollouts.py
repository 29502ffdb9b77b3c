r"""Rollouts, their success probabilities, and their regret at a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .engines.sampling import Prompt, SamplingSettings
from .meta_prover import Measurement, MetaProver
from .progress import normalized_regret, released_regret
from .traces import Trace, segment


VARIANTS = ("definition", "released")


@dataclass(frozen=True)
class Rollout:
    """
    One rollout, and what was measured on it: the columns of [`~mrt_plugin.analysis.runs.SCHEMA`].

    Args:
        problem_id (`int` or `str`): Its problem.
        success_probability (`list[float]`):
            J after 0, ..., G episodes, NaN where it is not known; empty if it was not measured.
        prefix_tokens (`list[float]`): Tokens spent there, as in [`spent_tokens`].
        extension_success, extension_tokens (`list[float]`):
            The same after 2, 4, ... extensions of the thinking by budget forcing.
        prompt_tokens (`int`): Length of the prompt, in tokens.
        prefix_votes (`list[list[int | None]]`): [`~mrt_plugin.analysis.votes.votes`] of the answers at each prefix.
        answer_tokens (`list[float]`): Their mean length, in tokens; NaN where there are none.
        stream, attempt (`int`): Which of the problem's streams, and which attempt of it.
        tokens (`int`): Length of the completion, in tokens.
        right, ended, timed_out (`bool`):
            Whether its own answer is right, the completion came to an end by itself, and the grader ran out of time.
        vote (`int`, *optional*): What its own answer votes for.
    """

    problem_id: int | str
    success_probability: list[float] = field(default_factory=list)
    prefix_tokens: list[float] = field(default_factory=list)
    extension_success: list[float] = field(default_factory=list)
    extension_tokens: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    prefix_votes: list[list[int | None]] = field(default_factory=list)
    answer_tokens: list[float] = field(default_factory=list)
    stream: int = 0
    attempt: int = 0
    tokens: int = 0
    right: bool = False
    ended: bool = True
    timed_out: bool = False
    vote: int | None = None


def roll_out(
    meta_prover: MetaProver,
    prompts: Sequence[Sequence[int]],
    solutions: Sequence[str],
    settings: SamplingSettings,
    episodes: int,
    cues: Sequence[str],
) -> list[Rollout]:
    """
    Draws one rollout for each prompt and measures J at its prefixes, in two calls to the sampler.

    Args:
        meta_prover ([`~mrt_plugin.meta_prover.MetaProver`]): Its sampler also draws the rollouts.
        prompts (`Sequence[Sequence[int]]`): Token ids of N prompts.
        solutions (`Sequence[str]`): Their gold answers.
        settings ([`~mrt_plugin.engines.sampling.SamplingSettings`]): How to draw the rollouts.
        episodes (`int`), cues (`Sequence[str]`): Most episodes to tell apart in a trace, and what they begin with.

    Returns:
        `list[Rollout]`: All of which some J is known: the engine had room, and the gold answer can be parsed.
    """
    drawn = meta_prover.sampler.sample([Prompt(list(prompt)) for prompt in prompts], 1, settings)
    traces = {
        index: segment(meta_prover.tokenizer, prompts[index], group[0].token_ids, solutions[index], episodes, cues)
        for index, group in enumerate(drawn)
        if group is not None
    }
    measured = meta_prover.success_probabilities(list(traces.values()))
    return [
        Rollout(index, measurement.success_probability.tolist(), spent_tokens(trace, measurement, len(prompts[index])))
        for (index, trace), measurement in zip(traces.items(), measured, strict=True)
        if not np.isnan(measurement.success_probability).all()
    ]


def spent_tokens(trace: Trace, measurement: Measurement, prompt_tokens: int) -> list[float]:
    """
    What it takes to answer after each prefix: completion tokens up to there, and the mean length of the answers. Where
    there was no room for one, the former alone: the curve holds the last known J there.
    """
    return (np.array(trace.prefix_ends) - prompt_tokens + np.nan_to_num(measurement.answer_tokens)).tolist()


def regret_at(
    rollouts: Sequence[Rollout], token_budget: float, extensions: int = 0, variant: str = "definition"
) -> float:
    """
    Normalised regret at a budget: the mean over problems of the mean over their traces.

    Args:
        rollouts (`Sequence[Rollout]`): Measured rollouts.
        token_budget (`float`): Budget C_0, in tokens.
        extensions (`int`, *optional*, defaults to `0`):
            How many of the points measured by budget forcing belong to the curves: those beyond the trained budget.
        variant (`str`, *optional*, defaults to `"definition"`):
            `definition`: [`~mrt_plugin.progress.normalized_regret`] of the completion's tokens; where a later prefix
            costs fewer, because its answers are shorter, it counts as costing the same. `released`:
            [`~mrt_plugin.progress.released_regret`], with the prompt's tokens counted as well.

    Example:
    ```python
    >>> rollouts = [Rollout("a", [0.25, 1.0], [100, 300]), Rollout("b", [0.5], [100])]
    >>> round(regret_at(rollouts, 400), 4)
    0.4844

    ```
    """
    if not rollouts:
        raise ValueError("There are no rollouts to average over.")
    by_problem: dict[int | str, list[float]] = {}
    for rollout in rollouts:
        values, tokens = curve(rollout, extensions)
        if variant == "released":
            value = released_regret(values, tokens + rollout.prompt_tokens, token_budget, extensions > 0)
        else:
            value = normalized_regret(values, np.maximum.accumulate(tokens), token_budget)
        by_problem.setdefault(rollout.problem_id, []).append(value)
    return float(np.mean([np.mean(group) for group in by_problem.values()]))


def curve(rollout: Rollout, extensions: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """J and the tokens spent there. An unknown J takes the last known value, or 0 where there is none."""
    values = np.array([*rollout.success_probability, *rollout.extension_success[:extensions]])
    for j in np.flatnonzero(np.isnan(values)):
        values[j] = values[j - 1] if j else 0.0
    return values, np.array([*rollout.prefix_tokens, *rollout.extension_tokens[:extensions]])
