r"""Success probabilities -> advantages: what each credit mode makes of a step (section 6 of arXiv 2503.07572).

The trap. For rollouts from the bare problem the progress of all episodes telescopes to J_G - J_0, and J_0 is one
constant for a group; likewise r - J differs from r by a constant where a group shares its prefix. GRPO's group mean
cancels both. So progress changes the update only where a group *mixes* continuing and forced rollouts (`mixed`), where
J *replaces* the group mean (`termination`), or where credit *varies* within a rollout (`dense`).

A mode is an entry of `CREDITS`: the function that computes its advantages, and the facts that the trainer and
[`~mrt_plugin.settings`] go by. One of your own is another [`Credit`], named in `mrt_credit` by its dotted path. Pure
numpy. Left out: how J is measured, and GRPO's own normalisation, which is already applied to `Step.outcome`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .progress import progress


@dataclass(frozen=True)
class Step:
    """
    What credit sees of a training step: the B rows of all ranks, of which `group_size` neighbours form a group.

    Args:
        outcome (`np.ndarray` of shape (B,)): GRPO's advantages: the rewards, normalised within each group.
        rewards (`np.ndarray` of shape (B,)):
            The weighted sum of the rewards; NaN where every function skipped the row.
        success (`Sequence[np.ndarray]` of length B):
            J, as the mode measures it: of the prefix that the row goes on from, shape (1,), or after 0, ..., G of the
            row's episodes, shape (G + 1,). NaN where it is unknown.
        credit_ends (`Sequence[Sequence[int]]` of length B):
            Where the thinking begins and where its episodes 1, ..., G end, in completion tokens; empty for a mode that
            does not measure episodes.
        width (`int`): Tokens T of the padded completions.
        group_size (`int`): Rollouts in a group.
        alpha (`float`): `mrt_alpha`, the weight of progress.
        horizon (`float`): `mrt_horizon`, in mean lengths of an episode.
    """

    outcome: np.ndarray
    rewards: np.ndarray
    success: Sequence[np.ndarray]
    credit_ends: Sequence[Sequence[int]] = ()
    width: int = 0
    group_size: int = 1
    alpha: float = 1.0
    horizon: float = 1.0

    @property
    def horizon_tokens(self) -> float:
        """The horizon in tokens, by the mean length of the step's episodes."""
        lengths = np.concatenate([np.diff(ends) for ends in self.credit_ends])
        return self.horizon * float(np.mean(lengths)) if len(lengths) else 0.0


@dataclass(frozen=True)
class Credit:
    """
    A credit mode.

    Args:
        name (`str`): Its name in `mrt_credit`.
        summary (`str`): What it does, for the help text.
        advantages (`Callable[[Step], np.ndarray]`, *optional*):
            The advantages of a step, (B,) or, with `per_token`, (B, T). Without it, the mode is plain GRPO.
        measures (`str`, *optional*, defaults to `"nothing"`):
            Where J is measured: of the `prefix` that a row goes on from, after its `episodes`, or `nothing`.
        per_token (`bool`, *optional*, defaults to `False`): Whether each token gets its own advantage.
        mixes_groups (`bool`, *optional*, defaults to `False`):
            Whether half of each group is forced to stop at the prefix, and the other half earns `mrt_progress` as a
            reward beside the outcome.
        outcome_alone (`bool`, *optional*, defaults to `False`):
            Whether the reward has to be the outcome in [0, 1] and nothing else, since J is subtracted from it.
        needs_prefix (`str`, *optional*): If it needs a prefix, why it makes no sense on bare problems.
    """

    name: str
    summary: str
    advantages: Callable[[Step], np.ndarray] | None = None
    measures: Literal["nothing", "prefix", "episodes"] = "nothing"
    per_token: bool = False
    mixes_groups: bool = False
    outcome_alone: bool = False
    needs_prefix: str = ""

    @property
    def active(self) -> bool:
        """Whether it is more than GRPO."""
        return self.advantages is not None


def mixed(step: Step) -> np.ndarray:
    r"""
    The paper's RL (section 6 and Fig. 6, right): a row that thinks on is rewarded with `r + alpha * (r - J(prefix))`,
    one that is forced to stop with r, and GRPO normalises over the group that holds both. The bonus is the reward
    [`~mrt_plugin.rewards.mrt_progress`], so that `step.outcome`, of shape (B,), is the advantage already.

    Example:
    ```python
    >>> r, J, thinks_on = np.array([1.0, 0.0, 1.0, 0.0]), 0.25, np.array([True, True, False, False])
    >>> rewards = r + 1.0 * (r - J) * thinks_on
    >>> outcome = rewards - rewards.mean()
    >>> mixed(Step(outcome, rewards, success=[np.array([J])] * 4)).tolist()
    [1.125, -0.875, 0.375, -0.625]

    ```
    """
    return step.outcome


