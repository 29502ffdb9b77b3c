r"""
Runs math-verify in a few spawned processes, each with a memory limit, and kills one that takes longer than
`TIME_LIMIT` over an answer: on `\boxed{9^{9^{9^{9}}}}` it would hang for ever with the interpreter lock held.

Left out: a sandbox. Workers drop the environment variables, so that no token leaks by accident, but nothing else is
fenced off. Runs on Linux and macOS (which has no memory limit), in any thread, but not in a daemonic process, because
that may not have children. A `MemoryError` that math-verify swallows counts as math-verify counts it: not right.
"""

import atexit
import concurrent.futures
import enum
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from multiprocessing import context, popen_spawn_posix, spawn

from pebble import ProcessExpired, ProcessPool

from .equality import contents, equal, read_gold, readable
from .reading import read


TIME_LIMIT = 5.0  # seconds of wall-clock time per answer, from the moment when a worker starts on it
CHUNK = 8  # answers that go to a worker together, since handing them over takes longer than most of them
CHUNK_LIMIT = 1.0  # seconds for all of them; what is left then, or all if one of them hangs, is asked one by one
MEMORY_LIMIT = 2 * 1024**3  # bytes of address space per worker: an idle one needs 70 MiB, and there are at most 8
STALL_LIMIT = 120.0  # seconds without a result before a pool counts as stuck; it starts in 1, on slow disks in 60

_KEPT_VARIABLES = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ"}


class Verdict(enum.Enum):
    """
    What grading one answer came to. `TIMED_OUT` (math-verify reached the time or memory limit, or died over the
    answer) says nothing about the answer, so count it apart from `WRONG`.
    """

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    UNPARSEABLE_GOLD = "unparseable_gold"
    TIMED_OUT = "timed_out"


# --- The parent's side ---


def _preparation_without_main(name: str) -> dict:
    data = spawn.get_preparation_data(name)
    return {key: value for key, value in data.items() if not key.startswith("init_main_from_")}


class _Popen(popen_spawn_posix.Popen):
    """
    Starts a child that does not import the parent's `__main__`, which would run an unguarded training script again:
    multiprocessing's own `_launch`, only that it finds another `spawn` module. Other users of it notice nothing.
    """

    _spawn = types.SimpleNamespace(**{**vars(spawn), "get_preparation_data": _preparation_without_main})
    _launch = types.FunctionType(
        popen_spawn_posix.Popen._launch.__code__, {**vars(popen_spawn_posix), "spawn": _spawn}
    )


class _Process(context.SpawnProcess):
    _Popen = _Popen


class _Context(context.SpawnContext):
    Process = _Process


