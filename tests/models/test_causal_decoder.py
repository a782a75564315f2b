"""The causal decoder: what it may see, how it is initialised, and that scanning and recomputing change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import ModelConfig
from lmarch.models.definition import ModelDefinition

CONFIG = ModelConfig(num_layers=2, dim=32, num_heads=4, num_kv_heads=2, head_dim=8, trained_length=32)
TOKENS = jax.random.randint(jax.random.key(1), (2, 24), 0, 60)


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(CONFIG, **changes), vocab_size=64)


def logits(made: ModelDefinition, tokens=TOKENS, **kwargs) -> np.ndarray:
    return np.asarray(
        jax.jit(functools.partial(made.apply, last=kwargs.pop("last", None)))(parameters(made), tokens, **kwargs)
    )


VARIANTS = [
    dict(),
    dict(ffn="geglu", tied_embeddings=False),
    dict(ffn="gelu", qk_norm=True),
    dict(num_kv_heads=None, position={"name": "nope"}),
    dict(attention="tiled"),
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_token_changes_no_logits_before_it(changes: dict) -> None:
    other = np.array(TOKENS)
    other[:, 10] = 61
    before, after = np.split(logits(definition(**changes), np.concatenate([TOKENS, other])), 2)
    assert np.array_equal(before[:, :10], after[:, :10])
    assert not np.allclose(before[:, 10:], after[:, 10:])


def test_packed_documents_equal_separate_ones() -> None:
    made = definition()
    positions = jnp.asarray([[*range(10), *range(14)]] * 2, jnp.int32)
    segments = jnp.asarray([[0] * 10 + [1] * 14] * 2, jnp.int32)
    packed = logits(made, positions_BT=positions, segment_ids_BT=segments)
    np.testing.assert_allclose(packed[:, :10], logits(made, TOKENS[:, :10]), atol=1e-5)
    np.testing.assert_allclose(packed[:, 10:], logits(made, TOKENS[:, 10:]), atol=1e-5)


@pytest.mark.parametrize("changes", [dict(scan_layers=False), dict(remat="full"), dict(remat="dots")], ids=str)
def test_how_it_is_run_changes_neither_loss_nor_gradient(changes: dict) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), loss_and_gradient(), loss_and_gradient(**changes)
    )


@functools.cache
def loss_and_gradient(**changes) -> tuple:
    made = definition(**changes)
    loss = jax.value_and_grad(lambda p: jax.nn.logsumexp(made.apply(p, TOKENS), axis=-1).mean())
    return jax.jit(loss)(parameters(definition()))


def test_initialisation_is_as_stated() -> None:
    wide = definition(dim=256, head_dim=64, ffn_dim=512, num_layers=8, tied_embeddings=False)
    params = jax.device_get(wide.init(jax.random.key(0)))
    layers = params["stack"]["layers"]
    residual = (2 * 8) ** -0.5
    expected = {
        "embedding": (params["embedding"], 0.02),
        "unembedding": (params["unembedding"], 256**-0.5),
        "query": (layers["attention"]["query"], 256**-0.5),
        "key": (layers["attention"]["key"], 256**-0.5),
        "value": (layers["attention"]["value"], 256**-0.5),
        "out": (layers["attention"]["out"], 256**-0.5 * residual),
        "up": (layers["ffn"]["up"], 256**-0.5),
        "gate": (layers["ffn"]["gate"], 256**-0.5),
        "down": (layers["ffn"]["down"], 512**-0.5 * residual),
    }
    for name, (leaf, std) in expected.items():
        np.testing.assert_allclose(np.std(leaf), std, rtol=0.03, err_msg=name)
        assert abs(np.mean(leaf)) < 0.05 * std, name
    assert np.all(params["final_norm"]["scale"] == 1)
    first, second = layers["attention"]["query"][:2]
    assert not np.allclose(first, second)  # layers are drawn independently


def test_every_parameter_has_axes_and_is_counted() -> None:
    made = definition()
    shapes, axes = jax.tree.leaves(made.shapes), jax.tree.leaves(made.axes, is_leaf=lambda x: isinstance(x, tuple))
    assert all(len(s.shape) == len(a) for s, a in zip(shapes, axes, strict=True))
    assert made.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(parameters(made)))


def test_bfloat16_keeps_float32_parameters_and_logits() -> None:
    made = definition(compute_dtype="bfloat16", qk_norm=True)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(parameters(made)))
    half = logits(made)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, logits(definition(qk_norm=True)), atol=0.05)


def test_the_last_logits_are_the_last_of_all() -> None:
    np.testing.assert_allclose(logits(definition(), last=5), logits(definition())[:, -5:], atol=1e-6)


def equations(jaxpr, primitive: str) -> list:
    """Every equation of this primitive, of a jaxpr and of those inside it."""
    found = []
    for equation in jaxpr.eqns:
        found += [equation] if equation.primitive.name == primitive else []
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += equations(inner, primitive) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("attention", ["dense", "tiled"])
def test_float32_means_float32_in_every_product_forward_and_backward(attention: str) -> None:
    made = definition(attention=attention)
    gradient = jax.make_jaxpr(jax.grad(lambda p: made.apply(p, TOKENS).sum()))(made.shapes)
    found = equations(gradient.jaxpr, "dot_general")
    assert len(found) > 20
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert {equation.params["precision"] for equation in found} == {highest}


@pytest.mark.parametrize(("remat", "loops"), [("none", 2), ("dots", 2), ("full", 3)])
def test_a_loop_over_tiles_runs_again_only_where_nothing_is_kept(remat: str, loops: int) -> None:
    """One forward and one backward; what the forward one leaves is named for the policy of `dots`."""
    made = definition(attention="tiled", remat=remat)
    gradient = jax.make_jaxpr(jax.grad(lambda p: made.apply(p, TOKENS).sum()))(made.shapes)
    assert len(equations(gradient.jaxpr, "while")) == loops
