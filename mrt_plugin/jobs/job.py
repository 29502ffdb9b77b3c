r"""What the builders of data sets share: problems in, batches through the policy, rows out.

A builder is one function of a batch, `build(problems, sampler, seed, *arguments) -> (rows, finished)`. The loop around
it writes each batch to a [`~mrt_plugin.jobs.store.RowStore`], and a rerun of the same command goes on where the last
one ended. What is random depends on the seed and on the problems of a batch, not on when or where the batch is built.
"""

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pyarrow as pa
from tqdm.auto import tqdm
from trl import ModelConfig

from ..arguments import MetaProverArguments
from ..upstream.recipe import run_recipe
from .arguments import PolicyConfig
from .batch import GIVE_UP_AFTER, batch_seed, build_batch, load_policy
from .problems import read_problems
from .store import RowStore


logger = logging.getLogger(__name__)

NOT_IN_ROWS = ("output_dir", "batch_size", "ray", "cpus_per_actor", "sampler", "vllm_args", "max_batch_tokens")
NOT_IN_ROWS += ("server_url", "server_concurrency", "server_timeout", "dataset_test_split", "dataset_streaming")
NOT_IN_ROWS += ("gradient_checkpointing_use_reentrant", "ignore_bias_buffers")
"""Arguments that say who builds the rows, and not which: a rerun may change them."""


def run_job(build: Callable, schema: pa.Schema, args, model_args: ModelConfig, mrt_args: MetaProverArguments):
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
        if gone := done.keys() - {problem.id for problem in problems}:
            raise ValueError(
                f"{args.output_dir} holds {len(gone)} problems that are not in the data (any more), or not with this "
                "gold answer. Delete it, or give another output_dir."
            )
        todo = [(batch_seed(args.seed, batch), [p for p in batch if p.id not in done]) for batch in seeded]
        todo = [(seed, batch) for seed, batch in todo if batch]
        card = partial(store.finish, f"Rows of {build.__module__.rpartition('.')[2]}", build.__doc__.strip())
        _save(store, card)
        failed: dict[str, str] = {}
        dead = 0  # batches in a row of which nothing was built
        with tqdm(total=len(problems), initial=len(problems) - sum(len(b) for _, b in todo), unit="problem") as bar:
            for rows, built, unbuilt in _results(build, todo, args, model_args, mrt_args):
                failed |= unbuilt
                dead = 0 if built else dead + 1
                if dead == GIVE_UP_AFTER:
                    break
                if not built:
                    continue
                _save(store, partial(store.write, rows, built))
                bar.update(len(built))
                finished = store.finished()
                kept = sum(reason is None for reason in finished.values())
                bar.set_postfix(kept=f"{kept / len(finished):.0%}")
        _save(store, card)
        finished = store.finished()
        if finished and None not in finished.values():
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
    """Each batch as [`build_batch`] gives it, in any order."""
    if todo and args.ray:
        from .ray import results

        yield from results(build, todo, args, model_args, mrt_args)
    elif todo:
        sampler = load_policy(args, model_args)
        for seed, batch in todo:
            yield build_batch(build, batch, sampler, seed, args, mrt_args)


def _save(store: RowStore, save: Callable) -> None:
    try:
        save()
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}; the rows of earlier batches are kept, and the same command resumes",
            str(store.folder),
        ) from error


def _settings(args, model_args: ModelConfig, mrt_args: MetaProverArguments) -> dict:
    """What the rows depend on, under names that do not depend on the generation of TRL."""
    settings = asdict(args) | asdict(mrt_args)
    settings |= {name: getattr(model_args, name) for name in ("model_name_or_path", "model_revision")}
    if Path(model_args.model_name_or_path).is_dir():
        settings["model_weights"] = _fingerprint(Path(model_args.model_name_or_path))
    return {name: value for name, value in settings.items() if value is not None and name not in NOT_IN_ROWS}


def _fingerprint(model: Path) -> str:
    """A digest of a model's files of weights: their sizes, and some bytes at 16 places of each."""
    digest = hashlib.sha256()
    for path in sorted([*model.glob("*.safetensors"), *model.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for part in range(16):
                file.seek(max(0, size - 2**12) * part // 15)  # the last of them reads the end
                digest.update(file.read(2**12))
    return digest.hexdigest()[:16]


def launch_job(name: str, arguments_type: type, main: Callable, arguments: list[str] | None) -> None:
    """Runs a builder's `main` from a recipe; `arguments` are those of the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run_recipe(name, (arguments_type, PolicyConfig, MetaProverArguments), main, arguments)
