"""Several corpora in one: each has its share of the rows, nothing is left out, and an epoch is known beforehand."""

import dataclasses

import numpy as np
import pytest

from lmarch.config import DataConfig
from lmarch.data.corpora import load_documents
from lmarch.data.feed import Feed
from lmarch.data.loader import Loader, sequential_batches
from lmarch.data.packing import fingerprint_of, kept_rows, pack
from lmarch.errors import UserError


@pytest.fixture
def parts(tmp_path):
    """A long text of a's and a short one of b's, each in three parts."""
    for name, size in (("a", 60_000), ("b", 3_000)):
        (tmp_path / f"{name}.txt").write_text(name * size)
    return [f"text:{tmp_path}/{name}.txt" for name in "ab"]


@pytest.fixture
def mixed(parts, tmp_path):
    def make(*weights):
        corpus = "mixture:" + " + ".join(f"{weight} {part}" for weight, part in zip(weights, parts, strict=True))
        return DataConfig(corpus=corpus, cache_dir=str(tmp_path / "cache"))

    return make


def share_of_b(tokens):
    return (tokens == ord("b")).sum() / ((tokens == ord("a")) | (tokens == ord("b"))).sum()


@pytest.mark.parametrize(("weights", "share"), [((3, 1), 0.25), ((0.5, 0.5), 0.5), ((1, 9), 0.9)])
def test_each_corpus_has_its_share_of_tokens_in_an_epoch(mixed, byte_tokenizer, weights, share):
    rows = pack(mixed(*weights), "train", 32, byte_tokenizer)
    assert share_of_b(rows.tokens[:]) == pytest.approx(share, abs=0.005)
    feed = Feed(byte_tokenizer.byte_lengths)
    held_out = list(sequential_batches(rows, 16, feed, limit=160))  # a few rows of many have the shares too
    assert share_of_b(np.concatenate([batch.tokens for batch in held_out])) == pytest.approx(share, abs=0.02)
    loader = Loader(rows, 16, 0, feed)
    drawn = np.concatenate([loader.batch(n).tokens for n in range(40)])
    assert share_of_b(drawn) == pytest.approx(share, abs=0.08)


def test_an_epoch_has_every_row_and_the_largest_corpus_once(mixed, parts, byte_tokenizer):
    data = mixed(1, 1)
    rows = pack(data, "train", 32, byte_tokenizer)
    large, small = (pack(dataclasses.replace(data, corpus=part), "train", 32, byte_tokenizer) for part in parts)
    np.testing.assert_array_equal(rows.tokens[: len(large.tokens)], large.tokens)
    repeated = [n % len(small.tokens) for n in range(len(large.tokens))]
    np.testing.assert_array_equal(rows.tokens[len(large.tokens) :], small.tokens[repeated])
    assert rows.remarks == (f"an epoch of train text goes through {parts[0]} 1.0×, {parts[1]} 19.9×",)
    assert rows.num_tokens == large.num_tokens + small.num_tokens
    assert set(np.unique(rows.documents[:])) == {-1, 0, 1}  # documents of two corpora have different numbers


def test_the_fingerprint_covers_shares_and_texts_and_finds_the_rows_again(mixed, byte_tokenizer):
    prints = {pack(mixed(*weights), "train", 32, byte_tokenizer).fingerprint for weights in ((1, 1), (2, 1), (4, 2))}
    assert len(prints) == 2  # 4 to 2 is 2 to 1
    data = mixed(2, 1)
    rows = pack(data, "train", 32, byte_tokenizer)
    assert fingerprint_of(data, "train", 32, byte_tokenizer) == rows.fingerprint
    again = kept_rows(data, rows.fingerprint)
    assert again is not None
    np.testing.assert_array_equal(again.tokens, rows.tokens)


def test_the_documents_of_a_mixture_are_those_of_its_corpora_once(mixed, parts):
    documents = load_documents(mixed(9, 1), "validation")
    assert [(d.name, set(d.text)) for d in documents] == [(f"{parts[0]}/a.txt", {"a"}), (f"{parts[1]}/b.txt", {"b"})]


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("mixture:sotu + 1 python-stdlib", "'sotu' is not a weight above 0 and a corpus; write mixture:WEIGHT CORPUS"),
        ("mixture:0 sotu + 1 python-stdlib", "'0 sotu' is not a weight above 0"),
        ("mixture:1 sotu + 2 sotu", "'sotu' stands there twice"),
        ("mixture:1 sotu + 2 mixture:1 sotu", "'mixture:1 sotu' is a mixture itself"),
        ("mixture:1 sotuu", "did you mean 'sotu'"),
    ],
)
def test_a_mixture_that_is_none_says_what_one_is(corpus, message, byte_tokenizer):
    with pytest.raises(UserError, match=message):
        load_documents(DataConfig(corpus=corpus), "train")
    with pytest.raises(UserError, match=message):
        pack(DataConfig(corpus=corpus), "train", 8, byte_tokenizer)
