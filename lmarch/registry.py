"""Named variants: a frozen dataclass per variant, selected in a config by `dict(name=..., **parameters)`.

On the command line the same thing is written `name` or `name:parameter=value,parameter=value`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from lmarch.errors import UserError, nearest
from lmarch.typed import parse_value, typed_fields

V = TypeVar("V")


class Registry(Generic[V]):
    """Maps a name to a frozen dataclass; `build` validates the parameters against its fields."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._variants: dict[str, type[V]] = {}

    def register(self, name: str) -> Callable[[type[V]], type[V]]:
        def add(variant: type[V]) -> type[V]:
            assert name not in self._variants, f"{self.kind} {name!r} is registered twice"
            self._variants[name] = variant
            return variant

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(self._variants)

    def __getitem__(self, name: str) -> type[V]:
        if name not in self._variants:
            raise UserError(f"unknown {self.kind} {name!r}; {nearest(name, self._variants)}")
        return self._variants[name]

    def build(self, variant: str | Mapping[str, Any]) -> V:
        """The variant of `{"name": ..., **parameters}`; raises UserError for an unknown name, parameter or type."""
        given = dict(parse_variant(variant))
        if "name" not in given:
            raise UserError(f"a {self.kind} needs a name: got {given}; known: {', '.join(self)}")
        cls = self[given.pop("name")]
        return cls(**typed_fields(cls, given, f"{self.kind} {variant_name(variant)}"))


def variant_name(variant: str | Mapping[str, Any]) -> str:
    return str(parse_variant(variant)["name"])


def parse_variant(text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """`rerope:window=64,frequencies=ntk` -> `{"name": "rerope", "window": 64, "frequencies": "ntk"}`."""
    if not isinstance(text, str):
        return text
    name, _, parameters = text.partition(":")
    variant: dict[str, Any] = {"name": name.strip()}
    for item in filter(None, parameters.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"cannot read {item!r} in {text!r}: write name:parameter=value,parameter=value")
        variant[key.strip()] = parse_value(value)
    return variant


def split_variants(text: str) -> tuple[str, ...]:
    """`rope,yarn:factor=8,beta=2,ntk` -> rope | yarn:factor=8,beta=2 | ntk: a parameter belongs to the name before it."""
    variants: list[str] = []
    for item in filter(None, text.split(",")):
        if "=" in item and ":" not in item and variants:
            variants[-1] += "," + item
        else:
            variants.append(item)
    return tuple(variants)


def format_variant(variant: str | Mapping[str, Any]) -> str:
    """The inverse of `parse_variant`, with the parameters in a stable order."""
    given = dict(parse_variant(variant))
    name = str(given.pop("name"))
    return name + (":" + ",".join(f"{k}={_text(given[k])}" for k in sorted(given)) if given else "")


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def parameters(variant: Any) -> dict[str, Any]:
    """The parameters of a built variant, defaults and derived values included."""
    return {field.name: getattr(variant, field.name) for field in dataclasses.fields(variant)}
