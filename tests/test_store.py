"""Rows of `mrt_plugin.jobs.store` are there exactly once, whatever happens to their builder; `datasets` reads them."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from mrt_plugin.jobs import store as module
from mrt_plugin.jobs.store import RowStore


REPOSITORY = Path(module.__file__).parents[2]
SCHEMA = pa.schema({"problem_id": pa.string(), "success": pa.list_(pa.float64())})
SETTINGS = {"model": "tiny", "temperature": 0.6, "samples": 4}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rows"


def opened(folder, **settings):
    return RowStore(folder, SCHEMA, SETTINGS | settings)


def row(problem, *success):
    return {"problem_id": problem, "success": list(success)}


def loaded(folder):
    """The rows as a user gets them."""
    return list(load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache")))


def files(folder):
    return sorted(path.name for path in (folder / "data").iterdir())


def test_round_trip(folder):
    rows = [row("a", 0.25, 1.0), row("a"), row("c", 0.5)]
    with opened(folder) as store:
        store.write(rows[:2], {"a": None, "b": "no answer"})
        store.write(rows[2:], {"c": None})
        store.finish("Prefixes", "Thinking, cut.")
        assert store.finished() == {"a": None, "b": "no answer", "c": None}
    assert sorted(map(str, loaded(folder))) == sorted(map(str, rows))
    assert len(files(folder)) == 2


def test_resume(folder):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None, "b": "no answer"})
        store.finish("Prefixes", "")
    with opened(folder) as store:
        assert store.finished() == {"a": None, "b": "no answer"}
        store.write([row("c", 0.75)], {"c": None})
        store.finish("Prefixes", "")
    assert Counter(found["problem_id"] for found in loaded(folder)) == {"a": 1, "c": 1}
    card = (folder / "README.md").read_text()
    assert "| problems | 3 |" in card
    assert "| rows | 2 |" in card


def test_card(folder):
    with opened(folder, stop="a | b `c`") as store:
        store.write([row("a"), row("a")], {"a": None, "b": "no answer", "c": "no answer", "d": "x|y"})
        store.finish("Prefixes", "Thinking, cut.")
    card = (folder / "README.md").read_text()
    assert "# Prefixes\n\nThinking, cut.\n" in card
    for line in (
        "| temperature | `0.6` |",
        r'| stop | `"a \u007c b \u0060c\u0060"` |',
        '| column success | `"list<item: double>"` |',
        "| problems | 4 |",
        "| problems kept | 1 |",
        '| dropped: `"no answer"` | 2 |',
        r'| dropped: `"x\u007cy"` | 1 |',
        "| rows | 2 |",
    ):
        assert f"\n{line}\n" in card


def test_batches_without_rows(folder):
    with opened(folder) as store:
        store.write([], {"a": "no answer"})
        store.write([row("b", 0.5)], {"b": None})
        store.write([], {"c": "no answer"})
    assert loaded(folder) == [row("b", 0.5)]
    assert [pq.read_schema(path).equals(SCHEMA) for path in (folder / "data").iterdir()] == [True] * 3
    with opened(folder) as store:
        assert store.finished() == {"a": "no answer", "b": None, "c": "no answer"}
        with pytest.raises(ValueError, match="finished already"):
            store.write([row("a", 0.5)], {"a": None})


def test_datasets_caches_no_old_rows(tmp_path):
    """With `configs` in the card, the cache of datasets has one place for all folders called `rows`."""
    for run in ("one", "two"):
        folder = tmp_path / run / "rows"
        for count in (1, 2):
            with opened(folder) as store:
                store.finish("Prefixes", "")
                store.write([row(f"{run} {count}")], {f"{run} {count}": None})
            data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
            assert sorted(data["problem_id"]) == [f"{run} {number + 1}" for number in range(count)]


@pytest.mark.parametrize("name", ["test", "validation-rows", ".hidden", "train"])
def test_names_of_folders_that_datasets_could_take_for_splits(tmp_path, name):
    folder = tmp_path / "test" / name
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None})
        store.finish("Prefixes: first", "")
    assert loaded(folder) == [row("a", 0.5)]


def test_changed_settings_are_refused_by_name(folder):
    with opened(folder, seed=0) as store:
        store.write([row("a", 0.5)], {"a": None})
    with pytest.raises(ValueError, match="other settings") as refusal:
        opened(folder, samples=8, episodes=[1, 2])
    message = str(refusal.value)
    for part in ("samples: 4 -> 8", "seed: 0 -> not set", "episodes: not set -> [1, 2]", str(folder), "output_dir"):
        assert part in message
    assert "temperature" not in message
    assert "model" not in message
    with opened(folder, seed=0) as store:  # the refused store holds no lock, though its error is kept
        assert store.finished() == {"a": None}


def test_changed_columns_are_refused(folder):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None})
    schema = pa.schema({"problem_id": pa.string(), "success": pa.list_(pa.float32())})
    with pytest.raises(ValueError, match='column success: "list<item: double>" -> "list<item: float>"'):
        RowStore(folder, schema, SETTINGS)


def test_settings_that_json_writes_differently(folder):
    with opened(folder, budgets=(1, 2), temperature=1) as store:
        store.write([row("a", 0.5)], {"a": None})
    with opened(folder, budgets=[1, 2], temperature=1.0) as store:
        store.write([row("b", 0.5)], {"b": None})
    with opened(folder, budgets=(1, 2), temperature=1) as store:
        assert store.finished() == {"a": None, "b": None}


def test_settings_may_change_before_the_first_row(folder):
    opened(folder, samples=8).close()
    opened(folder).close()
    assert json.loads((folder / ".settings.json").read_text())["samples"] == 4


def test_doubled_problems_are_refused(folder):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None, "b": "no answer"})
    with opened(folder) as store:
        for rows, finished in [([row("a", 0.5)], {"a": None, "c": "x"}), ([], {"b": "no answer", "d": "x"})]:
            with pytest.raises(ValueError, match="finished already"):
                store.write(rows, finished)
        store.write([row("c", 0.5)], {"c": None})
        with pytest.raises(ValueError, match="problems c are finished already"):
            store.write([row("c", 0.5)], {"c": None})
        assert store.finished() == {"a": None, "b": "no answer", "c": None}
    assert len(files(folder)) == 2


def test_a_copied_file_is_refused(folder):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None})
    shutil.copy(folder / "data" / files(folder)[0], folder / "data" / "train-copy.parquet")
    with pytest.raises(ValueError, match="problems a are finished already"):
        opened(folder)


def test_a_file_of_other_settings_is_refused(folder, tmp_path):
    for name, problem, samples in ((folder, "a", 4), (tmp_path / "other", "b", 8)):
        with opened(name, samples=samples) as store:
            store.write([row(problem, 0.5)], {problem: None})
    (other,) = (tmp_path / "other" / "data").iterdir()
    shutil.copy(other, folder / "data")
    with pytest.raises(ValueError, match=other.name):
        opened(folder)


@pytest.mark.parametrize("name", ["README.md", "data/train-00000-of-00001.parquet"])
def test_another_project_is_refused(folder, name):
    (folder / "data").mkdir(parents=True)
    for file in (name, "data/.notes.tmp"):
        (folder / file).write_text("precious")
    with pytest.raises(ValueError, match="output_dir"):
        opened(folder)
    for file in (name, "data/.notes.tmp"):
        assert (folder / file).read_text() == "precious"


def test_a_damaged_file_is_named(folder):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None})
    (path,) = (folder / "data").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=path.name):
        opened(folder)


@pytest.mark.parametrize(
    ("rows", "finished"),
    [
        ([row("b", 0.5)], {"a": None}),  # a row of no problem of the batch
        ([row("a", 0.5)], {"a": "no answer"}),  # a row of a dropped problem
        ([row("a", 0.5)], {"a": None, "b": None}),  # a kept problem without a row
        ([row("a", 0.5) | {"extra": 1}], {"a": None}),
        ([{"problem_id": "a"}], {"a": None}),
    ],
)
def test_rows_that_do_not_fit_are_refused(folder, rows, finished):
    with opened(folder) as store:
        with pytest.raises(ValueError, match="without rows|needs the columns"):
            store.write(rows, finished)
        assert store.finished() == {}
    assert files(folder) == []


@pytest.mark.parametrize("columns", [{"success": pa.float64()}, {"problem_id": pa.int64()}])
def test_schema_needs_problem_ids(folder, columns):
    with pytest.raises(ValueError, match="problem_id"):
        RowStore(folder, pa.schema(columns), SETTINGS)


def test_second_writer_is_refused(folder):
    with opened(folder) as store:
        with pytest.raises(BlockingIOError, match="Another process is building into this folder") as refusal:
            opened(folder)
        assert refusal.value.filename == str(folder)
        store.write([row("a", 0.5)], {"a": None})
    with pytest.raises(ValueError, match="closed"):
        store.write([row("b", 0.5)], {"b": None})
    with opened(folder) as store:
        assert store.finished() == {"a": None}


def test_leftover_is_ignored_and_removed(folder):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None})
        store.finish("Prefixes", "")
    (whole,) = files(folder)
    leftover = folder / "data" / f".{whole}.tmp"
    leftover.write_bytes(b"PAR1 and not much more")
    assert loaded(folder) == [row("a", 0.5)]
    with opened(folder) as store:
        assert not leftover.exists()
        assert store.finished() == {"a": None}


def test_interrupted_write_can_be_repeated(folder, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    with opened(folder) as store:
        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write([row("a", 0.5)], {"a": None})
        (leftover,) = files(folder)
        monkeypatch.undo()
        store.write([row("a", 0.5)], {"a": None})
    assert files(folder) == [leftover.removeprefix(".").removesuffix(".tmp")]


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_be_synced_is_not_visible(folder, monkeypatch):
    with opened(folder) as store:
        store.write([row("a", 0.5)], {"a": None})
        store.finish("Prefixes", "")
        before = files(folder)
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            store.write([row("b", 0.5)], {"b": None})
        monkeypatch.undo()
        assert [name for name in files(folder) if name.startswith("train-")] == before
        assert loaded(folder) == [row("a", 0.5)]
        assert store.finished() == {"a": None}
        store.write([row("b", 0.5)], {"b": None})
    assert Counter(found["problem_id"] for found in loaded(folder)) == {"a": 1, "b": 1}


def test_a_visible_file_is_finished_even_if_its_name_is_not_synced(folder, monkeypatch):
    with opened(folder) as store:
        monkeypatch.setattr(module, "_sync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            store.write([row("a", 0.5)], {"a": None})
        monkeypatch.undo()
        assert store.finished() == {"a": None}
        with pytest.raises(ValueError, match="finished already"):
            store.write([row("a", 0.5), row("b", 0.5)], {"a": None, "b": None})


FILL = """
import errno, os, sys
import pyarrow as pa, pyarrow.parquet as pq
from mrt_plugin.jobs.store import RowStore
schema = pa.schema({"problem_id": pa.string(), "noise": pa.binary()})
written = {}
with RowStore(sys.argv[1], schema, {}) as store:
    while True:
        problem = str(len(written))
        try:
            store.write([{"problem_id": problem, "noise": os.urandom(10_000 * len(written))}], {problem: None})
        except OSError as error:
            assert error.errno == getattr(errno, sys.argv[2]), error
            break
        written[problem] = None
    assert len(written) >= 4
    assert any(name.endswith(".tmp") for name in os.listdir(sys.argv[1] + "/data"))
