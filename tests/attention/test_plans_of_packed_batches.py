"""How many tiles a packed batch visits, and how many products it takes for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import rope

from lmarch.attention.coordinates import text_coordinates
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import TilePlan, make_plan

LENGTH, ROWS, TILE, MEAN = 1024, 32, 128, 200
TILES = LENGTH // TILE
CAUSAL = TILES * (TILES + 1) // 2  # pairs of tiles of which no key is after every query


def packed(seed: int = 0) -> jax.Array:
    """Segment ids [ROWS, LENGTH] of documents of random lengths."""
    ends = np.random.default_rng(seed).random((ROWS, LENGTH)) < 1 / MEAN
    return jnp.asarray(np.cumsum(ends, axis=1), jnp.int32)


def layer(position: str) -> AttentionSpec:
    return rope(position=position, trained_length=512, target_length=2048)


@functools.partial(jax.jit, static_argnames=("spec", "by_row"))
def planned(spec: AttentionSpec, ids: jax.Array, *, by_row: bool) -> TilePlan:
    at = text_coordinates(LENGTH, segment_ids=ids)
    return make_plan(spec, at, at, TILE, by_row=by_row)


def costs(spec: AttentionSpec, ids: jax.Array, *, by_row: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return for each plan how many pairs of tiles are visited, and how many products these take."""
    plan = planned(spec, ids, by_row=by_row)
    order, count, branch, present = map(np.asarray, (plan.order_ZNM, plan.count_ZN, plan.branch_ZNM, plan.present_ZNMb))
    visited = np.arange(TILES) < count[..., None]
    taken = np.where(branch == len(spec.branches), present.sum(-1), 1)
    return visited.sum((1, 2)), (visited * np.take_along_axis(taken, order, axis=-1)).sum((1, 2))


@pytest.mark.parametrize("position", ["rope", "rerope:window=256", "dual_chunk:chunk=256"])
def test_a_row_takes_no_more_than_it_takes_alone(position: str) -> None:
    spec, ids = layer(position), packed()
    visits, products = costs(spec, ids, by_row=True)
    alone = [costs(spec, ids[row : row + 1], by_row=False) for row in range(ROWS)]
    assert visits.tolist() == [int(v[0]) for v, _ in alone]
    assert products.tolist() == [int(p[0]) for _, p in alone]
    assert visits.mean() < 0.8 * CAUSAL


@pytest.mark.parametrize("position", ["rerope:window=256", "leaky_rerope:window=256", "self_extend:group=4,window=256"])
def test_a_batch_takes_one_product_where_no_document_reaches_another_branch(position: str) -> None:
    """In a document distances are lags, which all rows share: only tiles that the window's border crosses take two."""
    spec = layer(position)
    (visits,), (products,) = costs(spec, packed(), by_row=False)
    crossed = TILES - 256 // TILE  # one for each query tile from the third on
    assert visits <= CAUSAL
    assert products <= visits + crossed
