"""The manifest: the same targets whatever is compared, inside one document, each scored once."""

import numpy as np
import pytest

from lmarch.data.documents import Document, Documents
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.evaluation.manifest import make_manifest

BYTES = load_tokenizer("bytes")


def documents(*sizes: int) -> Documents:
    texts = ["".join(chr(97 + (n * 7 + i * i) % 26) for i in range(size)) for n, size in enumerate(sizes)]
    return Documents("made", "test", tuple(Document(f"{n}.txt", text) for n, text in enumerate(texts)))


def manifest(*sizes: int, longest=64, targets=8, num_windows=20, seed=0):
    return make_manifest(
        documents(*sizes), BYTES, longest=longest, shortest=16, targets=targets, num_windows=num_windows, seed=seed
    )


def test_targets_have_room_for_the_longest_window_and_do_not_overlap() -> None:
    made, tokens = manifest(300, 90, 65, 1000, num_windows=1000)
    scored = np.zeros((4, 1000), int)
    for window in made.windows:
        end = window.first + 8
        assert end - 64 - 1 >= 0  # 64 inputs, the first of them one token before the first prediction
        assert end <= len(tokens[window.document])
        scored[window.document, window.first : end] += 1
    assert scored.max() == 1
    assert set(made.document_ids()) == {0, 1, 2, 3}


def test_the_manifest_is_a_function_of_text_and_seed() -> None:
    assert manifest(300, 500)[0].sha256 == manifest(300, 500)[0].sha256
    assert manifest(300, 500)[0].sha256 != manifest(300, 500, seed=1)[0].sha256
    assert manifest(300, 500)[0].sha256 != manifest(300, 501)[0].sha256
    assert manifest(300, 500)[0].windows != manifest(300, 500, seed=1)[0].windows


def test_windows_are_spread_over_documents() -> None:
    made, _ = manifest(300, 10_000, 400, num_windows=30)
    counts = np.bincount([window.document for window in made.windows])
    assert counts.tolist() == [10, 10, 10]


def test_a_suite_does_not_grow_with_the_number_of_documents() -> None:
    made, _ = manifest(*[100] * 200, num_windows=30)
    assert len(made.windows) == len(made.document_ids()) == 30
    grown, _ = manifest(*[100] * 210, num_windows=30)  # by documents that are drawn as often as others
    assert len({*made.document_ids()} & {*grown.document_ids()}) >= 24


def test_bytes_and_offsets_point_at_the_text() -> None:
    text = "äöü" * 200
    made, _ = make_manifest(
        Documents("made", "test", (Document("a", text),)),
        BYTES,
        longest=64,
        shortest=16,
        targets=8,
        num_windows=10,
        seed=0,
    )
    for window in made.windows:
        assert window.first_byte == window.first  # one token a byte
        assert window.num_bytes == 8


def test_a_length_longer_than_any_document_says_how_many_qualify() -> None:
    with pytest.raises(UserError) as error:
        manifest(300, 90, 65, longest=400)
    message = str(error.value)
    assert "0 of 3 test documents of 'made' have more than 400 tokens (the longest has 300)" in message
    assert "long enough are: 3 for 25, 3 for 50, 1 for 100, 1 for 200, 0 for 400" in message


def test_more_targets_than_the_shortest_window_are_refused() -> None:
    with pytest.raises(UserError, match=r"config.eval.targets=17 is more than the shortest length 16"):
        manifest(300, targets=17)
