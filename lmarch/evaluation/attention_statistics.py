"""What heads do with their attention, at the trained length and beyond: entropy, sinks, reach, logits, phases.

Of the second half of the queries of each window, whose contexts are about equally long. They explain failures: LM-Infinite's
three factors are unseen distances (`unseen_pairs`, `beyond`), too many tokens (`entropy`) and absent first ones
(`sink_mass`) (Han et al. 2024, arXiv 2308.16137).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.attention.dense import MASKED
from lmarch.attention.phases import phase_coverage
from lmarch.attention.weights import Weights
from lmarch.errors import UserError
from lmarch.evaluation.by_position import long_items
from lmarch.evaluation.scoring import OutOfMemory, memory_errors
from lmarch.evaluation.session import Session
from lmarch.loading import Model
from lmarch.provenance import measurement

SINKS = 4  # tokens
WINDOWS = 8
STATISTICS = {
    "entropy": "entropy of a query's weights over the logarithm of how many keys it sees: 1 is attending to all alike",
    "sink_mass": f"weight on the first {SINKS} tokens of the window",
    "beyond": "weight on keys a trained length or more back",
    "mean_distance": "tokens back, weighted",
    "largest_logit": "before the softmax",
}


def rows(session: Session) -> list[dict[str, Any]]:
    """A row a (method, length, layer, statistic): the mean over heads, and each head; a row a (method, length) of phases."""
    trained, made = session.trained_length, []
    lengths = [length for length in session.lengths if trained <= length <= 4 * trained]
    windows_NT = long_items(session).rows_NT[:WINDOWS]
    for method in session.methods:
        of_method = {
            "method": method.method,
            "label": method.definition.label,
            "trained_length": trained,
            "axis": None,
            "n_nonfinite": 0,
            **measurement(),
        }
        for length in lengths:
            common = {**of_method, "length": length, "n": len(windows_NT)}
            made += [{"task": "attention", **common, **row} for row in _phases(method, length)]
            try:
                layers = statistics(method, windows_NT[:, :length], trained)
            except UserError as error:
                session.console.print(f"  attention: {error}")
                break
            except OutOfMemory as error:
                session.lose("attention", method, None, length, error)
                continue
            for layer, values in enumerate(layers):
                for name, of_heads in values.items():
                    row = {"metric": name, "layer": layer, "heads": of_heads.tolist(), "value": float(of_heads.mean())}
                    made.append({"task": "attention", **common, **row})
    return made


def statistics(model: Model, tokens_NT: np.ndarray, trained_length: int) -> list[dict[str, np.ndarray]]:
    """Of each layer the STATISTICS of its heads, [H] each: means over rows and the second half of their tokens.

    Raises:
      UserError: attention that is no one matrix. OutOfMemory: its [T, T] matrix does not fit.
    """
    if model.sampled_reach is not None:
        raise UserError(f"{model.method} is evaluated at sampled positions, and weights are looked at at counted ones")
    look = functools.partial(_look, trained_length=trained_length)
    weights = jax.jit(lambda params, tokens_BT: model.definition.weights(params, tokens_BT, look))
    with memory_errors():
        of_rows = [jax.device_get(weights(model.params, row[None])) for row in tokens_NT.astype(np.int32)]
    return [
        {name: np.mean([of[layer][name] for of in of_rows], axis=0) for name in STATISTICS}
        for layer in range(len(of_rows[0]))
    ]


def _look(seen: Weights, trained_length: int) -> dict[str, jax.Array]:
    length = seen.weights_BHTS.shape[-1]
    later = slice(length // 2, None)
    weights_BHTS, logits_BHTS = seen.weights_BHTS[:, :, later], seen.logits_BHTS[:, :, later]
    back_TS = (jnp.arange(length)[:, None] - jnp.arange(length)[None])[later].astype(jnp.float32)
    visible_BHT = (logits_BHTS > MASKED).sum(-1)
    entropy_BHT = jax.scipy.special.entr(weights_BHTS).sum(-1) / jnp.log(jnp.maximum(visible_BHT, 2))
    of_queries = {
        "entropy": entropy_BHT,
        "sink_mass": weights_BHTS[..., :SINKS].sum(-1),
        "beyond": (weights_BHTS * (back_TS >= trained_length)[None, None]).sum(-1),
        "mean_distance": (weights_BHTS * back_TS[None, None]).sum(-1),
    }
    made = {name: values_BHT.mean((0, 2)) for name, values_BHT in of_queries.items()}
    return made | {"largest_logit": logits_BHTS.max((0, 2, 3))}


def _phases(model: Model, length: int) -> list[dict[str, Any]]:
    """The share of channel pairs that meet angles which training did not, mean over layers; none without a rotation."""
    shares = [
        float(1 - phase_coverage(spec, length, model.definition.config.rope_base)[0].mean())
        for spec in model.definition.specs
        if spec.position.rotation is not None
    ]
    return [{"metric": "unseen_pairs", "value": float(np.mean(shares))}] if shares else []
