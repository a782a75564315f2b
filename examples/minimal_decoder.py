"""A causal decoder that is read beyond the length it was trained at, whole and in one file, with JAX alone.

    python examples/minimal_decoder.py

trains it for some seconds on the bytes of this file, writes on from a prompt, and then reads windows longer than any that
training saw: with RoPE, as it was trained, and with ReRoPE, which gives the same weights no distance that they have not met.

Read it from top to bottom. lmarch computes the same numbers (`tests/test_minimal_decoder.py` compares them), for many more
methods, faster, and with a cache; `docs/architecture.md` says where what is there.

Arrays carry their dimensions as a suffix: B texts, T queries, S keys, D model width, H query heads, G key-value heads,
R = H / G query heads to a key-value head, K head size, I = K / 2 channel pairs, F feed-forward width, V vocabulary.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

Parameters = dict[str, Any]
VOCABULARY = 256  # a token is a byte
ROPE_BASE, NORM_EPSILON = 10_000.0, 1e-6


def init(key: jax.Array, layers: int = 2, D: int = 64, H: int = 4, G: int = 2, K: int = 16, F: int = 192) -> Parameters:
    """Draw the parameters: matrices of variance 1 / fan-in, so that what they make of unit variance has it too."""
    keys = iter(jax.random.split(key, 1 + 7 * layers))

    def matrix(*shape: int, fan_in: int, scale: float = 1.0) -> jax.Array:
        return scale * fan_in**-0.5 * jax.random.normal(next(keys), shape)

    small = (2 * layers) ** -0.5  # each layer writes to the residual stream twice, and its variance is to stay
    return {
        "embedding": 0.02 * jax.random.normal(next(keys), (VOCABULARY, D)),
        "layers": [
            {
                "attention_norm": jnp.ones(D),
                "query": matrix(D, H, K, fan_in=D),
                "key": matrix(D, G, K, fan_in=D),
                "value": matrix(D, G, K, fan_in=D),
                "out": matrix(H, K, D, fan_in=H * K, scale=small),
                "ffn_norm": jnp.ones(D),
                "gate": matrix(D, F, fan_in=D),
                "up": matrix(D, F, fan_in=D),
                "down": matrix(F, D, fan_in=F, scale=small),
            }
            for _ in range(layers)
        ],
        "final_norm": jnp.ones(D),
    }


def rms_norm(x_BTD: jax.Array, scale_D: jax.Array) -> jax.Array:
    """Divide by the root mean square over channels (RMSNorm, Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""
    return x_BTD * jax.lax.rsqrt((x_BTD**2).mean(-1, keepdims=True) + NORM_EPSILON) * scale_D


def rotate(x_BTHK: jax.Array, positions_T: jax.Array) -> jax.Array:
    """Turn channels i and i + K/2 by the angle p b^(-2i/K) at position p (RoPE, Su et al. 2021, arXiv 2104.09864, eq. 15).

    The product of a query turned by t and a key turned by s depends on t - s alone.
    """
    K = x_BTHK.shape[-1]
    frequencies_I = ROPE_BASE ** (-jnp.arange(0, K, 2) / K)
    angles_T1I = positions_T[:, None, None] * frequencies_I
    cos_T1I, sin_T1I = jnp.cos(angles_T1I), jnp.sin(angles_T1I)
    first_BTHI, second_BTHI = jnp.split(x_BTHK, 2, axis=-1)
    turned = first_BTHI * cos_T1I - second_BTHI * sin_T1I, second_BTHI * cos_T1I + first_BTHI * sin_T1I
    return jnp.concatenate(turned, axis=-1)


def attend(q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, window: int | None) -> jax.Array:
    """Compute causal grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245), [B, T, H, K].

    Query t sees key s at the distance t - s (RoPE, window None), or at min(t - s, window) (ReRoPE, Su 2023, kexue.fm 9708).
    """
    B, T, H, K = q_BTHK.shape
    G = k_BSGK.shape[2]
    index_T = jnp.arange(T)
    distance_TS = index_T[:, None] - index_T

    def logits(query_positions_T: jax.Array, key_positions_S: jax.Array) -> jax.Array:
        q_BTGRK = rotate(q_BTHK, query_positions_T).reshape(B, T, G, H // G, K)
        return jnp.einsum("BTGRK,BSGK->BGRTS", q_BTGRK, rotate(k_BSGK, key_positions_S)) / K**0.5

    logits_BGRTS = logits(index_T, index_T)
    if window is not None:
        # No position for each query and each key has the differences min(t - s, w), so there are two branches: near pairs as
        # they are, and far ones with every query at w and every key at 0. Each pair takes the logit of its own branch.
        far_BGRTS = logits(jnp.full(T, window), jnp.zeros(T))
        logits_BGRTS = jnp.where(distance_TS < window, logits_BGRTS, far_BGRTS)
    # softmax(q k / sqrt(K)) v over keys that are not after their query (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).
    weights_BGRTS = jax.nn.softmax(jnp.where(distance_TS >= 0, logits_BGRTS, -jnp.inf), axis=-1)
    return jnp.einsum("BGRTS,BSGK->BTGRK", weights_BGRTS, v_BSGK).reshape(B, T, H, K)


def decoder(params: Parameters, tokens_BT: jax.Array, window: int | None = None) -> jax.Array:
    """Compute the logits [B, T, V] of the token after each token; `window` as in `attend`."""
    x_BTD = params["embedding"][tokens_BT]
    for layer in params["layers"]:
        # Pre-norm: x + f(norm x) (Xiong et al. 2020, arXiv 2002.04745).
        h_BTD = rms_norm(x_BTD, layer["attention_norm"])
        q_BTHK = jnp.einsum("BTD,DHK->BTHK", h_BTD, layer["query"])
        k_BSGK = jnp.einsum("BSD,DGK->BSGK", h_BTD, layer["key"])
        v_BSGK = jnp.einsum("BSD,DGK->BSGK", h_BTD, layer["value"])
        x_BTD += jnp.einsum("BTHK,HKD->BTD", attend(q_BTHK, k_BSGK, v_BSGK, window), layer["out"])
        h_BTD = rms_norm(x_BTD, layer["ffn_norm"])
        # SwiGLU: (silu(h gate) * h up) down (Shazeer 2020, arXiv 2002.05202, eq. 6).
        x_BTD += (jax.nn.silu(h_BTD @ layer["gate"]) * (h_BTD @ layer["up"])) @ layer["down"]
    # One matrix embeds tokens and scores the next (Press and Wolf 2017, arXiv 1608.05859).
    return rms_norm(x_BTD, params["final_norm"]) @ params["embedding"].T


def bits_per_byte(params: Parameters, text_BW: jax.Array, last: int = 0, window: int | None = None) -> jax.Array:
    """Compute the mean of -log2 p(byte | bytes before it) over texts of W = T + 1 bytes, or over the `last` of each."""
    logits_BTV = decoder(params, text_BW[:, :-1], window)
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, text_BW[:, 1:])  # nats
    return nll_BT[:, -last:].mean() / jnp.log(2)


def cut(text: jax.Array, starts_B: jax.Array, length: int) -> jax.Array:
    """Cut `length` inputs and a last target from each start, [B, length + 1]."""
    return text[starts_B[:, None] + jnp.arange(length + 1)]


def train(text: jax.Array, length: int, steps: int, rows: int = 16) -> Parameters:
    """Train with RoPE on random windows of `length` bytes, by AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=20, decay_steps=steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98))

    @jax.jit
    def step(params: Parameters, state: optax.OptState, key: jax.Array) -> tuple[Parameters, optax.OptState, jax.Array]:
        starts_B = jax.random.randint(key, rows, 0, len(text) - length)
        loss, gradients = jax.value_and_grad(bits_per_byte)(params, cut(text, starts_B, length))
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = init(jax.random.key(0))
    state = optimizer.init(params)
    for number, key in enumerate(jax.random.split(jax.random.key(1), steps), start=1):
        params, state, loss = step(params, state, key)
        if number == 1 or number % (steps // 5) == 0:
            print(f"step {number:4}   {loss:.2f} bits per byte")
    return params


def generate(params: Parameters, prompt: bytes, length: int, window: int | None = None) -> bytes:
    """Append the most likely byte until there are `length`. All is read again each time: a cache would save that."""
    read = jax.jit(functools.partial(decoder, window=window))
    text_1T = jnp.zeros((1, length), int).at[0, : len(prompt)].set(jnp.frombuffer(prompt, jnp.uint8))
    for place in range(len(prompt), length):  # one shape, compiled once; what is not there yet nothing before it sees
        text_1T = text_1T.at[0, place].set(read(params, text_1T)[0, place - 1].argmax())
    return bytes(text_1T[0].tolist())


def main(length: int = 64, steps: int = 400) -> None:
    methods = {"RoPE": None, f"ReRoPE, w = {length // 2}": length // 2}
    text = jnp.frombuffer(Path(__file__).read_bytes(), jnp.uint8).astype(int)
    print(f"training with RoPE on {len(text)} bytes, {length} at a time")
    params = train(text, length, steps)
    print(f"\nfrom `def rotate(` on: {generate(params, b'def rotate(', length).decode(errors='replace')}")

    # The bytes that are scored end each window: the same ones, with more and more text before them. The model was trained on
    # all of it; what is new is the length.
    measure = jax.jit(bits_per_byte, static_argnames=("last", "window"))
    ends_B = jnp.linspace(8 * length, len(text) - 1, 32).astype(int)
    print(f"\nbits per byte of the same {length // 2} bytes, in windows of")
    for longer in (length, 2 * length, 4 * length, 8 * length):
        texts = cut(text, ends_B - longer, longer)
        found = {name: measure(params, texts, last=length // 2, window=w) for name, w in methods.items()}
        print(f"{longer:6} bytes   " + "   ".join(f"{name} {bits:.2f}" for name, bits in found.items()))


if __name__ == "__main__":
    main()
