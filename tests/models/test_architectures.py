"""What the architectures have in common, where they differ, and that every option of a block does something."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text

CONFIG = ModelConfig(num_layers=2, dim=16, num_heads=2, head_dim=8, ffn_dim=32, trained_length=32)
TOKENS = jax.random.randint(jax.random.key(1), (2, 20), 0, 40)
SOURCE = Text(jax.random.randint(jax.random.key(2), (2, 13), 0, 40))
TWO_STACKS = {"architecture": "encoder_decoder", "encoder": EncoderConfig(num_layers=2)}


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(CONFIG, **changes), vocab_size=48)


def random_parameters(made: ModelDefinition, seed: int = 0) -> Parameters:
    """Of unit size, none zero: what is 0 or 1 at initialisation would hide a mistake, and needs nothing compiled."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        shape = leaf.shape[1:] if "layers" in str(path) else leaf.shape
        fan_in = {"embedding": 1, "out": math.prod(shape[:-1])}.get(name, shape[0] if len(shape) > 1 else 10)
        offset = 1.0 if name == "scale" else 0.0
        return jnp.asarray(offset + rng.standard_normal(leaf.shape) / fan_in**0.5, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, made.shapes)


def logits(made: ModelDefinition, params: Parameters, tokens: jax.Array = TOKENS, **kwargs) -> np.ndarray:
    return np.asarray(jax.jit(functools.partial(made.apply, **kwargs))(params, tokens))


def test_a_prefix_of_nothing_is_a_causal_decoder() -> None:
    layers = ({"position": {"name": "rope"}}, {"position": {"name": "alibi"}})
    causal, prefix = (definition(architecture=name, layers=layers) for name in ("causal_decoder", "prefix_decoder"))
    params = random_parameters(causal)
    assert causal.shapes == prefix.shapes
    nothing = jnp.zeros((1, 20), jnp.int32)
    assert np.array_equal(logits(causal, params), logits(prefix, params, prefix_lengths_BT=nothing))


@pytest.mark.parametrize("position", [pytest.param("rope", marks=pytest.mark.slow), "t5_bias"])
def test_a_prefix_of_everything_is_an_encoder(position: str) -> None:
    """With the same parameters, up to the unembedding that an encoder lacks."""
    prefix = definition(architecture="prefix_decoder", position={"name": position})
    both = definition(**TWO_STACKS, position={"name": position})
    params = random_parameters(prefix)
    of_encoder = {
        **random_parameters(both, seed=1),
        "embedding": params["embedding"],
        "encoder": params["stack"],
        "encoder_norm": params["final_norm"],
    }
    encode = jax.jit(lambda p: nnx.merge(both._abstract[0], p).encode(Text(TOKENS))[0])
    expected = encode(of_encoder) @ params["embedding"].T
    found = logits(prefix, params, prefix_lengths_BT=jnp.full((1, 20), 20, jnp.int32))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("gradients", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_scanning_an_encoder_decoder_changes_nothing(gradients: bool) -> None:
    changes = {**TWO_STACKS, "position": {"name": "t5_bias"}}
    scanned, unrolled = definition(**changes), definition(**changes, scan_layers=False)
    params = random_parameters(scanned)

    def results(made: ModelDefinition):
        if not gradients:
            return logits(made, params, source=SOURCE)
        return jax.jit(jax.grad(lambda p: jax.nn.logsumexp(made.apply(p, TOKENS, source=SOURCE)).mean()))(params)

    def alike(a: jax.Array, b: jax.Array) -> None:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(b).max()))

    jax.tree.map(alike, results(scanned), results(unrolled))


OPTIONS = {
    "plain": {},
    "post-norm": {"norm_place": "post"},
    "layer norm": {"norm": "layer"},
    "norm offset": {"norm": "layer", "norm_offset": True},
    "parallel": {"block": "parallel"},
    "parallel, one norm": {"block": "parallel_one_norm"},
    "biases": {"attention_bias": "all", "ffn_bias": True},
    "biases of projections": {"attention_bias": "qkv", "ffn": "geglu"},
    "soft-caps": {"attention_softcap": 0.5, "logit_softcap": 2.0},
    "scaled embeddings": {"scale_embeddings": True},
    "scaled unembedding": {"scale_unembedding": True},
    "attention scale": {"attention_scale": 1.0},
}
# Most others are checked against Hugging Face's models in the fast tests.
FIRST = ("post-norm",)
CHOSEN = [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS if name != "plain"]


