"""Contexts of other rows in a memory: the training of the Focused Transformer, across documents."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lmarch.attention.places import ANYONES, Places


def beside_others(
    copies: Sequence[jax.Array], values_BGSK: jax.Array, at: Places, context: int, count: int
) -> tuple[tuple[jax.Array, ...], jax.Array, Places]:
    """Keys, values and places with the first `context` tokens of the `count` rows after each row, in a ring of all rows.

    They are placed in a context of their own before every row, and belong to anyone's document: each query has them in its
    memory, none in its own context. What they say does not help it, so training learns to tell them from what does
    (Tworkowski et al. 2023, arXiv 2307.03170, section 3.2: crossbatch, with d - 1 = `count`).
    """

    def joined(x_BGSK: jax.Array) -> jax.Array:
        others = [jnp.roll(x_BGSK[:, :, :context], -row, axis=0) for row in range(1, count + 1)]
        return jnp.concatenate([x_BGSK, *others], axis=2)

    rows, length = values_BGSK.shape[0], count * min(context, values_BGSK.shape[2])
    before_1S = jnp.full((1, length), -context, jnp.int32)
    first_1S = jnp.zeros((1, length), jnp.int32)  # in the past of every query
    documents = None
    if at.documents is not None:
        anyones = jnp.full((rows, length), ANYONES, jnp.int32)
        documents = jnp.concatenate([jnp.broadcast_to(at.documents, (rows, at.documents.shape[1])), anyones], axis=1)

    def placed(x: jax.Array, others_1S: jax.Array) -> jax.Array:
        return jnp.concatenate([x, jnp.broadcast_to(others_1S, (x.shape[0], length))], axis=1)

    places = Places(
        placed(at.positions, before_1S), placed(at.indices, first_1S), placed(at.ranks, first_1S), None, documents
    )
    return tuple(joined(copy) for copy in copies), joined(values_BGSK), places
