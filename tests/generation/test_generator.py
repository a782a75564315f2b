"""Generation is the model: every new token is drawn from the logits of a full forward pass over all that stands before it."""

import dataclasses
import functools
from collections.abc import Sequence
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.generation import generator as loop
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.encoder_decoder import Source
from lmarch.registry import parse_variant
from lmarch.visibility import Layout

VOCABULARY = 48
BASE = ModelConfig(
    trained_length=16,
    num_layers=2,
    dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=16,
    tied_embeddings=False,  # or a random model repeats its last token for ever
)
ARCHITECTURES = ("causal_decoder", "prefix_decoder", "encoder_decoder")
CAUSAL_OR_SLOW = [
    name if name == "causal_decoder" else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES
]
GREEDY, DRAWN = Sampling(), Sampling(temperature=1.0)


class Made:
    """A random model and its generator, shared by all tests: what was compiled once serves them all."""

    def __init__(self, architecture: str, position: str, window: str, source_position: str | None) -> None:
        options = dict(architecture=architecture, position=dict(parse_variant(position)))
        if source_position:
            options["encoder"] = EncoderConfig(position=dict(parse_variant(source_position)))
        config = dataclasses.replace(BASE, window=dict(parse_variant(window)), **options)
        self.definition = ModelDefinition(config, VOCABULARY)
        self.params: Parameters = self.definition.init(jax.random.key(3))
        self.generator = Generator(self.definition, self.params)
        self.apply = jax.jit(self.definition.apply)

    def tokens(
        self, texts: Texts, count: int, sampling: Sampling = GREEDY, seed: int = 0, forbidden: Sequence[int] = ()
    ) -> np.ndarray:
        """The new tokens, [B, count]."""
        drawn = self.generator.tokens(texts, count, sampling, seed, forbidden)
        return np.stack([*islice(drawn, count)], axis=1)

    def read(self, texts: Texts, row: int, tokens: np.ndarray, width: int) -> np.ndarray:
        """Logits [T, V] of one forward pass over a row's tokens alone; padded to `width`, which nothing before it sees."""
        options = {}
        if texts.sources is not None:
            options["source"] = Source(jnp.asarray(texts.sources[row], jnp.int32)[None])
        if texts.prefix_lengths is not None:
            options["prefix_lengths_BT"] = jnp.asarray(texts.prefix_lengths[row], jnp.int32)
        if texts.positions is not None:
            options["positions_BT"] = jnp.asarray(texts.positions[row : row + 1, : len(tokens)], jnp.int32)
            width = len(tokens)
        padded = np.pad(tokens, (0, width - len(tokens)))
        return np.asarray(self.apply(self.params, jnp.asarray(padded, jnp.int32)[None], **options))[0, : len(tokens)]


@functools.cache
def made(
    architecture: str = "causal_decoder",
    position: str = "rope",
    window: str = "full",
    source_position: str | None = None,
) -> Made:
    return Made(architecture, position, window, source_position)


def random_ids(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length, np.int32) for length in lengths]


def texts_of(architecture: str, *lengths: int, seed: int = 0) -> Texts:
    """Prompts of so many tokens; an encoder-decoder reads them with its encoder."""
    given = random_ids(*lengths, seed=seed)
    if architecture == "encoder_decoder":
        return Texts([np.array([7], np.int32)] * len(given), sources=given)
    if architecture == "prefix_decoder":
        return Texts(given, prefix_lengths=[max(1, length - 2) for length in lengths])
    return Texts(given)


def only(texts: Texts, *rows: int) -> Texts:
    """Those rows of a batch, in that order."""
    made = {
        name: None if value is None else [value[row] for row in rows]
        for name, value in dataclasses.asdict(texts).items()
        if name != "positions"
    }
    return Texts(**made)


def assert_each_is_the_most_likely_after_all_before_it(model: Made, texts: Texts, drawn: np.ndarray) -> None:
    """Of the full pass over the prompt and all that was drawn: causal, it holds those over every beginning of it.

    The first token is then the first argmax, the second that after it, and so on: repeatedly taking the argmax.
    """
    width = max(map(len, texts.prompts)) + drawn.shape[1]
    for row, prompt in enumerate(texts.prompts):
        logits = model.read(texts, row, np.concatenate([prompt, drawn[row]]), width)
        assert np.array_equal(logits[len(prompt) - 1 : -1].argmax(-1), drawn[row]), row
    assert len(np.unique(drawn)) > 3  # so that equal means something


