r"""Mistakes and bugs: what is wrong with a recipe is told in one sentence, anything else keeps its traceback.

A command ends with status 2 after a mistake, and `MRT_DEBUG=1` shows the traceback of one. What counts as a mistake:
an error that was raised on purpose, before the first step of training, by us or by a library that checks its input; a
file or a package that is not there; and in training, what we raise.
"""

import difflib
import dis
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from traceback import walk_tb

import yaml


CHECKING = ("accelerate", "datasets", "huggingface_hub", "open_r1", "transformers", "trl")
"""Packages that check what they are given."""
MISSING = (ImportError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, BlockingIOError)
TRAINING = "_inner_training_loop"  # of transformers
TOLD = "MRT_TOLD"
"""Names the file in which the `mrt` command finds what the processes that it started have to say."""


def is_missing_path(name: str, suffixes: Collection[str] = ()) -> bool:
    """
    Whether a name can only be that of a local file or folder, by its form or its suffix, and there is none.

    >>> is_missing_path("runs/no/model"), is_missing_path("mine.csv", {".csv"}), is_missing_path("openai/gsm8k")
    (True, True, False)
    """
    local = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).suffix in suffixes
    return local and "://" not in name and not Path(name).exists()


class Mistake(ValueError):
    """What is asked for cannot be done. The message is one sentence: where, what, and what to do."""


def as_command(name: str, run: Callable[[], None]) -> None:
    """Runs a command for a shell: `mrt NAME`."""
    try:
        run()
    except Exception as error:
        if os.environ.get("MRT_DEBUG") or not is_mistake(error):
            raise
        tell(f"mrt {name}: {sentence(error)}")


def tell(what: str) -> None:
    """Ends the process with a sentence, which the `mrt` command says for all the processes that it started."""
    if os.environ.get(TOLD):
        Path(os.environ[TOLD]).write_text(what)
    else:
        print(what, file=sys.stderr)
    sys.exit(2)


@contextmanager
def named_by(recipe: str | None) -> Iterator[None]:
    """Makes each mistake a [`Mistake`] that begins with the name of the recipe, if there is one."""
    try:
        yield
    except Exception as error:
        if not is_mistake(error):
            raise
        raise Mistake(sentence(error) if recipe is None else f"{recipe}: {sentence(error)}") from error


def check_recipe(recipe: Path) -> None:
    """Raises a [`Mistake`] if a file does not hold fields."""
    try:
        fields = yaml.safe_load(recipe.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        what = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}" if mark else sentence(error)
        raise Mistake(f"not YAML: {what}.") from error
    if not isinstance(fields, dict):
        holds = repr(str(fields)[:40]) if fields else "nothing"
        raise Mistake(f"a recipe has lines of the form `field: value`, and this one holds {holds}.")


def is_mistake(error: BaseException) -> bool:
    """
    Whether an error that was caught is about what the user asked for.

    ```python
    >>> def caught(run):
    ...     try:
    ...         run()
    ...     except Exception as error:
    ...         return is_mistake(error)
    >>> caught(lambda: open("nowhere.yaml")), caught(lambda: int("four")), caught(lambda: [][0])
    (True, False, False)

    ```
    """
    if isinstance(error, Mistake):
        return True
    calls = list(walk_tb(error.__traceback__))
    names = calls[-1][0].f_globals
    package = (names.get("__package__") or names["__name__"]).partition(".")[0]  # of a module that runs as __main__
    training = any(frame.f_code.co_name == TRAINING for frame, _ in calls)
    if not training and isinstance(error, MISSING):
        return True
    about_values = isinstance(error, ValueError) or type(error).__module__.partition(".")[0] in CHECKING
    about_values |= isinstance(error, OSError) and error.errno is None  # as in transformers, where a model is missing
    checked = package == __package__ or (not training and package in CHECKING)
    return about_values and checked and _on_purpose(error)


def _on_purpose(error: BaseException) -> bool:
    """Whether a `raise` raised it, and not, say, `zip` or `int`."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def sentence(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """
    The end of an error message about an unknown name.

    ```python
    >>> did_you_mean("message", ["messages", "prompt"]), did_you_mean("x", ["messages"])
    (" Did you mean 'messages'?", '')

    ```
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return f" Did you mean {close[0]!r}?" if close else ""


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


def imported(field_name: str, path: str):
    """
    What stands at a dotted path that a field names.

    ```python
    >>> imported("reward_funcs", "math.sqroot")
    Traceback (most recent call last):
        ...
    ValueError: reward_funcs: 'math.sqroot' cannot be imported: module 'math' has no attribute 'sqroot'.

    ```
    """
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{field_name}: {path!r} cannot be imported: {error}.") from error
