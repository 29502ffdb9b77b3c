r"""Reward functions in TRL's signature, for chat messages and for plain strings.

A row that cannot be judged (its gold answer does not parse, or the grader ran out of time) gets `None`. One that no
reward judges has no advantage and does not count in its group; with `mrt_credit: none`, trl 0.18 takes it for a 0.
"""

import logging
import math
from itertools import chain, groupby

from accelerate import PartialState
from accelerate.utils import gather_object

from .episodes import CLOSE, split_answer
from .golds import gold_text
from .grading import Verdict, grade


logger = logging.getLogger(__name__)

_REWARD = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.NO_ANSWER: 0.0}


def completion_text(completion: str | list[dict]) -> str:
    r"""
    The text of a completion: a plain string, or the last of a list of messages. Where a tokenizer has a response
    template, TRL takes the thinking out of the content; here they are one text again.

    ```python
    >>> completion_text([{"role": "assistant", "reasoning_content": "Hm.", "content": "It is 5."}])
    'Hm.\n</think>\n\nIt is 5.'

    ```
    """
    if isinstance(completion, str):
        return completion
    thinking, content = completion[-1].get("reasoning_content"), completion[-1].get("content") or ""
    return content if thinking is None else f"{thinking}\n{CLOSE}\n\n{content}"


def mrt_accuracy(
    completions: list, solution: list, thinking_opened: list[bool] | None = None, log_metric=None, **kwargs
) -> list[float | None]:
    r"""
    The verifier's reward r: 1 if the answer is right, 0 if it is wrong or missing, `None` if the gold answer cannot be
    parsed or the grader ran out of time. The answer is looked for behind `</think>`; a thinking that was cut has none.

    Args:
        completions (`list[str]` or `list[list[dict]]`): Completions.
        solution (`list`): Gold answers: texts, in LaTeX or plain, or numbers, or lists of one of them.
        thinking_opened (`list[bool]`, *optional*):
            Whether the prompt already ends in `<think>`, so that a completion without `</think>` was cut. Given by
            [`~mrt_plugin.MRTTrainer`]; without it, only a completion that holds `<think>` itself is known to be cut.
        log_metric (`callable`, *optional*): Given by TRL's trainer, to log the number of time-outs.

    Example:
    ```python
    >>> mrt_accuracy(["Hm.\n</think>\n\\boxed{5}", "<think>\n\\boxed{5}"], solution=["5", "5"])
    [1.0, 0.0]

    ```
    """
    answers = [
        split_answer(completion_text(completion), opened)
        for completion, opened in zip(completions, thinking_opened or [False] * len(completions), strict=True)
    ]
    verdicts = grade(answers, [gold_text(gold) or "" for gold in solution])
    if log_metric is not None:
        log_metric("rewards/mrt_accuracy/timeouts", float(verdicts.count(Verdict.TIMED_OUT)))
    return [_REWARD.get(verdict) for verdict in verdicts]


def mrt_progress(
    completions: list,
    solution: list,
    prefix_success: list[float] | None = None,
    continues: list[bool] | None = None,
    thinking_opened: list[bool] | None = None,
    **kwargs,
) -> list[float | None]:
    r"""
    Progress that a rollout made from its prefix: `r - J(prefix)`, in [-1, 1].

    As a scalar it means something only where a group mixes rollouts that continue with rollouts that are forced to
    stop, as [`~mrt_plugin.MRTTrainer`] arranges it with `mrt_credit: mixed` ([`~mrt_plugin.credit`] says why).

    Args:
        completions, solution, thinking_opened:
            As in [`mrt_accuracy`]. Completions hold the prefix that they continue.
        prefix_success (`list[float]`): J of each row's prefix: a column of the data set, or given by `MRTTrainer`.
        continues (`list[bool]`, *optional*):
            Whether the row thinks on after its prefix; a row that is forced to stop makes no progress. Given by
            `MRTTrainer`.

    Raises:
        `ValueError`: If nobody measured J.

    Example:
    ```python
    >>> completions = ["Hm.\n</think>\n\\boxed{5}"] * 2
    >>> mrt_progress(completions, solution=["5", "5"], prefix_success=[0.25, 0.25], continues=[True, False])
    [0.75, 0.0]

    ```
    """
    if prefix_success is None:
        raise ValueError(
            "mrt_progress needs J(prefix). Train with MRTTrainer (accelerate launch -m mrt_plugin.grpo), which "
            "measures it, or give the data set the columns `prefix` and `prefix_success`."
        )
    if continues is None:
        logger.warning(
            "mrt_progress is used as a scalar reward outside MRTTrainer: J(prefix) is the same for a whole group, so "
            "group normalisation cancels it and the run equals one with mrt_accuracy."
        )
        continues = [True] * len(completions)
    outcome = mrt_accuracy(completions, solution, thinking_opened)
    return [
        reward if reward is None else (reward - success) * thinks_on
        for reward, success, thinks_on in zip(outcome, prefix_success, continues, strict=True)
    ]


def mrt_length_penalty(
    prompts: list,
    completions: list,
    completion_ids: list[list[int]],
    solution: list,
    alpha: float = 0.1,
    **kwargs,
) -> list[float | None]:
    r"""
    The length-penalty baseline (arXiv 2502.04463): a right answer is worth `1 - alpha * sigmoid((L - mean) / std)`, a
    wrong one 0. L is the completion's length in tokens; mean and std are those of the right answers to the same
    prompt, whose rows are neighbours.

    Args:
        prompts, completions, completion_ids, solution, **kwargs:
            As in [`mrt_accuracy`], and as TRL gives them: called on every rank, for a group may span two.
        alpha (`float`, *optional*, defaults to `0.1`): Weight of the penalty, in [0, 1).

    Example:
    ```python
    >>> rewards = mrt_length_penalty(["?"] * 2, ["\\boxed{5}"] * 2, [[1] * 10, [1] * 30], ["5", "5"], alpha=0.4)
    >>> [round(reward, 3) for reward in rewards]
    [0.892, 0.708]

    ```
    """
    mine = list(zip(prompts, map(len, completion_ids), mrt_accuracy(completions, solution, **kwargs), strict=True))
    ranks = gather_object([mine])
    rows = list(chain(*ranks))
    rewards = [reward for _, _, reward in rows]
    for _, group in groupby(range(len(rows)), key=lambda i: rows[i][0]):
        right = [i for i in group if rewards[i]]
        lengths = [rows[i][1] for i in right]
        mean = sum(lengths) / max(len(right), 1)
        std = math.sqrt(sum((length - mean) ** 2 for length in lengths) / max(len(right), 1))
        for i, length in zip(right, lengths, strict=True):
            penalty = 1 / (1 + math.exp(-(length - mean) / (std or 1.0)))
            rewards[i] = 1 - alpha * penalty
    first = sum(map(len, ranks[: PartialState().process_index]))
    return rewards[first : first + len(mine)]


REWARDS = {reward.__name__: reward for reward in (mrt_accuracy, mrt_progress, mrt_length_penalty)}
"""By their names in `reward_funcs`."""