@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_greedy_text_is_the_argmax_of_full_forward_passes(architecture: str) -> None:
    model, texts = made(architecture), texts_of(architecture, 5, 12, 3)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 20))


@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_a_row_of_a_ragged_batch_gets_what_it_gets_alone(architecture: str) -> None:
    model, texts = made(architecture), texts_of(architecture, 5, 12, 3)
    together = model.tokens(texts, 20)
    for row in range(3):
        assert np.array_equal(model.tokens(only(texts, row), 20)[0], together[row])
    order = (2, 0, 1)
    assert np.array_equal(model.tokens(only(texts, *order), 20), together[[*order]])


def test_what_a_row_draws_depends_on_its_number_and_its_own_text_only() -> None:
    model, texts = made(), texts_of("causal_decoder", 5, 12, 3)
    together = model.tokens(texts, 20, DRAWN)
    alone = model.tokens(only(texts, 0), 20, DRAWN)
    assert np.array_equal(alone[0], together[0])
    others = Texts([texts.prompts[0], *random_ids(9, 12, seed=1)])
    found = model.tokens(others, 20, DRAWN)
    assert np.array_equal(found[0], together[0])
    assert not np.array_equal(found[1], together[1])
    same = model.tokens(Texts([texts.prompts[0]] * 3), 20, DRAWN)
    assert np.array_equal(same[0], together[0])
    assert len({tuple(row) for row in same.tolist()}) == 3


def test_the_seed_is_the_text() -> None:
    model, texts = made(), texts_of("causal_decoder", 5, 12, 3)
    first = model.tokens(texts, 20, DRAWN, seed=5)
    assert np.array_equal(model.tokens(texts, 20, DRAWN, seed=5), first)
    assert (model.tokens(texts, 20, DRAWN, seed=6) != first).any(1).all()
    assert np.array_equal(model.tokens(texts, 20, seed=5), model.tokens(texts, 20, seed=6))  # greedy draws nothing
    # A longer text goes on from the shorter one.
    assert np.array_equal(model.tokens(texts, 30, DRAWN, seed=5)[:, :20], first)


def test_drawn_tokens_come_as_often_as_the_full_pass_says() -> None:
    """The first tokens of many rows with the same prompt."""
    model, prompt = made(), random_ids(5)[0]
    drawn = model.tokens(Texts([prompt] * 2000), 1, DRAWN)[:, 0]
    p_V = np.asarray(jax.nn.softmax(model.read(Texts([prompt]), 0, prompt, 5)[-1]), np.float64)
    counts = np.bincount(drawn, minlength=VOCABULARY)
    deviation = (counts - 2000 * p_V) / np.sqrt(2000 * p_V * (1 - p_V))
    assert np.abs(deviation[p_V > 0.005]).max() < 4
    assert (p_V > 0.005).sum() > 5


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, Sampling(2.0, top_k=3), Sampling(2.0, top_p=0.5)])
def test_forbidden_ids_are_never_drawn(sampling: Sampling) -> None:
    model, texts = made(), texts_of("causal_decoder", 5, 12, 3)
    free = model.tokens(texts, 20, sampling)
    forbidden = np.unique(free)[::2].tolist()
    found = model.tokens(texts, 20, sampling, forbidden=forbidden)
    assert not np.isin(found, forbidden).any()
    all_but_two = [token for token in range(VOCABULARY) if token not in (3, 40)]
    assert set(model.tokens(texts, 20, sampling, forbidden=all_but_two).ravel().tolist()) <= {3, 40}


@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_a_prompt_read_in_chunks_is_the_same_prompt(architecture: str, monkeypatch) -> None:
    """Lengths around the ends of chunks; a prefix decoder's first chunk holds all of the longest prefix."""
    model, texts = made(architecture), texts_of(architecture, 17, 4, 8, 13)
    drawn, (logits, _) = model.tokens(texts, 12), model.generator.read(texts)
    monkeypatch.setattr(loop, "CHUNK", 4)
    assert np.array_equal(model.tokens(texts, 12), drawn)
    np.testing.assert_allclose(model.generator.read(texts)[0], logits, atol=1e-5)