@functools.cache
def trained(name: str) -> tuple[float, ...]:
    """Losses of a few steps of gradient descent on one batch, from drawn parameters; each of them has a gradient."""
    made = definition(num_layers=1, **OPTIONS[name])
    tokens = TOKENS[:, :12]

    @jax.jit
    def step(params):
        def loss(p):
            log_probabilities = jax.nn.log_softmax(made.apply(p, tokens[:, :-1]))
            return -jnp.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        return value, gradients, jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients)

    params, losses = random_parameters(made), []
    for _ in range(8):
        value, gradients, params = step(params)
        losses.append(float(value))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    return tuple(losses)


@pytest.mark.parametrize("name", CHOSEN)
def test_every_option_of_a_block_trains_and_is_not_the_plain_block(name: str) -> None:
    losses = trained(name)
    assert losses[-1] < losses[0]
    assert abs(losses[0] - trained("plain")[0]) > 1e-4


@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_places_in_a_span_tell_tokens_of_equal_position_apart(kind: str) -> None:
    """Three rows that differ in nothing but the last token's place: 1, 2 and again 1."""
    made = definition(architecture="prefix_decoder", block_positions=kind, num_layers=1)
    tokens, positions = (jnp.asarray([row] * 3, jnp.int32) for row in ([5, 6, 7, 8, 9, 9], [0, 1, 2, 3, 2, 2]))
    blocks = jnp.asarray([[0, 0, 0, 0, 1, place] for place in (1, 2, 1)], jnp.int32)
    where = {"prefix_lengths_BT": jnp.full((1, 6), 4, jnp.int32), "block_positions_BT": blocks}
    one, two, again = logits(made, random_parameters(made), tokens, positions_BT=positions, **where)
    assert np.array_equal(one, again)
    assert np.array_equal(one[:5], two[:5])
    assert np.abs(one[5] - two[5]).max() > 1e-3


def test_learned_places_beyond_their_table_are_no_numbers() -> None:
    made = definition(architecture="prefix_decoder", block_positions="learned", num_layers=1, trained_length=4)

    def last(place: int) -> np.ndarray:
        blocks = jnp.asarray([[0, 1, place]], jnp.int32)
        where = {"prefix_lengths_BT": jnp.ones((1, 3), jnp.int32), "block_positions_BT": blocks}
        return logits(made, random_parameters(made), TOKENS[:1, :3], **where)[0, 2]

    assert np.isfinite(last(4)).all()
    assert np.isnan(last(5)).all()