def termination(step: Step) -> np.ndarray:
    r"""
    `A = R - J(prefix)`, of shape (B,) (the authors' later notes): the success probability on stopping at the prefix
    replaces the group mean, and nothing is scaled. 0 where R or J is unknown.

    Example:
    ```python
    >>> quarter = [np.array([0.25])] * 3
    >>> termination(Step(outcome=np.zeros(3), rewards=np.array([1.0, 0.0, np.nan]), success=quarter)).tolist()
    [0.75, -0.25, 0.0]

    ```
    """
    success = np.array([row[0] for row in step.success], dtype=step.rewards.dtype)
    return np.nan_to_num(step.rewards - success)


def dense(step: Step) -> np.ndarray:
    r"""
    `A_t = A_outcome + alpha * progress_t`, of shape (B, T) (Definition 6.1 for each token): the progress of a thinking
    token is that of the episodes that end within `horizon` mean episode lengths; with a horizon of 0, our reading of
    the authors' online variant, that of its own episode.

    Example:
    ```python
    >>> two_episodes = {"success": [np.array([0.25, 0.25, 1.0])], "credit_ends": [[0, 2, 5]], "width": 7}
    >>> dense(Step(outcome=np.array([0.5]), rewards=np.ones(1), **two_episodes)).tolist()  # a horizon of 2.5 tokens
    [[0.5, 0.5, 0.5, 1.25, 1.25, 0.5, 0.5]]
    >>> dense(Step(outcome=np.array([0.5]), rewards=np.ones(1), horizon=0, **two_episodes)).tolist()
    [[0.5, 0.5, 1.25, 1.25, 1.25, 0.5, 0.5]]

    ```
    """
    credit = token_progress(step.credit_ends, step.success, step.width, step.horizon_tokens)
    return step.outcome[:, None] + step.alpha * credit.astype(step.outcome.dtype)


def token_progress(
    credit_ends: Sequence[Sequence[int]], success: Sequence[np.ndarray], width: int, horizon: float
) -> np.ndarray:
    """
    Progress of every token of a thinking, of shape (B, T); 0 outside of it. An episode that begins or ends with an
    unknown J adds none. Arguments are as in a [`Step`], but for the horizon h, in tokens.

    Token t gets J(t + h) - J(t), where J is what was measured last: an n-step advantage with J as the value function.
    So the progress of an episode goes to the h tokens before its end, however long it is. J must not be interpolated
    within an episode: a token that spoils the episode would get a small part of the loss, and the whole gain of the
    next one, which repairs it.
    h = 0 is another credit: the progress of an episode goes to all of its tokens.

    Example:
    ```python
    >>> token_progress([[0, 2, 5]], [np.array([0.25, 0.25, 1.0])], width=7, horizon=0).tolist()
    [[0.0, 0.0, 0.75, 0.75, 0.75, 0.0, 0.0]]
    >>> token_progress([[0, 2, 5]], [np.array([0.25, 0.25, 1.0])], width=7, horizon=2).tolist()
    [[0.0, 0.0, 0.0, 0.75, 0.75, 0.0, 0.0]]

    ```
    """
    credit = np.zeros((len(credit_ends), width))
    for row, (ends, row_success) in enumerate(zip(credit_ends, success, strict=True)):
        gains = np.nan_to_num(progress(row_success))
        if horizon:
            rise, tokens = np.cumsum([0.0, *gains]), np.arange(ends[0], ends[-1])
            measured, by_then = (np.searchsorted(ends, at, side="right") - 1 for at in (tokens, tokens + horizon))
            gained = rise[by_then] - rise[measured]
        else:
            gained = np.repeat(gains, np.diff(ends))
        credit[row, ends[0] : ends[-1]] = gained
    return credit


NONE = Credit("none", "plain GRPO.")
MIXED = Credit(
    "mixed",
    "(the paper's RL): half of each group is forced to stop at the prefix and gets r, the other half continues and "
    "gets r + alpha (r - J); normalised by group.",
    mixed,
    measures="prefix",
    mixes_groups=True,
    needs_prefix="there is no prefix after which half of the group could be forced to stop",
)
TERMINATION = Credit(
    "termination",
    "the advantage is R - J(prefix), without group mean or std.",
    termination,
    measures="prefix",
    outcome_alone=True,
    needs_prefix="the baseline J(prefix) is one constant for each problem, the same for every rollout",
)
DENSE = Credit(
    "dense",
    "each thinking token gets the outcome advantage + alpha x the progress of the episodes that end within "
    "mrt_horizon (with mrt_horizon: 0, our reading of the authors' online variant).",
    dense,
    measures="episodes",
    per_token=True,
)
CREDITS = {credit.name: credit for credit in (NONE, MIXED, TERMINATION, DENSE)}
"""The modes that `mrt_credit` knows by name."""
