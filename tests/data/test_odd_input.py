"""Files that are not what they seem: each is named in one line, with what to do about it; nothing is dropped silently."""

import gzip
import json
import os

import pyarrow
import pytest

from lmarch.config import DataConfig
from lmarch.data.corpora import load_documents
from lmarch.data.documents import SPLITS
from lmarch.data.packing import pack
from lmarch.errors import UserError


def corpus(tmp_path, contents, kind="text"):
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return DataConfig(corpus=f"{kind}:{folder}/*", cache_dir=str(tmp_path / "cache"))


def read(data):
    return {d.name: d.text for split in SPLITS for d in load_documents(data, split)}


TEXT = b"some text\n" * 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT), r"b\.txt is gzip, not text: name it .*b\.txt\.gz"),
        (pyarrow.Codec("zstd").compress(TEXT).to_pybytes(), r"is zstd, not text: name it .*b\.txt\.zst"),
        (b"PK\x03\x04" + TEXT, r"is a zip archive, not text: unpack it: unzip .*b\.txt"),
        (b"PAR1" + TEXT, r"is Parquet, not text: read it with config\.data\.corpus=parquet:.*b\.txt#COLUMN"),
        ("text".encode("utf-16"), r"is UTF-16, not text: convert it: iconv -f utf-16 -t utf-8 .*b\.txt"),
        ("text".encode("utf-32"), r"is UTF-32, not text: convert it: iconv -f utf-32 -t utf-8"),
        ("text".encode("utf-16-le"), r"has a NUL byte at offset 1.*iconv -f utf-16le -t utf-8 .*b\.txt"),
        (b"caf\xe9 au lait", r"is not UTF-8: byte 0xe9 at offset 3; convert it.*iconv -f latin1"),
    ],
    # Not the bytes themselves: gzip writes the time into its head, and processes that share tests must call them the same.
    ids=["gzip", "zstd", "zip", "parquet", "utf-16", "utf-32", "utf-16 without a mark", "latin-1"],
)
def test_what_a_file_is_instead_of_text_is_told(tmp_path, content, message):
    data = corpus(tmp_path, {"a.txt": TEXT, "b.txt": content})
    with pytest.raises(UserError, match=message) as raised:
        read(data)
    assert "\n" not in str(raised.value)


def test_compressed_text_is_read_like_plain_text(tmp_path):
    """A zstd file may be several frames after each other; the others would be easy to lose."""
    codec = pyarrow.Codec("zstd")
    frames = codec.compress(TEXT[:100]).to_pybytes() + codec.compress(TEXT[100:]).to_pybytes()
    data = corpus(tmp_path, {"a.txt": TEXT, "b.txt.gz": gzip.compress(TEXT), "c.txt.zst": frames})
    whole = {name: "".join(load_documents(data, split)[n].text for split in SPLITS) for n, name in enumerate("abc")}
    assert whole == dict.fromkeys("abc", TEXT.decode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt.gz", gzip.compress(TEXT)[:-9]),
        ("a.txt.gz", gzip.compress(TEXT)[:20] + b"\0\0\0" + gzip.compress(TEXT)[23:]),
        ("a.txt.gz", b"no gzip"),
        ("a.txt.zst", pyarrow.Codec("zstd").compress(TEXT).to_pybytes()[:-3]),
        ("a.txt.zst", b"no zstd"),
    ],
    ids=["cut gzip", "overwritten gzip", "no gzip", "cut zstd", "no zstd"],
)
def test_a_damaged_compressed_file_is_named(tmp_path, name, content):
    with pytest.raises(UserError, match=rf"cannot read .*/{name}: ."):
        read(corpus(tmp_path, {name: content}))


def test_a_file_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
    data = corpus(tmp_path, {"a.txt": TEXT, "b.txt": TEXT})
    documents = load_documents(data, "train")
    (tmp_path / "texts" / "b.txt").unlink()  # permissions do not bind whoever runs tests as root
    with pytest.raises(UserError, match=r"cannot read .*/b\.txt: No such file"):
        list(documents)


