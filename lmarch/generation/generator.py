"""Reads prompts in chunks into a cache, then draws one token a row and step.

Rows of a batch may have prompts of different lengths: each has its own place in its own slots of the cache, and what is
beyond its prompt is never written. The loop asks for the next step before it hands out the tokens of the last one.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.attention.spec import AttentionSpec
from lmarch.data.landmarks import Landmarks
from lmarch.errors import UserError
from lmarch.generation.sampling import Draws, Sampling
from lmarch.models.cache import Cache
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text

CHUNK = 256  # tokens of a prompt that are read at once
ROOM = 128  # caches have room for a multiple of it, so that texts of similar length share compiled steps


@dataclasses.dataclass(frozen=True)
class Texts:
    """What is read before anything is drawn: ids, at least one in each prompt and source."""

    prompts: Sequence[np.ndarray]
    sources: Sequence[np.ndarray] | None = None  # encoder-decoder: what the encoder reads
    prefix_lengths: Sequence[int] | None = None  # prefix decoder: how much of each prompt is seen both ways
    positions: np.ndarray | None = None  # of every token a row may get, [B, longest]; none: 0, 1, ...
    source_positions: np.ndarray | None = None  # [B, longest source]


class Generator:
    """A model's compiled steps, for any number of generations."""

    def __init__(self, definition: ModelDefinition, params: Parameters, landmarks: Landmarks | None = None) -> None:
        """Round and unstack the weights once.

        Args:
          landmarks: put into all that is read, and not handed out; none: the model knows none.
        """
        self.definition, self.landmarks = definition, landmarks
        self._params = definition.for_generation(params)
        self._start = jax.jit(definition.start, static_argnames=("rows", "longest", "chunk", "placed"))
        self._read = jax.jit(self._read_chunk, donate_argnums=(1, 2))
        self._first = jax.jit(_draw_first, static_argnames="top_k")
        self._next = jax.jit(self._read_and_draw, static_argnames="top_k", donate_argnums=1)

    def tokens(
        self, texts: Texts, max_new_tokens: int, sampling: Sampling, seed: int = 0, forbidden: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """Yield the new tokens of all rows, int32 [B], step by step; who has enough stops asking.

        What row b draws depends on the seed, b and its own text, not on its neighbours.

        Args:
          max_new_tokens: 1 or more.
          forbidden: ids that are never drawn.
        """
        logits_BV, cache = self.read(texts, max_new_tokens)
        allowed_V = np.ones(logits_BV.shape[-1], bool)
        allowed_V[[*forbidden, *([] if self.landmarks is None else [self.landmarks.token])]] = False
        keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(len(texts.prompts)))
        draws = Draws(keys_B, jnp.asarray(allowed_V), *jax.device_put(sampling.traced))
        positions_BN = jax.device_put(texts.positions)
        token_B, number = self._first(logits_BV, draws, top_k=sampling.top_k)
        for _ in range(1, max_new_tokens):  # all that a step reads is on the device by now
            last_B = token_B
            token_B, number, cache = self._next(
                self._params, cache, last_B, number, positions_BN, draws, top_k=sampling.top_k
            )
            yield np.asarray(last_B)  # ready by now, while the next ones are being computed
        yield np.asarray(token_B)

    def read(self, texts: Texts, room: int = 0) -> tuple[jax.Array, Cache]:
        """Return logits [B, V] after the last token of each prompt, and a cache with room for so many more tokens.

        Raises:
          UserError: an empty prompt, a text longer than the model can compute.
        """
        counts = np.array([len(prompt) for prompt in texts.prompts], np.int32)
        if not counts.size or np.min(counts) < 1:
            raise UserError("every prompt needs at least one token: write something for the model to go on from")
        ends = counts + np.int32(room)
        if self.landmarks is not None:
            texts = dataclasses.replace(texts, prompts=[self.landmarks.inserted(p[None])[0] for p in texts.prompts])
            counts, ends = self.landmarks.length(counts), self.landmarks.length(ends)
        sizes = _chunks(int(np.max(counts)), max(texts.prefix_lengths or [0]))
        cache = self._empty(texts, counts, ends, max(sizes))
        rows = _padded(texts.prompts, sum(sizes))
        positions_BN = jax.device_put(texts.positions)
        logits_BV = jnp.zeros((len(counts), self.definition.vocab_size), jnp.float32)
        done = 0
        for size in sizes:
            new_B = np.clip(counts - done, 0, size).astype(np.int32)
            chunk = rows[:, done : done + size]
            logits_BV, cache = self._read(self._params, logits_BV, cache, chunk, new_B, positions_BN)
            done += size
        return logits_BV, cache

    def _empty(self, texts: Texts, counts: np.ndarray, ends: np.ndarray, chunk: int) -> Cache:
        """Return an empty cache for prompts of `counts` tokens that grow to `ends`."""
        definition = self.definition
        longest = int(np.max(ends))
        for spec in definition.specs:
            spec.check_length(longest)
        capacity = _roomy(longest, definition.specs)
        source = source_lengths = None
        if texts.sources is not None:
            source_lengths = np.array([len(one) for one in texts.sources], np.int32)
            if np.min(source_lengths) < 1:
                raise UserError("every source needs at least one token: the encoder cannot read nothing")
            width = int(np.max(source_lengths))
            for spec in definition.sites.encoder_specs:
                spec.check_length(width)
            if texts.source_positions is None:
                width = _roomy(width, definition.sites.encoder_specs)
            where = None if texts.source_positions is None else jnp.asarray(texts.source_positions)
            source = Text(jnp.asarray(_padded(texts.sources, width)), where)
        prefixes = None if texts.prefix_lengths is None else np.asarray(texts.prefix_lengths, np.int32)
        return self._start(
            self._params,
            rows=len(counts),
            longest=capacity,
            chunk=max(chunk, 2),  # a new token may come with a landmark
            lengths_B=ends,
            spans_B=None if texts.positions is None else texts.positions[np.arange(len(ends)), ends - 1] + 1,
            prefix_lengths_B=prefixes,
            cut_B=None if definition.specs[0].visibility.layout is None else counts,
            source=source,
            source_lengths_B=source_lengths,
            placed=texts.positions is not None,
        )

    def _step(
        self,
        params: Parameters,
        cache: Cache,
        tokens_BT: jax.Array,
        new_B: jax.Array | None,
        positions_BN: jax.Array | None,
    ) -> tuple[jax.Array, Cache]:
        positions_BT = _next_positions(positions_BN, cache, tokens_BT.shape[1])
        return self.definition.step(params, cache, tokens_BT, new_B, positions_BT)

    def _read_chunk(
        self,
        params: Parameters,
        logits_BV: jax.Array,
        cache: Cache,
        tokens_BT: jax.Array,
        new_B: jax.Array,
        positions_BN: jax.Array | None,
    ) -> tuple[jax.Array, Cache]:
        """Return the logits after the last token of each row; of one without new tokens those it had."""
        after_BV, cache = self._step(params, cache, tokens_BT, new_B, positions_BN)
        return jnp.where(new_B[:, None] > 0, after_BV, logits_BV), cache

    def _read_and_draw(
        self,
        params: Parameters,
        cache: Cache,
        token_B: jax.Array,
        number: jax.Array,
        positions_BN: jax.Array | None,
        draws: Draws,
        top_k: int | None,
    ) -> tuple[jax.Array, jax.Array, Cache]:
        """Return the tokens that follow `token_B`, the number of those after them, and the cache with `token_B`."""
        if self.landmarks is None:
            tokens_BT, new_B = token_B[:, None], None
        else:
            tokens_BT, new_B = self.landmarks.behind(token_B, cache.counts_B)
        logits_BV, cache = self._step(params, cache, tokens_BT, new_B, positions_BN)
        return draws.draw(logits_BV, number, top_k), number + 1, cache


