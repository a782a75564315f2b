"""A cache is the model: a text added at once, in chunks or token by token has the logits of the whole text."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.models.text import Text
from lmarch.positions import POSITIONS, TEMPERATURES

# Every border lies within the text: near and far at 5, windows of 6, pieces of 10, trained length, sinks + recents.
TRAINED, LENGTH, PREFIX, SOURCE = 16, 41, 9, 13
BASE = ModelConfig(
    trained_length=TRAINED,
    target_length=64,
    num_layers=1,
    dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=16,
    init_std=0.5,
)
VOCABULARY = 32
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, LENGTH))
SOURCES = np.random.default_rng(1).integers(0, VOCABULARY, (2, SOURCE))

SETTINGS = {
    "learned": "learned:size=64",
    "fire": "fire:threshold=8",
    "t5_bias": "t5_bias:num_buckets=8,max_distance=20",
    "xpos": "xpos:scale_base=32",
    "p_rope": "p_rope:fraction=0.5",
    "rerope": "rerope:window=5",
    "leaky_rerope": "leaky_rerope:window=5,k=3",
    "self_extend": "self_extend:group=2,window=4",
    "dual_chunk": "dual_chunk:chunk=10,max_position=13",
    "longrope": "longrope:long_factor=[2,3,4,5]",
}
METHODS = [SETTINGS.get(name, name) for name in POSITIONS]
METHODS += ["dynamic_ntk:form=stepwise", SETTINGS["longrope"] + ",form=stepwise"]
METHODS += [f"rerope:window=5,frequencies=dynamic_ntk,frequencies.form={form}" for form in ("full", "stepwise")]
METHODS += [f"rerope:window=5,temperature={name}" for name in TEMPERATURES]
WINDOWS = (
    "full",
    "sliding:size=6",
    "streaming:sinks=3,size=6",
    "lm_infinite:sinks=2,size=6",
    "parallel:size=9,task_length=5",
)
ARCHITECTURES = ("causal_decoder", "prefix_decoder", "encoder_decoder")


def definition(architecture: str = "causal_decoder", **changes) -> ModelDefinition:
    if architecture == "encoder_decoder" and changes.get("window", "").startswith("parallel"):
        changes["encoder"] = EncoderConfig(window={"name": "parallel", "size": 5})
    for name in ("position", "window"):
        if name in changes:
            changes[name] = parsed(changes[name])
    return ModelDefinition(dataclasses.replace(BASE, architecture=architecture, **changes), VOCABULARY)


def parsed(variant: str) -> dict:
    from lmarch.registry import parse_variant

    return dict(parse_variant(variant))


def whole(made: ModelDefinition, params) -> jax.Array:
    """[B, T, V], of one forward pass."""
    options = {}
    if made.is_encoder_decoder:
        options["source"] = Text(jnp.asarray(SOURCES))
    if made.config.architecture == "prefix_decoder":
        options["prefix_lengths_BT"] = jnp.asarray(PREFIX)
    return made.apply(params, jnp.asarray(TOKENS), **options)


def in_pieces(made: ModelDefinition, params, size: int) -> jax.Array:
    """[B, T, V], of a text that is added in pieces of `size` tokens, the last of them padded.

    A prefix decoder's prefix comes first, as a whole.
    """
    options, first = {}, 0
    if made.is_encoder_decoder:
        options["source"] = Text(jnp.asarray(SOURCES))
    if made.config.architecture == "prefix_decoder":
        options["prefix_lengths_B"] = jnp.full(2, PREFIX)
        first = PREFIX if size < PREFIX else 0
    cache = made.start(params, rows=2, longest=LENGTH, chunk=max(size, first), **options)
    found, apart = [], made.unstacked(params)
    if first:
        logits, cache = made.step(apart, cache, jnp.asarray(TOKENS[:, :first]), every=True)
        found.append(logits)
    rest = LENGTH - first
    count = -(-rest // size)
    padded = np.pad(TOKENS[:, first:], [(0, 0), (0, count * size - rest)], constant_values=VOCABULARY - 1)
    pieces = padded.reshape(2, count, size).swapaxes(0, 1), np.minimum(size, rest - size * np.arange(count))

    def add(cache, piece):
        tokens, new = piece
        logits, cache = made.step(apart, cache, tokens, jnp.full(2, new), every=True)
        return cache, logits

    _, logits = jax.lax.scan(add, cache, pieces)
    found.append(jnp.moveaxis(logits, 0, 1).reshape(2, count * size, -1)[:, :rest])
    return jnp.concatenate(found, axis=1)


def assert_a_cache_is_the_model(made: ModelDefinition, sizes: tuple[int, ...] = (10, 1)) -> None:
    @jax.jit
    def logits(params):
        return whole(made, params), [in_pieces(made, params, size) for size in sizes]

    expected, found = logits(parameters(made))
    assert np.abs(expected).max() > 1  # so that 1e-4 means something
    for size, ours in zip(sizes, found, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4, err_msg=f"pieces of {size}")


def allowed(method: str, window: str, architecture: str) -> bool:
    try:
        assert definition(architecture, position=method, window=window).sites
    except UserError:
        return False
    return True


ALL = list(itertools.product(METHODS, WINDOWS, ARCHITECTURES))
# What a cache has to do for a method: embeddings, biases, turns by one map or by several, by a decay, by the length of the
# text, temperatures by a count. All other methods are rope with other frequencies.
KINDS = [
    *(SETTINGS.get(name, name) for name in ("nope", "sinusoidal", "learned", "t5_bias", "alibi", "fire", "xpos")),
    *(SETTINGS[name] for name in ("rerope", "self_extend", "dual_chunk")),
    *("dynamic_ntk", "dynamic_ntk:form=stepwise", "rerope:window=5,frequencies=dynamic_ntk,frequencies.form=stepwise"),
    *(f"rerope:window=5,temperature={name}" for name in ("log_n", "ssmax")),
]
# Every window in every architecture, each pair with another method.
PAIRS = list(itertools.product(WINDOWS, ARCHITECTURES))
MIXED = [
    "rerope:window=5",
    "alibi",
    "leaky_rerope:window=5,k=3",
    "kerple_log",
    "self_extend:group=2,window=4",
    "partial",
]
FAST = [(method, "full", "causal_decoder") for method in KINDS]
FAST += [("rerope:window=5,temperature=ssmax", "full", "prefix_decoder")]  # whose keys are the prefix at least
FAST += [(MIXED[number % len(MIXED)], *pair) for number, pair in enumerate(PAIRS)]


@pytest.mark.parametrize(("method", "window", "architecture"), FAST)
def test_at_once_in_chunks_and_token_by_token(method: str, window: str, architecture: str) -> None:
    assert_a_cache_is_the_model(definition(architecture, position=method, window=window))


@pytest.mark.parametrize("window", WINDOWS)
def test_what_a_layer_keeps_rests_on_what_the_one_before_it_saw(window: str) -> None:
    """In two layers."""
    assert_a_cache_is_the_model(definition(position="rerope:window=5", window=window, num_layers=2))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_some_window_of_some_architecture(method: str) -> None:
    """And each kind in all windows."""
    start = METHODS.index(method)
    for number, window in enumerate(WINDOWS):
        architecture = ARCHITECTURES[(start + number) % len(ARCHITECTURES)]
        chosen = method in KINDS or number == start % len(WINDOWS)
        if chosen and allowed(method, window, architecture) and (method, window, architecture) not in FAST:
            assert_a_cache_is_the_model(definition(architecture, position=method, window=window))


def test_what_is_refused_is_refused_as_a_whole_text_is() -> None:
    refused = {case for case in ALL if not allowed(*case)}
    xpos, chunks = SETTINGS["xpos"], SETTINGS["dual_chunk"]
    expected = {("nope", window, "encoder_decoder") for window in WINDOWS}
    expected |= {(xpos, window, site) for window in WINDOWS for site in ("prefix_decoder", "encoder_decoder")}
    expected |= {(chunks, window, site) for window in WINDOWS for site in ("prefix_decoder", "encoder_decoder")}
    expected |= {("fox", window, site) for window in WINDOWS for site in ("prefix_decoder", "encoder_decoder")}
    assert refused == expected


@pytest.mark.parametrize(
    "name", ["knn:local=8,top=5", "infllm:local=9,sinks=3,block=4,top=2,representatives=2", "moba:block=6,top=2"]
)
def test_selections_too(name: str) -> None:
    assert_a_cache_is_the_model(definition(selection=name))


def test_the_decoder_of_an_encoder_decoder_may_forget() -> None:
    """Its encoder sees both ways, and has another method."""
    encoder = EncoderConfig(position={"name": "rope"})
    assert_a_cache_is_the_model(definition("encoder_decoder", position="fox", encoder=encoder))


@pytest.mark.parametrize("window", ["sliding:size=6", "streaming:sinks=3,size=6"])
def test_a_sum_over_tokens_goes_on_where_the_last_one_has_its_turn(window: str) -> None:
    assert_a_cache_is_the_model(definition(position="fox", window=window))


def test_values_may_be_of_another_width_than_keys() -> None:
    made = definition(value_head_dim=12, position="rerope:window=5")
    assert made.shapes["stack"]["layers"]["attention"]["value"].shape[-1] == 12
    assert_a_cache_is_the_model(made)


def test_a_pattern_of_layers_keeps_each_in_its_own_way() -> None:
    layers = ({"position": {"name": "nope"}}, {"window": parsed("streaming:sinks=2,size=6")})
    assert_a_cache_is_the_model(definition(layers=layers, num_layers=4))


@pytest.mark.parametrize(
    ("position", "window"), [("rerope:window=5", "full"), ("alibi", "sliding:size=6"), ("xpos:scale_base=32", "full")]
)
def test_positions_that_are_given_stay_those_of_their_tokens(position: str, window: str) -> None:
    """With gaps, other ones in each row: near and far, a bias, and keys that each query rotates are about positions."""
    made, rng = definition(position=position, window=window), np.random.default_rng(0)
    positions = np.sort(np.stack([rng.choice(60, LENGTH, replace=False) for _ in range(2)]), axis=1).astype(np.int32)

    @jax.jit
    def logits(params):
        cache, found = made.start(params, 2, longest=LENGTH, chunk=10, placed=True), []
        for start in range(0, LENGTH, 10):
            piece = slice(start, start + 10)
            some, cache = made.step(params, cache, TOKENS[:, piece], None, positions[:, piece], every=True)
            found.append(some)
        return made.apply(params, TOKENS, positions), jnp.concatenate(found, axis=1)

    expected, found = logits(parameters(made))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": "all", "qk_norm": True, "norm": "layer", "ffn": "gelu", "ffn_bias": True},
        {"block": "parallel", "sink": True, "attention_softcap": 5.0},
        {"norm_place": "post", "tied_embeddings": False},
        {"attention": "tiled", "window": "streaming:sinks=3,size=6"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_options_of_blocks(changes: dict) -> None:
    assert_a_cache_is_the_model(definition(**changes))


@pytest.mark.parametrize("cross", ["continuous", "knn"])
def test_cross_attention_is_read_from_an_encoder_that_ran_once(cross: str) -> None:
    changes = (
        {"cross_positions": "continuous"} if cross == "continuous" else {"cross_selection": {"name": "knn", "top": 4}}
    )
    assert_a_cache_is_the_model(definition("encoder_decoder", **changes))


def test_a_text_without_end_needs_a_window() -> None:
    made = definition()
    with pytest.raises(UserError, match="choose window sliding, streaming or lm_infinite"):
        made.start(parameters(made), 1, longest=None, chunk=4)
    growing = definition(position="dynamic_ntk", window="sliding:size=6")
    with pytest.raises(UserError, match="form=stepwise"):
        growing.start(parameters(growing), 1, longest=None, chunk=4)


@pytest.mark.parametrize("window", ["sliding:size=6", "streaming:sinks=3,size=6", "lm_infinite:sinks=2,size=6"])
def test_a_window_keeps_no_more_than_it_sees(window: str) -> None:
    made = definition(window=window)
    cache = jax.eval_shape(lambda params: made.start(params, 2, longest=None, chunk=4), parameters(made))
    sees = {"sliding": 5, "streaming": 3 + 6, "lm_infinite": 2 + 5}[window.partition(":")[0]]
    assert {state.v_BGSV.shape for state in cache.states} == {(2, 1, sees + 4, 8)}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_step_leaves_a_cache_of_the_same_structure(window: str) -> None:
    """So that one compiled step serves the first chunk and all others."""
    made = definition(window=window)
    params = parameters(made)
    before = jax.eval_shape(lambda params: made.start(params, 2, longest=LENGTH, chunk=4), params)
    _, after = jax.eval_shape(made.step, params, before, jnp.zeros((2, 4), jnp.int32))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)


def test_continuous_cross_positions_follow_parallel_windows() -> None:
    changes = {"cross_positions": "continuous", "window": "parallel:size=9,task_length=5"}
    assert_a_cache_is_the_model(definition("encoder_decoder", **changes))


def test_what_a_cache_was_not_started_for_is_refused() -> None:
    made = definition()
    params = parameters(made)
    cache = made.start(params, 2, longest=LENGTH, chunk=4)
    tokens = jnp.zeros((2, 5), jnp.int32)
    with pytest.raises(UserError, match="5 tokens at once: the cache was started for chunks of 4"):
        made.step(params, cache, tokens)
    with pytest.raises(UserError, match="not started for positions"):
        made.step(params, cache, tokens[:, :4], positions_BT=tokens[:, :4])
    with pytest.raises(UserError, match="give them"):
        made.step(params, made.start(params, 2, longest=LENGTH, chunk=4, placed=True), tokens[:, :4])
    with pytest.raises(UserError, match="no use for source"):
        made.start(params, 2, longest=LENGTH, chunk=4, source=Text(tokens))
    learned = definition(position="learned:size=64", window="sliding:size=6")
    with pytest.raises(UserError, match="cannot go beyond 64 tokens, and the text has no end"):
        learned.start(parameters(learned), 2, longest=None, chunk=4)
