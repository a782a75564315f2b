"""The parts of a block. Each parameter names its logical axes; where they live on a mesh is decided elsewhere.

Initialisation: matrices ~ N(0, 1 / fan_in), those that write to the residual stream divided by the square root of the
number of such writes on top, so that its variance does not grow with depth; queries so that logits have the variance
that 1 / sqrt(K) gives them, whatever `attention_scale` is; embeddings ~ N(0, init_std^2); biases 0.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.attend import attend
from lmarch.attention.cache import Past, Recalled
from lmarch.attention.places import make_places
from lmarch.attention.rotation import rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights, attention_weights
from lmarch.config import ModelConfig
from lmarch.models.norms import in_float32, make_norm
from lmarch.positions.position import Rotation


class Tokens(NamedTuple):
    """What a layer needs to know about the tokens of a text, besides their states; each int32 [B, T] or [1, T]."""

    positions_BT: jax.Array | None = None
    segment_ids_BT: jax.Array | None = None
    prefix_lengths_BT: jax.Array | None = None  # prefix decoder: of each token's own document
    block_positions_BT: jax.Array | None = None  # blank infilling: place in a span, 0 outside of spans
    window_ids_BT: jax.Array | None = None  # parallel context windows, see `laid_out`
    other_rows: int = 0  # in training, how many other rows are in the memory of `knn` layers


def laid_out(tokens: Tokens, spec: AttentionSpec, length: int) -> Tokens:
    """The same tokens in parallel windows, if the layer has them: their positions are those in the windows."""
    layout = spec.visibility.layout
    if layout is None or tokens.window_ids_BT is not None:
        return tokens
    at = make_places(length, segment_ids=tokens.segment_ids_BT, layout=layout)
    return tokens._replace(positions_BT=at.positions, window_ids_BT=at.windows)


class Memory(NamedTuple):
    """What cross-attention reads: the encoder's output."""

    states_BSD: jax.Array
    tokens: Tokens
    query_positions_BT: jax.Array | None  # where the decoder's tokens are among the encoder's


def matrix(rngs: nnx.Rngs, shape: Sequence[int], axes: Sequence[str], fan_in: int, scale: float = 1.0) -> nnx.Param:
    std = scale / fan_in**0.5
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=tuple(axes))


def biases(wanted: bool, shape: Sequence[int], axes: Sequence[str]) -> nnx.Param | None:
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=tuple(axes)) if wanted else None


