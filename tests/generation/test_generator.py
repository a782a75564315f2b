"""Generation is the model: every new token is drawn from the logits of a full forward pass over all that stands before it."""

import dataclasses
import functools
from collections.abc import Sequence
from itertools import islice

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.generation import generator as loop
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text
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
NOTHING = np.zeros(0, np.int32)
ROUNDING = 1e-5  # of logits around 1: two programs may see a tie between two tokens differently
GREEDY, DRAWN = Sampling(), Sampling(temperature=1.0)


class Made:
    """A random model and its generator."""

    def __init__(self, config: ModelConfig) -> None:
        self.definition = ModelDefinition(config, VOCABULARY)
        self.params: Parameters = parameters(self.definition)
        self.generator = Generator(self.definition, self.params)
        self.apply = jax.jit(self.definition.apply)

    def tokens(
        self, texts: Texts, count: int, sampling: Sampling = GREEDY, seed: int = 0, forbidden: Sequence[int] = ()
    ) -> np.ndarray:
        """The new tokens, [B, count]."""
        drawn = self.generator.tokens(texts, count, sampling, seed, forbidden)
        return np.stack([*islice(drawn, count)], axis=1)

    def read(self, texts: Texts, row: int, tokens: np.ndarray, width: int | None = None) -> np.ndarray:
        """Logits [T, V] of one forward pass over a row's tokens alone.

        Args:
          width: that they are padded to, which nothing before it sees; one program then serves all rows.
        """
        options = {}
        if texts.sources is not None:
            options["source"] = Text(jnp.asarray(texts.sources[row], jnp.int32)[None])
        if texts.prefix_lengths is not None:
            options["prefix_lengths_BT"] = jnp.asarray(texts.prefix_lengths[row], jnp.int32)
        if texts.positions is not None:
            options["positions_BT"] = jnp.asarray(texts.positions[row : row + 1, : len(tokens)], jnp.int32)
        padded = np.pad(tokens, (0, (width or len(tokens)) - len(tokens)))
        return np.asarray(self.apply(self.params, jnp.asarray(padded, jnp.int32)[None], **options))[0, : len(tokens)]


@functools.cache
def made(architecture: str = "causal_decoder", **variants: str) -> Made:
    """One for all tests with these settings: what was compiled once serves them all.

    Args:
      variants: fields of the config, as on the command line; those of the encoder begin with `encoder_`.
    """
    parsed = {name: text if name == "cross_positions" else dict(parse_variant(text)) for name, text in variants.items()}
    of_encoder = {name: parsed.pop(name) for name in list(parsed) if name.startswith("encoder_")}
    encoder = EncoderConfig(**{name.removeprefix("encoder_"): value for name, value in of_encoder.items()})
    return Made(dataclasses.replace(BASE, architecture=architecture, encoder=encoder, **parsed))


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


def assert_each_is_the_most_likely_after_all_before_it(
    model: Made, texts: Texts, drawn: np.ndarray, *, padded: bool = True
) -> None:
    """By one full pass over the prompt and all that was drawn: causal, it holds those over every beginning of it.

    The first token is then the first argmax, the second that after it, and so on: repeatedly taking the argmax.
    """
    width = max(map(len, texts.prompts)) + drawn.shape[1] if padded else None
    for row, prompt in enumerate(texts.prompts):
        logits = model.read(texts, row, np.concatenate([prompt, drawn[row]]), width)[len(prompt) - 1 : -1]
        taken = np.take_along_axis(logits, drawn[row][:, None], axis=1)[:, 0]
        assert (logits.max(-1) - taken <= ROUNDING).all(), row
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


@pytest.mark.parametrize(
    ("first", "second"),
    [(DRAWN, Sampling(0.5)), (Sampling(1.0, top_k=40, top_p=0.9), Sampling(0.7, top_k=40, top_p=0.3))],
)
def test_another_temperature_or_p_draws_otherwise_and_compiles_nothing(first: Sampling, second: Sampling) -> None:
    model, texts = made(), texts_of("causal_decoder", 5, 12, 3)
    before = model.tokens(texts, 8, first)
    with compilations.counted() as names:
        after = model.tokens(texts, 8, second)
    assert names == []
    assert not np.array_equal(before, after)


