r"""What the builders of data sets share: problems in, batches through the policy, rows out.

A builder is one function of a batch, `build(problems, policy, seed, *arguments) -> (rows, outcome)`. The loop around
it writes each batch to a [`~mrt_plugin.data.store.RowStore`], and a rerun of the same command goes on where the last
one ended. What is random depends on the seed and on the problems of a batch, not on when or where the batch is built.
"""

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

import pyarrow as pa
from tqdm.auto import tqdm
from transformers import AutoTokenizer
from trl import ModelConfig

from ..arguments import MetaProverArguments, check_choices
from ..engines import SamplingError, load_sampler
from ..launch import DataArguments, run_recipe
from ..meta_prover import check_termination
from ..sampling import Prompt, SamplingSettings
from ..traces import Trace, segment, tokenize
from .problems import Policy, Problem, read_problems, usable
from .store import RowStore


logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""Batches, or problems of one, that the engine fails on in a row before it is taken for dead."""


@dataclass
class BuilderArguments(DataArguments):
    """Where the problems come from, how rollouts are drawn, and where the rows go."""

    dataset_prompt_column: str = field(
        default="problem", metadata={"help": "Column with the problem: its text, or a list of messages."}
    )
    dataset_solution_column: str = field(default="solution", metadata={"help": "Column with the gold answer."})
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt before every problem."})
    output_dir: str = field(default="data/rows", metadata={"help": "Folder for the rows. A rerun goes on in it."})
    num_generations: int = field(default=4, metadata={"help": "Rollouts for each problem. The paper: 4 to 16."})
    max_completion_length: int = field(
        default=16384, metadata={"help": "Most tokens of a rollout. The paper: 8192 to 16384."}
    )
    temperature: float = field(default=0.7, metadata={"help": "Temperature of the rollouts. The paper: 0.7 or 0.6."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of the rollouts. The paper: 1, or 0.95 at 0.6."})
    seed: int = field(default=42, metadata={"help": "Seed of all that is drawn."})
    batch_size: int = field(
        default=8, metadata={"help": "Problems in one call to the engine; a file is written after each."}
    )
    sampler: Literal["auto", "transformers", "vllm", "server"] = field(
        default="auto",
        metadata={
            "help": "Who writes. 'vllm' and 'transformers': in this process. 'server': an OpenAI-style server at "
            "server_url, vLLM or SGLang. 'auto': vllm where it is installed, else transformers."
        },
    )
    server_url: str = field(
        default="http://localhost:8000/v1", metadata={"help": "Address of the server, with its /v1."}
    )
    engine: Literal["local", "ray"] = field(
        default="local",
        metadata={
            "help": "'local': one policy, in this process. 'ray': Ray Data actors, one for each GPU or, "
            "where there is none, for every `cpus_per_actor` CPUs."
        },
    )
    cpus_per_actor: int = field(default=1, metadata={"help": "CPUs of a Ray actor on a cluster without GPUs."})

    def __post_init__(self):
        for name in ("num_generations", "max_completion_length", "batch_size", "cpus_per_actor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_choices(self, BuilderArguments)
        if getattr(self, "dataset_streaming", False):
            raise ValueError("dataset_streaming: a builder reads all problems before it starts. Leave it out.")


HOW_NOT_WHAT = ("output_dir", "batch_size", "sampler", "server_url", "engine", "cpus_per_actor", "dataset_test_split")
HOW_NOT_WHAT += ("dataset_streaming", "gradient_checkpointing_use_reentrant", "ignore_bias_buffers")
"""Arguments that the rows do not depend on; a rerun may change them."""


def load_policy(args: BuilderArguments, model_args: ModelConfig) -> Policy:
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    if args.chat_template is not None:
        tokenizer.chat_template = args.chat_template
    if tokenizer.chat_template is None:
        raise ValueError(f"{model_args.model_name_or_path} has no chat template. Set chat_template in the recipe.")
    return Policy(load_sampler(args.sampler, model_args, tokenizer, args.server_url), tokenizer)


def rollout_settings(args: BuilderArguments, seed: int) -> SamplingSettings:
    return SamplingSettings(args.max_completion_length, args.temperature, args.top_p, seed)


def roll_out(
    problems: Sequence[Problem], policy: Policy, seed: int, args: BuilderArguments, mrt_args: MetaProverArguments
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


def run_builder(build: Callable, schema: pa.Schema, args, model_args: ModelConfig, mrt_args: MetaProverArguments):
    """
    Builds the rows of a recipe that are not there yet.

    Raises:
        `ValueError`: If the data or the arguments cannot work.
        `RuntimeError`: If the engine failed on some batches; it names their problems, and a rerun builds them.
    """
    problems = read_problems(args)
    seeded = [problems[i : i + args.batch_size] for i in range(0, len(problems), args.batch_size)]
    with RowStore(args.output_dir, schema, _settings(args, model_args, mrt_args)) as store:
        done = store.finished()
        todo = [(_batch_seed(args.seed, batch), [p for p in batch if p.id not in done]) for batch in seeded]
        todo = [(seed, batch) for seed, batch in todo if batch]
        card = partial(store.finish, f"Rows of {build.__module__.rpartition('.')[2]}", build.__doc__.strip())
        _save(store, card)
        failed: dict[str, str] = {}
        dead = 0  # batches in a row of which nothing was built
        with tqdm(total=len(problems), initial=len(problems) - sum(len(b) for _, b in todo), unit="problem") as bar:
            for rows, outcome, unbuilt in _results(build, todo, args, model_args, mrt_args):
                failed |= unbuilt
                dead = 0 if outcome else dead + 1
                if dead == GIVE_UP_AFTER:
                    break
                if not outcome:
                    continue
                _save(store, partial(store.write, rows, outcome))
                bar.update(len(outcome))
                finished = store.finished()
                kept = sum(reason is None for reason in finished.values())
                bar.set_postfix(kept=f"{kept / len(finished):.0%}")
        _save(store, card)
        finished = store.finished()
        if None not in finished.values():
            reasons = Counter(finished.values()).most_common()
            logger.warning("No row was kept: %s.", "; ".join(f"{reason} ({count})" for reason, count in reasons))
    if failed:
        named = ", ".join(list(failed)[:5]) + (", ..." if len(failed) > 5 else "")
        given_up = " The engine failed on all of them in the end, so the run stopped." if dead == GIVE_UP_AFTER else ""
        raise RuntimeError(
            f"{len(failed)} problems were not built ({named}), the last because: {list(failed.values())[-1]}"
            f"{given_up} What was built is in {args.output_dir}; run the same command again for the rest."
        )


def _results(build, todo, args, model_args, mrt_args) -> Iterator[tuple]:
    """What became of each batch, as [`attempt`] gives it, in any order."""
    if not todo:
        return
    if args.engine == "ray":
        from .ray import results

        yield from results(build, todo, args, model_args, mrt_args)
        return
    policy = load_policy(args, model_args)
    for seed, batch in todo:
        yield attempt(build, batch, policy, seed, args, mrt_args)


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


def _save(store: RowStore, save: Callable) -> None:
    try:
        save()
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}; the rows of earlier batches are kept, and the same command goes on from there",
            str(store.folder),
        ) from error


def _settings(args, model_args: ModelConfig, mrt_args: MetaProverArguments) -> dict:
    """What the rows depend on, under names that do not depend on the generation of TRL."""
    settings = {name: value for name, value in asdict(args).items() if name not in HOW_NOT_WHAT}
    settings |= asdict(mrt_args)
    settings["model_name_or_path"] = model_args.model_name_or_path
    settings["model_revision"] = model_args.model_revision
    return {name: value for name, value in settings.items() if value is not None}


def _batch_seed(seed: int, batch: Sequence[Problem]) -> int:
    ids = ",".join(problem.id for problem in batch)
    return int(hashlib.sha256(f"{seed}:{ids}".encode()).hexdigest()[:8], 16) % 2**31


def launch_builder(name: str, arguments_type: type, main: Callable, arguments: list[str] | None) -> None:
    """Runs a builder's `main` from a recipe; `arguments` are those of the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run_recipe(name, (arguments_type, ModelConfig, MetaProverArguments), main, arguments)