REFUSED = {
    "config.model.block=parallel needs": {"block": "parallel", "norm_place": "post"},
    "config.model.block=parallel_one_norm needs": TWO_STACKS | {"block": "parallel_one_norm"},
    "config.model.block_positions=rotary needs head_dim": {"block_positions": "rotary", "head_dim": 6},
    "config.model.block_positions=learned belongs to decoders": TWO_STACKS | {"block_positions": "learned"},
    "config.model.cross_temperature": TWO_STACKS
    | {"cross_positions": "continuous", "cross_temperature": {"name": "log_n"}},
    "config.model.encoder=": {"encoder": EncoderConfig(num_layers=3)},
    "config.model.cross_positions=continuous belongs": {
        "architecture": "prefix_decoder",
        "cross_positions": "continuous",
    },
    "belongs to architecture='encoder_decoder', not to 'causal_decoder'": {"cross_temperature": {"name": "log_n"}},
    "num_layers=2 must be a multiple of the 3 layers of the pattern in config.model.encoder.layers": TWO_STACKS
    | {"encoder": EncoderConfig(layers=({}, {}, {}))},
    "config.model.attention_softcap=0": {"attention_softcap": 0.0},
    "config.model.attention_scale=-1": {"attention_scale": -1.0},
    "alibi has a bias by distance": TWO_STACKS | {"cross_positions": "continuous", "position": {"name": "alibi"}},
    "xpos grows without bound": TWO_STACKS | {"position": {"name": "xpos"}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_models_are_refused_in_one_line(message: str) -> None:
    changes = {**REFUSED[message]}
    with pytest.raises(UserError) as caught:
        _ = definition(**changes).sites  # builds the specs of every site
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_belongs_to_an_encoder_decoder_only() -> None:
    for made, source, message in (
        (definition(), SOURCE, "has no encoder"),
        (definition(**TWO_STACKS), None, "needs a source"),
    ):
        with pytest.raises(UserError, match=message):
            made.apply(made.shapes, TOKENS, source=source)


@functools.cache
def initialised(scale: float | None) -> tuple[ModelDefinition, Parameters]:
    sizes = dict(dim=128, head_dim=32, num_heads=4, ffn_dim=256, num_layers=3, encoder=EncoderConfig(num_layers=5))
    made = definition(**TWO_STACKS | sizes, attention_scale=scale)
    return made, jax.device_get(made.init(jax.random.key(0)))


def test_each_stack_scales_what_it_writes_to_its_residual_stream() -> None:
    """Matrices N(0, 1 / fan_in); those that write are divided by the root of the number of writes: 3 N, or 2 N."""
    _, params = initialised(1.0)
    encoder, decoder = params["encoder"]["layers"], params["stack"]["layers"]
    assert decoder["attention"]["out"].shape[0] == 3
    assert encoder["attention"]["out"].shape[0] == 5
    expected = {
        "decoder out": (decoder["attention"]["out"], 128, 3 * 3),
        "decoder cross out": (decoder["cross_attention"]["out"], 128, 3 * 3),
        "decoder down": (decoder["ffn"]["down"], 256, 3 * 3),
        "encoder out": (encoder["attention"]["out"], 128, 2 * 5),
        "encoder down": (encoder["ffn"]["down"], 256, 2 * 5),
        "cross query": (decoder["cross_attention"]["query"], 128, 32),  # T5's 1 / sqrt(K), as its logits have none
        "cross key": (decoder["cross_attention"]["key"], 128, 1),
    }
    for name, (leaf, fan_in, divisor) in expected.items():
        np.testing.assert_allclose(np.std(leaf), (fan_in * divisor) ** -0.5, rtol=0.03, err_msg=name)


@pytest.mark.parametrize("scale", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_logits_of_attention_have_unit_variance_at_initialisation(scale: float | None) -> None:
    made, params = initialised(scale)
    x_TD = np.random.default_rng(0).standard_normal((200, 128))  # as a norm leaves it
    for stack, site in (("encoder", "attention"), ("stack", "attention"), ("stack", "cross_attention")):
        layer = params[stack]["layers"][site]
        queries, keys = (np.einsum("td,ldhk->ltkh", x_TD, layer[name]) for name in ("query", "key"))
        products = np.einsum("ltkh,lskh->lhts", queries, keys)[:, :, *np.triu_indices(200, 1)]
        assert 0.9 < np.std(products * made.specs[0].logit_scale) < 1.1, (stack, site)


def multiplied(jaxpr, times: int = 1) -> int:
    """2 m n k over every dot_general of a jaxpr, as often as it is run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            k = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * times * k * math.prod(equation.outvars[0].aval.shape)
        inside = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            total += multiplied(inner, inside) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("architecture", ["causal_decoder", "prefix_decoder", "encoder_decoder"])
def test_flops_are_those_of_the_products(architecture: str) -> None:
    """Three times the forward pass: a product's two gradients are a product each. Norms and waves are left out of it."""
    length, prefix, source = 48, 20, 72
    sizes = dict(num_layers=3, num_heads=4, dim=32, attention="dense", architecture=architecture)
    where, counted = {}, {}
    if architecture == "encoder_decoder":
        sizes["encoder"] = EncoderConfig(num_layers=5)
        where["source"] = Text(jnp.zeros((1, source), jnp.int32))
        counted["source"] = source
    elif architecture == "prefix_decoder":
        where["prefix_lengths_BT"] = jnp.full((1, length), prefix, jnp.int32)
        counted["prefix"] = prefix
    made = definition(**sizes)
    forward = jax.make_jaxpr(functools.partial(made.apply, **where))(made.shapes, jnp.zeros((1, length), jnp.int32))
    # The dense product is the whole square of the text, of which the architecture shows a part.
    hidden = (length**2 - counted.get("prefix", 0) ** 2) / 2
    unseen = 12 * 4 * 8 * 3 * hidden
    found = 3 * multiplied(forward.jaxpr) - unseen
    np.testing.assert_allclose(made.training_flops(length, **counted), found, rtol=0.01)


def test_names_of_an_encoder_decoder_say_where_its_sides_differ() -> None:
    t5 = {"name": "t5_bias", "num_buckets": 8, "max_distance": 20}
    alike = definition(**TWO_STACKS)
    assert (alike.method, alike.label) == ("rope", "rope")
    apart = definition(**TWO_STACKS | {"encoder": EncoderConfig(position=t5)}, cross_temperature={"name": "log_n"})
    assert apart.method == (
        "encoder t5_bias:max_distance=20,num_buckets=8, decoder rope, cross nope:temperature=log_n,temperature.length=32"
    )
    assert apart.label == "encoder t5_bias, decoder rope"
    continued = definition(**TWO_STACKS, cross_positions="continuous")
    assert continued.method == continued.label == "rope, cross rope"
    windowed = definition(**TWO_STACKS, window={"name": "sliding", "size": 4})
    assert windowed.method == "rope in sliding:size=4"
    layers = EncoderConfig(layers=({"position": {"name": "alibi"}}, {}))
    mixed = definition(**TWO_STACKS | {"encoder": layers})
    assert mixed.method == "encoder 1 x alibi + 1 x rope, decoder rope"
