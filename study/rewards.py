"""Reward functions that the study logs with weight 0, to see in a training what its end is measured by."""

from collections.abc import Callable

from mrt_plugin.rewards import mrt_accuracy


def within(budget: int) -> Callable:
    """The outcome reward for completions of at most so many tokens, and 0 for longer ones."""

    def within_quarter(completions: list, completion_ids: list[list[int]], solution: list[str], **kwargs):
        kwargs.pop("log_metric", None)
        fits = [row for row, token_ids in enumerate(completion_ids) if len(token_ids) <= budget]
        opened = kwargs.get("thinking_opened") or [False] * len(completions)
        found = mrt_accuracy(*([column[row] for row in fits] for column in (completions, solution, opened)))
        rewards: list[float | None] = [0.0] * len(completions)
        for row, reward in zip(fits, found, strict=True):
            rewards[row] = reward
        return rewards

    return within_quarter


within_40, within_60, within_80, within_120, within_190, within_200 = map(within, (40, 60, 80, 120, 190, 200))