def test_every_token_is_drawn_anew() -> None:
    """So hot that all are equally likely: with the same noise at every step it would be the same token for ever."""
    drawn = made().tokens(texts_of("causal_decoder", 5, 12, 3), 40, Sampling(temperature=1e6))
    assert min(len(set(row)) for row in drawn.tolist()) > 15
    assert (drawn[:, 1:] == drawn[:, :-1]).mean() < 0.1


@pytest.mark.slow
def test_drawn_tokens_come_as_often_as_the_full_pass_says() -> None:
    """The first tokens of many rows with the same prompt."""
    model, prompt = made(), random_ids(5)[0]
    drawn = model.tokens(Texts([prompt] * 2000), 1, DRAWN)[:, 0]
    p_V = np.asarray(jax.nn.softmax(model.read(Texts([prompt]), 0, prompt)[-1]), np.float64)
    counts = np.bincount(drawn, minlength=VOCABULARY)
    deviation = (counts - 2000 * p_V) / np.sqrt(2000 * p_V * (1 - p_V))
    assert np.abs(deviation[p_V > 0.005]).max() < 4
    assert (p_V > 0.005).sum() > 5


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, DRAWN, *(pytest.param(Sampling(2.0, *kept), marks=pytest.mark.slow) for kept in ((3, None), (None, 0.5)))],
)
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
    "lm_infinite:sinks=2,size=6,capped=False",
)


@pytest.mark.parametrize("window", [RINGS[0], *(pytest.param(window, marks=pytest.mark.slow) for window in RINGS[1:])])
def test_a_cache_that_forgets_writes_what_a_full_pass_in_the_same_window_does(window: str, monkeypatch) -> None:
    """Prompts and texts go many times around rings of slots.

    Two prompts fill their last chunk, whose first token then is in reach of its last: what the one sees matters.
    """
    monkeypatch.setattr(loop, "CHUNK", 4)
    model, texts = made(window=window), texts_of("causal_decoder", 72, 5, 36)
    logits, cache = model.generator.read(texts, 100)
    assert all(layer.slots.capacity <= 3 + 6 + 4 for layer in cache.layers)
    for row, prompt in enumerate(texts.prompts):
        np.testing.assert_allclose(logits[row], model.read(texts, row, prompt, 172)[-1], atol=1e-5)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "position",
    ["learned:size=48", "rerope:window=5", "self_extend:group=2,window=4", "xpos:scale_base=32", "alibi", "nope"],
)
def test_position_methods_write_what_their_full_passes_do(position: str) -> None:
    model, texts = made(position=position), texts_of("causal_decoder", 5, 12, 3)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 36))


@pytest.mark.slow
@pytest.mark.parametrize(
    "position", ["dynamic_ntk", "rerope:window=5,frequencies=dynamic_ntk", "rope:temperature=log_n"]
)
def test_methods_by_the_length_of_a_text_take_each_row_for_as_long_as_it_will_be(position: str, monkeypatch) -> None:
    """Prompt and what is written: the full pass is that over a row's whole text, without anything after it."""
    monkeypatch.setattr(loop, "CHUNK", 8)
    model, texts = made(position=position), texts_of("causal_decoder", 5, 12, 3)
    drawn, (logits, _) = model.tokens(texts, 36), model.generator.read(texts, 36)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, drawn, padded=False)
    for row, prompt in enumerate(texts.prompts):
        text = np.concatenate([prompt, drawn[row]])
        np.testing.assert_allclose(logits[row], model.read(texts, row, text)[len(prompt) - 1], atol=1e-5)


@pytest.mark.slow
def test_layers_that_forget_beside_layers_that_do_not(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 8)
    layers = ({"window": {"name": "sliding", "size": 6}}, {"position": {"name": "nope"}})
    model, texts = Made(dataclasses.replace(BASE, layers=layers)), texts_of("causal_decoder", 70, 5, 33)
    assert len(model.generator.read(texts, 50)[1].places) == 2
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 50))


@pytest.mark.slow
def test_a_prefix_may_be_nothing_a_part_or_all_of_a_prompt() -> None:
    model, prompts = made("prefix_decoder"), random_ids(9, 9, 9)
    same = Texts([prompts[0]] * 4, prefix_lengths=[0, 1, 5, 9])
    drawn = model.tokens(same, 20)
    assert_each_is_the_most_likely_after_all_before_it(model, same, drawn)
    assert np.array_equal(drawn[0], drawn[1])  # one token sees itself in any case
    assert len({tuple(row) for row in drawn.tolist()}) == 3


