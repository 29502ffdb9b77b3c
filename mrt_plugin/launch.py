r"""What the launchers share: which upstream runs a recipe, its data, its rewards, where it resumes."""

import argparse
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .datasets import DataArguments
from .mistakes import check_known
from .upstream.attention import avoid_cudnn_attention
from .upstream.checkpoints import fault, holds_model_of, newest_whole, resume_whole_checkpoints
from .upstream.model import DTYPE
from .upstream.recipe import run_recipe
from .upstream.version import FITS_OPEN_R1


logger = logging.getLogger(__name__)

UPSTREAM = "--upstream {open-r1,trl}: whose main runs it; Open-R1's where it is installed with the trl that it pins."


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
    chooser = argparse.ArgumentParser(f"mrt {task}", add_help=False, allow_abbrev=False)
    default = "open-r1" if find_spec("open_r1") and FITS_OPEN_R1 else "trl"
    chooser.add_argument("--upstream", choices=["open-r1", "trl"], default=default)
    chosen, arguments = chooser.parse_known_args(arguments)  # of the process where there are none
    resume_whole_checkpoints()
    if chosen.upstream == "open-r1":
        dataclass_types, main = import_module(".open_r1", __package__).launcher(task)
        import_module(".registration", __package__).register()

    def unless_finished(script_args, training_args, model_args) -> None:
        if is_finished(training_args):
            logger.warning("%s is finished; a longer run or another output_dir goes on.", training_args.output_dir)
        else:
            half = training_args.bf16 or training_args.fp16 or getattr(model_args, DTYPE) in ("bfloat16", "float16")
            avoid_cudnn_attention(model_args.attn_implementation, half)
            main(script_args, training_args, model_args)

    run_recipe(task, dataclass_types, unless_finished, arguments, epilog=UPSTREAM)


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


def train_and_save(trainer, dataset_name: str | None) -> None:
    """Trains, from where a run was stopped if there is one, and leaves the model and the log in the output folder."""
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model(trainer.args.output_dir)
    trainer.save_state()  # with the log, for figures
    if trainer.args.push_to_hub:
        trainer.push_to_hub(dataset_name=dataset_name)


def resume_point(training_args) -> str | None:
    """
    The checkpoint to resume from: the one that `resume_from_checkpoint` asks for, else the newest whole one in the
    output folder. `False` asks for none, `True` for the newest whole one, which must be there.

    Raises:
        `ValueError`: If what is asked for is not there or not whole.
    """
    asked, output = training_args.resume_from_checkpoint, training_args.output_dir
    if asked is False:
        return None
    if isinstance(asked, str):
        missing = fault(asked, random_states=False)
        if missing:
            raise ValueError(f"resume_from_checkpoint: {asked} is no whole checkpoint: {missing}.")
        return asked
    found = newest_whole(output)
    if asked and not found:
        raise ValueError(f"resume_from_checkpoint: {output} holds no whole checkpoint. Leave it out to start anew.")
    return found


def is_finished(training_args) -> bool:
    """Whether the output folder holds the model of a run that has taken all its steps."""
    checkpoint = resume_point(training_args)
    if checkpoint is None or not holds_model_of(training_args.output_dir, checkpoint):
        return False
    taken = json.loads(Path(checkpoint, "trainer_state.json").read_text())
    if training_args.max_steps > 0:
        return taken["global_step"] >= training_args.max_steps
    return taken["epoch"] >= training_args.num_train_epochs
