r"""Upstream's classes and functions, made ours under every name that they go by.

Scripts bind `GRPOTrainer` or `get_reward_funcs` before and after [`~mrt_plugin.register`], in modules that nobody can
list. So no name is replaced, but what a class builds and what a function runs.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType


def build_instead(original: type, ours: type) -> None:
    """
    Makes calls of a class build `ours`, a subclass of it: `__new__` gives an instance of ours, whose `__init__` Python
    then calls. Its other subclasses are built as they are, so that it can still be inherited from.

    ```python
    >>> class Theirs:
    ...     pass
    >>> class Ours(Theirs):
    ...     pass
    >>> build_instead(Theirs, Ours)
    >>> type(Theirs()).__name__
    'Ours'

    ```
    """
    original.__new__ = staticmethod(lambda cls, *args, **kwargs: object.__new__(ours if cls is original else cls))


def call_instead(original: FunctionType, ours: Callable) -> None:
    """
    Makes calls of a function call `ours` with what the function was, and the arguments. Once: a second call does no
    harm.

    ```python
    >>> def price(name):
    ...     return {"tea": 2}[name]
    >>> bound_before = price
    >>> call_instead(price, lambda theirs, name: 3 if name == "coffee" else theirs(name))
    >>> bound_before("tea"), bound_before("coffee")
    (2, 3)

    ```
    """
    if original.__code__ is _call_ours.__code__:
        return
    code, scope, name = original.__code__, original.__globals__, original.__name__
    theirs = FunctionType(code, scope, name, original.__defaults__, original.__closure__)
    theirs.__kwdefaults__ = original.__kwdefaults__
    original.__code__, original.__defaults__ = _call_ours.__code__, None
    original.__kwdefaults__ = {"_ours": partial(ours, theirs)}


def _call_ours(*args, _ours, **kwargs):
    return _ours(*args, **kwargs)
