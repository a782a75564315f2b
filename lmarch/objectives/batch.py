"""What a model is trained on in one step: the one definition, from the feed to the step."""

from typing import Generic, NamedTuple, TypeVar

A = TypeVar("A")  # np.ndarray on the host, jax.Array on a device


class Batch(NamedTuple, Generic[A]):
    """B rows of T tokens of a decoder; of an encoder-decoder also its encoder's S tokens. A pytree: None is no leaf.

    A row holds several documents, each a segment: 0, 1, ..., the same number on both sides of an encoder-decoder, and -1
    for padding. Which of the optional arrays are there is the same for all batches of a run that are trained on.
    """

    tokens: A  # int32 [B, T], what is read
    targets: A  # int32 [B, T], what is to be said after each token; anything where nothing is scored
    positions: A | None  # int32 [B, T]; None: the rank of each token in its run of equal segment ids
    segment_ids: A  # int32 [B, T], the document of each token
    weights: A  # float32 [B, T], 1 where a target is scored, else 0
    target_bytes: A  # int32 [B], UTF-8 bytes of the scored targets
    prefix_lengths: A | None = (
        None  # int32 [B, T], of a prefix decoder: how many tokens of the document are seen both ways
    )
    block_positions: A | None = None  # int32 [B, T], of blank infilling: place in a span, 0 outside of spans
    source_tokens: A | None = None  # int32 [B, S], of an encoder-decoder
    source_positions: A | None = None  # int32 [B, S], where there is a source; None as above
    source_segment_ids: A | None = None  # int32 [B, S]
