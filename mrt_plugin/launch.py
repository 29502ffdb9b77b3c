r"""What the launchers share: which upstream runs a recipe, its data, its rewards, its model, where it goes on from."""

import argparse
import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec

import trl
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from transformers import AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from trl import ScriptArguments, get_quantization_config

from . import rewards
from .recipe import RecipeParser, did_you_mean
from .upstream import TRL_1


REWARDS = {
    reward.__name__: reward for reward in (rewards.mrt_accuracy, rewards.mrt_progress, rewards.mrt_length_penalty)
}


def launch(task: str, dataclass_types: tuple, main: Callable, arguments: list[str] | None = None) -> None:
    """
    Runs a recipe: on Open-R1's `main` where `--upstream open-r1` asks for it or Open-R1 is installed with the trl that
    it pins, else on `main`.

    Args:
        task (`str`):
            `grpo` or `sft`.
        dataclass_types (`tuple` of `type`), main (`Callable`):
            Arguments and main of our launcher.
        arguments (`list[str]`, *optional*):
            The command line; that of the process if not given.

    Raises:
        `ValueError`: If the recipe cannot work; it names the recipe.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = "open-r1" if find_spec("open_r1") and not TRL_1 else "trl"
    chooser.add_argument("--upstream", choices=["open-r1", "trl"], default=default)
    chosen, arguments = chooser.parse_known_args(arguments)  # of the process where there are none
    if chosen.upstream == "open-r1":
        dataclass_types, main = importlib.import_module(".open_r1", __package__).LAUNCHERS[task]
    run_recipe(task, dataclass_types, main, arguments)


def run_recipe(task: str, dataclass_types: tuple, main: Callable, arguments: list[str]) -> None:
    """Calls `main` with what the recipe and the command line say; a `ValueError` names the recipe."""
    try:
        main(*RecipeParser(dataclass_types, prog=f"mrt {task}").parse_args_and_config(arguments))
    except ValueError as error:
        recipe = arguments[arguments.index("--config") + 1] if "--config" in arguments[:-1] else f"mrt {task}"
        raise ValueError(f"{recipe}: {error}") from error


@dataclass
class DataArguments(ScriptArguments):
    """Fields of Open-R1's recipes that TRL does not have: what is read, and how it is shown to the model."""

    dataset_mixture: dict | None = field(
        default=None,
        metadata={
            "help": "In place of dataset_name, as in Open-R1: `datasets`, a list of {id, config, split, columns, "
            "weight}, `seed` and `test_split_size`."
        },
    )
    chat_template: str | None = field(default=None, metadata={"help": "Chat template to use instead of the model's."})


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


def check_known(field_name: str, names: Iterable[str], known: Iterable[str]) -> None:
    """
    ```python
    >>> check_known("callbacks", ["mrt_progres"], ["mrt_progress"])
    Traceback (most recent call last):
        ...
    ValueError: callbacks: unknown 'mrt_progres'. Did you mean 'mrt_progress'? Known: mrt_progress.

    ```
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{field_name}: unknown {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


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


def load_splits(script_args, prompt_column: str | None, wants_eval: bool) -> tuple[Dataset, Dataset | None]:
    """
    The training split and, if wanted, the evaluation split of `dataset_name`, a name on the Hub or a local folder, or
    of `dataset_mixture`.

    Raises:
        `ValueError`: If a split or the prompt column is missing; it names those that are there.
    """
    if script_args.dataset_mixture:
        splits = load_mixture(script_args.dataset_mixture)
    elif script_args.dataset_name:
        streaming = {"streaming": script_args.dataset_streaming} if TRL_1 else {}
        splits = _load(script_args.dataset_name, name=script_args.dataset_config, **streaming)
    else:
        raise ValueError("No data: set dataset_name to a data set of the Hub or to a local folder.")
    return check_splits(splits, script_args, prompt_column, wants_eval)


def _load(path: str, **kwargs):
    try:
        return load_dataset(path, **kwargs)
    except StopIteration as error:  # of `datasets`, on a JSON file of no bytes
        raise ValueError(f"{path} holds an empty file.") from error


def check_splits(
    splits: DatasetDict, script_args, prompt_column: str | None, wants_eval: bool
) -> tuple[Dataset, Dataset | None]:
    """The splits that a run takes, with the column that it reads."""
    fields = ["dataset_train_split"] + ["dataset_test_split"] * wants_eval
    for name in fields:
        split = getattr(script_args, name)
        check_known(name, [split], splits)
        columns = splits[split].column_names
        if prompt_column is not None and columns is not None:
            check_known("dataset_prompt_column", [prompt_column], columns)
    train, *test = (splits[getattr(script_args, name)] for name in fields)
    return train, *(test or [None])


def load_mixture(mixture: dict) -> DatasetDict:
    """The data sets of an Open-R1 `dataset_mixture`, concatenated and shuffled."""
    check_known("dataset_mixture", mixture, ["datasets", "seed", "test_split_size"])
    seed, parts = mixture.get("seed", 0), []
    for entry in mixture.get("datasets", []):
        check_known("dataset_mixture", entry, ["id", "config", "split", "columns", "weight"])
        part = _load(entry["id"], name=entry.get("config"), split=entry.get("split", "train"))
        if entry.get("columns") is not None:
            check_known("dataset_mixture", entry["columns"], part.column_names)
            part = part.select_columns(entry["columns"])
        parts.append(part.shuffle(seed=seed).select(range(int(len(part) * entry.get("weight", 1.0)))))
    if not parts:
        raise ValueError(
            "dataset_mixture: no data sets; `datasets` is a list of {id, config, split, columns, weight}."
        )
    rows = concatenate_datasets(parts).shuffle(seed=seed)
    test_size = mixture.get("test_split_size")
    return DatasetDict({"train": rows}) if test_size is None else rows.train_test_split(test_size=test_size, seed=seed)


def trainer_kwargs(script_args, training_args, model_args) -> dict:
    """How a trainer loads the model and its tokenizer; sets `model_init_kwargs`, where the recipe's win."""
    quantization = get_quantization_config(model_args)
    common = {
        "revision": model_args.model_revision,
        "trust_remote_code": (training_args if TRL_1 else model_args).trust_remote_code,
    }
    kwargs = common | {"attn_implementation": model_args.attn_implementation}
    if TRL_1:
        kwargs["dtype"] = model_args.dtype
    else:
        kwargs["torch_dtype"] = model_args.torch_dtype
        if quantization is not None:
            kwargs |= {"quantization_config": quantization, "device_map": trl.get_kbit_device_map()}
    training_args.model_init_kwargs = {**kwargs, **(training_args.model_init_kwargs or {})}
    given = {"model": model_args.model_name_or_path}
    if TRL_1:
        given["quantization_config"] = quantization
    if script_args.chat_template is not None:
        given["processing_class"] = AutoTokenizer.from_pretrained(model_args.model_name_or_path, **common)
        given["processing_class"].chat_template = script_args.chat_template
    return given


def resume_point(training_args) -> str | None:
    """The checkpoint to go on from: the one that was asked for, else the last one in the output folder."""
    if training_args.resume_from_checkpoint is not None:
        return training_args.resume_from_checkpoint
    return get_last_checkpoint(training_args.output_dir) if os.path.isdir(training_args.output_dir) else None
