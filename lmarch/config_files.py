"""Config files and command-line overrides, read into untyped values that `config.from_dict` checks.

A file defines `get_config(argument)`, which returns an `ml_collections.ConfigDict` of what differs from the defaults.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ml_collections import ConfigDict

from lmarch import shipped
from lmarch.config import Config, from_dict
from lmarch.config.fields import VARIANTS
from lmarch.config.names import field_meant, unknown_field
from lmarch.errors import UserError, nearest
from lmarch.registry import parse_variant, split_variants
from lmarch.typed import parse_value, typed


def load_config(source: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Reads `NAME[:argument]` or `PATH.py[:argument]`, applies `("train.steps", "2000")`-like overrides and checks everything.

    Raises:
      UserError: no such config, a file without `get_config`, an unknown key, a wrong type, an impossible value.
    """
    path, _, argument = source.partition(":")
    tree = read_config_file(path, argument)
    for key, text in overrides:
        override(tree, key, text)
    return from_dict(tree)


def read_config_file(path: str, argument: str) -> dict[str, Any]:
    """The nested dict that `get_config(argument)` of a config returns."""
    made = load_definition(path, "config", "get_config", shipped.CONFIGS)(argument)
    if not isinstance(made, ConfigDict):
        raise UserError(
            f"get_config of {path} returned a {type(made).__name__}: it must return an ml_collections.ConfigDict"
        )
    return made.to_dict()


def load_definition(source: str, kind: str, name: str, folder: Path) -> Any:
    """What a Python file calls `name`.

    Args:
      source: the name of a file that lmarch ships, or the path of one; only a path has a `/` or ends in `.py`.
      kind: what the file is, for messages.
      folder: where lmarch's own files of this kind lie.

    Raises:
      UserError: no such file, one that is not Python, or no such name in it.
    """
    file = _find(source, kind, folder)
    spec = importlib.util.spec_from_file_location(f"lmarch_{kind}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{source} line {error.lineno} is not Python: {error.msg}") from error
    if not hasattr(module, name):
        raise UserError(f"{source} defines no {name}")
    return getattr(module, name)


def _find(source: str, kind: str, folder: Path) -> Path:
    file, known = Path(source).expanduser(), shipped.names(folder)
    if file.suffix != ".py" and len(file.parts) == 1:
        if source not in known:
            raise UserError(f"lmarch has no {kind} {source!r}; {nearest(source, known)} (a file of yours: PATH.py)")
        return folder / f"{source}.py"
    if not file.is_file():
        if file.stem in known:
            raise UserError(f"no {kind} file {source!r} here; lmarch's own is --{kind}={file.stem}")
        beside = [str(other) for other in file.parent.glob("*.py")]
        raise UserError(f"no {kind} file {source!r}; {nearest(source, [*beside, *known])}")
    return file


def override(tree: dict[str, Any], key: str, text: str) -> None:
    """Sets `tree["a"]["b"]` for key `a.b`. Values are Python literals; a variant may be written `name:parameter=value`.

    Naming a variant replaces it whole; `model.position.factor=8` changes one parameter of the one that is there.
    """
    *groups, name = key.split(".")
    owner: Any = Config  # the dataclass that `tree` is the untyped form of; None inside a variant
    for group in groups:
        field = _field(owner, group, key) if owner else None
        owner = field.type if field and dataclasses.is_dataclass(field.type) else None
        default = field.default_factory if field and owner is None else None
        tree.setdefault(group, default() if callable(default) else {})
        if isinstance(tree[group], str) and (owner is None):
            tree[group] = dict(parse_variant(tree[group]))  # a variant, whose parameter is meant
        tree = tree[group]
        if not isinstance(tree, dict):
            raise UserError(f"--config.{key}: {group!r} is a value, not a group of fields")
    tree[name] = _parse_field(_field(owner, name, key), key, text) if owner else parse_value(text)


def _parse_field(field: dataclasses.Field, key: str, text: str) -> Any:
    if dataclasses.is_dataclass(field.type):
        raise UserError(f"--config.{key} is a group of fields: write --config.{key}.FIELD=value")
    options = get_args(field.type)
    if field.type is str or text in options:  # `none` may be the name of a choice, and 20241126_0728 that of a folder
        return text
    value = parse_value(text)
    if {str, type(None)} <= {*options}:
        return value if value is None or isinstance(value, str) else text
    if field.type in VARIANTS and isinstance(value, str):
        return dict(parse_variant(text))
    listed = [get_args(option)[0] for option in (field.type, *options) if get_origin(option) is tuple]
    if isinstance(value, str) and any(item is str or get_origin(item) is Literal for item in listed):
        return split_variants(value)
    return value


def _field(cls: Any, name: str, key: str) -> dataclasses.Field:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if name not in fields:
        raise unknown_field(key.rpartition(name)[0].rstrip("."), name, cls, f"--config.{key}")
    return fields[name]


def parse_arg(argument: str | None, **defaults: Any) -> dict[str, Any]:
    """Arguments of a config file: `rope=ntk,size=small` over typed defaults; unknown names are errors.

    A variant's further parameters follow it: `rope=rerope:window=64,temperature=log_n,size=small`.
    """
    given: dict[str, Any] = dict(defaults)
    items: list[str] = []
    for item in filter(None, (argument or "").split(",")):
        if items and ":" in items[-1] and item.partition("=")[0] not in defaults:
            items[-1] += f",{item}"
        else:
            items.append(item)
    for item in items:
        name, equals, text = item.partition("=")
        if name not in defaults:
            field = field_meant(name)
            hint = f"; the field is overridden with --config.{field}=VALUE" if field else ""
            raise UserError(f"unknown config argument {name!r}; {nearest(name, defaults)}{hint}")
        if not equals:
            raise UserError(f"config argument {item!r} has no value: write {name}=VALUE")
        kind = type(defaults[name])
        given[name] = typed(kind, text if kind is str else parse_value(text), f"config argument {name}")
    return given


def pick(table: Mapping[str, Any], name: str, what: str) -> Any:
    """`table[name]`, or a UserError that names the nearest entry; for the arguments of config files."""
    if name not in table:
        raise UserError(f"unknown {what} {name!r}; {nearest(name, table)}")
    return table[name]
