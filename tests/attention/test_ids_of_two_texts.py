"""What a token of one text knows of those of the same id in the other, against a loop over ids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.attention.coordinates import of_same_id


@pytest.mark.parametrize("reduce", ["max", "sum"])
@pytest.mark.parametrize("sizes", [(13, 29), (29, 13)], ids=str)
def test_values_of_an_id_are_reduced_in_any_order(reduce: str, sizes: tuple[int, int]) -> None:
    """Ids in no order, some in one of the texts only, one text for all rows of the other."""
    rng = np.random.default_rng(0)
    queries, keys = sizes
    ids_BT, ids_1S = rng.integers(-1, 6, (3, queries)), rng.integers(1, 9, (1, keys))
    values_1S = rng.integers(0, 50, (1, keys))
    found = jax.jit(of_same_id, static_argnums=3)(*(jnp.asarray(x) for x in (values_1S, ids_1S, ids_BT)), reduce)
    of_numpy = {"max": np.max, "sum": np.sum}[reduce]
    expected = [[of_numpy(values_1S[0, ids_1S[0] == one], initial=0) for one in row] for row in ids_BT]
    assert np.array_equal(found, expected)
    assert (np.asarray(expected) == 0).any()
