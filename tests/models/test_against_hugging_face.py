"""Logits equal those that Hugging Face transformers computed in float32, from the same weights.

The largest difference seen is 2.1e-5 for T5 (logits up to 3.7), 5.7e-6 for Gemma (up to 19) and 3.7e-6 for the others;
the tolerance of 2e-4 leaves room for other orders of summation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hugging_face import DECODERS, T5, T5_SIZES, load

from lmarch.models.definition import ModelDefinition
from lmarch.models.text import Text

TOLERANCE = 2e-4


def logits(definition: ModelDefinition, params, tokens, segment_ids=None, source=None) -> np.ndarray:
    return np.asarray(jax.jit(definition.apply)(params, tokens, None, segment_ids, source=source))


def padded(rows: list[np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """Texts of several lengths as tokens [B, T] and segment ids, -1 after their ends."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    ids = np.full(tokens.shape, -1, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)], ids[number, : len(row)] = row, 0
    return jnp.asarray(tokens), jnp.asarray(ids)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        (T5[0], "dense"),
        pytest.param(T5[0], "tiled", marks=pytest.mark.slow),
        (T5[1], "tiled"),
        pytest.param(T5[1], "dense", marks=pytest.mark.slow),
    ],
)
def test_t5_at_all_lengths_in_one_padded_batch(name: str, attention: str) -> None:
    """Sources of 1 to 160 tokens with targets of 1 to 150: both shorter, both longer, beyond the last bucket."""
    model = load(name)
    arrays = model.arrays
    sources = [row[mask > 0] for row, mask in zip(arrays["input_ids"], arrays["attention_mask"], strict=True)]
    targets, expected = list(arrays["decoder_input_ids"]), list(arrays["logits"])
    for size in ("{}x{}".format(*lengths) for lengths in T5_SIZES):
        sources.append(arrays[f"{size}/input_ids"][0])
        targets.append(arrays[f"{size}/decoder_input_ids"][0])
        expected.append(arrays[f"{size}/logits"][0])
    source_tokens, source_ids = padded(sources)
    tokens, ids = padded(targets)
    source = Text(source_tokens, None, source_ids)
    found = logits(model.computed(attention), model.params, tokens, ids, source)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [T5_SIZES[0], T5_SIZES[3], T5_SIZES[-1]])
def test_t5_without_segment_ids(size: tuple[int, int]) -> None:
    model, key = load(T5[0]), "{}x{}".format(*size)
    source = Text(jnp.asarray(model.arrays[f"{key}/input_ids"]))
    tokens = jnp.asarray(model.arrays[f"{key}/decoder_input_ids"])
    found = logits(model.definition, model.params, tokens, None, source)
    np.testing.assert_allclose(found, model.arrays[f"{key}/logits"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("name", "attention"),
    [*((name, "dense") for name in DECODERS), pytest.param("gemma", "tiled", marks=pytest.mark.slow)],
)
def test_decoders(name: str, attention: str) -> None:
    """Grouped and full heads, biases, Gemma's norm and embeddings, NeoX's parallel block and partial rotation."""
    model = load(name)
    mask = model.arrays["attention_mask"]
    ids = jnp.asarray(mask - 1, jnp.int32)  # -1 for padding
    found = logits(model.computed(attention), model.params, jnp.asarray(model.arrays["input_ids"]), ids)
    np.testing.assert_allclose(found[mask > 0], model.arrays["logits"][mask > 0], atol=TOLERANCE, rtol=0)
