"""Corpora whose documents are rows: lines of JSON, Parquet, data sets that `datasets` saved on disk."""

import dataclasses
import gzip
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import ipc, parquet

from lmarch.config import DataConfig
from lmarch.data.corpora import load_documents
from lmarch.data.documents import SPLITS
from lmarch.errors import UserError

TEXTS = [f"text {n} · {'x' * (n % 7)}" for n in range(400)]


def jsonl(folder, texts, field="text"):
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(texts)))
    return f"jsonl:{folder}/*.jsonl"


def jsonl_gz(folder, texts, field="text"):
    jsonl(folder, texts, field)
    plain = folder / "a.jsonl"
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return f"jsonl:{folder}/*.gz"


def jsonl_zst(folder, texts, field="text"):
    jsonl(folder, texts, field)
    plain = folder / "a.jsonl"
    packed = pyarrow.Codec("zstd").compress(plain.read_bytes(), asbytes=True)
    (folder / "a.jsonl.zst").write_bytes(packed)
    plain.unlink()
    return f"jsonl:{folder}/*.zst"


def parquet_file(folder, texts, field="text"):
    table = pyarrow.table({"id": range(len(texts)), field: texts})
    parquet.write_table(table, folder / "a.parquet", row_group_size=150)
    return f"parquet:{folder}/*.parquet"


def save_to_disk(folder, texts, field="text", files=2):
    """The layout that `Dataset.save_to_disk` of `datasets` writes: Arrow streams, and a list of them."""
    folder.mkdir(exist_ok=True)
    names = [f"data-{n:05}-of-{files:05}.arrow" for n in range(files)]
    for name, part in zip(names, np.array_split(np.array(texts, object), files), strict=True):
        table = pyarrow.table({field: pyarrow.array(part.tolist(), pyarrow.string())})
        with ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=70)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    return f"hf:{folder}"


KINDS = [jsonl, jsonl_gz, jsonl_zst, parquet_file, save_to_disk]


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_a_document_of_one_split(tmp_path, kind):
    data = DataConfig(corpus=kind(tmp_path, TEXTS))
    splits = {split: list(load_documents(data, split)) for split in SPLITS}
    assert sorted(d.text for documents in splits.values() for d in documents) == sorted(TEXTS)
    assert [len(splits[split]) / 400 for split in SPLITS] == [pytest.approx(p, abs=0.04) for p in (0.9, 0.05, 0.05)]
    assert len({d.name for documents in splits.values() for d in documents}) == 400
    first = int(splits["train"][0].name.rpartition("#")[2])
    assert splits["train"][0].text == TEXTS[first - 1]  # rows are counted from 1, as lines are


@pytest.mark.parametrize("kind", [jsonl, parquet_file, save_to_disk])
def test_no_row_changes_its_split_when_others_are_added(tmp_path, kind):
    before, after = (
        {d.text: split for split in SPLITS for d in load_documents(DataConfig(corpus=kind(tmp_path, texts)), split)}
        for texts in (TEXTS, [*TEXTS, *(f"new {n}" for n in range(300))])
    )
    assert before == {text: split for text, split in after.items() if text in before}


@pytest.mark.parametrize("kind", [jsonl, parquet_file, save_to_disk])
def test_the_field_is_named_by_the_corpus_or_the_config(tmp_path, kind):
    corpus = kind(tmp_path, TEXTS, "body")
    by_corpus = load_documents(DataConfig(corpus=f"{corpus}#body"), "train")
    by_config = load_documents(DataConfig(corpus=corpus, text_field="body"), "train")
    assert by_corpus.fingerprint == by_config.fingerprint
    with pytest.raises(UserError, match=r"'text'; it has: .*body"):
        load_documents(DataConfig(corpus=corpus), "train")


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_read_when_they_are_gone_through(tmp_path, kind):
    documents = load_documents(DataConfig(corpus=kind(tmp_path, TEXTS)), "train")
    assert [d.name for d in documents] == [d.name for d in documents]  # twice: each time from the beginning
    assert documents.contents.num_documents == len(documents)


def test_a_row_of_a_table_without_text_is_named(tmp_path):
    corpus = parquet_file(tmp_path, [*TEXTS[:200], None, *TEXTS[200:]])
    with pytest.raises(UserError, match=r"a\.parquet row a\.parquet#201: column 'text' is null"):
        [list(load_documents(DataConfig(corpus=corpus), split)) for split in SPLITS]
    with pytest.raises(UserError, match=r"no column of text 'id'; it has: id \(int64\), text \(string\)"):
        load_documents(DataConfig(corpus=f"{corpus}#id"), "train")


@pytest.mark.parametrize("kind", [parquet_file, save_to_disk])
def test_a_damaged_table_is_named(tmp_path, kind):
    corpus = kind(tmp_path, TEXTS)
    file = next(path for path in sorted(tmp_path.iterdir()) if path.suffix in (".parquet", ".arrow"))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match=rf"cannot read .*{file.name}: ."):
        list(load_documents(DataConfig(corpus=corpus), "train"))


def test_a_saved_dict_has_splits_of_its_own_or_is_cut(tmp_path):
    sets = {"train": TEXTS[:300], "test": TEXTS[300:]}
    for name, texts in sets.items():
        save_to_disk(tmp_path / name, texts)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": list(sets)}))
    data = DataConfig(corpus=f"hf:{tmp_path}")
    assert [d.text for d in load_documents(data, "test")] == TEXTS[300:]
    with pytest.raises(
        UserError,
        match=r"no set 'validation'.*it has: train, test: .*data\.splits=train\[10%:\],train\[5%:10%\],train\[:5%\]",
    ):
        load_documents(data, "validation")
    cut = dataclasses.replace(data, splits=("train[20%:]", "train[:20%]", "test"))
    parts = [{d.text for d in load_documents(cut, split)} for split in SPLITS]
    assert parts[0] | parts[1] == set(TEXTS[:300])
    assert not parts[0] & parts[1]
    assert len(parts[1]) == pytest.approx(60, abs=20)


def test_a_folder_that_datasets_did_not_write_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*state\.json.*a folder that save_to_disk"):
        load_documents(DataConfig(corpus=f"hf:{tmp_path}"), "train")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        load_documents(DataConfig(corpus=f"hf:{tmp_path}"), "train")
