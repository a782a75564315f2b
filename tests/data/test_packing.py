import dataclasses

import numpy as np
import pytest
from tokenizer_files import train_llama_like

from lmarch.config import DataConfig
from lmarch.data.corpora import load_documents
from lmarch.data.packing import pack
from lmarch.data.tokenizers import Tokenizer, load_tokenizer
from lmarch.errors import UserError


@pytest.fixture
def never_tokenize(monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: pytest.fail("tokenized again"))


def unpacked(rows):
    """The stream the rows were cut from, without padding: tokens and their documents."""
    tokens = np.concatenate([rows.tokens[:1, 0], rows.tokens[:, 1:].ravel()])[: rows.num_tokens]
    documents = np.concatenate([rows.documents[:1, 0], rows.documents[:, 1:].ravel()])[: rows.num_tokens]
    return tokens, documents


@pytest.mark.parametrize("length", [1, 7, 128, 100_000])
def test_rows_rebuild_every_document(own_text, byte_tokenizer, length):
    documents = load_documents(own_text, "train")
    rows = pack(own_text, "train", length, byte_tokenizer)
    tokens, owners = unpacked(rows)
    assert rows.num_documents == len(documents)
    for index, document in enumerate(documents):
        ids = tokens[owners == index]
        assert (ids[0], ids[-1]) == (byte_tokenizer.bos, byte_tokenizer.eos)
        assert byte_tokenizer.decode(ids[1:-1]) == document.text
    assert len(tokens) == sum(len(document.text.encode()) + 2 for document in documents)


@pytest.mark.parametrize("length", [1, 7, 128])
def test_every_token_but_the_first_is_a_target_exactly_once(own_text, byte_tokenizer, length):
    rows = pack(own_text, "train", length, byte_tokenizer)
    assert rows.tokens.shape == rows.documents.shape == (-(-(rows.num_tokens - 1) // length), length + 1)
    assert rows.tokens.shape[1] == length + 1
    np.testing.assert_array_equal(rows.tokens[1:, 0], rows.tokens[:-1, -1])
    targets = rows.documents[:, 1:] >= 0
    assert targets.sum() == rows.num_tokens - 1
    assert targets[:-1].all()  # only the last row is padded
    assert (rows.tokens[:][rows.documents[:] < 0] == byte_tokenizer.pad).all()


def test_a_stream_that_fills_its_rows_exactly_is_not_padded(own_text, byte_tokenizer):
    num_tokens = pack(own_text, "train", 7, byte_tokenizer).num_tokens
    rows = pack(own_text, "train", num_tokens - 1, byte_tokenizer)
    assert len(rows.tokens) == 1
    assert (rows.documents[:] >= 0).all()


def test_tokens_take_two_bytes_unless_the_vocabulary_is_larger(own_text, byte_tokenizer):
    token_bytes = np.pad(byte_tokenizer.token_bytes, (0, 69_736), constant_values=b"")
    large = dataclasses.replace(byte_tokenizer, token_bytes=token_bytes, pad=69_999, fingerprint="large")
    small_rows, large_rows = (pack(own_text, "train", 1000, tokenizer) for tokenizer in (byte_tokenizer, large))
    assert small_rows.tokens.dtype == np.uint16
    assert large_rows.tokens.dtype == np.uint32
    assert large_rows.tokens[-1, -1] == 69_999


def test_packed_rows_are_used_again(own_text, byte_tokenizer, request):
    first = pack(own_text, "train", 16, byte_tokenizer)
    request.getfixturevalue("never_tokenize")
    second = pack(own_text, "train", 16, byte_tokenizer)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.tokens, first.tokens)
    np.testing.assert_array_equal(second.documents, first.documents)
    assert (second.num_documents, second.num_tokens) == (first.num_documents, first.num_tokens)


def test_fingerprint_covers_text_tokenizer_length_and_split(own_text, byte_tokenizer, tmp_path):
    other_tokenizer = dataclasses.replace(byte_tokenizer, fingerprint="other")
    prints = [
        pack(own_text, "train", 16, byte_tokenizer).fingerprint,
        pack(own_text, "train", 17, byte_tokenizer).fingerprint,
        pack(own_text, "test", 16, byte_tokenizer).fingerprint,
        pack(own_text, "train", 16, other_tokenizer).fingerprint,
    ]
    changed = tmp_path / "text" / f"{load_documents(own_text, 'train')[0].name}"
    changed.write_text(changed.read_text() + "more")
    prints.append(pack(own_text, "train", 16, byte_tokenizer).fingerprint)
    assert len(set(prints)) == len(prints)


def test_a_full_disk_is_named_and_leaves_nothing(own_text, byte_tokenizer, tmp_path, full_disk):
    for file in (tmp_path / "text").iterdir():
        file.write_text("text\n" * 100)
    with (
        pytest.raises(UserError, match=rf"{tmp_path}/cache/streams.* cannot be written .*--config\.data\.cache_dir"),
        full_disk(),
    ):
        pack(own_text, "train", 16, byte_tokenizer)
    (stream,) = (tmp_path / "cache" / "streams").iterdir()
    assert list(stream.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named(own_text, byte_tokenizer, tmp_path):
    (tmp_path / "file").touch()
    data = dataclasses.replace(own_text, cache_dir=str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"file/cache/streams.* cannot be written .*--config\.data\.cache_dir"):
        pack(data, "train", 16, byte_tokenizer)


def test_a_tokenizer_that_loses_a_document_is_refused(own_text, byte_tokenizer):
    ascii_only = dataclasses.replace(byte_tokenizer, to_ids=lambda text: byte_tokenizer.to_ids(text.replace("ï", "")))
    with pytest.raises(UserError, match=r"document '\d+\.txt': tokenizer 'bytes' loses text: .*; or leave it out"):
        pack(own_text, "train", 16, ascii_only)


def test_a_document_with_the_mark_that_files_write_for_a_space_is_packed_like_any_other(tmp_path):
    """A file takes it for a space, and would lose this one document of a corpus of thousands."""
    (tmp_path / "a.txt").write_text("the ▁ union")
    tokenizer = load_tokenizer(train_llama_like(tmp_path / "tiny.json"))
    data = DataConfig(corpus=f"text:{tmp_path}/a.txt", cache_dir=str(tmp_path / "cache"))
    rows = [pack(data, split, 64, tokenizer).tokens[0] for split in ("train", "validation", "test")]
    assert "".join(map(tokenizer.decode, rows)) == "the ▁ union"


def test_one_short_document_makes_a_row(tmp_path, byte_tokenizer):
    (tmp_path / "a.txt").write_text("x" * 20)
    data = DataConfig(corpus=f"text:{tmp_path}/a.txt", cache_dir=str(tmp_path / "cache"))
    rows = pack(data, "test", 8, byte_tokenizer)
    assert rows.tokens[:].tolist() == [[256, ord("x"), 257, *[258] * 6]]
    assert rows.documents[:].tolist() == [[0, 0, 0, *[-1] * 6]]
