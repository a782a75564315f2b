import grain
import jax
import numpy as np
import pytest

from lmarch.data.assembly import assemble
from lmarch.data.feed import Feed
from lmarch.data.loader import Loader, sequential_batches
from lmarch.data.packing import Rows, pack
from lmarch.errors import UserError

BYTE_LENGTHS = np.array([1] * 256 + [0] * 8, np.int32)


def numbered_rows(count, length=4):
    """Rows that can be told apart: every token of row n is n."""
    tokens = np.repeat(np.arange(count, dtype=np.uint16)[:, None], length + 1, axis=1)
    return Rows(tokens, np.zeros(tokens.shape, np.int32), "numbered", 1, tokens.size)


def loader_of(rows, batch_rows=4, seed=0, **options):
    processes = {name: options.pop(name) for name in list(options) if name.startswith("process")}
    return Loader(rows, batch_rows, seed, Feed(BYTE_LENGTHS, **options), **processes)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def joined(parts):
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


@pytest.fixture
def rows(own_text, byte_tokenizer):
    return pack(own_text, "train", 16, byte_tokenizer)


# Batch assembly.

EXAMPLE_TOKENS = np.array([[9, 1, 257, 256, 2, 3, 257, 258, 258]])  # two documents and padding
EXAMPLE_DOCUMENTS = np.array([[5, 5, 5, 6, 6, 6, 6, -1, -1]])


def test_a_row_of_two_documents_and_padding():
    batch = assemble(EXAMPLE_TOKENS, EXAMPLE_DOCUMENTS, BYTE_LENGTHS, mask_documents=True, restart_positions=True)
    expected = {
        "tokens": [9, 1, 257, 256, 2, 3, 257, 258],
        "targets": [1, 257, 256, 2, 3, 257, 258, 258],
        "positions": [0, 1, 2, 0, 1, 2, 3, 0],
        "segment_ids": [0, 0, 0, 1, 1, 1, 1, -1],
        "weights": [1, 1, 0, 1, 1, 1, 0, 0],
    }
    for name, values in expected.items():
        assert getattr(batch, name)[0].tolist() == values, name
    assert batch.target_bytes.tolist() == [3]  # 1, 2 and 3; eos has none
    assert batch.weights.dtype == np.float32
    assert {array.dtype for array in jax.tree.leaves(batch._replace(weights=None))} == {np.dtype(np.int32)}


def test_masking_and_restarting_are_independent():
    batches = {
        (mask, restart): assemble(EXAMPLE_TOKENS, EXAMPLE_DOCUMENTS, BYTE_LENGTHS, mask, restart)
        for mask in (True, False)
        for restart in (True, False)
    }
    for (mask, restart), batch in batches.items():
        assert batch.segment_ids[0].tolist() == ([0, 0, 0, 1, 1, 1, 1, -1] if mask else [0] * 7 + [-1])
        assert batch.positions[0].tolist() == ([0, 1, 2, 0, 1, 2, 3, 0] if restart else list(range(8)))
        for name in ("tokens", "targets", "weights", "target_bytes"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(batches[True, True], name))


def test_no_target_crosses_a_document_and_all_others_are_scored(rows, byte_tokenizer):
    batches = list(sequential_batches(rows, 5, Feed(byte_tokenizer.byte_lengths)))
    targets, weights = (getattr(joined(batches), name) for name in ("targets", "weights"))
    assert not weights[targets == byte_tokenizer.bos].any()
    assert not weights[targets == byte_tokenizer.pad].any()
    assert weights.sum() == rows.num_tokens - rows.num_documents  # everything but the bos of every document


def test_target_bytes_are_the_size_of_the_text(rows, byte_tokenizer, tmp_path):
    batches = sequential_batches(rows, 5, Feed(byte_tokenizer.byte_lengths))
    assert sum(batch.target_bytes.sum() for batch in batches) == rows.num_tokens - 2 * rows.num_documents


@pytest.mark.parametrize("mask_documents", [True, False])
def test_positions_stay_below_the_row_length(rows, mask_documents):
    for n in range(10):
        options = dict(mask_documents=mask_documents, restart_positions=not mask_documents)  # in others there are none
        positions = loader_of(rows, **options).batch(n).positions
        assert positions.min() >= 0
        assert positions.max() < rows.tokens.shape[1] - 1


