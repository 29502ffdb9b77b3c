r"""What the launchers share: which upstream runs a recipe, its data, its rewards, where it resumes."""

import argparse
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

from datasets import Dataset
from transformers.trainer_utils import get_last_checkpoint

from . import rewards
from .arguments import check_known, did_you_mean
from .datasets import DataArguments
from .upstream.recipe import run_recipe
from .upstream.version import FITS_OPEN_R1


REWARDS = {
    reward.__name__: reward for reward in (rewards.mrt_accuracy, rewards.mrt_progress, rewards.mrt_length_penalty)
}


def launch(task: str, dataclass_types: tuple, main: Callable, arguments: list[str] | None = None) -> None:
    """
    Runs a recipe: on Open-R1's `main` where `--upstream open-r1` asks for it or Open-R1 is installed with the trl that
    it pins, else on `main`.

    Args:
        task (`str`): `grpo` or `sft`.
        dataclass_types (`tuple` of `type`), main (`Callable`): Arguments and main of our launcher.
        arguments (`list[str]`, *optional*): The command line; that of the process if not given.

    Raises:
        `ValueError`: If the recipe cannot work; it names the recipe.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = "open-r1" if find_spec("open_r1") and FITS_OPEN_R1 else "trl"
    chooser.add_argument("--upstream", choices=["open-r1", "trl"], default=default)
    chosen, arguments = chooser.parse_known_args(arguments)  # of the process where there are none
    if chosen.upstream == "open-r1":
        dataclass_types, main = importlib.import_module(".open_r1", __package__).LAUNCHERS[task]
    run_recipe(task, dataclass_types, main, arguments)


@dataclass
class RecipeArguments(DataArguments):
    """Fields of Open-R1's recipes that TRL does not have, and that our launchers know on both tasks."""

    callbacks: list[str] = field(
        default_factory=list,
        metadata={"help": "Known: mrt_progress, which MRTTrainer adds by itself."},
    )
    wandb_entity: str | None = field(default=None, metadata={"help": "Entity to store W&B runs under."})
    wandb_project: str | None = field(default=None, metadata={"help": "Project to store W&B runs under."})
    wandb_run_group: str | None = field(default=None, metadata={"help": "Group to store W&B runs under."})

    def __post_init__(self):
        check_known("callbacks", self.callbacks, ["mrt_progress"])
        for name in ("wandb_entity", "wandb_project", "wandb_run_group"):
            if getattr(self, name) is not None:
                os.environ[name.upper()] = getattr(self, name)


def check_sft_columns(rows: Dataset, text_field: str) -> None:
    """Raises a `ValueError` if rows have no column that [`~trl.SFTTrainer`] could train on."""
    columns, known = rows.column_names, {"messages", "conversations", "prompt", "input_ids", text_field}
    if columns is not None and not known & set(columns):  # a stream may not know them
        hints = "".join(did_you_mean(column, known) for column in columns)
        raise ValueError(
            f"The training data needs a column 'messages', or 'prompt' and 'completion', or {text_field!r} (as "
            f"dataset_text_field says); it has {columns}.{hints}"
        )


def imported_reward(name: str) -> Callable:
    """The reward function at a dotted path."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward_funcs: {name!r} cannot be imported: {error}.") from error


def resume_point(training_args) -> str | None:
    """The checkpoint to resume from: the one that was asked for, else the last one in the output folder."""
    if training_args.resume_from_checkpoint is not None:
        return training_args.resume_from_checkpoint
    return get_last_checkpoint(training_args.output_dir) if os.path.isdir(training_args.output_dir) else None
