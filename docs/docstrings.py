r"""Reads the package's docstrings for the site: TRL's format -> what mkdocstrings understands.

TRL writes the types of arguments and errors in backticks, and references as [`Name`] or [`~module.Name`]; fields of
arguments have their text in the `help` of their dataclass field. An extension of griffe, named in zensical.toml.
"""

import dataclasses
import html
import re
from importlib import import_module

from griffe import Attribute, Class, Docstring, Extension, Object

import mrt_plugin


_TYPE = re.compile(r"^(?P<indent> +)(?P<names>[\w*, ]+) \((?P<type>.*`.*)\):", re.MULTILINE)
_ERROR = re.compile(r"^(?P<indent> +)`(?P<name>\w+)`:", re.MULTILINE)
_REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?!\()")


class TRLDocstrings(Extension):
    def on_object(self, *, obj: Object, **kwargs) -> None:
        if isinstance(obj, Class) and "dataclass" in obj.labels:
            _describe_fields(obj)
        if obj.docstring:
            obj.docstring.value = _as_google(obj.docstring.value, obj)


def _as_google(text: str, obj: Object) -> str:
    text = _TYPE.sub(lambda m: f"{m['indent']}{m['names']} ({_plain(m['type'])}):", text)
    text = _ERROR.sub(r"\g<indent>\g<name>:", text)
    return _fenced(_REFERENCE.sub(lambda m: _linked(m[2], obj, short=bool(m[1])), text))


def _plain(type_: str) -> str:
    """A type without markup, and without the default, which the signature tells."""
    return re.sub(r", optional(, defaults to .*)?$", "", re.sub(r"\[`~?[\w.]*?(\w+)`\]|[`*]", r"\1", type_))


def _fenced(text: str) -> str:
    """Examples that stand in no code block, in one."""
    lines, inside, opened = [], False, None
    for line in [*text.split("\n"), ""]:
        inside ^= line.lstrip().startswith("```")
        if opened is not None and not line.strip():
            lines.append(f"{opened}```")
            opened = None
        elif opened is None and not inside and line.lstrip().startswith(">>>"):
            opened = line[: line.index(">>>")]
            lines.append(f"{opened}```python")
        lines.append(line)
    return "\n".join(lines)


def _linked(name: str, obj: Object, short: bool) -> str:
    """A name with a link, where the site has a page for it."""
    shown = name.rpartition(".")[2] if short else name
    path = name if name.startswith(("mrt_plugin.", "trl.", "transformers.")) else f"{obj.module.path}.{name}"
    if path == f"mrt_plugin.{shown}" and shown in mrt_plugin.__all__:  # where it is defined
        path = f"{getattr(mrt_plugin, shown).__module__}.{shown}"
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'


def _describe_fields(cls: Class) -> None:
    fields = getattr(import_module(cls.module.path), cls.name).__dataclass_fields__
    for name, member in cls.members.items():
        if isinstance(member, Attribute) and (about := fields.get(name)) and "help" in about.metadata:
            default = about.default
            if default is dataclasses.MISSING and about.default_factory is not dataclasses.MISSING:
                default = about.default_factory()
            member.value = None if default is dataclasses.MISSING else repr(default)
            member.docstring = Docstring(html.escape(about.metadata["help"], quote=False), parent=member)
