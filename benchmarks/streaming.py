"""An endless text through a window: what happens to the loss, to memory and to speed.

  python benchmarks/streaming.py --workdir=runs/demo [--tokens=200000] [--windows=streaming:sinks=4,sliding,...]
                                 [--corpus=python-stdlib] [--chunk=50] [--segment=20000] [--alone=2000]

The documents of the test split, one after the other as they are packed for training (and again from the start, if that is
too short), are one text, which goes chunk by chunk into a cache of bounded size. A line is a segment of it: bits per byte,
beside those of the usual way; tokens a second; the memory of this process, and of the cache. The usual way is rows of the
trained length L with nothing before them, of which the last half is scored, so that each token has L/2 or more before it.
At last `--alone` tokens are read one by one, in turn into an empty cache and into the one that has seen all the text; the
best of ten pieces counts.
"""

import dataclasses
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lmarch
from lmarch.command_line import no_overrides, parse, parser, quiet_libraries
from lmarch.data.corpora import load_documents
from lmarch.loading import Model
from lmarch.models.cache import Cache
from lmarch.models.definition import Parameters
from lmarch.registry import split_variants

WINDOWS = "streaming:sinks=4,streaming:sinks=0,lm_infinite,sliding"  # the first two see equally many keys


def endless(model: Model, corpus: str | None, count: int) -> np.ndarray:
    """`count` tokens, int32."""
    tokenizer, data = model.tokenizer, model.config.data
    documents = load_documents(dataclasses.replace(data, corpus=corpus or data.corpus), "test")
    texts = [np.concatenate([[tokenizer.bos], tokenizer.encode(each.text), [tokenizer.eos]]) for each in documents]
    return np.resize(np.concatenate(texts), count).astype(np.int32)


def nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def nats_in_rows(model: Model, text: np.ndarray, scored: int, batch: int = 64) -> np.ndarray:
    """Nats of all tokens but the first, in order; of each row but the first its last `scored` count."""
    length = model.config.model.trained_length
    rows = np.lib.stride_tricks.sliding_window_view(text, length + 1)[::scored]
    batches = [rows[n : n + batch] for n in range(0, len(rows), batch)]
    nll_NT = np.concatenate([nats(model.logits(each[:, :-1]), jnp.asarray(each[:, 1:])) for each in batches])
    return np.concatenate([nll_NT[0, :-scored], nll_NT[:, -scored:].reshape(-1)])


class Reader:
    """A window's compiled steps, of a chunk or of one token."""

    def __init__(self, model: Model, chunk: int) -> None:
        definition, params = model.definition, model.definition.unstacked(model.params)

        def step(params: Parameters, cache: Cache, tokens_T: jax.Array) -> tuple[jax.Array, Cache]:
            logits_BTV, cache = definition.step(params, cache, tokens_T[None, :-1], every=True)
            return nats(logits_BTV, tokens_T[None, 1:])[0], cache

        self._params, self._step = params, jax.jit(step, donate_argnums=1)
        self.empty = functools.partial(definition.start, model.params, 1, longest=None, chunk=chunk)
        began = time.perf_counter()
        for size in (chunk, 1):
            self.read(self.empty(), np.zeros(2 * size + 1, np.int32), size)
        self.compilation = time.perf_counter() - began  # seconds

    def read(self, cache: Cache, text: np.ndarray, size: int) -> tuple[np.ndarray, Cache, float]:
        """Nats of each token of `text` but the first, the cache with all but the last, and tokens a second."""
        began, found = time.perf_counter(), []
        for first in range(0, len(text) - 1, size):
            nll_T, cache = self._step(self._params, cache, text[first : first + size + 1])
            found.append(nll_T)
        read = np.concatenate(found)
        return read, cache, len(read) / (time.perf_counter() - began)


def memory() -> float:
    """MiB of this process that lie in memory (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 2**10


def bits_per_byte(nll_T: np.ndarray, bytes_T: np.ndarray) -> float:
    return nll_T.sum() / np.log(2) / bytes_T[: len(nll_T)].sum()


def stream(model: Model, text: np.ndarray, usual: np.ndarray, bytes_of: np.ndarray, given: Any) -> None:
    """Reads and prints all segments."""
    reader = Reader(model, given.chunk)
    print(f"\n{model.method}, compiled in {reader.compilation:.1f} s")
    print(f"{'tokens read':>12} {'bits/byte':>10} {'usual':>7} {'tokens/s':>9} {'process MiB':>12} {'cache MiB':>10}")
    cache, segments = reader.empty(), []
    for first in range(0, given.tokens, given.segment):
        nll_T, cache, rate = reader.read(cache, text[first : first + given.segment + 1], given.chunk)
        cut = slice(first, first + given.segment)
        loss, beside = (bits_per_byte(x, bytes_of[cut]) for x in (nll_T, usual[cut]))
        held, cached = memory(), sum(leaf.nbytes for leaf in jax.tree.leaves(cache)) / 2**20
        segments.append((loss - beside, held, rate))
        cells = f"{loss:10.4f} {beside:7.4f} {rate:9,.0f} {held:12.1f} {cached:10.3f}"
        print(f"{cut.stop:12,} {cells}", flush=True)
    (above, held, rate), (last_above, last_held, last_rate) = segments[0], segments[-1]
    print(f"above the usual {above:+.4f} in the first segment, {last_above:+.4f} in the last")
    print(f"first to last: memory {last_held - held:+.1f} MiB, speed x {last_rate / rate:.2f}")

    caches, best = {0: reader.empty(), given.tokens: cache}, {0: 0.0, given.tokens: 0.0}
    piece = max(1, given.alone // 10)
    for first, start in itertools.product(range(0, given.alone, piece), caches):
        part = text[start + first : start + first + piece + 1]
        _, caches[start], rate = reader.read(caches[start], part, 1)
        best[start] = max(best[start], rate)
    early, late = best.values()
    print(f"one by one: {early:,.0f} tokens/s at first, {late:,.0f} after all of it, x {late / early:.2f}")


def main() -> None:
    quiet_libraries()
    flags = parser(__doc__)
    flags.add_argument("--workdir", required=True)
    flags.add_argument("--windows", default=WINDOWS)
    flags.add_argument("--corpus", help="default: what the model was trained on")
    for name, size in {"tokens": 200_000, "chunk": 50, "segment": 20_000, "alone": 2_000}.items():
        flags.add_argument(f"--{name}", type=int, default=size)
    given, overrides = parse(flags, sys.argv[1:])
    no_overrides(overrides)
    given.segment = min(given.segment, given.tokens) // given.chunk * given.chunk  # of chunks of one compiled size
    given.tokens -= given.tokens % given.segment

    model = lmarch.load(given.workdir)
    length = model.config.model.trained_length
    text = endless(model, given.corpus, given.tokens + given.alone + length + 1)
    bytes_of = model.tokenizer.byte_lengths[text[1:]]
    whole, half = (nats_in_rows(model, text, scored)[: given.tokens] for scored in (length, length // 2))
    losses = [f"{bits_per_byte(nll_T, bytes_of):.4f}" for nll_T in (whole, half)]
    print(f"{given.workdir} at step {model.step}: {model.method} in rows of L = {length}")
    print(f"bits/byte of whole rows {losses[0]}, of their last halves {losses[1]}")
    for window in split_variants(given.windows):
        stream(model.with_window(window), text, half, bytes_of, given)


if __name__ == "__main__":
    main()
