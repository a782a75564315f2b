"""Coordinates keep all that they say when a text is cut into tiles, whatever fields they have."""

import jax.numpy as jnp
import numpy as np
import pytest
from specs import rope

from lmarch.attention.coordinates import PADDING, Coordinates
from lmarch.attention.tiles import coordinates_in_tiles, make_plan, whole

ROWS, LENGTH, TILE = 2, 37, 16
OF_TOKENS = [name for name in Coordinates._fields if name != "spans"]  # which are of texts


def every_field(rows: int = ROWS) -> Coordinates:
    """Coordinates of which no two fields are alike."""
    size = rows * LENGTH
    fields = {n: np.arange(size).reshape(rows, LENGTH) + 1000 * i for i, n in enumerate(Coordinates._fields)}
    return Coordinates(**{name: jnp.asarray(x, jnp.int32) for name, x in fields.items()})


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("name", OF_TOKENS)
def test_every_field_is_kept(name: str, rows: int) -> None:
    at = every_field(rows)
    tiled = getattr(coordinates_in_tiles(at, TILE), name)
    assert tiled.shape == (3, rows, TILE)
    np.testing.assert_array_equal(whole(tiled, LENGTH), getattr(at, name))


@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_plan_hands_every_field_to_the_loops(name: str) -> None:
    at = every_field()
    plan = make_plan(rope(), at, at, TILE, by_row=False)
    for side in (plan.queries, plan.keys):
        kept = getattr(side, name)
        np.testing.assert_array_equal(kept.reshape(ROWS, -1)[:, :LENGTH], getattr(at, name))


def test_what_is_left_out_stays_out_and_padding_is_padding() -> None:
    at = every_field()._replace(positions=None, windows=None, documents=None, prefix=None, spans=None)
    tiled = coordinates_in_tiles(at, TILE)
    assert [name for name in Coordinates._fields if getattr(tiled, name) is None] == [
        "positions",
        "windows",
        "documents",
        "prefix",
        "spans",
    ]
    assert np.all(np.asarray(tiled.indices)[-1, :, LENGTH % TILE :] == PADDING)


def test_one_prefix_of_a_row_is_that_of_all_its_tokens() -> None:
    at = every_field()._replace(prefix=jnp.asarray([[3], [5]], jnp.int32))
    prefix = whole(coordinates_in_tiles(at, TILE).prefix, LENGTH)
    np.testing.assert_array_equal(prefix, np.repeat([[3], [5]], LENGTH, axis=1))