def _draw_first(logits_BV: jax.Array, draws: Draws, top_k: int | None) -> tuple[jax.Array, jax.Array]:
    """Return the first tokens, and the number of the next ones."""
    return draws.draw(logits_BV, jnp.int32(0), top_k), jnp.int32(1)


def _roomy(length: int, specs: Sequence[AttentionSpec]) -> int:
    """Return the next multiple of ROOM, or the longest text that every layer can compute."""
    longest = [spec.position.longest for spec in specs if spec.position.longest is not None]
    return min(-(-length // ROOM) * ROOM, *longest) if longest else -(-length // ROOM) * ROOM


def _chunks(length: int, prefix: int) -> list[int]:
    """Return the sizes in which a prompt is read: the first one holds all of a prefix, which sees itself both ways."""
    size = min(CHUNK, _power(length))
    first = max(size, _power(prefix)) if prefix else size
    return [first, *[size] * -(-max(0, length - first) // size)]


def _power(length: int) -> int:
    """Return the smallest power of two that is no less."""
    return 1 << (length - 1).bit_length()


def _padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Return the rows as one array, int32 [B, width], with zeros behind each."""
    ids_BT = np.zeros((len(rows), width), np.int32)
    for ids_T, row in zip(ids_BT, rows, strict=True):
        ids_T[: len(row)] = row
    return ids_BT


def _next_positions(positions_BN: jax.Array | None, cache: Cache, length: int) -> jax.Array | None:
    """Return the positions of the next tokens, which each row has at its own count."""
    if positions_BN is None:
        return None
    ranks_BT = cache.counts_B[:, None] + jnp.arange(length)[None]
    return jnp.take_along_axis(positions_BN, jnp.minimum(ranks_BT, positions_BN.shape[1] - 1), axis=1)
