"""A cache is the model: a text added at once, in chunks or token by token has the logits of the whole text."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.models.encoder_decoder import Source
from lmarch.positions import POSITIONS, TEMPERATURES

# Every border lies within the text: near and far at 5, windows of 6, pieces of 10, trained length, sinks + recents.
TRAINED, LENGTH, PREFIX, SOURCE = 16, 41, 9, 13
BASE = ModelConfig(
    trained_length=TRAINED,
    target_length=64,
    num_layers=2,
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


def whole(made: ModelDefinition, params) -> np.ndarray:
    """[B, T, V], of one forward pass."""
    options = {}
    if made.is_encoder_decoder:
        options["source"] = Source(jnp.asarray(SOURCES))
    if made.config.architecture == "prefix_decoder":
        options["prefix_lengths_BT"] = jnp.asarray(PREFIX)
    return np.asarray(jax.jit(made.apply)(params, jnp.asarray(TOKENS), **options))


def in_pieces(made: ModelDefinition, params, size: int, chunk: int | None = None) -> np.ndarray:
    """[B, T, V], of a text that is added in pieces of `size` tokens, the last of them padded.

    A prefix decoder's prefix comes first, as a whole.
    """
    options, chunk = {}, chunk or size
    if made.is_encoder_decoder:
        options["source"] = Source(jnp.asarray(SOURCES))
    if made.config.architecture == "prefix_decoder":
        options["prefix_lengths_B"] = jnp.full(2, PREFIX)
        chunk = max(chunk, PREFIX)
    start = jax.jit(functools.partial(made.start, rows=2, longest=LENGTH, chunk=chunk))
    cache, params = start(params, **options), made.unstacked(params)
    step = jax.jit(functools.partial(made.step, every=True), donate_argnums=1)
    found, done = [], 0
    while done < LENGTH:
        width = PREFIX if options.get("prefix_lengths_B") is not None and not done and size < PREFIX else size
        piece = TOKENS[:, done : done + width]
        padded = np.pad(piece, [(0, 0), (0, width - piece.shape[1])], constant_values=VOCABULARY - 1)
        logits, cache = step(params, cache, jnp.asarray(padded), jnp.full(2, piece.shape[1]))
        found.append(np.asarray(logits)[:, : piece.shape[1]])
        done += width
    return np.concatenate(found, axis=1)


def assert_a_cache_is_the_model(made: ModelDefinition, sizes: tuple[int, ...] = (10, 1)) -> None:
    params = made.init(jax.random.key(0))
    expected = whole(made, params)
    assert np.abs(expected).max() > 1  # so that 1e-4 means something
    for size in sizes:
        np.testing.assert_allclose(in_pieces(made, params, size), expected, atol=1e-4, err_msg=f"pieces of {size}")


def allowed(method: str, window: str, architecture: str) -> bool:
    try:
        assert definition(architecture, position=method, window=window).sites
    except UserError:
        return False
    return True


ALL = list(itertools.product(METHODS, WINDOWS, ARCHITECTURES))
# In two layers, so that what a layer keeps rests on what the one before it saw: every method once, every window everywhere.
FAST = [case for case in ALL if case[1:] == ("full", "causal_decoder") or case[0] == "rerope:window=5"]


@pytest.mark.parametrize(("method", "window", "architecture"), FAST)
def test_at_once_in_chunks_and_token_by_token(method: str, window: str, architecture: str) -> None:
    assert_a_cache_is_the_model(definition(architecture, position=method, window=window))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", WINDOWS)
def test_every_combination(method: str, window: str) -> None:
    """In one layer. The decoder of an encoder-decoder sees what a causal one does: its windows are left to the above."""
    for architecture in ARCHITECTURES if window == "full" else ARCHITECTURES[:2]:
        if allowed(method, window, architecture):
            assert_a_cache_is_the_model(definition(architecture, position=method, window=window, num_layers=1))


def test_what_is_refused_is_refused_as_a_whole_text_is() -> None:
    refused = {case for case in ALL if not allowed(*case)}
    xpos, chunks = SETTINGS["xpos"], SETTINGS["dual_chunk"]
    expected = {("nope", window, "encoder_decoder") for window in WINDOWS}
    expected |= {(xpos, window, site) for window in WINDOWS for site in ("prefix_decoder", "encoder_decoder")}
    expected |= {(chunks, window, site) for window in WINDOWS for site in ("prefix_decoder", "encoder_decoder")}
    assert refused == expected


@pytest.mark.parametrize("name", ["knn:local=8,top=5", "infllm:local=9,sinks=3,block=4,top=2,representatives=2"])
def test_selections_too(name: str) -> None:
    assert_a_cache_is_the_model(definition(selection=name))


def test_a_pattern_of_layers_keeps_each_in_its_own_way() -> None:
    layers = ({"position": {"name": "nope"}}, {"window": parsed("streaming:sinks=2,size=6")})
    assert_a_cache_is_the_model(definition(layers=layers, num_layers=4))


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
        made.start(made.init(jax.random.key(0)), 1, longest=None, chunk=4)
    growing = definition(position="dynamic_ntk", window="sliding:size=6")
    with pytest.raises(UserError, match="form=stepwise"):
        growing.start(growing.init(jax.random.key(0)), 1, longest=None, chunk=4)


@pytest.mark.parametrize("window", ["sliding:size=6", "streaming:sinks=3,size=6", "lm_infinite:sinks=2,size=6"])
def test_a_window_keeps_no_more_than_it_sees(window: str) -> None:
    made = definition(window=window)
    cache = made.start(made.init(jax.random.key(0)), 2, longest=None, chunk=4)
    sees = {"sliding": 5, "streaming": 3 + 6, "lm_infinite": 2 + 5}[window.partition(":")[0]]
    assert {layer.values_BGSK.shape for layer in cache.layers} == {(2, 1, sees + 4, 8)}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_step_leaves_a_cache_of_the_same_structure(window: str) -> None:
    """So that one compiled step serves the first chunk and all others."""
    made = definition(window=window)
    params = made.init(jax.random.key(0))
    before = made.start(params, 2, longest=LENGTH, chunk=4)
    _, after = jax.eval_shape(made.step, params, before, jnp.zeros((2, 4), jnp.int32))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)


def test_continuous_cross_positions_follow_parallel_windows() -> None:
    changes = {"cross_positions": "continuous", "window": "parallel:size=9,task_length=5"}
    assert_a_cache_is_the_model(definition("encoder_decoder", **changes))


def test_what_a_cache_was_not_started_for_is_refused() -> None:
    made = definition()
    params = made.init(jax.random.key(0))
    cache = made.start(params, 2, longest=LENGTH, chunk=4)
    tokens = jnp.zeros((2, 5), jnp.int32)
    with pytest.raises(UserError, match="5 tokens at once: the cache was started for chunks of 4"):
        made.step(params, cache, tokens)
    with pytest.raises(UserError, match="not started for positions"):
        made.step(params, cache, tokens[:, :4], positions_BT=tokens[:, :4])
    with pytest.raises(UserError, match="give them"):
        made.step(params, made.start(params, 2, longest=LENGTH, chunk=4, placed=True), tokens[:, :4])
    with pytest.raises(UserError, match="no use for source"):
        made.start(params, 2, longest=LENGTH, chunk=4, source=Source(tokens))
    learned = definition(position="learned:size=64", window="sliding:size=6")
    with pytest.raises(UserError, match="cannot go beyond 64 tokens, and the text has no end"):
        learned.start(learned.init(jax.random.key(0)), 2, longest=None, chunk=4)
