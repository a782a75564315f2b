"""What it costs to train a model."""

from lmarch.config import ModelConfig
from lmarch.models.attention import pair_flops
from lmarch.models.mixer import MIXERS


def training_flops(
    config: ModelConfig, vocab_size: int, sizes: dict[str, int], tokens: int, *, prefix: int = 0, source: int = 0
) -> float:
    """Return the FLOPs to train on one text: 6 per parameter of the stacks and token it is applied to, and the mixers'.

    Embedding look-ups cost nothing; the unembedding counts, tied or not. What a window saves is not taken off. In an
    encoder-decoder attention sees all of source^2 pairs and all of tokens x source.

    Args:
      sizes: parameters of the parts of the model, by their names.
      tokens: of the text; of an encoder-decoder, that its decoder reads.
      prefix: how many of them a prefix decoder sees both ways.
      source: tokens that an encoder reads.
    """
    unembedding = vocab_size * config.dim
    layers = _layers(config)
    mixing = sum(MIXERS.build(layer.mixer).flops(layer, tokens, prefix) for layer in layers)
    if config.architecture != "encoder_decoder":
        return 6 * (sizes["stack"] + unembedding) * tokens + mixing
    # Cross-attention's keys and values are made of the source.
    of_source = sum(layer.dim * layer.kv_heads * (layer.head_size + layer.value_size) for layer in layers)
    across = sum(map(pair_flops, layers)) * tokens * source
    of_encoder = sum(map(pair_flops, _layers(config.of_encoder))) * source**2
    matrices = (sizes["stack"] - of_source + unembedding) * tokens + (sizes["encoder"] + of_source) * source
    return 6 * matrices + mixing + across + of_encoder


def _layers(config: ModelConfig) -> list[ModelConfig]:
    """Return the configs of all layers of a stack."""
    return [layer for group in config.groups for layer in group.layers.values() for _ in range(group.repeats)]