def biased(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """x + bias over its last dimensions."""
    if bias is None:
        return x
    shape = (1,) * (x.ndim - bias[...].ndim) + bias.shape
    return (in_float32(x) + in_float32(bias[...]).reshape(shape)).astype(x.dtype)


def position_parameters(rngs: nnx.Rngs, spec: AttentionSpec, *, shared: bool) -> nnx.Dict:
    """What the spec's position method learns: the part that layers share, or the part that each has for itself."""
    bias = spec.position.bias.parameters().keys() if spec.position.bias and spec.position.shared else ()
    wanted = {name: p for name, p in spec.learned().items() if (name in bias) == shared}
    made = {name: (jnp.asarray(p.init(rngs.params()), jnp.float32), p.axes) for name, p in sorted(wanted.items())}
    return nnx.Dict({name: nnx.Param(value, axes=axes) for name, (value, axes) in made.items()})


def position_values(parameters: nnx.Dict) -> dict[str, jax.Array]:
    """The values of `position_parameters`."""
    return {name: in_float32(value[...]) for name, value in parameters.items()}


class Attention(nnx.Module):
    """Grouped-query attention, to the same text or to a memory; positions and masks are the spec's business."""

    def __init__(self, config: ModelConfig, spec: AttentionSpec, residual_scale: float, *, rngs: nnx.Rngs) -> None:
        D, H, G, K = config.dim, config.num_heads, config.kv_heads, config.head_size
        self.config, self.spec = config, spec
        unit = K**-0.5 / spec.logit_scale
        self.query = matrix(rngs, (D, H, K), ("embed", "heads", "head_dim"), fan_in=D, scale=unit)
        self.key = matrix(rngs, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        self.value = matrix(rngs, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        axes = ("heads", "head_dim", "embed")
        self.out = matrix(rngs, (H, K, D), axes, fan_in=H * K, scale=residual_scale)
        if config.qk_norm:
            self.query_norm = make_norm(config, K, "head_dim")
            self.key_norm = make_norm(config, K, "head_dim")
        qkv = config.attention_bias != "none"
        self.query_bias = biases(qkv, (H, K), ("heads", "head_dim"))
        self.key_bias = biases(qkv, (G, K), ("kv_heads", "head_dim"))
        self.value_bias = biases(qkv, (G, K), ("kv_heads", "head_dim"))
        self.out_bias = biases(config.attention_bias == "all", (D,), ("embed",))
        self.position = position_parameters(rngs, spec, shared=False)

    def _queries(self, x_BTD: jax.Array) -> jax.Array:
        q_BTHK = jnp.einsum("BTD,DHK->BTHK", x_BTD, self.query[...].astype(x_BTD.dtype))
        q_BTHK = biased(q_BTHK, self.query_bias)
        return self.query_norm(q_BTHK) if self.config.qk_norm else q_BTHK

    def keys_and_values(self, x_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, S, G, K] each, without positions."""
        matrices = (self.key[...].astype(x_BSD.dtype), self.value[...].astype(x_BSD.dtype))
        k_BSGK, v_BSGK = (jnp.einsum("BSD,DGK->BSGK", x_BSD, matrix) for matrix in matrices)
        k_BSGK, v_BSGK = biased(k_BSGK, self.key_bias), biased(v_BSGK, self.value_bias)
        return (self.key_norm(k_BSGK) if self.config.qk_norm else k_BSGK), v_BSGK

    def __call__(
        self,
        x_BTD: jax.Array,
        tokens: Tokens,
        shared: Mapping[str, jax.Array],
        memory: Memory | Recalled | None = None,
        past: Past | None = None,
    ) -> jax.Array:
        """Attention to the tokens themselves, to a memory, or to a past that they are added to.

        Args:
          shared: what the position method learns for all layers together.
        """
        learned = {**position_values(self.position), **shared}
        q_BTHK = self._queries(x_BTD)
        if isinstance(memory, Recalled):
            return self._out(memory.attend(q_BTHK, self.spec, learned, self.config.attention))
        k_BSGK, v_BSGK = self.keys_and_values(x_BTD if memory is None else memory.states_BSD)
        if memory is None:
            blocks_BT = tokens.block_positions_BT if self.config.block_positions == "rotary" else None
            if blocks_BT is not None:
                q_BTHK, k_BSGK = (_turned_by_block(x, blocks_BT, self.config) for x in (q_BTHK, k_BSGK))
            if past is not None:
                return self._out(past.attend(q_BTHK, k_BSGK, v_BSGK, self.spec, learned, self.config.attention))
            prefix = tokens.prefix_lengths_BT if self.spec.sight == "prefix" else None
            where = {"positions": tokens.positions_BT, "prefix_length": prefix, "window_ids": tokens.window_ids_BT}
        else:
            where = {
                "positions": memory.query_positions_BT,
                "key_positions": memory.tokens.positions_BT,
                "key_segment_ids": memory.tokens.segment_ids_BT,
            }
        out_BTHK = attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            self.spec,
            implementation=self.config.attention,
            segment_ids=tokens.segment_ids_BT,
            other_rows=0 if memory else tokens.other_rows,
            learned=learned,
            **where,
        )
        return self._out(out_BTHK)

    def weights(self, x_BTD: jax.Array, shared: Mapping[str, jax.Array]) -> Weights:
        """What self-attention multiplies values by, for a text that starts at position 0."""
        learned = {**position_values(self.position), **shared}
        return attention_weights(self._queries(x_BTD), self.keys_and_values(x_BTD)[0], self.spec, learned)

    def _out(self, out_BTHK: jax.Array) -> jax.Array:
        matrix_HKD = self.out[...].astype(out_BTHK.dtype)
        return biased(jnp.einsum("BTHK,HKD->BTD", out_BTHK, matrix_HKD), self.out_bias)


def _turned_by_block(x_BTHK: jax.Array, blocks_BT: jax.Array, config: ModelConfig) -> jax.Array:
    """The second half of each head's channels rotated by the place in a span, as ChatGLM-6B does (arXiv 2210.02414)."""
    half = config.head_size // 2
    frequencies = tuple(config.rope_base ** (-2 * i / half) for i in range(half // 2))
    turned = rotate(x_BTHK[..., half:], blocks_BT, frequencies, Rotation(frequencies))
    return jnp.concatenate([x_BTHK[..., :half], turned], axis=-1)


def _gelu_exact(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


# name -> (activation, whether it multiplies a gate); `gelu` is the tanh approximation
FEED_FORWARD = {
    "swiglu": (jax.nn.silu, True),
    "geglu": (jax.nn.gelu, True),
    "gelu": (jax.nn.gelu, False),
    "gelu_exact": (_gelu_exact, False),
    "relu": (jax.nn.relu, False),
}


class FeedForward(nnx.Module):
    """down(act(gate x) * up x), or down(act(up x)) without a gate (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, residual_scale: float, *, rngs: nnx.Rngs) -> None:
        D, F = config.dim, config.ffn_size
        self.activation, gated = FEED_FORWARD[config.ffn]
        self.up = matrix(rngs, (D, F), ("embed", "mlp"), fan_in=D)
        self.gate = matrix(rngs, (D, F), ("embed", "mlp"), fan_in=D) if gated else None
        self.down = matrix(rngs, (F, D), ("mlp", "embed"), fan_in=F, scale=residual_scale)
        self.up_bias = biases(config.ffn_bias, (F,), ("mlp",))
        self.gate_bias = biases(config.ffn_bias and gated, (F,), ("mlp",))
        self.down_bias = biases(config.ffn_bias, (D,), ("embed",))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        dtype = x_BTD.dtype
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])  # one row dimension: XLA's CPU backward pass is twice as fast
        up_NF = biased(x_ND @ self.up[...].astype(dtype), self.up_bias)
        if self.gate is None:
            hidden_NF = self.activation(up_NF)
        else:
            hidden_NF = self.activation(biased(x_ND @ self.gate[...].astype(dtype), self.gate_bias)) * up_NF
        return biased(hidden_NF @ self.down[...].astype(dtype), self.down_bias).reshape(x_BTD.shape)
