r"""What the launchers share: loading the data, loading the model, resuming."""

import os

from datasets import Dataset, load_dataset
from transformers.trainer_utils import get_last_checkpoint


def load_splits(script_args, prompt_column: str | None, wants_eval: bool) -> tuple[Dataset, Dataset | None]:
    """
    The training split and, if wanted, the evaluation split of `dataset_name`, a name on the Hub or a local folder.

    Raises:
        `ValueError`: If a split or the prompt column is missing; it names those that are there.
    """
    if not script_args.dataset_name:
        raise ValueError("No data: set dataset_name to a data set of the Hub or to a local folder.")
    splits = load_dataset(
        script_args.dataset_name, name=script_args.dataset_config, streaming=script_args.dataset_streaming
    )
    wanted = [script_args.dataset_train_split] + [script_args.dataset_test_split] * wants_eval
    for split in wanted:
        if split not in splits:
            raise ValueError(f"{script_args.dataset_name} has no split {split!r}; it has {sorted(splits)}.")
        columns = splits[split].column_names
        if prompt_column is not None and columns is not None and prompt_column not in columns:
            raise ValueError(
                f"Split {split!r} of {script_args.dataset_name} has no column {prompt_column!r}; it has {columns}. "
                "Set dataset_prompt_column."
            )
    return splits[wanted[0]], splits[wanted[1]] if wants_eval else None


def model_init_kwargs(training_args, model_args) -> dict:
    """How to load the model; what the recipe says in `model_init_kwargs` wins."""
    return {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }


def resume_point(training_args) -> str | None:
    """The checkpoint to go on from: the one that was asked for, else the last one in the output folder."""
    if training_args.resume_from_checkpoint is not None:
        return training_args.resume_from_checkpoint
    return get_last_checkpoint(training_args.output_dir) if os.path.isdir(training_args.output_dir) else None