RINGS = (
    "streaming:sinks=3,size=6",
    "sliding:size=6",
    "lm_infinite:sinks=2,size=6",
    "lm_infinite:sinks=2,size=6,ceiling=4",
)


@pytest.mark.parametrize("window", [RINGS[0], *(pytest.param(window, marks=pytest.mark.slow) for window in RINGS[1:])])
def test_a_cache_that_forgets_writes_what_a_full_pass_in_the_same_window_does(window: str, monkeypatch) -> None:
    """Prompts and texts go many times around rings of slots."""
    monkeypatch.setattr(loop, "CHUNK", 8)
    model, texts = made(window=window), texts_of("causal_decoder", 70, 5, 33)
    cache = model.generator.read(texts, 100)[1]
    assert all(layer.slots.capacity <= 3 + 6 + 8 for layer in cache.layers)
    drawn = model.tokens(texts, 100)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, drawn)
    assert not np.array_equal(drawn, made().tokens(texts, 100))  # without a window it is another text


@pytest.mark.slow
@pytest.mark.parametrize("window", RINGS[:3])
@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_windows_of_other_architectures_forget_too(architecture: str, window: str, monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 8)
    model, texts = made(architecture, window=window), texts_of(architecture, 30, 5, 21)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 100))


@pytest.mark.parametrize(
    "position",
    [
        "learned:size=48",
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in ("rerope:window=5", "self_extend:group=2,window=4", "xpos:scale_base=32", "alibi", "nope")
        ),
    ],
)
def test_position_methods_write_what_their_full_passes_do(position: str) -> None:
    model, texts = made(position=position), texts_of("causal_decoder", 5, 12, 3)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 36))


def test_given_positions_are_those_of_each_row_and_token() -> None:
    """Ascending, with gaps, other ones in every row; a row's next token is at its own next position."""
    model, texts = made(), texts_of("causal_decoder", 5, 12, 3)
    rng = np.random.default_rng(0)
    positions = np.sort(np.stack([rng.choice(60, 32, replace=False) for _ in range(3)]), axis=1).astype(np.int32)
    placed = dataclasses.replace(texts, positions=positions)
    drawn = model.tokens(placed, 20)
    assert_each_is_the_most_likely_after_all_before_it(model, placed, drawn)
    assert not np.array_equal(drawn, model.tokens(texts, 20))


class TestParallelWindows:
    """Prompts of two windows of 9 and of one of 9 and 3, each with a task of 5; what is written is task."""

    SIZE, TASK, NEW = 9, 5, 12
    texts = texts_of("causal_decoder", 23, 17)

    @functools.cached_property
    def model(self) -> Made:
        return made(window=f"parallel:size={self.SIZE},task_length={self.TASK}")

    def test_new_tokens_are_task_of_the_windows_that_the_prompt_is_cut_into(self) -> None:
        """Those of a forward pass whose task is longer by what was written: its windows are the same."""
        drawn = self.model.tokens(self.texts, self.NEW)
        longer = made(window=f"parallel:size={self.SIZE},task_length={self.TASK + self.NEW}")
        for row, prompt in enumerate(self.texts.prompts):
            text = np.concatenate([prompt, drawn[row]])
            logits = longer.read(self.texts, row, text, len(text))
            assert np.array_equal(logits[len(prompt) - 1 : -1].argmax(-1), drawn[row])
        assert not np.array_equal(drawn, made().tokens(self.texts, self.NEW))

    def test_they_are_where_the_layout_of_the_prompt_puts_them(self) -> None:
        """And the logits are those of the text added in one piece."""
        drawn = self.model.tokens(self.texts, self.NEW)
        cuts = np.array([len(prompt) for prompt in self.texts.prompts], np.int32)
        width, definition = int(cuts.max()) + self.NEW, self.model.definition
        rows = [np.concatenate([p, new]) for p, new in zip(self.texts.prompts, drawn, strict=True)]
        padded = jnp.asarray(np.stack([np.pad(row, (0, width - len(row))) for row in rows]))
        cache = definition.start(self.model.params, 2, longest=width, chunk=width, cut_B=jnp.asarray(cuts))
        step = jax.jit(functools.partial(definition.step, every=True))
        logits_BTV, cache = step(self.model.params, cache, padded, jnp.asarray(cuts + self.NEW))
        (places,) = cache.places.values()
        for row, cut in enumerate(cuts):
            length = cut + self.NEW
            assert np.array_equal(logits_BTV[row, cut - 1 : length - 1].argmax(-1), drawn[row])
            windows, positions = Layout(self.SIZE, self.TASK).arrange(np.arange(length), cut)
            assert np.array_equal(places.windows[row, :length], windows)
            assert np.array_equal(places.positions[row, :length], positions)
            assert set(windows[cut - self.TASK :].tolist()) == {0}
            assert positions[cut - self.TASK :].tolist() == [*range(self.SIZE, self.SIZE + self.TASK + self.NEW)]

    def test_the_order_of_equal_windows_changes_nothing(self) -> None:
        prompt = self.texts.prompts[0]
        one, two, task = prompt[:9], prompt[9:18], prompt[18:]
        swapped = Texts([prompt, np.concatenate([two, one, task])])
        first, second = self.model.tokens(swapped, self.NEW)
        assert np.array_equal(first, second)
        first, second = made().tokens(swapped, self.NEW)
        assert not np.array_equal(first, second)

    def test_a_prompt_of_one_window_is_read_as_it_is(self) -> None:
        short = Texts(random_ids(14, 6))
        assert np.array_equal(self.model.tokens(short, self.NEW), made().tokens(short, self.NEW))


