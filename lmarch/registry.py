"""Named variants: a frozen dataclass per variant, selected in a config by `dict(name=..., **parameters)`.

On the command line the same thing is written `name` or `name:parameter=value,parameter=value`; a parameter that is a
variant itself is written with dots: `rerope:window=64,frequencies=ntk,frequencies.factor=8`.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from lmarch.errors import UserError, nearest
from lmarch.typed import parse_value, typed_fields

V = TypeVar("V")
Variant = str | Mapping[str, Any]


class Registry(Generic[V]):
    """Maps a name to a frozen dataclass; `build` validates the parameters against its fields."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._variants: dict[str, type[V]] = {}

    def register(self, name: str) -> Callable[[type[V]], type[V]]:
        """The decorated class is known as `name`, which it carries as a class attribute too."""

        def add(variant: type[V]) -> type[V]:
            assert name not in self._variants, f"{self.kind} {name!r} is registered twice"
            self._variants[name] = variant
            setattr(variant, "name", name)  # noqa: B010 (a plain assignment has no type)
            return variant

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(self._variants)

    def __getitem__(self, name: str) -> type[V]:
        if name not in self._variants:
            raise UserError(f"unknown {self.kind} {name!r}; {nearest(name, self._variants)}")
        return self._variants[name]

    def build(self, variant: Variant) -> V:
        """The variant of `{"name": ..., **parameters}`; raises UserError for an unknown name, parameter or type."""
        given = dict(parse_variant(variant))
        if "name" not in given:
            raise UserError(f"a {self.kind} needs a name: got {given}; known: {', '.join(self)}")
        cls = self[str(given.pop("name"))]
        return cls(**typed_fields(cls, given, f"{self.kind} {variant_name(variant)}"))


def variant_name(variant: Variant) -> str:
    return str(parse_variant(variant)["name"])


def parse_variant(text: Variant) -> Mapping[str, Any]:
    """`rerope:window=64,frequencies=ntk` -> `{"name": "rerope", "window": 64, "frequencies": "ntk"}`."""
    if isinstance(text, Mapping):
        return text
    if not isinstance(text, str):
        raise UserError(f"{text!r} is not a variant: write NAME, or NAME:PARAMETER=VALUE, or a mapping with a name")
    name, _, parameters = text.partition(":")
    variant: dict[str, Any] = {"name": name.strip()}
    for item in _split(parameters):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"cannot read {item!r} in {text!r}: write name:parameter=value,parameter=value")
        *owners, key = key.strip().split(".")
        owner = variant
        for step in owners:
            inner = owner.get(step)
            if not isinstance(inner, (str, Mapping)):
                raise UserError(f"{item!r} in {text!r} comes before {step}=NAME, whose parameter it is")
            owner[step] = dict(parse_variant(inner))
            owner = owner[step]
        owner[key] = parse_value(value)
    return variant


def split_variants(text: str) -> tuple[str, ...]:
    """`rope,yarn:factor=8,beta=2,ntk` -> rope | yarn:factor=8,beta=2 | ntk: a parameter belongs to the name before it."""
    variants: list[str] = []
    for item in _split(text):
        if "=" in item and ":" not in item and variants:
            variants[-1] += "," + item
        else:
            variants.append(item)
    return tuple(variants)


def _split(text: str) -> list[str]:
    """At commas outside of brackets, without what is empty."""
    return [item for item in re.split(r",(?![^()\[\]]*[)\]])", text) if item]


def format_variant(variant: Variant) -> str:
    """The inverse of `parse_variant`, with the parameters in a stable order; those that are none are left out."""
    given = dict(parse_variant(variant))
    name = str(given.pop("name"))
    items = [item for key in sorted(given) for item in _items(key, given[key])]
    return name + (":" + ",".join(items) if items else "")


def _items(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        inner = {f"{key}.{k}": v for k, v in value.items() if k != "name"}
        return [f"{key}={value['name']}", *(item for k in sorted(inner) for item in _items(k, inner[k]))]
    return [f"{key}={_text(value)}"]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


_DECIMALS = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[+-]?\d+)?")
SHOWN_DIGITS = 3  # of a number with decimals


def for_people(names: Iterable[str]) -> dict[str, str]:
    """How each of some names is shown: `leaky_rerope:k=15.222222222222221` as `leaky_rerope:k=15.2`.

    Names that would look the same are shown as they are. What is stored always has the exact ones.
    """
    short = {name: rounded(name) for name in names}
    shared = collections.Counter(short.values())
    return {name: text if shared[text] == 1 else name for name, text in short.items()}


def rounded(text: str) -> str:
    """Its numbers with three digits, or all of those before the point: 15.2222 -> 15.2, 0.01234 -> 0.0123, 12345.6 -> 12346."""

    def short(number: re.Match[str]) -> str:
        value = float(number[0])
        return f"{value:.{max(SHOWN_DIGITS, len(str(int(abs(value)))))}g}"

    return _DECIMALS.sub(short, text)


def describe(made: Any) -> dict[str, Any]:
    """The variant that builds `made`: every derived parameter is spelled out, what equals its default is not."""
    defaults = {field.name: field.default for field in dataclasses.fields(made)}
    given = {name: value for name, value in parameters(made).items() if value != defaults[name]}
    return {"name": label(made), **given}


def label(made: Any) -> str:
    """The name that the variant is registered under."""
    return str(type(made).name)


def parameters(variant: Any) -> dict[str, Any]:
    """The parameters of a built variant, defaults and derived values included."""
    return {field.name: getattr(variant, field.name) for field in dataclasses.fields(variant)}
