"""Token streams on disk: bounded shards that are whole or not there, the same however and by whom they were made."""

import json
import logging
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmarch.config import DataConfig
from lmarch.data import stream as streams
from lmarch.data.documents import Document, Documents
from lmarch.data.packing import pack
from lmarch.data.stream import kept_stream, pack_stream
from lmarch.errors import UserError

SHARD = 1000


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(streams, "SHARD", SHARD)


def made_of(sizes):
    return Documents("made", "train", tuple(Document(str(n), chr(97 + n % 26) * size) for n, size in enumerate(sizes)))


# Shorter and longer than a shard, and such that one ends where a shard does.
SIZES = [10, SHARD - 14, 500, 3 * SHARD, 1, 1, 700, *[37] * 60, 2 * SHARD + 5]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("sizes", [SIZES, [SHARD - 2], [SHARD - 2, SHARD - 2], [SHARD - 1], [1]])
def test_any_part_of_a_stream_is_that_of_all_documents_joined(tmp_path, byte_tokenizer, sizes):
    documents = made_of(sizes)
    stream = pack_stream(DataConfig(cache_dir=str(tmp_path)), documents, "made", byte_tokenizer)
    whole = np.concatenate([[256, *document.text.encode(), 257] for document in documents])
    owners = np.repeat(np.arange(len(sizes)), np.array(sizes) + 2)
    assert (stream.num_tokens, stream.num_documents) == (len(whole), len(sizes))
    rng = np.random.default_rng(0)
    for start, end in [(0, len(whole)), *np.sort(rng.integers(0, len(whole) + 1, (200, 2)), axis=1)]:
        if start < end:
            np.testing.assert_array_equal(stream.tokens(int(start), int(end)), whole[start:end])
            np.testing.assert_array_equal(stream.documents(int(start), int(end)), owners[start:end])
    assert [bytes(tokens[1:-1].tolist()).decode() for tokens in stream] == [document.text for document in documents]
    assert all(len(shard.tokens) == SHARD for shard in stream.shards[:-1])


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("tokenized", [1, 5, 40, 67])
def test_a_packing_that_was_stopped_goes_on_to_the_same_shards(tmp_path, byte_tokenizer, monkeypatch, tokenized):
    documents = made_of(SIZES)
    pack_stream(DataConfig(cache_dir=str(tmp_path / "whole")), documents, "made", byte_tokenizer)
    data, seen = DataConfig(cache_dir=str(tmp_path / "stopped")), []

    def stop(document, tokenizer):
        seen.append(document.name)
        if len(seen) > tokenized:
            raise KeyboardInterrupt
        return tokens(document, tokenizer)

    tokens = streams.tokenized.__globals__["_tokens"]
    monkeypatch.setitem(streams.tokenized.__globals__, "_tokens", stop)
    with pytest.raises(KeyboardInterrupt):
        pack_stream(data, documents, "made", byte_tokenizer)
    assert kept_stream(data, "made") is None
    seen[:], tokenized = [], 1000
    pack_stream(data, documents, "made", byte_tokenizer)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def flip_a_bit(file: Path, place: float) -> None:
    changed = bytearray(file.read_bytes())
    changed[int(place * len(changed))] ^= 1 << random.Random(place).randrange(8)
    file.write_bytes(changed)


def truncate(file: Path, place: float) -> None:
    file.write_bytes(file.read_bytes()[: int(place * file.stat().st_size)])


def remove(file: Path, place: float) -> None:
    file.unlink()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(("name", "number"), [("tokens.npy", 3), ("starts.npy", 0), ("facts.json", -1)])
@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove])
def test_a_damaged_shard_is_noticed_and_made_again_alone(tmp_path, byte_tokenizer, caplog, damage, number, name):
    data, documents = DataConfig(cache_dir=str(tmp_path)), made_of(SIZES)
    pack_stream(data, documents, "made", byte_tokenizer)
    good = content(tmp_path)
    shards = sorted((tmp_path / "streams" / "made").iterdir())
    times = [shard.stat().st_mtime_ns for shard in shards]
    for place in (0.02, 0.3, 0.6, 0.97):
        damage(shards[number] / name, place)
        with caplog.at_level(logging.WARNING, "lmarch"):
            pack_stream(data, documents, "made", byte_tokenizer)
        assert content(tmp_path) == good
        assert f"{shards[number]} is damaged" in caplog.text
        caplog.clear()
        assert sum(a.stat().st_mtime_ns != before for a, before in zip(shards, times, strict=True)) == 1


def test_rows_with_a_damaged_shard_are_packed_again_and_not_read(own_text, byte_tokenizer, tmp_path, caplog):
    good = pack(own_text, "train", 16, byte_tokenizer).tokens[:]
    (tokens,) = (tmp_path / "cache" / "streams").rglob("tokens.npy")
    flip_a_bit(tokens, 0.5)
    np.testing.assert_array_equal(pack(own_text, "train", 16, byte_tokenizer).tokens[:], good)
    assert "is damaged" in caplog.text