with RowStore(sys.argv[1], schema, {}) as store:  # the disk is still full
    assert store.finished() == written
    store.write([{"problem_id": "small", "noise": b""}], {"small": None})
    store.finish("Prefixes", "")
for path in sorted(store._data.iterdir()):
    (row,) = pq.read_table(path).to_pylist()
    assert len(row["noise"]) == (0 if row["problem_id"] == "small" else 10_000 * int(row["problem_id"]))
    written.pop(row["problem_id"], None)
assert not written
print("rows are intact")
"""


def test_full_disk(tmp_path):
    """A small mount of our own; where that takes rights that we lack (macOS, some containers), files may not grow."""
    tmpfs = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=256k none "$0" && exec "$@"']
    tmpfs.append(str(tmp_path))
    fill, limit = [sys.executable, "-c", FILL, str(tmp_path / "rows")], None
    if shutil.which("unshare") and not subprocess.run([*tmpfs, "true"], capture_output=True).returncode:
        command = [*tmpfs, *fill, "ENOSPC"]
    else:
        command, limit = [*fill, "EFBIG"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, 45_000))
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, preexec_fn=limit)
    assert result.stdout == "rows are intact\n", result.stderr


def test_a_folder_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match=str(file)):
        opened(file)
    with pytest.raises(NotADirectoryError, match=str(file)):
        opened(file / "rows")


PROBLEMS, BATCH = 1600, 4

BUILD = """
import random, sys
import pyarrow as pa
from mrt_plugin.jobs.store import RowStore
folder, problems, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
schema = pa.schema({"problem_id": pa.string(), "sample": pa.int64()})
print("imported", flush=True)
with RowStore(folder, schema, {"samples": 2}) as store:
    print("open", flush=True)
    finished = store.finished()
    store.finish("Prefixes", "")
    todo = [str(problem) for problem in range(problems) if str(problem) not in finished]
    random.Random(len(todo)).shuffle(todo)  # other batches after every resume
    for start in range(0, len(todo), batch):
        finished = {problem: "dropped" if int(problem) % 3 == 0 else None for problem in todo[start : start + batch]}
        rows = [{"problem_id": p, "sample": s} for p in finished for s in (0, 1) if finished[p] is None]
        store.write(rows, finished)
        print("batch", flush=True)
    store.finish("Prefixes", "")
"""


def test_kill_at_20_moments(folder):
    generator = random.Random(0)

    def builder():
        command = [sys.executable, "-c", BUILD, str(folder), str(PROBLEMS), str(BATCH)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)

    for _ in range(20):
        with builder() as process:
            for _ in range(generator.randint(1, 9)):
                assert process.stdout.readline(), "the builder gave up by itself"
            time.sleep(generator.uniform(0, 0.002))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    with builder() as process:
        last = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert PROBLEMS // BATCH > last.count("batch") > 0  # the killed ones had done some, but not all

    expected = {str(problem): "dropped" if problem % 3 == 0 else None for problem in range(PROBLEMS)}
    with RowStore(folder, pa.schema({"problem_id": pa.string(), "sample": pa.int64()}), {"samples": 2}) as store:
        assert store.finished() == expected
    rows = Counter((found["problem_id"], found["sample"]) for found in loaded(folder))
    assert rows == {(problem, sample): 1 for problem in expected if expected[problem] is None for sample in (0, 1)}
    assert not [name for name in files(folder) if name.endswith(".tmp")]
