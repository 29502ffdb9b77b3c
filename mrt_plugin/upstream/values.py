r"""The values of a recipe, read as those of the command line are.

YAML makes `False` of `no`, text of `1e-5` and a number of a revision called `1.10`, and argparse leaves a default as
it is unless it is text. So a value is read from what is written in the recipe where its type is not the field's.
"""

import re
from argparse import Action, ArgumentTypeError
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

import yaml
from transformers.hf_argparser import string_to_bool


class _Loader(yaml.SafeLoader):
    """Takes `1e-5` for a number, as YAML 1.2 and JSON do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_recipe(path: str) -> tuple:
    """What YAML makes of a recipe, and the same with every value as its text."""
    text = Path(path).read_text()
    return read_text(text), yaml.load(text, yaml.BaseLoader)


def read_text(text: str):
    """
    What YAML makes of a text.

    ```python
    >>> read_text("1e-5"), read_text("no"), read_text("group")
    (1e-05, False, 'group')

    ```
    """
    return yaml.load(text, _Loader)


def number(text: str) -> float:
    """
    ```python
    >>> number("1e-1"), number("20.0")
    (0.1, 20)

    ```
    """
    try:
        return int(float(text)) if float(text).is_integer() else float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None


def whole_number(text: str) -> int:
    """
    ```python
    >>> whole_number("4.0"), whole_number("1e3")
    (4, 1000)

    ```
    """
    if not isinstance(number(text), int):
        raise ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text) if text.strip("+-").isdigit() else number(text)


def switch(text: str) -> bool:
    """
    ```python
    >>> switch("on"), switch("No")
    (True, False)

    ```
    """
    return string_to_bool({"on": "yes", "off": "no"}.get(text.lower(), text))


def path_or_switch(text: str) -> str | bool:
    """
    ```python
    >>> path_or_switch("true"), path_or_switch("runs/mrt/checkpoint-10")
    (True, 'runs/mrt/checkpoint-10')

    ```
    """
    return switch(text) if text.lower() in ("true", "false", "yes", "no", "on", "off") else text


READERS = {"int": whole_number, "float": float, "string_to_bool": switch, "str": str}
"""By the name of the type that TRL's parser gives to argparse."""
OF_FIELDS = {"resume_from_checkpoint": path_or_switch, "warmup_steps": number, "warmup_ratio": number}


def reader(action: Action, hint) -> Callable:
    """What reads a field's values, from the recipe and from the command line."""
    read = OF_FIELDS.get(action.dest) or READERS.get(getattr(action.type, "__name__", ""))
    if read in (None, str) or NoneType not in _types(hint):
        return read or action.type

    @wraps(read)
    def read_or_none(text: str):
        return None if text.lower() in ("none", "null") else read(text)

    return read_or_none


def read_value(action: Action, hint, value, text):
    """
    A field's value.

    Args:
        action (`argparse.Action`), hint (`type`): What the parser knows of the field, and its annotation.
        value (`object`), text (`str`, `list` or `dict`): What YAML makes of what the recipe says, and what it says.
            A `null` leaves the default of a field that does not take it.

    Raises:
        `ValueError`: If the field is of another type; it names the field.

    Example:
    ```python
    >>> from argparse import ArgumentParser
    >>> rewards = ArgumentParser().add_argument("--reward_funcs", type=str, nargs="*")
    >>> read_value(rewards, list[str], "mrt_accuracy", "mrt_accuracy")
    ['mrt_accuracy']

    ```
    """
    types = _types(hint)
    if value is None and NoneType not in types:
        return action.default
    if value is None or hint is None:
        return value
    if action.nargs == "*" and str not in types:
        pairs = zip(value, text, strict=True) if isinstance(value, list) else [(value, text)]
        return [_read(action, *pair) for pair in pairs]
    if action.dest not in OF_FIELDS and (type(value) in types or (type(value) is int and float in types)):
        return value
    if action.choices and value is False:  # no, off
        text = next((choice for choice in ("no", "none") if choice in action.choices), text)
    return _read(action, value, text)


def _read(action: Action, value, text):
    if type(value) in (int, float) and action.type is not str:
        text = str(value)  # of 0x10 or 1_000
    try:
        if action.type is str and not isinstance(text, str):
            raise TypeError(f"{value!r} is not a text")
        return action.type(text)
    except (AttributeError, TypeError, ValueError, ArgumentTypeError) as error:
        raise ValueError(f"{action.dest}: {str(error).rstrip('.')}.") from error


def _types(hint) -> set:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    return {get_origin(kind) or kind for kind in kinds}