def test_empty_files_are_left_out_and_counted(tmp_path, byte_tokenizer):
    data = corpus(tmp_path, {f"{n:03}.txt": b"" if n % 10 == 3 else b"text %d" % n for n in range(100)})
    assert len(read(data)) == 90
    rows = [pack(data, split, 8, byte_tokenizer) for split in SPLITS]
    assert sum(r.num_documents for r in rows) == 90
    assert sum(int(r.remarks[0].split()[1]) if r.remarks else 0 for r in rows) == 10
    assert rows[0].remarks == pack(data, "train", 8, byte_tokenizer).remarks  # also of rows that were packed before
    assert f"{data.corpus}: " in rows[0].remarks[0]


def test_of_few_files_an_empty_one_is_missing_in_each_split(tmp_path, byte_tokenizer):
    assert pack(corpus(tmp_path, {"a.txt": TEXT}), "train", 8, byte_tokenizer).remarks == ()
    data = corpus(tmp_path, {"b.txt": b""})  # the rows are the ones of before, and what is left out is not
    remarks = [pack(data, split, 8, byte_tokenizer).remarks for split in SPLITS]
    assert remarks == [(f"{data.corpus}: 1 {split} documents without text are left out",) for split in SPLITS]


def test_nothing_but_empty_files_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"all 2 files that match text:.* are empty"):
        load_documents(corpus(tmp_path, {"a.txt": b"", "b.txt": b""}), "train")


def test_names_that_are_not_utf8_are_spelled_out(tmp_path, byte_tokenizer):
    data = corpus(tmp_path, {"a.txt": TEXT})
    (tmp_path / "texts" / os.fsdecode(b"caf\xe9.txt")).write_bytes(TEXT)
    assert set(read(data)) == {"a.txt", r"caf\xe9.txt"}
    assert pack(data, "train", 8, byte_tokenizer).num_documents == 2
    (tmp_path / "texts" / r"caf\xe9.txt").write_bytes(TEXT)
    with pytest.raises(UserError, match="have names that only differ in how they are encoded"):
        read(data)
    (tmp_path / "texts" / r"caf\xe9.txt").unlink()
    (tmp_path / "texts" / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"\xe9")
    with pytest.raises(UserError, match=r"caf\\xe9\.txt is not UTF-8") as raised:
        read(data)
    str(raised.value).encode()  # what cannot be printed would be a traceback


def lines(*rows):
    return b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"text": "cut o', "line 2 is not JSON: ."),
        (b'{"text": "caf\xe9"}', "line 2 is not JSON: 'utf-8' codec can't decode byte 0xe9"),
        (b"[1, 2]", "line 2 is no JSON object but list"),
        ({"body": "x", "url": "y"}, "line 2 has no field 'text'; it has: body, url; name one: jsonl:GLOB#FIELD"),
        ({"text": None}, "line 2: field 'text' is no text but null"),
        ({"text": 3}, "line 2: field 'text' is no text but 3"),
        (b'{"text": "\\ud800"}', "line 2: field 'text' has half a character"),
    ],
)
def test_a_row_of_json_that_is_no_text_is_named(tmp_path, row, message):
    data = corpus(tmp_path, {"a.jsonl": lines({"text": "good"}, row)}, "jsonl")
    with pytest.raises(UserError, match=rf"a\.jsonl {message}") as raised:
        read(data)
    assert "\n" not in str(raised.value)


def test_other_formats_are_told_from_lines_of_json(tmp_path):
    with pytest.raises(UserError, match=r"is gzip, not text: name it .*a\.jsonl\.gz"):
        read(corpus(tmp_path, {"a.jsonl": gzip.compress(lines({"text": "x"}))}, "jsonl"))


def test_blank_lines_and_empty_texts_are_counted(tmp_path):
    data = corpus(tmp_path, {"a.jsonl": lines({"text": "one"}, b"", {"text": ""}, {"text": "two"})}, "jsonl")
    everything = DataConfig(corpus=data.corpus, splits=("[:100%]",) * 3)
    documents = load_documents(everything, "train")
    assert [(d.name, d.text) for d in documents] == [("a.jsonl#1", "one"), ("a.jsonl#4", "two")]
    assert (documents.contents.num_documents, documents.contents.num_empty) == (2, 2)
