"""Who sees whom: what `attend` lets through, pair by pair, in every architecture, packing and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import rope, untraced_attend

from lmarch.attention import implementations
from lmarch.attention.tiled import tiled

QUERIES, KEYS = 37, 29  # no multiples of the tile; in self-attention there are as many keys as queries
HEAD_DIM = 40  # a channel for each key
DOCUMENTS = (9, 12, 9, 7)  # lengths, of queries and of self-attention's keys
OF_SOURCE = (12, 3, 8, 6)
PREFIXES = (4, 0, 20, 2)  # of each document; the third's is longer than the document


def segments(lengths: tuple[int, ...], ids: tuple[int, ...]) -> np.ndarray:
    return np.repeat(ids, lengths)


# What the four stretches of a row are, and in cross-attention those of its source: -1 is padding.
ROWS = {
    "unpacked": ((0, 0, 0, 0), (0, 0, 0, 0)),
    "packed": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "unpacked, padded": ((0, 0, 0, -1), (0, 0, 0, -1)),
    "packed, padded": ((0, 1, 2, -1), (0, 1, 2, -1)),
    "padded on one side only": ((0, 0, 1, -1), (0, 0, 1, 1)),
    "source in another order": ((0, 1, 2, -1), (2, 0, 1, -1)),
}


def seen(architecture: str, queries: np.ndarray, keys: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    """bool [T, S], from the documents of queries and keys and the prefix length that each query's document has."""
    table = np.zeros((len(queries), len(keys)), bool)
    for t, s in np.ndindex(*table.shape):
        rank = s - list(keys).index(keys[s])  # in its document
        both_ways = architecture in ("encoder", "cross_attention")
        in_prefix = architecture == "prefix_decoder" and rank < prefix[t]
        table[t, s] = queries[t] == keys[s] and (both_ways or in_prefix or s <= t)
    return table


def let_through(architecture: str, implementation: str, queries, keys, prefix) -> np.ndarray:
    """bool [B, T, S]: every key's value is a channel of its own, so an output says which keys it is made of."""
    cross, rows = architecture == "cross_attention", 1 if queries is None else len(queries)
    count, rng = KEYS if cross else QUERIES, np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((rows, n, 2, HEAD_DIM)), jnp.float32) for n in (QUERIES, count))
    v = jnp.broadcast_to(jnp.eye(count, HEAD_DIM)[None, :, None], k.shape)
    options = {} if queries is None else {"segment_ids": jnp.asarray(queries, jnp.int32)}
    if cross and queries is not None:
        options["key_segment_ids"] = jnp.asarray(keys, jnp.int32)
    if architecture == "prefix_decoder":
        options["prefix_length"] = jnp.asarray(prefix, jnp.int32)
    spec = rope(HEAD_DIM, 2, architecture=architecture)
    out = jax.jit(functools.partial(untraced_attend, spec=spec, implementation=implementation))(q, k, v, **options)
    through = np.asarray(out[..., :count] > 0)
    assert np.array_equal(through[:, :, 0], through[:, :, 1])  # heads
    return through[:, :, 0]


@pytest.fixture
def small_tiles(monkeypatch) -> None:
    small = implementations.IMPLEMENTATIONS["tiled"]._replace(attend=functools.partial(tiled, tile=16))
    monkeypatch.setitem(implementations.IMPLEMENTATIONS, "tiled", small)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("architecture", ["causal_decoder", "prefix_decoder", "encoder", "cross_attention"])
def test_every_pair_is_seen_or_hidden_as_a_loop_over_pairs_says(architecture: str, implementation: str) -> None:
    queries = np.stack([segments(DOCUMENTS, ids) for ids, _ in ROWS.values()])
    of_source = np.stack([segments(OF_SOURCE, ids) for _, ids in ROWS.values()])
    keys = of_source if architecture == "cross_attention" else queries
    prefix = np.broadcast_to(segments(DOCUMENTS, PREFIXES), queries.shape).copy()
    prefix[[0, 2], : sum(DOCUMENTS[:3])] = 11  # one document, one prefix
    prefix[4, : sum(DOCUMENTS[:2])] = 15
    prefix[0] = 11
    through = let_through(architecture, implementation, queries, keys, prefix)
    for row, name in enumerate(ROWS):
        expected = seen(architecture, queries[row], keys[row], prefix[row])
        assert np.array_equal(through[row], expected), name
    without_ids = let_through(architecture, implementation, None, None, prefix[:1])
    assert np.array_equal(without_ids[0], seen(architecture, queries[0], keys[0], prefix[0]))


@pytest.mark.parametrize("length", [8, 16])
def test_masks_equal_the_golden_ones(length: int, golden) -> None:
    for prefix in (0, 3, length):
        found = rope(architecture="prefix_decoder").visible(length, prefix)
        assert np.array_equal(found, golden[f"arch_masks/prefix.T{length}.P{prefix}"]), prefix
    # The golden padded encoder hides keys only; the queries of padding, whose outputs nobody reads, see padding here.
    padded = golden[f"arch_masks/encoder_padded.T{length}"]
    real = padded[0]
    encoder = rope(architecture="encoder").visible(length)
    assert np.array_equal((encoder & real[None, :])[real], padded[real])
    packed = golden[f"arch_masks/packed.T{length}"]
    document = np.cumsum(~np.pad(np.diagonal(packed, -1), (1, 0), constant_values=True))
    together = document[:, None] == document[None, :]
    assert np.array_equal(rope().visible(length) & together, packed)
