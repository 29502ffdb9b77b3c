r"""What a run reads: `dataset_name` or `dataset_mixture` of a recipe -> splits with the columns that it names."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from datasets.arrow_writer import SchemaInferenceError
from datasets.exceptions import DatasetsError
from trl import ScriptArguments

from .golds import without_gold
from .mistakes import check_known, did_you_mean, is_missing_path, sentence


logger = logging.getLogger(__name__)

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
"""Files of rows, which may be compressed, and who reads them."""


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
class GoldArguments:
    """Where gold answers are."""

    dataset_solution_column: str = field(
        default="solution",
        metadata={"help": "Column with the gold answer: a text, a number, or a list of one."},
    )


def load_splits(script_args, prompt_column: str | None, wants_eval: bool) -> tuple[Dataset, Dataset | None]:
    """
    The training split and, if wanted, the evaluation split of `dataset_name`, a name on the Hub or a local folder or
    file, or of `dataset_mixture`.

    Raises:
        `ValueError`: If a split or the prompt column is missing; it names those that are there.
    """
    if script_args.dataset_mixture:
        splits = load_mixture(script_args.dataset_mixture)
    elif script_args.dataset_name:
        streaming = getattr(script_args, "dataset_streaming", False)  # a field that trl 0.18 does not have
        splits = load(script_args.dataset_name, name=script_args.dataset_config, streaming=streaming)
    else:
        raise ValueError("No data: set dataset_name to a data set of the Hub, or to a local folder or file.")
    return check_splits(splits, script_args, prompt_column, wants_eval)


def load(path: str, **kwargs):
    """
    Loads a data set: a name on the Hub, a local folder, or a local file, whose rows are the split `train`.

    Raises:
        `ValueError`: If it cannot be read; it says why.
    """
    if is_missing_path(path, FORMATS):
        raise ValueError(f"The data set {path!r} cannot be read: there is no such file or folder.")
    try:
        if not Path(path).is_file():
            return load_dataset(path, **kwargs)
        suffix = next((suffix for suffix in Path(path).suffixes if suffix in FORMATS), Path(path).suffix)
        check_known("dataset_name", [suffix], FORMATS)
        return load_dataset(FORMATS[suffix], data_files=path, **kwargs)
    except (StopIteration, DatasetsError, OSError) as error:
        cause = error.__cause__ or error
        empty = isinstance(cause, (StopIteration, SchemaInferenceError))  # of `datasets`, on a JSON file of no bytes
        reason = "it holds an empty file" if empty else sentence(cause).rstrip(".")
        raise ValueError(f"The data set {path!r} cannot be read: {reason}.") from error


def check_splits(
    splits: DatasetDict, script_args, prompt_column: str | None, wants_eval: bool
) -> tuple[Dataset, Dataset | None]:
    """The splits that a run takes, with the column that it reads."""
    taken = []
    for name in ["dataset_train_split"] + ["dataset_test_split"] * wants_eval:
        check_known(name, [getattr(script_args, name)], splits)
        taken.append(splits[getattr(script_args, name)])
        columns = taken[-1].column_names
        if prompt_column is not None and columns is not None:
            check_known("dataset_prompt_column", [prompt_column], columns)
    return taken[0], taken[1] if wants_eval else None


def with_solution(rows: Dataset | None, column: str) -> Dataset | None:
    """The rows with the gold answers of a column in `solution`, where rewards and credit read them."""
    if rows is None or column == "solution":
        return rows
    if rows.column_names is not None:  # a stream may not know them
        check_known("dataset_solution_column", [column], rows.column_names)
    check_golds(rows, column)
    return rows.map(lambda row: {"solution": row[column]})


def column_of(rows: Dataset, column: str) -> list:
    """The cells of a column."""
    return rows.with_format(None).select_columns([column])[:][column]


def check_golds(rows, column: str = "solution") -> None:
    """Raises a `ValueError` that names the rows without a gold answer; those of a stream are not read ahead."""
    known = isinstance(rows, Dataset) and column in rows.column_names
    if missing := known and without_gold(column_of(rows, column), column):
        raise ValueError(f"{missing}. Leave such rows out, or name another column.")


def text_of(content: str | list[dict] | None) -> str | None:
    """
    The text of a message's content, which may come in parts; `None` where a part of it is no text.

    >>> text_of([{"type": "text", "text": "Find "}, {"type": "text", "text": "x."}]), text_of([{"type": "image"}])
    ('Find x.', None)
    """
    if not isinstance(content, list):
        return content
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return None if None in texts else "".join(texts)


def conversation(problem: str | list[dict] | None, system_prompt: str | None = None) -> list[dict]:
    """
    A problem, a text or messages, as messages that end in the user's turn, each with its content as one text, behind
    the system prompt if there is one.
    """
    messages = problem if isinstance(problem, list) else [{"role": "user", "content": problem or ""}]
    if messages and messages[-1]["role"] == "assistant":
        raise ValueError(
            f"A problem's messages end in the assistant's turn ({messages[-1]['content']!r:.40}), which would give "
            "the solution away. Set dataset_prompt_column to the column with the problem alone."
        )
    texts = [text_of(message["content"]) for message in messages]
    messages = [m if text is None else {**m, "content": text} for m, text in zip(messages, texts, strict=True)]
    if not system_prompt:
        return messages
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == system_prompt:
            return messages
        raise ValueError(
            f"A problem begins with a system prompt of its own ({messages[0]['content']!r:.40}). Leave system_prompt "
            "out, or set dataset_prompt_column to a column without one."
        )
    return [{"role": "system", "content": system_prompt}, *messages]


def short_enough(rows: Dataset, fits: Callable[[dict], bool], field: str, most: int) -> Dataset:
    """
    The rows whose prompt fits into the `most` tokens that a field allows; a warning counts the others.

    Raises:
        `ValueError`: If there is none.
    """
    kept = [index for index, row in enumerate(rows) if fits(row)]
    if not kept:
        raise ValueError(f"{field}: none of {len(rows)} prompts has at most {most} tokens.")
    if left_out := len(rows) - len(kept):
        logger.warning(
            "%d of %d prompts have more than %d tokens (%s) and are left out.", left_out, len(rows), most, field
        )
    return rows.select(kept)


def check_sft_columns(rows: Dataset, text_field: str) -> None:
    """Raises a `ValueError` if rows have no column that [`~trl.SFTTrainer`] could train on."""
    columns, known = rows.column_names, {"messages", "conversations", "prompt", "input_ids", text_field}
    if columns is not None and not known & set(columns):  # a stream may not know them
        hints = "".join(did_you_mean(column, known) for column in columns)
        raise ValueError(
            f"The training data needs a column 'messages', or 'prompt' and 'completion', or {text_field!r} (as "
            f"dataset_text_field says); it has {columns}.{hints}"
        )


def load_mixture(mixture: dict) -> DatasetDict:
    """The data sets of an Open-R1 `dataset_mixture`, concatenated and shuffled."""
    check_known("dataset_mixture", mixture, ["datasets", "seed", "test_split_size"])
    seed, parts = mixture.get("seed", 0), []
    for entry in mixture.get("datasets", []):
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"dataset_mixture: an entry of `datasets` has an `id`; this one is {entry!r}.")
        check_known("dataset_mixture", entry, ["id", "config", "split", "columns", "weight"])
        part = load(entry["id"], name=entry.get("config"), split=entry.get("split", "train"))
        if entry.get("columns") is not None:
            columns = [entry["columns"]] if isinstance(entry["columns"], str) else entry["columns"]
            check_known("dataset_mixture", columns, part.column_names)
            part = part.select_columns(columns)
        parts.append(part.shuffle(seed=seed).select(range(int(len(part) * float(entry.get("weight", 1.0))))))
    if not parts:
        raise ValueError(
            "dataset_mixture: no data sets; `datasets` is a list of {id, config, split, columns, weight}."
        )
    rows = concatenate_datasets(parts).shuffle(seed=seed)
    test_size = mixture.get("test_split_size")
    return DatasetDict({"train": rows}) if test_size is None else rows.train_test_split(test_size=test_size, seed=seed)
