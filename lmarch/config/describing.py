"""What every field of a config is: name, type, default and meaning, read off the dataclasses and the comments in them."""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping

from lmarch.config.run import Config


@dataclasses.dataclass(frozen=True)
class Described:
    """A field, in words."""

    name: str  # dotted, with its group: `model.dim`
    kind: str
    default: str
    meaning: str


def groups(owner: type = Config, prefix: str = "") -> dict[str, type]:
    """Every group of fields by its dotted name, in order: `train`, `data`, `model`, `model.encoder`, ..."""
    found: dict[str, type] = {}
    for field in dataclasses.fields(owner):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            name = f"{prefix}{field.name}"
            found |= {name: field.type} | groups(field.type, f"{name}.")
    return found


def purpose(group: type) -> str:
    """The first sentence of the group's docstring."""
    text = " ".join((group.__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".") + "."


def describe_group(name: str) -> list[Described]:
    """The group's own fields, in order; those of groups inside it are described under their own name."""
    group = groups()[name]
    said = _comments(group)
    return [
        Described(f"{name}.{field.name}", _kind(field.type), _default(field), said.get(field.name, ""))
        for field in dataclasses.fields(group)
        if not dataclasses.is_dataclass(field.type)
    ]


def _comments(group: type) -> dict[str, str]:
    """Of each field the comment beside it, and that in the lines of comment right above it."""
    source = textwrap.dedent(inspect.getsource(group))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    alone = {t.start[0] for t in tokens if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    said = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = range(first, (node.end_lineno or node.lineno) + 1)
            said[node.target.id] = _sentence(" ".join(comments[line] for line in lines if line in comments))
    return said


def _sentence(text: str) -> str:
    """Begun and ended alike, wherever it stood."""
    word = text.partition(" ")[0]
    return (text[:1].upper() + text[1:] if word.isalpha() and word.islower() else text).rstrip(".")


def _kind(kind: typing.Any) -> str:
    """A type as a user writes its values."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "none"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_kind, options))
    if origin is typing.Literal:
        return " | ".join(map(str, options))
    if origin is tuple:
        return f"({_kind(options[0])}, ...)"
    if origin is Mapping:
        return "name:parameter=value"
    return {int: "int", float: "float", bool: "true | false", str: "text"}[kind]


def _default(field: dataclasses.Field) -> str:
    made = field.default_factory() if callable(field.default_factory) else field.default
    if isinstance(made, Mapping):
        return str(made["name"])
    if made is None or isinstance(made, bool):
        return str(made).lower()
    return str(made)


def all_fields() -> Iterator[Described]:
    """Every field of every group."""
    for name in groups():
        yield from describe_group(name)
