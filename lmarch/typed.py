"""Turns untyped values (config files, command lines, JSON) into the fields of a typed frozen dataclass, strictly.

An unknown field or a value of the wrong type is a UserError that names the field, the value and the nearest valid
name. Nothing is dropped, clamped or renamed.
"""

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from lmarch.errors import UserError, nearest


def parse_value(text: str) -> Any:
    """A Python literal where the text is one (`3`, `1e-3`, `none`, `true`, `(1, 2)`), else the text itself."""
    word = {"true": True, "false": False, "none": None}.get(text.strip().lower(), text)
    if word is not text:
        return word
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def typed_fields(cls: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Checks `given` against the dataclass `cls`; nested dataclasses are built on the way.

    Args:
      cls: a dataclass.
      given: field name -> untyped value; missing fields keep their defaults.
      where: what to call `cls` in messages, for example `config.train`.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in given:
        if name not in names:
            raise UserError(f"unknown field {name!r} in {where}; {nearest(str(name), names)}")
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in given and not _has_default(f)]
    if missing:
        raise UserError(f"{where} needs a value for {', '.join(map(repr, missing))}")
    return {name: typed(hints[name], value, f"{where}.{name}") for name, value in given.items()}


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`, or a UserError. Whole floats become ints, ints become floats."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return kind(**typed_fields(kind, value, where))
    elif origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        plain = [option for option in options if option is not type(None)]
        for option in plain[:-1]:
            try:
                return typed(option, value, where)
            except UserError:
                continue
        return typed(plain[-1], value, where)
    elif origin is typing.Literal:
        if value in options:
            return value
        raise UserError(
            f"{where}={value!r} is not one of {', '.join(map(str, options))}; {nearest(str(value), options)}"
        )
    elif origin is tuple:
        items = value if isinstance(value, (list, tuple)) else (value,)
        return tuple(typed(options[0], item, where) for item in items)
    elif origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            return dict(value)
    elif kind is bool or isinstance(value, bool):
        if kind in (bool, Any) and isinstance(value, bool):
            return value
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif kind is float and isinstance(value, (int, float)):
        return float(value)
    elif kind is str and isinstance(value, (int, float)):
        return str(value)
    elif kind is Any or isinstance(value, kind):
        return value
    raise UserError(f"{where}={value!r} must be {type_name(kind)}, not {type(value).__name__}")


def type_name(kind: Any) -> str:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(type_name(option) for option in typing.get_args(kind))
    if kind is type(None):
        return "none"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in names:
        return names[kind]
    if typing.get_origin(kind) is Mapping:
        return "a group of fields"
    return "a group of fields" if dataclasses.is_dataclass(kind) else str(kind)


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
