"""Scoring: a manifest's targets, each with its negative log-likelihood, read with a given context length."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.loading import Model
from lmarch.models.encoder_decoder import Source
from lmarch.models.layers import Tokens

TOKENS_PER_BATCH = 16_384


@dataclasses.dataclass(frozen=True)
class Scores:
    nll_NS: np.ndarray  # float32 nats, a row per window of the manifest, a column per target
    hits_NS: np.ndarray  # bool: the target was the most likely token, and its likelihood finite
    tokens_per_second: float  # fed tokens, without compilation


def score(
    model: Model,
    manifest: Manifest,
    tokens: Sequence[np.ndarray],
    length: int,
    report: Callable[[int], None],
    given: int | None = None,
) -> Scores:
    """Feeds each window's last `length` tokens before the end of its targets and scores its targets.

    Landmarks come on top, in models that read them: `length` and the speed count tokens of the text.

    Args:
      tokens: the tokens of every document.
      report: called with the number of windows done so far.
      given: of the length + 1 tokens of a window, how many a prefix decoder sees both ways or an encoder reads.
    """
    windows, targets = manifest.windows, manifest.targets
    batch = min(max(1, TOKENS_PER_BATCH // length), len(windows))
    ends = [(tokens[w.document], w.first + targets) for w in windows]
    rows = np.stack([document[end - length - 1 : end] for document, end in ends]).astype(np.int32)
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch, axis=0)])
    positions = _positions(model, len(padded), length, given, manifest.seed)

    def arguments(start: int) -> tuple:
        cut = slice(start, start + batch)
        return model.params, padded[cut], {name: values[cut] for name, values in positions.items()}

    def scored(params: dict, rows_BT: jax.Array, positions: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """rows hold length + 1 tokens: [B, targets] nats and hits of the last ones."""
        logits_BSV = _target_logits(model, params, rows_BT, positions, given, targets)
        targets_BS = rows_BT[:, -targets:]
        picked_BS = jnp.take_along_axis(logits_BSV, targets_BS[..., None], axis=-1)[..., 0]
        nll_BS = jax.nn.logsumexp(logits_BSV, axis=-1) - picked_BS
        return nll_BS, (jnp.argmax(logits_BSV, axis=-1) == targets_BS) & jnp.isfinite(nll_BS)

    compiled = jax.jit(scored).lower(*arguments(0)).compile()
    began = time.perf_counter()
    batches = []
    for start in range(0, len(padded), batch):
        batches.append(jax.device_get(compiled(*arguments(start))))
        report(min(start + batch, len(rows)))
    rate = len(padded) * length / (time.perf_counter() - began)
    nll_NS, hits_NS = (np.concatenate(parts)[: len(rows)] for parts in zip(*batches, strict=True))
    return Scores(nll_NS, hits_NS, rate)


def _positions(model: Model, rows: int, length: int, given: int | None, seed: int) -> dict[str, np.ndarray]:
    """Sampled positions of the text, and of the source; empty for a model that counts."""
    if model.sampled_reach is None:
        return {}
    if not model.definition.is_encoder_decoder:
        return {"text": model.sampled_positions([length] * rows, seed)}
    assert given is not None
    text = [length + 1 - given] * rows
    return {"source": model.sampled_positions([given] * rows, seed), "text": model.sampled_positions(text, seed + 1)}


def _target_logits(
    model: Model, params: dict, rows_BT: jax.Array, positions: dict[str, jax.Array], given: int | None, targets: int
) -> jax.Array:
    """[B, targets, V]: what each architecture says of the last tokens of the same text."""
    definition = model.definition
    where_BT = positions.get("text")
    if definition.is_encoder_decoder:
        assert given is not None
        source = Source(rows_BT[:, :given], Tokens(positions.get("source")))
        return definition.apply(params, model.shifted(rows_BT[:, given:]), where_BT, source=source, last=targets)
    if model.landmarks is not None:
        return model.landmarks.logits(definition.apply, params, rows_BT[:, :-1], last=targets)
    prefix = None
    if definition.config.architecture == "prefix_decoder":
        assert given is not None
        prefix = jnp.asarray(given, jnp.int32)
    return definition.apply(params, rows_BT[:, :-1], where_BT, prefix_lengths_BT=prefix, last=targets)
