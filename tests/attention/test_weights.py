"""Attention weights that can be looked at are those that attention multiplies values by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.attention.attend import attend
from lmarch.attention.spec import attention_spec
from lmarch.attention.weights import attention_weights
from lmarch.errors import UserError


def spec_of(position: str, window: str = "full", **options):
    sizes = dict(architecture="causal_decoder", head_dim=8, num_heads=4, trained_length=16, target_length=48)
    return attention_spec(position=position, window=window, **sizes, **options)


@pytest.mark.parametrize(
    ("position", "window", "options"),
    [
        ("rope", "full", {}),
        ("alibi", "full", {}),
        ("rerope:window=8,temperature=log_n", "full", {}),
        ("rope", "streaming:sinks=2", {}),
        ("xpos", "sliding:size=8", {}),
        ("rope", "full", {"sink": True, "softcap": 5.0}),
    ],
)
def test_weights_times_values_are_the_output(position: str, window: str, options: dict) -> None:
    spec = spec_of(position, window, **options)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 48, heads, 8)), jnp.float32) for heads in (4, 2, 2))
    learned = {name: p.init(jax.random.key(0)) + 0.3 for name, p in spec.learned().items()}
    weights = np.asarray(attention_weights(q, k, spec, learned).weights_BHTS)
    expected = attend(q, k, v, spec, implementation="dense", learned=learned)
    np.testing.assert_allclose(np.einsum("BHTS,BSHK->BTHK", weights, np.repeat(v, 2, axis=2)), expected, atol=1e-5)
    total = weights.sum(-1)
    assert (total < 1 - 1e-3).all() if options.get("sink") else np.allclose(total, 1, atol=1e-5)


def test_what_has_no_one_matrix_is_refused() -> None:
    spec = spec_of("rope", selection="infllm:local=8,block=4")
    with pytest.raises(UserError, match="with a selection has no one matrix"):
        attention_weights(jnp.zeros((1, 16, 4, 8)), jnp.zeros((1, 16, 4, 8)), spec)