def test_rows_of_any_length_are_cut_from_one_stream(own_text, byte_tokenizer, tmp_path):
    for length in (16, 32, 57):
        pack(own_text, "train", length, byte_tokenizer)
    assert len(list((tmp_path / "cache" / "streams").iterdir())) == 1


def test_text_that_changes_while_it_is_packed_is_refused(own_text, byte_tokenizer, tmp_path, monkeypatch):
    """The rows would be kept by the name of a text that they are not of."""

    def change(document, tokenizer):
        (tmp_path / "text" / "07.txt").write_text("other")
        return np.zeros(3, np.uint16)

    monkeypatch.setitem(streams.tokenized.__globals__, "_tokens", change)
    with pytest.raises(UserError, match="was changed while it was packed: start again"):
        pack(own_text, "train", 16, byte_tokenizer)
    assert not list((tmp_path / "cache" / "streams").rglob("tokens.npy"))


# In processes of their own.

PACK = """
import sys
import lmarch.provenance  # imported on the way, and large
import lmarch.data.stream as stream
import lmarch.data.tokenizing as tokenizing
from lmarch.config import DataConfig
from lmarch.data.packing import pack
from lmarch.data.tokenizers import load_tokenizer

if __name__ == "__main__":
    corpus, cache, processes, shard = sys.argv[1:]
    stream.SHARD, tokenizing.CHUNK = int(shard), 50_000
    data = DataConfig(corpus=corpus, cache_dir=cache, pack_processes=int(processes))
    print("packing", flush=True)
    before = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
    pack(data, "train", 128, load_tokenizer("bytes"))
    print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) - before, "kB")
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "pack.py"
    file.write_text(PACK)

    def start(corpus: str, cache: Path, processes: int = 1, shard: int = 20_000) -> subprocess.Popen:
        command = [sys.executable, file, corpus, cache, str(processes), str(shard)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "packing\n"
        return process

    return start


def write_rows(tmp_path: Path, megabytes: float) -> str:
    rng, line = np.random.default_rng(0), 2000
    with (tmp_path / "rows.jsonl").open("w") as file:
        for _ in range(int(megabytes * 1e6) // line):
            text = bytes(rng.integers(97, 123, int(rng.integers(line // 2, line * 3 // 2)), np.uint8)).decode()
            file.write(json.dumps({"text": text}) + "\n")
    return f"jsonl:{tmp_path}/rows.jsonl"


def shards(cache: Path) -> dict[str, bytes]:
    return content(cache / "streams")


@pytest.mark.slow
def test_several_processes_make_the_same_shards_as_one(tmp_path, script):
    corpus = write_rows(tmp_path, 1)
    for processes in (1, 2, 3):
        assert script(corpus, tmp_path / str(processes), processes).wait() == 0
    assert shards(tmp_path / "1") == shards(tmp_path / "2") == shards(tmp_path / "3")
    assert len(shards(tmp_path / "1")) > 100


@pytest.mark.slow
def test_a_packing_that_is_killed_again_and_again_ends_in_the_same_shards(tmp_path, script):
    corpus = write_rows(tmp_path, 6)
    began = time.perf_counter()
    assert script(corpus, tmp_path / "whole").wait() == 0
    seconds = time.perf_counter() - began
    moments, found = random.Random(0), []
    for _ in range(5):
        process = script(corpus, tmp_path / "killed")
        time.sleep(moments.uniform(0.2, 0.5) * seconds)
        process.kill()
        process.wait()
        found.append(len(list((tmp_path / "killed" / "streams").glob("*/[0-9]*"))))
    assert script(corpus, tmp_path / "killed").wait() == 0
    assert any(0 < count < 500 for count in found), found  # some were killed in the middle
    left = [name for name in shards(tmp_path / "killed") if ".partial-" in name]
    killed = {name: made for name, made in shards(tmp_path / "killed").items() if name not in left}
    assert killed == shards(tmp_path / "whole")


@pytest.mark.slow
def test_two_that_pack_the_same_at_once_do_not_disturb_each_other(tmp_path, script):
    corpus = write_rows(tmp_path, 3)
    processes = [script(corpus, tmp_path / "shared") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert script(corpus, tmp_path / "alone").wait() == 0
    assert shards(tmp_path / "shared") == shards(tmp_path / "alone")


@pytest.mark.slow
def test_memory_is_bounded_by_a_shard_and_not_by_the_text(tmp_path, script):
    """40 MB of text, which took 700 MB when all of it was in memory; a shard is 2 MB."""
    process = script(write_rows(tmp_path, 40), tmp_path / "cache", shard=2**20)
    out, _ = process.communicate()
    assert int(out.split()[0]) < 40_000, out
