"""Scoring: the negative log-likelihood of a manifest's targets, read with a given context length."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.loading import Model

TOKENS_PER_BATCH = 16_384


@dataclasses.dataclass(frozen=True)
class Scores:
    nll_NS: np.ndarray  # float32 nats, a row per window of the manifest, a column per target
    tokens_per_second: float  # fed tokens, without compilation


def score(
    model: Model, manifest: Manifest, tokens: Sequence[np.ndarray], length: int, report: Callable[[int], None]
) -> Scores:
    """Feeds each window's last `length` tokens before the end of its targets and scores its targets.

    Args:
      tokens: the tokens of every document.
      report: called with the number of windows done so far.
    """
    windows, targets = manifest.windows, manifest.targets
    batch = min(max(1, TOKENS_PER_BATCH // length), len(windows))
    ends = [(tokens[w.document], w.first + targets) for w in windows]
    rows = np.stack([document[end - length - 1 : end] for document, end in ends]).astype(np.int32)
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch, axis=0)])
    positions = model.sampled_positions((len(padded), length), manifest.seed)

    def arguments(start: int) -> tuple:
        cut = slice(start, start + batch)
        return model.params, padded[cut], None if positions is None else positions[cut]

    compiled = _score.lower(model.definition.apply, *arguments(0), targets).compile()
    began = time.perf_counter()
    nll = []
    for start in range(0, len(padded), batch):
        nll.append(np.asarray(compiled(*arguments(start))))
        report(min(start + batch, len(rows)))
    rate = len(padded) * length / (time.perf_counter() - began)
    return Scores(np.concatenate(nll)[: len(rows)], rate)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _score(
    apply: Callable, params: dict, rows_BT: jax.Array, positions_BT: jax.Array | None, targets: int
) -> jax.Array:
    """rows hold length + 1 tokens: [B, targets] nats of the last ones."""
    logits_BSV = apply(params, rows_BT[:, :-1], positions_BT, last=targets)
    picked_BS = jnp.take_along_axis(logits_BSV, rows_BT[:, -targets:, None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BSV, axis=-1) - picked_BS
