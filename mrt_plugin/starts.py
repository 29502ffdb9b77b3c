r"""Where the rollouts of a step start: after a prefix of thinking, one for each group (`mrt_prefix`).

A prefix comes from the data set, or is cut off a fresh trace of the live policy. It is appended to the prompt in
tokens; where a credit forces half of the group to stop, the text that makes it stop is appended as well.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate.utils import gather_object

from .datasets import short_enough
from .engines.rollouts import live_sampler
from .engines.sampling import Prompt, SamplingSettings
from .episodes import CLOSE
from .meta_prover import check_termination
from .tokens import decode, tokenize
from .traces import Trace, opening_ids, opens_thinking, segment, stop_after, trace_at
from .upstream.trainer import text_tokenizer
from .upstream.vllm import CONTEXT, context_length, prompt_room


@dataclass(frozen=True)
class Start:
    """
    Where a rollout starts, beyond its prompt: after thinking and, where it is forced to stop, the text that makes it.
    Both are context, never a target.
    """

    token_ids: list[int]
    success: float  # J of the prefix; NaN where it is not measured
    continues: bool  # whether it thinks on


class Prefix(NamedTuple):
    """The tokens of a group's prefix to go on from, those to stop with, and its J."""

    going_on: list[int]
    stopping: list[int]
    success: float


def starting_points(trainer, inputs: list[dict]) -> list[Start]:
    """Where each row of a rank starts: after the prefix of its group, half of which a credit may force to stop."""
    size, first = trainer.num_generations, trainer.accelerator.process_index * len(inputs)
    groups = [(first + row) // size for row in range(len(inputs))]
    # A group may span ranks: the one that holds its first row decides.
    leaders = {group: inputs[row] for row, group in enumerate(groups) if (first + row) % size == 0}
    find = dataset_prefixes if trainer.mrt_args.mrt_prefix == "dataset" else online_prefixes
    prefixes = {group: prefix for local in gather_object([find(trainer, leaders)]) for group, prefix in local.items()}
    starts = []
    for row, group in enumerate(groups):
        going_on, stopping, success = prefixes[group]
        forced = trainer.credit.mixes_groups and (first + row) % size >= size // 2
        starts.append(Start(stopping if forced else going_on, success, continues=not forced))
    return starts


def dataset_prefixes(trainer, leaders: dict[int, dict]) -> dict[int, Prefix]:
    """The prefixes in the columns of the data set, by group."""
    tokenizer = text_tokenizer(trainer)
    prompts = dict(zip(leaders, trainer.bare_prompt_ids(leaders.values()), strict=True))
    in_tags = CLOSE in check_termination(trainer.mrt_args.mrt_termination)
    prefixes = {}
    for group, row in leaders.items():
        opening = opening_ids(tokenizer) if in_tags and not opens_thinking(tokenizer, prompts[group]) else []
        written = tokenize(tokenizer, row["prefix"])
        trace = trace_at(tokenizer, opening, written, row["solution"], 0, [len(decode(tokenizer, written))])
        prefixes[group] = _ways_on(trainer, trace, row["prefix_success"])
    return prefixes


def with_room(trainer, rows):
    """The rows whose prompt, with its prefix and what makes the policy stop, the engine has room for."""
    most = prompt_room(trainer.args, context_length(trainer))
    if most is None or not hasattr(rows, "select"):  # a stream's are found out in their step
        return rows

    def fits(row: dict) -> bool:
        [(going_on, stopping, _)] = dataset_prefixes(trainer, {0: row}).values()
        return len(trainer.bare_prompt_ids([row])[0]) + max(len(going_on), len(stopping)) <= most

    return short_enough(rows, fits, CONTEXT, most)


def online_prefixes(trainer, leaders: dict[int, dict]) -> dict[int, Prefix]:
    """One fresh trace for each group, cut after a random number of its episodes, none to all but the last."""
    args, mrt, tokenizer = trainer.args, trainer.mrt_args, text_tokenizer(trainer)
    prompts = dict(zip(leaders, trainer.bare_prompt_ids(leaders.values()), strict=True))
    settings = SamplingSettings(args.max_completion_length, args.temperature, args.top_p)
    with live_sampler(trainer) as sampler:
        groups = sampler.sample([Prompt(ids) for ids in prompts.values()], 1, settings)
    drawn = [group[0].token_ids if group else [] for group in groups]  # without room, without thinking
    written = sum(gather_object([len(token_ids) for token_ids in drawn]))
    trainer._metrics["train"]["mrt/prefix_tokens"].append(float(written))
    traces, whole = [], []
    for (group, prompt_ids), completion_ids in zip(prompts.items(), drawn, strict=True):
        solution = leaders[group]["solution"]
        trace = segment(tokenizer, prompt_ids, completion_ids, solution, mrt.mrt_episodes, mrt.mrt_cues)
        # From the generator that checkpoints save, so that a resumed run goes on the same.
        traces.append(trace.prefix(torch.randint(max(trace.episodes, 1), ()).item()))
        whole.append(trace)
    trainer.notice(whole)
    measured = trainer.measure(traces) if trainer.credit.measures == "prefix" else []
    success = [float(measurement.success_probability[0]) for measurement in measured] or [math.nan] * len(traces)
    return {
        group: _ways_on(trainer, trace, trace_success, len(prompt_ids))
        for (group, prompt_ids), trace, trace_success in zip(prompts.items(), traces, success, strict=True)
    }


def _ways_on(trainer, prefix: Trace, success: float, begin: int = 0) -> Prefix:
    """The ways on from a trace without episodes; its tokens from `begin` on."""
    cut, stop = stop_after(text_tokenizer(trainer), prefix, 0, check_termination(trainer.mrt_args.mrt_termination))
    return Prefix(prefix.token_ids[begin:], [*prefix.token_ids[begin:cut], *stop], success)
