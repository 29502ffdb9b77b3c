r"""What the builders of data sets share: problems in, batches through the policy, rows out.

A builder is one function of a batch, `build(problems, policy, seed, *arguments) -> (rows, outcome)`. The loop around
it writes each batch to a [`~mrt_plugin.data.store.RowStore`], and a rerun of the same command goes on where the last
one ended. What is random depends on the seed and on the problems of a batch, not on when or where the batch is built.
"""

import hashlib
import logging
import random
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
from ..grading import Outcome, grade
from ..launch import DataArguments, check_known, load_splits, run_recipe
from ..sampling import Sampler, SamplingSettings
from ..traces import tokenize
from .store import RowStore


logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""Batches in a row that the engine fails on before the run ends."""


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


HOW_NOT_WHAT = ("output_dir", "batch_size", "sampler", "server_url", "engine", "cpus_per_actor", "dataset_test_split")
HOW_NOT_WHAT += ("dataset_streaming", "gradient_checkpointing_use_reentrant", "ignore_bias_buffers")
"""Arguments that the rows do not depend on; a rerun may change them."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A problem with its gold answer, as messages that end in the user's turn."""

    id: str
    messages: list[dict]
    solution: str

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]

    def random(self, seed: int) -> random.Random:
        """A generator of its own, so that its draws do not depend on what stands beside it in a batch."""
        return random.Random(f"{seed}-{self.id}")


@dataclass(frozen=True)
class Policy:
    """The engine that writes, and its tokenizer."""

    sampler: Sampler
    tokenizer: object

    def prompt_ids(self, problem: Problem) -> list[int]:
        return tokenize(
            self.tokenizer,
            self.tokenizer.apply_chat_template(problem.messages, tokenize=False, add_generation_prompt=True),
        )


def load_policy(args: BuilderArguments, model_args: ModelConfig) -> Policy:
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    if args.chat_template is not None:
        tokenizer.chat_template = args.chat_template
    if tokenizer.chat_template is None:
        raise ValueError(f"{model_args.model_name_or_path} has no chat template. Set chat_template in the recipe.")
    return Policy(load_sampler(args.sampler, model_args, tokenizer, args.server_url), tokenizer)


def read_problems(args: BuilderArguments) -> list[Problem]:
    """
    The problems of the training split, each once.

    Raises:
        `ValueError`: If there is none, or a column is missing.
    """
    rows, _ = load_splits(args, args.dataset_prompt_column, wants_eval=False)
    check_known("dataset_solution_column", [args.dataset_solution_column], rows.column_names)
    system = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
    problems = {}
    for row in rows.select_columns([args.dataset_prompt_column, args.dataset_solution_column]):
        problem, solution = row[args.dataset_prompt_column], row[args.dataset_solution_column] or ""
        messages = problem if isinstance(problem, list) else [{"role": "user", "content": problem or ""}]
        identity = hashlib.sha256(repr((messages, solution)).encode()).hexdigest()[:16]
        problems.setdefault(identity, Problem(identity, [*system, *messages], str(solution)))
    if not problems:
        raise ValueError(f"{args.dataset_name or 'dataset_mixture'} has no rows in {args.dataset_train_split!r}.")
    if len(problems) < len(rows):
        logger.warning("%d of %d rows repeat a problem and are left out.", len(rows) - len(problems), len(rows))
    return list(problems.values())


def usable(
    problems: Sequence[Problem], policy: Policy, tokens: int
) -> tuple[dict[Problem, list[int]], dict[str, str | None]]:
    """
    The problems that rows can be built from, and why the others cannot.

    Args:
        problems (`Sequence[Problem]`):
            A batch.
        policy ([`Policy`]):
            The engine.
        tokens (`int`):
            How many tokens are to fit behind a prompt.

    Returns:
        `tuple[dict, dict]`:
            Prompt ids of each usable problem, and for the id of each other one the reason.
    """
    golds = grade(["\\boxed{}"] * len(problems), [problem.solution for problem in problems])
    most = policy.sampler.max_length
    if most is not None and most <= tokens:
        raise ValueError(
            f"The rollouts and answers take up to {tokens} tokens, but the model's context has {most}. Lower "
            "max_completion_length or mrt_answer_tokens."
        )
    prompts, outcome = {}, {}
    for problem, gold in zip(problems, golds, strict=True):
        prompt_ids = policy.prompt_ids(problem)
        if not problem.text.strip():
            outcome[problem.id] = "the problem is empty"
        elif gold is Outcome.UNPARSEABLE_GOLD:
            outcome[problem.id] = "the gold answer cannot be parsed"
        elif most is not None and len(prompt_ids) > most - tokens:
            outcome[problem.id] = f"the prompt has more than {most - tokens} tokens"
        else:
            prompts[problem] = prompt_ids
    return prompts, outcome


def rollout_settings(args: BuilderArguments, seed: int) -> SamplingSettings:
    return SamplingSettings(args.max_completion_length, args.temperature, args.top_p, seed)


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
        card()
        failed: dict[str, str] = {}
        in_a_row = 0
        with tqdm(total=len(problems), initial=len(problems) - sum(len(b) for _, b in todo), unit="problem") as bar:
            for (_, batch), result in _results(build, todo, args, model_args, mrt_args):
                if isinstance(result, SamplingError):
                    failed |= {problem.id: str(result) for problem in batch}
                    in_a_row += 1
                    if in_a_row == GIVE_UP_AFTER:
                        break
                    continue
                in_a_row = 0
                _write(store, *result)
                bar.update(len(batch))
                finished = store.finished()
                kept = sum(reason is None for reason in finished.values())
                bar.set_postfix(kept=f"{kept / len(finished):.0%}")
        card()
        finished = store.finished()
        if None not in finished.values():
            reasons = Counter(finished.values()).most_common()
            logger.warning("No row was kept: %s.", "; ".join(f"{reason} ({count})" for reason, count in reasons))
    if failed:
        named = ", ".join(list(failed)[:5]) + (", ..." if len(failed) > 5 else "")
        raise RuntimeError(
            f"{len(failed)} problems were not built ({named}), the last because: {list(failed.values())[-1]} What was "
            f"built is in {args.output_dir}; run the same command again for the rest."
        )


def _results(build, todo, args, model_args, mrt_args) -> Iterator[tuple]:
    """Each batch with what became of it, in any order."""
    if not todo:
        return
    if args.engine == "ray":
        from .ray import results

        yield from results(build, todo, args, model_args, mrt_args)
        return
    policy = load_policy(args, model_args)
    for seed, batch in todo:
        yield (seed, batch), attempt(build, batch, policy, seed, args, mrt_args)


def attempt(build: Callable, batch: list[Problem], policy: Policy, seed: int, args, mrt_args):
    """Rows and outcome of a batch, or the `SamplingError` that kept them from being built."""
    try:
        prompts_and_outcome = build(batch, policy, seed, args, mrt_args)
    except SamplingError as error:
        logger.warning("Problems %s are not built: %s", ", ".join(problem.id for problem in batch), error)
        return error
    return prompts_and_outcome


def _write(store: RowStore, rows: list[dict], outcome: dict[str, str | None]) -> None:
    try:
        store.write(rows, outcome)
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