class _Pool(ProcessPool):
    """Pebble's pool, plus a notion of being stuck. Pebble starts an answer's clock when a worker takes it up."""

    def __init__(self):
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = max(1, min(8, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
        super().__init__(max_workers=workers, initializer=_prepare_worker, context=_Context())
        self.workers = workers
        self._note_progress()

    def _note_progress(self, _future=None) -> None:
        self._last_progress = time.monotonic()

    def ask(self, questions: Sequence[tuple[str, str]]) -> concurrent.futures.Future:
        self._note_progress()
        limit = TIME_LIMIT if len(questions) == 1 else min(CHUNK_LIMIT, TIME_LIMIT)
        future = self.schedule(_judge_all, args=(questions,), timeout=limit)
        future.add_done_callback(self._note_progress)
        return future

    def wait_for(self, future: concurrent.futures.Future) -> list[Verdict] | None:
        """The verdicts, or `None` where they were not there in time."""
        # A pool that breaks forgets the tasks which were merely queued, so somebody has to look.
        while not concurrent.futures.wait([future], timeout=1).done:
            if not self.active or time.monotonic() - self._last_progress > STALL_LIMIT:
                self.stop()
                raise RuntimeError("the grading workers are gone or stuck")
        error = future.exception()
        if isinstance(error, (concurrent.futures.TimeoutError, ProcessExpired, MemoryError, RecursionError)):
            return None
        return future.result()


_pool: _Pool | None = None
_pool_lock = threading.Lock()
_exiting = False


def warm_up() -> None:
    """Starts the processes without waiting for them, so that they are there when the first answers are."""
    _current_pool().ask([(r"\boxed{x}", "x")])


def judge_in_workers(questions: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Verdict]:
    verdicts: dict[tuple[str, str], Verdict] = {}
    for attempt in range(3 if questions else 0):
        pool = _current_pool()
        try:
            for size in (min(CHUNK, -(-len(questions) // (4 * pool.workers))), 1):  # which keeps all workers busy
                left = [question for question in questions if question not in verdicts]
                chunks = [left[start : start + size] for start in range(0, len(left), size)]
                for chunk, future in [(chunk, pool.ask(chunk)) for chunk in chunks]:
                    found = pool.wait_for(future)
                    if found is None and size == 1:
                        found = [Verdict.TIMED_OUT]
                    verdicts.update(zip(chunk, found or [], strict=False))
            break
        except RuntimeError:  # a broken pool: Pebble has no narrower error for one that broke under another thread
            if attempt == 2:
                raise
        except BaseException:
            # Interrupted. Pebble would pay for each cancelled task with a worker, so the whole pool goes.
            pool.stop()
            raise
    return verdicts


def _current_pool() -> _Pool:
    global _pool
    with _pool_lock:
        if _exiting:
            raise RuntimeError("cannot grade while the interpreter exits")
        if _pool is not None and not _pool.active:
            _pool.stop()
            _pool.join()
            _pool = None
        if _pool is None:
            _pool = _Pool()
        return _pool


@atexit.register
def _close() -> None:
    # Pebble's own exit handler kills the workers, but may do so while a thread of its pool replaces them.
    global _exiting
    with _pool_lock:
        _exiting = True
        if _pool is not None:
            _pool.stop()
            _pool.join()


def _forget_parent() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


# A forked child has neither the threads of its parent's pool nor a right to its workers: it starts its own.
os.register_at_fork(after_in_child=_forget_parent)


# --- The workers' side ---


def _prepare_worker() -> None:
    """Runs once in a new worker, before the clock of its first answer starts."""
    # The kernel then ends a worker at once, even in the middle of a long C call. Pebble's handler would wait for the
    # interpreter, and until Pebble loses patience no other worker can hand in results.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in os.environ.keys() - _KEPT_VARIABLES:
        del os.environ[name]
    with suppress(ValueError, OSError):  # macOS, or a stricter limit in force already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (math-verify 0.5 prints what it cannot parse)
    _judge(r"\boxed{x}", "x")


def _judge_all(questions: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Outcomes of the first of them at least: on a busy machine, fewer are done before the limit kills the worker."""
    verdicts, begin = [], time.monotonic()
    for essence, gold in questions:
        verdicts.append(_judge(essence, gold))
        if time.monotonic() - begin > CHUNK_LIMIT / 2:
            break
    return verdicts


def _judge(essence: str, gold: str) -> Verdict:
    # In seconds of processor time. Should the parent be killed, nobody else would end a worker that hangs.
    signal.setitimer(signal.ITIMER_PROF, 2 * TIME_LIMIT)
    try:
        golds = read_gold(gold)
        answers = [reading for content in contents(essence) for reading in read(content)]
        if golds and any(equal(*pair) for pair in product(golds, answers)):
            return Verdict.RIGHT
        if not any(map(readable, golds)):
            return Verdict.UNPARSEABLE_GOLD
        return Verdict.WRONG if answers else Verdict.NO_ANSWER
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _drop_caches_if_large()


def _drop_caches_if_large() -> None:
    """Else huge numbers pile up in the many caches of SymPy and mpmath, until innocent answers run out of memory."""
    with suppress(FileNotFoundError), open("/proc/self/statm") as statm:  # macOS has neither the file nor the limit
        if int(statm.read().split()[0]) * resource.getpagesize() > MEMORY_LIMIT / 8:
            for cache in gc.get_objects():
                if isinstance(cache, type(read_gold)):
                    cache.cache_clear()
