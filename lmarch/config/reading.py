"""Nested untyped values, as config files, command lines and JSON give them, to a checked config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lmarch.config.fields import LAYERS, OF_LAYER, VARIANTS
from lmarch.config.names import unknown_field
from lmarch.config.run import Config
from lmarch.registry import parse_variant
from lmarch.typed import typed_fields


def from_dict(tree: Mapping[str, Any]) -> Config:
    """A checked Config from nested untyped values; raises UserError. A variant may be written `name:parameter=value`."""
    tree = {**tree, "train": tree.get("train", {})}
    return Config(**typed_fields(Config, _with_variants(tree, Config), "config"))


def _with_variants(tree: Any, owner: Any, where: str = "") -> Any:
    """`tree` with every variant that is written as text as a mapping, in the groups and in their lists of layers."""
    if not isinstance(tree, Mapping):
        return tree
    made, known = dict(tree), {field.name for field in dataclasses.fields(owner)}
    for name in made:
        if name not in known:
            raise unknown_field(where, str(name), owner, f"config.{where}".rstrip("."))
    for field in dataclasses.fields(owner):
        value = made.get(field.name)
        if dataclasses.is_dataclass(field.type):
            made[field.name] = _with_variants(value, field.type, f"{where}.{field.name}".lstrip("."))
        elif field.type in VARIANTS and isinstance(value, str):
            made[field.name] = dict(parse_variant(value))
        elif field.type == LAYERS and isinstance(value, (list, tuple)):
            made[field.name] = tuple(_with_variants_in_layer(layer) for layer in value)
    return {name: value for name, value in made.items() if name in tree}


def _with_variants_in_layer(layer: Any) -> Any:
    if not isinstance(layer, Mapping):
        return layer
    variants = (*OF_LAYER, "mixer")
    return {k: dict(parse_variant(v)) if k in variants and isinstance(v, str) else v for k, v in layer.items()}