OF_AN_ENCODER = (
    {"encoder_window": "parallel:size=5"},
    {"encoder_window": "sliding:size=4"},
    {"encoder_window": "streaming:sinks=2,size=4"},
    {"encoder_position": "dynamic_ntk"},
    {"encoder_position": "rerope:window=5"},
    {"cross_positions": "continuous"},
    {"cross_temperature": "log_n"},
)


@pytest.mark.slow
@pytest.mark.parametrize("variants", OF_AN_ENCODER, ids=lambda variants: "-".join(*variants.items()))
def test_sources_of_a_batch_are_read_as_if_each_were_alone(variants: dict[str, str]) -> None:
    """Of different lengths, padded: the padding is no part of what encoder and cross-attention count, cut or see."""
    model, texts = made("encoder_decoder", **variants), texts_of("encoder_decoder", 5, 23, 18)
    logits = model.generator.read(texts)[0]
    for row, prompt in enumerate(texts.prompts):
        np.testing.assert_allclose(logits[row], model.read(texts, row, prompt)[-1], atol=1e-5)
    assert not np.allclose(logits, made("encoder_decoder").generator.read(texts)[0], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rope", "dynamic_ntk"])
def test_given_positions_are_those_of_each_row_and_token(position: str) -> None:
    """Ascending, with gaps, other ones in every row; a row's next token is at its own next position.

    The length of a text is then what its positions span.
    """
    model, texts = made(position=position), texts_of("causal_decoder", 5, 12, 3)
    rng = np.random.default_rng(0)
    positions = np.sort(np.stack([rng.choice(60, 32, replace=False) for _ in range(3)]), axis=1).astype(np.int32)
    placed = dataclasses.replace(texts, positions=positions)
    drawn, (logits, _) = model.tokens(placed, 20), model.generator.read(placed, 20)
    assert_each_is_the_most_likely_after_all_before_it(model, placed, drawn, padded=False)
    for row, prompt in enumerate(placed.prompts):
        text = np.concatenate([prompt, drawn[row]])
        np.testing.assert_allclose(logits[row], model.read(placed, row, text)[len(prompt) - 1], atol=1e-5)
    assert not np.array_equal(drawn, model.tokens(texts, 20))


# Prompts of two windows of 9, and of one of 9 and one of 3, each with a task of 5.
SIZE, TASK, NEW = 9, 5, 12
CUT = texts_of("causal_decoder", 23, 17)


def in_parallel(task_length: int = TASK) -> Made:
    return made(window=f"parallel:size={SIZE},task_length={task_length}")


def test_new_tokens_are_task_of_the_parallel_windows_that_the_prompt_is_cut_into() -> None:
    """Those of a full pass whose task is longer by what was written: its windows are the same."""
    drawn, longer = in_parallel().tokens(CUT, NEW), in_parallel(TASK + NEW)
    for row, prompt in enumerate(CUT.prompts):
        logits = longer.read(CUT, row, np.concatenate([prompt, drawn[row]]))
        assert np.array_equal(logits[len(prompt) - 1 : -1].argmax(-1), drawn[row])
    assert not np.array_equal(drawn, made().tokens(CUT, NEW))


def test_they_are_where_the_layout_of_the_prompt_puts_them() -> None:
    """And the logits are those of the text added in one piece."""
    model, drawn = in_parallel(), in_parallel().tokens(CUT, NEW)
    cuts = np.array([len(prompt) for prompt in CUT.prompts], np.int32)
    width = int(cuts.max()) + NEW
    rows = [np.concatenate([prompt, new]) for prompt, new in zip(CUT.prompts, drawn, strict=True)]
    padded = jnp.asarray(np.stack([np.pad(row, (0, width - len(row))) for row in rows]))
    cache = model.definition.start(model.params, 2, longest=width, chunk=width, cut_B=jnp.asarray(cuts))
    step = jax.jit(functools.partial(model.definition.step, every=True))
    logits_BTV, cache = step(model.params, cache, padded, jnp.asarray(cuts + NEW))
    (places,) = cache.places.values()
    for row, cut in enumerate(cuts.tolist()):
        length = cut + NEW
        assert np.array_equal(logits_BTV[row, cut - 1 : length - 1].argmax(-1), drawn[row])
        windows, positions = Layout(SIZE, TASK).arrange(np.arange(length), cut)
        assert np.array_equal(places.windows[row, :length], windows)
        assert np.array_equal(places.positions[row, :length], positions)
        assert (windows[cut - TASK :] == 0).all()
        assert positions[cut - TASK :].tolist() == [*range(SIZE, SIZE + TASK + NEW)]


def test_the_order_of_equal_parallel_windows_changes_nothing() -> None:
    one, two, task = np.split(CUT.prompts[0], (SIZE, 2 * SIZE))
    swapped = Texts([np.concatenate([one, two, task]), np.concatenate([two, one, task])])
    assert np.array_equal(*in_parallel().tokens(swapped, NEW))
    assert not np.array_equal(*made().tokens(swapped, NEW))


def test_a_prompt_of_one_parallel_window_is_read_as_it_is() -> None:
    short = Texts(random_ids(SIZE + TASK, 6))
    assert np.array_equal(in_parallel().tokens(short, NEW), made().tokens(short, NEW))


def without_computing(model: Made, monkeypatch) -> Generator:
    """A generator of the same model that fails as soon as it computes anything."""

    def computed(*args, **kwargs):
        raise AssertionError("something was computed")

    monkeypatch.setattr(ModelDefinition, "start", computed)
    monkeypatch.setattr(ModelDefinition, "step", computed)
    return Generator(model.definition, model.params)


def test_a_text_longer_than_a_table_is_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(made(position="learned:size=48"), monkeypatch)
    with pytest.raises(UserError, match=r"learned:size=48 cannot go beyond 48 tokens, and the text has 49"):
        next(generator.tokens(texts_of("causal_decoder", 5, 12), 37, GREEDY))
    with pytest.raises(AssertionError, match="something was computed"):
        next(generator.tokens(texts_of("causal_decoder", 5, 12), 36, GREEDY))


@pytest.mark.slow
def test_a_source_longer_than_a_table_is_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(made("encoder_decoder", encoder_position="learned:size=16"), monkeypatch)
    with pytest.raises(UserError, match=r"learned:size=16 cannot go beyond 16 tokens, and the text has 17"):
        next(generator.tokens(texts_of("encoder_decoder", 5, 17), 4, GREEDY))


def test_empty_prompts_are_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(made(), monkeypatch)
    for prompts in ([], [NOTHING], [*random_ids(5), NOTHING]):
        with pytest.raises(UserError, match="every prompt needs at least one token"):
            next(generator.tokens(Texts(prompts), 4, GREEDY))


@pytest.mark.slow
def test_empty_sources_are_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(made("encoder_decoder", encoder_position="learned:size=16"), monkeypatch)
    texts = dataclasses.replace(texts_of("encoder_decoder", 5, 5), sources=[*random_ids(5), NOTHING])
    with pytest.raises(UserError, match="every source needs at least one token"):
        next(generator.tokens(texts, 4, GREEDY))


@pytest.mark.slow
def test_a_table_is_used_to_its_end() -> None:
    """The whole text, prompt and what is written, may be as long as the table; the prompt's last chunk is longer."""
    model, texts = made(position="learned:size=48"), texts_of("causal_decoder", 40, 12, 35)
    drawn = model.tokens(texts, 8)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, drawn)


@pytest.mark.slow
@pytest.mark.parametrize(("position", "encoder_position"), [("rope", "learned:size=16"), ("learned:size=24", "rope")])
def test_a_table_of_one_side_is_no_limit_of_the_other(position: str, encoder_position: str) -> None:
    """The encoder's table has 16 entries and 60 tokens are written, or the decoder's 24 and 30 are read."""
    model = made("encoder_decoder", position=position, encoder_position=encoder_position)
    texts = texts_of("encoder_decoder", *((16, 5) if position == "rope" else (30, 9, 17)))
    assert_each_is_the_most_likely_after_all_before_it(
        model, texts, model.tokens(texts, 20 if position != "rope" else 60)
    )
