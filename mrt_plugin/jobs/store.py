r"""Rows of a data set in Parquet files: every row exactly once, whenever the process that builds them is killed.

The rows of a batch stand in one file together with what became of each of its problems, and one rename makes both
visible. A problem is therefore either finished, with all its rows, or to be built again. Left out: several writers,
an order of the rows, and merging small files.

`datasets` finds the files by their names. The card does not list them under `configs`: `datasets` would then cache the
rows under the card and the last part of the folder's name, and show old rows, or another folder's, as if they were
these. A batch without rows goes into a file that `datasets` does not look for, since it fails on an empty one.
"""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


# In a file's metadata: the settings' fingerprint and, as `outcome`, the batch's finished problems.
_KEY = b"mrt_plugin"


class RowStore(AbstractContextManager):
    """
    A folder of rows that a data builder fills, batch by batch, and that `datasets.load_dataset` reads. A process that
    is killed leaves whole batches behind; the next one opens the folder and builds what is missing.

    One process at a time: it holds a lock (`flock`) on `folder/.lock` until it closes the store or ends, however it
    ends. This needs a file system with locks. A forked child holds the lock as well, as long as it lives.

    Args:
        folder (`str` or `Path`): Where the rows go. It is made if it is not there.
        schema (`pa.Schema`): Columns of a row. One is `problem_id`, a string.
        settings (`dict`): What the rows depend on, as JSON can hold it. It cannot change once there are rows.

    Raises:
        `ValueError`: If the rows in the folder were built with other settings or columns, or not by a store.
        `BlockingIOError`: If another store is open on the folder.
        `OSError`: If the folder cannot be made or written.

    Example:
    ```python
    >>> import tempfile
    >>> schema = pa.schema({"problem_id": pa.string(), "success": pa.float64()})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RowStore(folder, schema, {"samples": 4}) as store:
    ...         store.write([{"problem_id": "p1", "success": 0.5}], {"p1": None, "p2": "no answer"})
    ...     with RowStore(folder, schema, {"samples": 4}) as store:
    ...         store.finished()
    ...     read_store(Path(folder), ["success"]).rows
    {'p1': None, 'p2': 'no answer'}
    [{'success': 0.5}]

    ```
    """

    def __init__(self, folder: str | Path, schema: pa.Schema, settings: dict):
        if "problem_id" not in schema.names or schema.field("problem_id").type not in (pa.string(), pa.large_string()):
            raise ValueError(f"The schema needs a column `problem_id` of strings, but it has {schema.names}.")
        columns = {f"column {field.name}": str(field.type) for field in schema}
        self.folder, self.schema = Path(folder), schema
        self.settings = json.loads(json.dumps(settings | columns))
        self._data, self._finished, self._rows = self.folder / "data", {}, 0
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder / ".lock")
        try:
            self._resume()
        except BaseException:  # whoever keeps the exception would keep the lock
            self.close()
            raise

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Lets another store open the folder."""
        self._lock.close()

    def finished(self) -> dict[str, str | None]:
        """The problems that need not be built again: `None` where rows were kept, else why the problem was dropped."""
        return dict(self._finished)

    def write(self, rows: list[dict], finished: dict[str, str | None]) -> None:
        """
        Adds a batch of problems: all of it, or, after an error or a kill, nothing.

        Args:
            rows (`list[dict]`): Rows of the problems that are kept, with the columns of the schema.
            finished (`dict[str, str | None]`): The problems of the batch, as in [`RowStore.finished`].

        Raises:
            `ValueError`: If a problem is finished already, if a row has other columns, or if the problems that have
                rows are not those that are kept.
        """
        if self._lock.closed:
            raise ValueError(f"{self.folder} is closed; open a new store to write to it.")
        path = self._data / f"{'train' if rows else '.dropped'}-{_digest(sorted(finished))}.parquet"
        self._refuse_doubled(finished, path)
        for row in rows:
            if row.keys() != set(self.schema.names):
                raise ValueError(f"A row needs the columns {self.schema.names}, but it has {list(row)}.")
        kept = {problem for problem, reason in finished.items() if reason is None}
        if wrong := kept ^ {row["problem_id"] for row in rows}:
            raise ValueError(f"Problems {_some(wrong)} are kept (None) without rows, or have rows without it.")
        record = json.dumps({"settings": _digest(self.settings), "outcome": finished})
        schema = self.schema.with_metadata({**(self.schema.metadata or {}), _KEY: record})
        content = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), content)
        _place(path, content.getvalue())
        self._finished.update(finished)  # visible from here on, even if the sync fails
        self._rows += len(rows)
        _sync(self._data)

    def finish(self, title: str, description: str) -> None:
        """
        Writes the dataset card, `README.md`: title, description (Markdown), settings, and counts of what is there.
        Called at the start as well, it gives the rows of an interrupted run a card.
        """
        dropped = Counter(reason for reason in self._finished.values() if reason is not None)
        header = f"---\npretty_name: {json.dumps(title, ensure_ascii=False)}\n---"
        lines = [header, "", f"# {title}", "", description, "", "| setting | value |", "|---|---|"]
        lines += [f"| {name} | {_code(value)} |" for name, value in self.settings.items()]
        lines += ["", "| what | count |", "|---|---|", f"| problems | {len(self._finished)} |"]
        lines += [f"| problems kept | {len(self._finished) - dropped.total()} |"]
        lines += [f"| dropped: {_code(reason)} | {count} |" for reason, count in dropped.most_common()]
        lines += [f"| rows | {self._rows} |"]
        _place(self.folder / "README.md", ("\n".join(lines) + "\n").encode())
        _sync(self.folder)

    def _resume(self) -> None:
        """Removes what a killed process left, and reads what is finished."""
        paths = sorted(self._data.glob("*.parquet"))
        stored = self.folder / ".settings.json"
        if not stored.exists() and (paths or (self.folder / "README.md").exists()):
            raise ValueError(
                f"{self.folder} holds another data set (it has no {stored.name}). Take another output_dir."
            )
        for leftover in self._data.glob(".*.tmp"):
            leftover.unlink()
        if not paths:
            _place(stored, json.dumps(self.settings, indent=2).encode())
            _sync(self.folder)
            return
        old, new = json.loads(stored.read_bytes()), self.settings
        changes = [
            f"{name}: {_shown(old, name)} -> {_shown(new, name)}"
            for name in old | new
            if old.get(name, ...) != new.get(name, ...)
        ]
        if changes:
            raise ValueError(
                f"The rows in {self.folder} were built with other settings ({'; '.join(changes)}). "
                "Take another output_dir, or delete the folder to build all rows again."
            )
        self.settings = old  # equal, but 1 and 1.0 have different fingerprints
        fingerprint = _digest(old)
        for path in paths:
            try:
                footer = pq.read_metadata(path)
            except pa.ArrowException as error:
                raise ValueError(f"{path} is damaged ({error}). Delete it to build its problems again.") from error
            record = json.loads((footer.metadata or {}).get(_KEY, "{}"))
            if record.get("settings") != fingerprint:
                raise ValueError(f"{path} was not built with the settings in {stored}. Move it out of the folder.")
            self._refuse_doubled(record["outcome"], path)
            self._finished.update(record["outcome"])
            self._rows += footer.num_rows

    def _refuse_doubled(self, finished: dict[str, str | None], path: Path) -> None:
        if doubled := finished.keys() & self._finished.keys():
            raise ValueError(f"{path}: problems {_some(doubled)} are finished already, in another file.")


class Stored(NamedTuple):
    """What a store holds: its settings, its rows, and its problems as [`RowStore.finished`] gives them."""

    settings: dict
    rows: list[dict]
    finished: dict[str, str | None]


def read_store(folder: Path, columns: Sequence[str]) -> Stored:
    """Reads what a [`RowStore`] wrote, without its lock. A folder that lacks one of the columns has no rows."""
    stored = folder / ".settings.json"
    settings = json.loads(stored.read_bytes()) if stored.exists() else {}
    if any(f"column {name}" not in settings for name in columns):
        return Stored(settings, [], {})
    rows, finished = [], {}
    for path in sorted((folder / "data").glob("*.parquet")):
        table = pq.read_table(path, columns=list(columns))
        rows += table.to_pylist()
        finished |= json.loads(table.schema.metadata[_KEY])["outcome"]
    return Stored(settings, rows, finished)


def _locked(path: Path):
    """An open file with a lock, which the kernel releases when the file is closed or the process ends."""
    file = open(path, "a")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(error.errno, "Another process is building into this folder", str(path.parent)) from error
    return file


def _place(path: Path, content: bytes | pa.Buffer) -> None:
    """Writes a file that is visible only when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync(folder: Path) -> None:
    """Makes the names in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _some(problems: set[str]) -> str:
    return ", ".join(sorted(problems)[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")


def _shown(settings: dict, name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"


def _code(value) -> str:
    """JSON that a cell of a Markdown table can hold: the two characters that end a cell or its code are escaped."""
    return "`" + json.dumps(value, ensure_ascii=False).replace("`", r"\u0060").replace("|", r"\u007c") + "`"