@pytest.fixture
def nothing_computes(monkeypatch) -> None:
    def computed(*args, **kwargs):
        raise AssertionError("something was computed")

    monkeypatch.setattr(ModelDefinition, "start", computed)
    monkeypatch.setattr(ModelDefinition, "step", computed)


def test_a_text_longer_than_a_table_is_refused_before_anything_is_computed(nothing_computes) -> None:
    model = made(position="learned:size=48")
    generator = Generator(model.definition, model.params)
    with pytest.raises(UserError, match=r"learned:size=48 cannot go beyond 48 tokens, and the text has 49"):
        next(generator.tokens(texts_of("causal_decoder", 5, 12), 37, GREEDY))


def test_a_source_longer_than_a_table_is_refused_before_anything_is_computed(nothing_computes) -> None:
    model = made("encoder_decoder", source_position="learned:size=16")
    generator = Generator(model.definition, model.params)
    with pytest.raises(UserError, match=r"learned:size=16 cannot go beyond 16 tokens, and the text has 17"):
        next(generator.tokens(texts_of("encoder_decoder", 5, 17), 4, GREEDY))


def test_empty_prompts_and_sources_are_refused_before_anything_is_computed(nothing_computes) -> None:
    empty = np.zeros(0, np.int32)
    generator = Generator(made().definition, made().params)
    for prompts in ([], [empty], [*random_ids(5), empty]):
        with pytest.raises(UserError, match="every prompt needs at least one token"):
            next(generator.tokens(Texts(prompts), 4, GREEDY))
    model = made("encoder_decoder", source_position="learned:size=16")
    start = [np.array([7], np.int32)] * 2
    generator = Generator(model.definition, model.params)
    with pytest.raises(UserError, match="every source needs at least one token"):
        next(generator.tokens(Texts(start, sources=[*random_ids(5), empty]), 4, GREEDY))


def test_a_table_is_used_to_its_end() -> None:
    """The whole text, prompt and what is written, may be as long as the table."""
    model, texts = made(position="learned:size=48"), texts_of("causal_decoder", 5, 12, 3)
    drawn = model.tokens(texts, 36)
    assert drawn.shape == (3, 36)


@pytest.mark.slow
@pytest.mark.parametrize(("position", "source_position"), [("rope", "learned:size=16"), ("learned:size=24", "rope")])
def test_a_table_of_one_side_is_no_limit_of_the_other(position: str, source_position: str) -> None:
    """The encoder's table has 16 entries and 20 tokens are written, or the decoder's 24 and 30 are read."""
    model = made("encoder_decoder", position, source_position=source_position)
    texts = texts_of("encoder_decoder", *((16, 5) if position == "rope" else (30, 9)))
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 20))
