"""From a config to the layers of a model: which attention each of them has, and what that is called."""

import contextlib
import dataclasses
from collections.abc import Iterator

from lmarch.attention.implementations import require_known
from lmarch.attention.spec import AttentionSpec, attention_spec
from lmarch.branches import Branch
from lmarch.config import ModelConfig
from lmarch.errors import UserError
from lmarch.models.language_model import Sites
from lmarch.models.mixer import MIXERS
from lmarch.models.stack import Group, Layer
from lmarch.registry import Variant, parse_variant
from lmarch.visibility import ARCHITECTURES


def _layer_spec(own: ModelConfig, config: ModelConfig, site: str) -> AttentionSpec:
    """Return that of one layer. A base of its own is a parameter of its position, so that the method's name tells it."""
    spec = _spec(own, site, own.position, own.window, own.selection)
    if own.rope_base == config.rope_base or spec.position.rotation is None:
        return spec
    position = {"rope_base": own.rope_base, **parse_variant(own.position)}
    own = dataclasses.replace(own, rope_base=config.rope_base)
    return _spec(own, site, position, own.window, own.selection)


_BESIDE_FREQUENCIES: tuple[str, ...] = ("temperature", "rope_base")  # what any position method may have


def make_sites(config: ModelConfig) -> Sites:
    """Return every place where a model attends; raise UserError for an impossible combination."""
    if config.architecture != "encoder_decoder":
        return Sites((), layer_groups(config, config.architecture))
    decoder = layer_groups(config, "causal_decoder")
    with _naming("config.model.encoder"):
        encoder = layer_groups(config.of_encoder, "encoder")

    def crossing(layer: Layer) -> Layer:
        """With cross-attention: the layer has its own heads there, and the model's rotation."""
        own = dataclasses.replace(layer.config, position=config.position, rope_base=config.rope_base)
        return layer._replace(cross=cross_spec(own))

    with _naming("config.model.cross_positions"):
        decoder = tuple(group._replace(layers=tuple(map(crossing, group.layers))) for group in decoder)
    return Sites(encoder, decoder)


def layer_groups(config: ModelConfig, site: str) -> tuple[Group, ...]:
    """Return the groups of layers of a stack.

    Args:
      site: who may see whom: an architecture of `attention_spec`.
    """
    groups = []
    for of_config in config.groups:
        for own in of_config.layers.values():
            MIXERS.build(own.mixer).resolve(ARCHITECTURES[site].mask_kind)  # one that cannot be stops here
            require_known(own.attention, "config.model.attention")
        layers = [Layer(name, own, _layer_spec(own, config, site)) for name, own in of_config.layers.items()]
        groups.append(Group(tuple(layers), of_config.repeats))
    specs = [layer.spec for group in groups for layer in group.layers]
    if len({spec.position.embedding for spec in specs}) > 1:
        methods = ", ".join(spec.position.method for spec in specs)
        raise UserError(
            f"config.model.layers mix {methods}: positions added to embeddings cannot differ between layers"
        )
    if len({spec.visibility.layout for spec in specs}) > 1:
        windows = ", ".join(spec.window for spec in specs)
        raise UserError(
            f"config.model.layers mix windows {windows}: parallel windows cut the text for every layer alike"
        )
    return tuple(groups)


def cross_spec(config: ModelConfig) -> AttentionSpec:
    """That of an encoder-decoder's cross-attention; of an index map, at continuous positions, its frequencies alone."""
    if config.cross_positions == "continuous":
        position = dict(parse_variant(config.position))
        if _spec(config, "causal_decoder", position, "full").position.branches != (Branch(),):
            kept = {name: position[name] for name in _BESIDE_FREQUENCIES if name in position}
            position = {**parse_variant(position.get("frequencies", "rope")), **kept}
        return _spec(config, "cross_attention", position, "full", config.cross_selection)
    temperature = {"temperature": config.cross_temperature} if config.cross_temperature else {}
    return _spec(config, "cross_attention", {"name": "nope", **temperature}, "full", config.cross_selection)


def _spec(
    config: ModelConfig, site: str, position: Variant, window: Variant, selection: Variant | None = None
) -> AttentionSpec:
    return attention_spec(
        architecture=site,
        position=position,
        window=window,
        head_dim=config.head_size,
        value_dim=config.value_size,
        position_dim=config.head_size // 2 if config.block_positions == "rotary" else None,
        num_heads=config.num_heads,
        trained_length=config.trained_length,
        target_length=config.target_length,
        rope_base=config.rope_base,
        selection=selection,
        sink=config.sink,
        logit_scale=config.attention_scale,
        softcap=config.attention_softcap,
    )


@contextlib.contextmanager
def _naming(site: str) -> Iterator[None]:
    """Says which site a UserError is about: in an encoder-decoder they share most settings."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{site}: {error}") from error
