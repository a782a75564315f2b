"""The attention layer: projections around the one attention computation. Positions and masks are the spec's business."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.attend import attend_text
from lmarch.attention.coordinates import Coordinates
from lmarch.attention.key_value_cache import CrossCache, KeyValueCache, empty_cache
from lmarch.attention.rotation import make_wave, rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights, attention_weights
from lmarch.branches import MaskKind
from lmarch.config import ModelConfig
from lmarch.content import Features
from lmarch.models.layers import biased, biases, learned_parameters, learned_values, make_norm, matrix
from lmarch.models.mixer import MIXERS, Mixed
from lmarch.models.text import Context, Memory
from lmarch.positions.position import Rotation

Shared = Mapping[str, jax.Array]  # what layers with the same position method learn together


@MIXERS.register("attention")
@dataclasses.dataclass(frozen=True)
class AttentionMethod:
    """Attention, which the other fields of the config describe."""

    def resolve(self, mask_kind: MaskKind) -> "AttentionMethod":
        return self  # whatever it is not defined for, its position, window or selection refuses

    def module(self, config: ModelConfig, spec: AttentionSpec, residual_scale: float, *, rngs: nnx.Rngs) -> "Attention":
        return Attention(config, spec, residual_scale, rngs=rngs)

    def flops(self, config: ModelConfig, tokens: int, prefix: int) -> float:
        """Half of tokens^2 pairs in a causal decoder, half of prefix^2 more in a prefix decoder; a window saves nothing."""
        return pair_flops(config) * (tokens**2 + prefix**2) / 2


def pair_flops(config: ModelConfig) -> float:
    """Return the FLOPs to train one pair of a query and a key."""
    return 6 * config.num_heads * (config.head_size + config.value_size)


class Attention(nnx.Module):
    """Grouped-query attention, to the same text or to a memory."""

    def __init__(self, config: ModelConfig, spec: AttentionSpec, residual_scale: float, *, rngs: nnx.Rngs) -> None:
        D, H, G, K, V = config.dim, config.num_heads, config.kv_heads, config.head_size, config.value_size
        self.config, self.spec = config, spec
        unit = K**-0.5 / spec.logit_scale
        self.query = matrix(rngs, (D, H, K), ("embed", "heads", "head_dim"), fan_in=D, scale=unit)
        self.key = matrix(rngs, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        self.value = matrix(rngs, (D, G, V), ("embed", "kv_heads", "head_dim"), fan_in=D)
        axes = ("heads", "head_dim", "embed")
        self.out = matrix(rngs, (H, V, D), axes, fan_in=H * V, scale=residual_scale)
        if config.qk_norm:
            self.query_norm = make_norm(config, K, "head_dim")
            self.key_norm = make_norm(config, K, "head_dim")
        qkv = config.attention_bias != "none"
        self.query_bias = biases(qkv, (H, K), ("heads", "head_dim"))
        self.key_bias = biases(qkv, (G, K), ("kv_heads", "head_dim"))
        self.value_bias = biases(qkv, (G, V), ("kv_heads", "head_dim"))
        self.out_bias = biases(config.attention_bias == "all", (D,), ("embed",))
        self.position = learned_parameters(rngs, spec, D, shared=False)

    def __call__(self, x_BTD: jax.Array, context: Context, shared: Shared, state: KeyValueCache | None = None) -> Mixed:
        """Let the tokens of a text attend to each other, or new ones to those in a cache and to each other."""
        learned, at = self._learned(shared), context.at
        q_BTHK, k_BTGK, v_BTGV = self._projected(x_BTD, context)
        features = self._features(x_BTD, context, learned, state)
        options: Any = {"learned": learned, "features": features, "implementation": self.config.attention}
        if state is not None:
            assert context.reading is not None
            out_BTHV, state = state.attend(q_BTHK, k_BTGK, v_BTGV, self.spec, at, context.reading, **options)
        else:
            options["other_rows"] = context.other_rows
            out_BTHV = attend_text(q_BTHK, k_BTGK, v_BTGV, self.spec, at, at, **options)
        return Mixed(self._out(out_BTHV), state=state)

    def across(self, x_BTD: jax.Array, memory: Memory | CrossCache, at: Coordinates) -> jax.Array:
        """Let tokens attend to another text: to an encoder's output, or to what is kept of one.

        Args:
          at: where the tokens are in their own text.
        """
        learned, implementation = self._learned({}), self.config.attention
        q_BTHK = self._queries(x_BTD)
        if isinstance(memory, CrossCache):
            return self._out(memory.attend(q_BTHK, self.spec, at, learned=learned, implementation=implementation))
        out_BTHV = attend_text(
            q_BTHK,
            *self.keys_and_values(memory.states_BSD),
            self.spec,
            memory.queries_at,
            memory.keys_at,
            implementation=implementation,
            learned=learned,
        )
        return self._out(out_BTHV)

    def empty_state(self, rows: int, *, longest: int | None, chunk: int, placed: bool) -> KeyValueCache:
        return empty_cache(
            self.spec,
            rows=rows,
            kv_heads=self.config.kv_heads,
            longest=longest,
            chunk=chunk,
            dtype=jnp.dtype(self.config.compute_dtype),
            placed=placed,
            feature_sizes={name: reader.key_features for name, reader in self.spec.content.items()},
        )

    def weights(self, x_BTD: jax.Array, context: Context, shared: Shared) -> Weights:
        """Return what the values of a text are multiplied by."""
        learned = self._learned(shared)
        q_BTHK, k_BTGK, _ = self._projected(x_BTD, context)
        features = self._features(x_BTD, context, learned)
        return attention_weights(q_BTHK, k_BTGK, self.spec, learned, features, context.at)

    def keys_and_values(self, x_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return keys [B, S, G, K] and values [B, S, G, V], without positions."""
        matrices = (self.key[...].astype(x_BSD.dtype), self.value[...].astype(x_BSD.dtype))
        k_BSGK, v_BSGV = (jnp.einsum("BSD,DGK->BSGK", x_BSD, matrix) for matrix in matrices)
        k_BSGK, v_BSGV = biased(k_BSGK, self.key_bias), biased(v_BSGV, self.value_bias)
        return (self.key_norm(k_BSGK) if self.config.qk_norm else k_BSGK), v_BSGV

    def _queries(self, x_BTD: jax.Array) -> jax.Array:
        q_BTHK = jnp.einsum("BTD,DHK->BTHK", x_BTD, self.query[...].astype(x_BTD.dtype))
        q_BTHK = biased(q_BTHK, self.query_bias)
        return self.query_norm(q_BTHK) if self.config.qk_norm else q_BTHK

    def _projected(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return queries, keys and values of one text; places in spans, where a model has such, turn half of each head."""
        q_BTHK = self._queries(x_BTD)
        k_BTGK, v_BTGV = self.keys_and_values(x_BTD)
        if self.config.block_positions == "rotary" and context.block_positions is not None:
            q_BTHK, k_BTGK = (_turned_by_block(x, context.block_positions, self.config) for x in (q_BTHK, k_BTGK))
        return q_BTHK, k_BTGK, v_BTGV

    def _learned(self, shared: Shared) -> dict[str, jax.Array]:
        return {**learned_values(self.position), **shared}

    def _features(
        self, x_BTD: jax.Array, context: Context, learned: Shared, state: KeyValueCache | None = None
    ) -> dict[str, Features]:
        """Return what positions and selections read of the tokens."""
        features = {}
        for name, reader in self.spec.content.items():
            last_BHF = jnp.zeros((len(x_BTD), self.spec.num_heads, reader.key_features), jnp.float32)
            if state is not None and context.reading is not None:
                last_BHF = state.last_features(name, context.reading.counts_B)
            features[name] = reader.features(learned, x_BTD, context.at, last_BHF)
        return features

    def _out(self, out_BTHV: jax.Array) -> jax.Array:
        matrix_HVD = self.out[...].astype(out_BTHV.dtype)
        return biased(jnp.einsum("BTHV,HVD->BTD", out_BTHV, matrix_HVD), self.out_bias)


def _turned_by_block(x_BTHK: jax.Array, blocks_BT: jax.Array, config: ModelConfig) -> jax.Array:
    """Rotate the second half of each head's channels by the place in a span, as ChatGLM-6B does (arXiv 2210.02414)."""
    half = config.head_size // 2
    frequencies = tuple(config.rope_base ** (-2 * i / half) for i in range(half // 2))
    wave = make_wave(blocks_BT, frequencies, Rotation(frequencies), x_BTHK.dtype)
    return jnp.concatenate([x_BTHK[..., :half], rotate(x_BTHK[..., half:], wave)], axis=-1)