# The order of training batches.


def test_an_epoch_holds_every_row_once_and_the_next_is_shuffled_anew():
    loader = loader_of(numbered_rows(12))
    epochs = [[row for n in range(3) for row in loader.batch(3 * epoch + n).tokens[:, 0]] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(12))


def test_a_batch_is_a_function_of_seed_and_number_alone():
    rows = numbered_rows(100)
    used, fresh = loader_of(rows), loader_of(rows)
    for n in (0, 57, 3):
        used.batch(n)
    assert_equal(used.batch(30), fresh.batch(30))
    assert (loader_of(rows, seed=1).batch(30).tokens != fresh.batch(30).tokens).any()


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_parts_of_all_processes_make_the_batch_of_one(rows, process_count):
    whole = loader_of(rows, batch_rows=8)
    parts = [loader_of(rows, 8, process_index=p, process_count=process_count) for p in range(process_count)]
    for n in (0, 1, 99):
        batches = [part.batch(n) for part in parts]
        assert_equal(joined(batches), whole.batch(n))


def test_rows_come_in_grains_order():
    """Without its dataset, which takes twice the time; runs that go on depend on it."""
    for count, seed in ((40, 0), (1000, 7), (50_001, 2**32 - 1)):
        tokens = np.arange(count, dtype=np.int32)[:, None].repeat(2, axis=1)
        loader = Loader(Rows(tokens, np.zeros_like(tokens), "numbered", 1, count), 50, seed, Feed(np.zeros(count, int)))
        order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
        for n in (0, 1, 20, 10**6):  # of several epochs
            assert loader.batch(n).tokens[:, 0].tolist() == [order[place] for place in range(50 * n, 50 * n + 50)]


def test_fewer_rows_than_a_batch_are_repeated():
    batch = loader_of(numbered_rows(3), batch_rows=8).batch(0)
    assert np.bincount(batch.tokens[:, 0]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


@pytest.mark.parametrize(
    "make", [loader_of, lambda rows, b, **o: next(sequential_batches(rows, b, Feed(BYTE_LENGTHS), **o))]
)
def test_a_batch_that_does_not_divide_among_processes_is_refused(make):
    with pytest.raises(UserError, match=r"batch_rows=6 must be a multiple of the 4 processes"):
        make(numbered_rows(8), 6, process_count=4)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match=rf"config\.data\.seed={seed}"):
        loader_of(numbered_rows(8), seed=seed)


# Validation batches.


def test_sequential_batches_drop_nothing_and_score_no_filling():
    batches = list(sequential_batches(numbered_rows(10), 4, Feed(BYTE_LENGTHS)))
    scored = np.concatenate([batch.tokens[batch.weights.any(axis=1), 0] for batch in batches])
    assert scored.tolist() == list(range(10))
    assert {batch.tokens.shape for batch in batches} == {(4, 4)}
    assert (batches[-1].segment_ids[2:] == -1).all()
    assert batches[-1].target_bytes.tolist() == [4, 4, 0, 0]


def test_sequential_batches_can_be_limited_and_split_over_processes():
    rows = numbered_rows(10)
    whole = list(sequential_batches(rows, 4, Feed(BYTE_LENGTHS), limit=6))
    assert sum(batch.weights.any(axis=1).sum() for batch in whole) == 6
    read = np.unique(np.concatenate([batch.tokens for batch in whole]))
    assert read.tolist() == [0, 1, 3, 5, 7, 9]  # from all of the text
    parts = [
        list(sequential_batches(rows, 4, Feed(BYTE_LENGTHS), limit=6, process_index=p, process_count=2))
        for p in range(2)
    ]
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert_equal(joined(pieces), batch)


# Making batches ahead; in processes: test_prefetch.py.


@pytest.mark.parametrize("start", [0, 7])
def test_iterating_gives_the_batches_from_start_on(rows, start):
    loader = loader_of(rows)
    batches = loader.iterate(start, prefetch=3)
    for n in range(start, start + 6):
        assert_equal(next(batches), loader.batch(n))
    batches.close()
