"""What the position methods, windows and selections of a model are called in results."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig
from lmarch.models.language_model import Sites
from lmarch.models.stack import Group, Layer
from lmarch.registry import format_variant, parse_variant, variant_name


def method_name(sites: Sites) -> str:
    """Return the position methods of a model in one line, with the windows and selections that narrow anything.

    Of an encoder-decoder also the encoder's where they differ, and the cross-attention's if it is not plain nope.
    """
    return _by_site(sites, str, "in {}")


def short_name(sites: Sites) -> str:
    """Return `method_name` without its parameters: `3 x rope (sliding) + 1 x nope`."""
    return _by_site(sites, variant_name, "({})")


def _by_site(sites: Sites, short: Callable[[str], str], inside: str) -> str:
    def of_layer(layer: Layer) -> str:
        if variant_name(layer.config.mixer) != "attention":
            return short(format_variant(layer.config.mixer))
        return named(layer.spec)

    def named(spec: AttentionSpec) -> str:
        return " ".join([short(spec.position.method), *(inside.format(short(name)) for name in spec.narrowing)])

    def in_groups(groups: tuple[Group, ...]) -> str:
        names = [" + ".join(_counted([of_layer(layer) for layer in group.layers])) for group in groups]
        return (
            names[0]
            if len(names) == 1
            else ", then ".join(
                f"{name} ({group.repeats} times)" if group.repeats > 1 else name
                for name, group in zip(names, groups, strict=True)
            )
        )

    own = in_groups(sites.decoder)
    if sites.cross is None:
        return own
    encoder, cross = in_groups(sites.encoder), named(sites.cross)
    parts = [own] if encoder == own else [f"encoder {encoder}", f"decoder {own}"]
    return ", ".join(parts + [f"cross {cross}"] * (cross != "nope"))


def _counted(names: list[str]) -> list[str]:
    runs = [(name, len(list(group))) for name, group in itertools.groupby(names)]
    return [name if len(names) == 1 else f"{count} x {name}" for name, count in runs]


def common_position(config: ModelConfig, sites: Sites) -> str | None:
    """Return the method of the layers that do not name their own, with every derived parameter; none: all do."""
    layers = list(zip(config.own_settings, sites.decoder_specs, strict=True))
    if sites.encoder and not config.encoder.position:
        layers += list(zip(config.of_encoder.own_settings, sites.encoder_specs, strict=True))
    return next((spec.position.method for own, spec in layers if "position" not in own), None)


def with_own_positions_fixed(config: ModelConfig, sites: Sites) -> ModelConfig:
    """Return the config whose layers, and encoder, that name their own position name it with every derived parameter."""

    def fixed(config: ModelConfig, specs: tuple[AttentionSpec, ...]) -> dict[str, Any]:
        of_layer = iter(specs)
        fields: dict[str, Any] = {}
        for name in ModelConfig.LAYER_FIELDS:
            own: tuple[Mapping[str, Any], ...] = getattr(config, name)
            # A pattern that names nothing has one layer, which takes everything from the config.
            places = own or (({},) if name == "layers" else ())
            with_specs: list[tuple[Mapping[str, Any], AttentionSpec]] = [(layer, next(of_layer)) for layer in places]
            fields[name] = tuple(
                {**layer, "position": spelled_out(spec)} if "position" in layer else layer
                for layer, spec in with_specs[: len(own)]
            )
        return fields

    encoder = config.encoder
    if sites.encoder:
        common = [
            spec
            for spec, own in zip(sites.encoder_specs, config.of_encoder.own_settings, strict=True)
            if "position" not in own
        ]
        position = spelled_out(common[0]) if encoder.position and common else encoder.position
        layers = fixed(config.of_encoder, sites.encoder_specs)["layers"]
        encoder = dataclasses.replace(encoder, position=position, layers=layers)
    return dataclasses.replace(config, encoder=encoder, **fixed(config, sites.decoder_specs))


def spelled_out(spec: AttentionSpec) -> dict[str, Any]:
    """Return the spec's position method with every derived parameter."""
    return dict(parse_variant(spec.position.method))
