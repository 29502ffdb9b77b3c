"""
Does MRT beat GRPO, and when? Trains what study/plan.py lists, measures each model, and keeps the numbers.

    python -m study.reproduce             # many hours of a core; stop it when you like, the same command goes on
    python -m study.reproduce --fast      # under half an hour of two cores
    python -m study.reproduce --list      # what is done, and what is left

A training leaves one JSON file (study/records), and one that is there is not made again. Several processes share the
work: each claims a setting with a lock that ends with the process, so that what was stopped is simply started again.
The warm starts are kept too (study/start): trained on another machine, they come out different.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from multiprocessing import Process
from pathlib import Path

from .measure import measurements
from .plan import HARD, MAIN, choices, plan, setting_of
from .settings import RECORDS, START, TASKS, Setting
from .train import prepare, train


WAIT = 20  # seconds, for what another process has claimed


@contextmanager
def claim(name: str, folder: Path) -> Iterator[bool]:
    """Whether the work of that name is this process's to do, until it leaves the context or dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run(name: str, setting: Setting | None, start: Path, out: Path, records: Path) -> None:
    """Trains from `start` and measures; without a setting, measures the warm start."""
    out, begin = out / name, time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    kept = train(setting, start, out) if setting else {}
    seconds = time.perf_counter() - begin
    found = asdict(setting) if setting else {"task": start.name, "method": "warm start"}
    found |= {"date": date.today().isoformat(), "seconds": round(seconds), "start": digest(start)}
    found |= kept | measurements(out / "model" if setting else start / "warm-start", TASKS[start.name], start, out)
    records.mkdir(parents=True, exist_ok=True)
    partial = records / f"{name}.part"
    partial.write_text(json.dumps(found) + "\n")
    partial.rename(records / f"{name}.json")
    shutil.rmtree(out, ignore_errors=True)
    right = found["validation"]
    print(f"{name}: {seconds:.0f} s; on validation problems {json.dumps(right)}", flush=True)


def digest(start: Path) -> str:
    return hashlib.sha256((start / "warm-start" / "model.safetensors").read_bytes()).hexdigest()[:16]


def read(records: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]


def trainings(records: Path, starts: Path = START) -> list[dict]:
    """Records of trainings. Raises a `ValueError` if one is of another warm start than the one that is kept."""
    found = [record for record in read(records) if "seed" in record]
    for record in found:
        if record["start"] != digest(starts / record["task"]):
            raise ValueError(f"{setting_of(record).name} is of another warm start than {starts}; remove one of them.")
    return found


def short() -> list[Setting]:
    """What `--fast` trains: 40 updates of each main method, with the rate and schedule that the study chose for it."""
    chosen = choices(trainings(RECORDS))
    return [Setting(HARD, method, *chosen[HARD, method], seed, 40) for seed in (1, 2) for method in MAIN]


def work(folder: Path, records: Path, starts: Path, fast: bool) -> None:
    """
    Does what is left of the plan, in order, and waits for what only others can do. A training that fails does not keep
    the others from theirs, and is an error at the end.
    """
    failed: set[str] = set()

    def done(name: str, setting: Setting | None) -> bool:
        try:
            return attempt(name, setting, folder, records, starts)
        except RuntimeError as error:
            print(error, flush=True)
            failed.add(name)
            return True

    while todo := [one for one in left(records, starts, fast) if one[0] not in failed]:
        if not any(done(*one) for one in todo):
            time.sleep(WAIT)
    if failed:
        raise SystemExit(f"failed: {sorted(failed)}")


def left(records: Path, starts: Path, fast: bool) -> list[tuple[str, Setting | None]]:
    """Names and settings of the work that can be done by now; the warm start of a task is measured first."""
    todo: dict[str, Setting | None] = {}
    for setting in short() if fast else plan(trainings(records, starts)):
        todo |= {f"{setting.task}-warm-start": None, setting.name: setting}
    return [(name, setting) for name, setting in todo.items() if not (records / f"{name}.json").exists()]


def attempt(name: str, setting: Setting | None, folder: Path, records: Path, starts: Path) -> bool:
    """Whether this piece of work was this process's to do, and is done now."""
    task = setting.task if setting else name.removesuffix("-warm-start")
    with claim(f"start-{task}", folder) as mine:
        if not (starts / task).exists():
            if not mine:
                return False
            prepare(task, starts / task, folder / task)
    with claim(name, folder) as mine:
        if not mine or (records / f"{name}.json").exists():
            return False
        run(name, setting, starts / task, folder, records)
    return True


def show(todo: Iterable[tuple[str, Setting | None]], records: Path) -> None:
    print(f"done: {len(list(records.glob('*.json')))}; known to be left:")
    for name, _ in todo:
        print(f"  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--fast", action="store_true", help="one task, three methods, 40 updates, one seed, then another"
    )
    parser.add_argument("--list", action="store_true", help="train nothing; list what is left")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="one core each")
    parser.add_argument("--folder", type=Path, default=Path("runs/reproduce"), help="for what is at work")
    arguments = parser.parse_args()
    folder = Path("runs/reproduce-fast") if arguments.fast else arguments.folder
    records = folder / "records" if arguments.fast else RECORDS
    if arguments.list:
        show(left(records, START, arguments.fast), records)
        return
    workers = [Process(target=work, args=(folder, records, START, arguments.fast)) for _ in range(arguments.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a training failed")


if __name__ == "__main__":
    main()
