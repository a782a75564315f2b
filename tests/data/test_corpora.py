import dataclasses
import subprocess
import sys
import sysconfig
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lmarch.config import DataConfig
from lmarch.data.builders import PythonStdlib, Sotu
from lmarch.data.corpora import load_documents
from lmarch.data.documents import SPLITS, Document, Documents
from lmarch.data.packing import pack
from lmarch.errors import UserError


def names(documents):
    return [document.name for document in documents]


def texts(documents):
    return [document.text for document in documents]


def write_files(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return DataConfig(corpus=f"text:{folder}/*")


# The State of the Union addresses.


def test_sotu_splits_hold_every_address_once(sotu):
    splits = {split: load_documents(sotu, split) for split in SPLITS}
    assert {split: len(documents) for split, documents in splits.items()} == {
        "train": 129,
        "validation": 48,
        "test": 72,
    }
    everything = [name for documents in splits.values() for name in names(documents)]
    assert len(everything) == len(set(everything)) == 249
    assert all(document.text for documents in splits.values() for document in documents)


def test_sotu_is_split_by_year_with_the_repeated_addresses_all_in_train(sotu):
    years = {split: {int(name[:4]) for name in names(load_documents(sotu, split))} for split in SPLITS}
    assert {year % 10 for year in years["test"]} == {2, 6, 8}
    assert {year % 10 for year in years["validation"]} == {0, 5}
    assert {1978, 1979, 1980, 1981} <= years["train"]
    assert "1819-Monroe-1" in names(load_documents(sotu, "train"))


def test_sotu_is_prepared_once(sotu, monkeypatch):
    before = load_documents(sotu, "test")
    monkeypatch.setattr(Sotu, "dealt", lambda self: pytest.fail("prepared again"))
    assert load_documents(sotu, "test").fingerprint == before.fingerprint


def test_several_processes_may_prepare_at_once(tmp_path):
    code = (
        "from lmarch.config import DataConfig; from lmarch.data.corpora import load_documents;"
        f"print(load_documents(DataConfig(cache_dir={str(tmp_path)!r}), 'test').fingerprint)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0] == results[1]  # the same fingerprint, and nothing else: no bars, no warnings


def test_importing_and_reading_brings_in_no_other_framework(sotu):
    code = (
        "import sys; import lmarch.data.loader; from lmarch.config import DataConfig;"
        "from lmarch.data.corpora import load_documents;"
        f"load_documents(DataConfig(cache_dir={sotu.cache_dir!r}), 'test');"
        "print(*{'tensorflow', 'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_text_files_are_read_without_tfds(tmp_path):
    data = write_files(tmp_path / "texts", {f"{n}.txt": "text " * 100 for n in range(3)})
    code = (
        "import sys; import lmarch.training.loop; from lmarch.config import DataConfig;"
        "from lmarch.data.corpora import load_documents;"
        f"load_documents(DataConfig(corpus={data.corpus!r}), 'train');"
        "print(*{'tensorflow_datasets', 'tensorboardX'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache.* cannot be written .*--config\.data\.cache_dir"):
        load_documents(DataConfig(cache_dir=str(tmp_path / "file" / "cache")), "test")


def test_a_full_disk_is_named_and_nothing_half_made_is_read_later(tmp_path, full_disk):
    data = DataConfig(cache_dir=str(tmp_path))
    with pytest.raises(UserError, match=rf"{tmp_path}/tfds cannot be written .*--config\.data\.cache_dir"), full_disk():
        load_documents(data, "test")
    assert len(load_documents(data, "test")) == 72


# The interpreter's sources.


def test_python_stdlib_is_the_library_without_installed_packages(tmp_path, monkeypatch, byte_tokenizer):
    library = tmp_path / "lib"
    (library / "site-packages").mkdir(parents=True)
    (library / "json").mkdir()
    sources = {f"module{n}.py": f"value = {n}\r\n" for n in range(80)}
    sources |= {"json/decoder.py": "# é\n", "site-packages/other.py": "no", "notes.txt": "no", "empty.py": ""}
    for name, text in sources.items():
        (library / name).write_bytes(text.encode())
    (library / "latin.py").write_bytes(b"# \xe9\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    data = DataConfig(corpus="python-stdlib", cache_dir=str(tmp_path / "cache"))
    splits = {split: load_documents(data, split) for split in SPLITS}
    found = {document.name: document.text for documents in splits.values() for document in documents}
    assert found == {name: text for name, text in sources.items() if text not in ("no", "")}
    rows = pack(data, "train", 64, byte_tokenizer)
    assert rows.remarks == ("python-stdlib: of the library's files these are left out: 1 empty, 1 not UTF-8",)
    assert pack(data, "train", 64, byte_tokenizer).remarks == rows.remarks  # also where it was prepared before


def test_python_stdlib_is_split_by_name_about_80_10_10():
    splits = [PythonStdlib.split_of(f"package/module{n}.py") for n in range(4000)]
    assert {split: round(splits.count(split) / 4000, 2) for split in SPLITS} == {
        "train": pytest.approx(0.8, abs=0.02),
        "validation": pytest.approx(0.1, abs=0.01),
        "test": pytest.approx(0.1, abs=0.01),
    }


def test_files_that_say_again_what_others_say_are_all_for_training(tmp_path, monkeypatch):
    """3.2 % of what python-stdlib was tested with stood in its training text."""
    rng, library = np.random.default_rng(0), tmp_path / "lib"
    library.mkdir()
    names = [f"m{n}.py" for n in range(200)]
    held_out = [name for name in names if PythonStdlib.split_of(name) != "train"]

    def text() -> str:
        return "\n".join(f"a{n} = b{n}" for n in rng.integers(0, 10_000, 60)) + "\n"

    texts = {name: text() for name in names}
    copy, partly, apart = held_out[:3]
    texts[copy] = texts["m0.py"]
    texts[partly] += texts["m1.py"][: len(texts["m1.py"]) // 4]  # a fifth of it
    for name, written in texts.items():
        (library / name).write_text(written)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    data = DataConfig(corpus="python-stdlib", cache_dir=str(tmp_path / "cache"))
    splits = {d.name: split for split in SPLITS for d in load_documents(data, split)}
    assert (splits[copy], splits[partly]) == ("train", "train")
    assert splits[apart] == PythonStdlib.split_of(apart)
    assert {splits[name] for name in held_out[3:]} == {"validation", "test"}


# The user's own files.


@pytest.mark.parametrize("files", [20, 21, 200])
def test_many_files_are_dealt_whole_and_no_split_is_empty(tmp_path, files):
    data = write_files(tmp_path / "text", {f"{n}.txt": f"document {n}" for n in range(files)})
    splits = {split: load_documents(data, split) for split in SPLITS}
    assert all(1 <= len(splits[split]) <= 0.1 * files for split in ("validation", "test"))
    assert sorted(texts([d for documents in splits.values() for d in documents])) == sorted(
        f"document {n}" for n in range(files)
    )


def test_no_file_is_held_out_that_was_trained_on_before_the_corpus_grew(tmp_path):
    """Dealing by rank moved files from training to testing whenever one was added; a held-out file may go to training."""
    numbers = np.random.default_rng(5).permutation(400)
    trained: set[str] = set()
    for count in range(20, 75, 5):
        data = write_files(tmp_path / "text", {f"{n}.txt": "text" for n in numbers[:count]})
        splits = {split: set(names(load_documents(data, split))) for split in SPLITS}
        assert not trained & (splits["validation"] | splits["test"]), count
        assert all(splits.values())
        trained = splits["train"]


def test_files_are_dealt_as_data_splits_says(tmp_path):
    data = write_files(tmp_path / "text", {f"{n}.txt": "text" for n in range(200)})
    splits = dataclasses.replace(data, splits=("[50%:]", "[:40%]", "[40%:50%]"))
    counts = [len(load_documents(splits, split)) for split in SPLITS]
    assert sum(counts) == 200
    assert counts == [pytest.approx(100, abs=20), pytest.approx(80, abs=20), pytest.approx(20, abs=12)]
    for wrong, message in (
        ("train[:50%]", "no set 'train' for its train split; write what part of it"),
        ("[50:]", "is not of the form"),
        ("[5.0.1%:]", "is not of the form"),
        ("[50%:20%]", "holds nothing"),
    ):
        with pytest.raises(UserError, match=message):
            load_documents(dataclasses.replace(data, splits=(wrong, "[:1%]", "[1%:2%]")), "train")


def test_few_files_are_each_cut_at_line_breaks(tmp_path):
    contents = {f"{n}.txt": "".join(f"line {line} of {n}\r\n" for line in range(1000)) for n in range(3)}
    data = write_files(tmp_path / "text", contents)
    splits = {split: load_documents(data, split) for split in SPLITS}
    for n, whole in enumerate(contents.values()):
        parts = [splits[split][n].text for split in SPLITS]
        assert "".join(parts) == whole
        assert all(part.endswith("\n") for part in parts)
        shares = [len(part) / len(whole) for part in parts]
        assert shares == [pytest.approx(0.9, abs=0.02), pytest.approx(0.05, abs=0.02), pytest.approx(0.05, abs=0.02)]


def test_a_file_of_one_line_is_cut_between_characters(tmp_path):
    data = write_files(tmp_path / "text", {"a.txt": "é" * 100})
    assert [len(load_documents(data, split)[0].text) for split in SPLITS] == [90, 5, 5]


def test_too_little_text_for_a_split_is_an_error(tmp_path):
    data = write_files(tmp_path / "text", {"a.txt": "abc"})
    with pytest.raises(UserError, match=r"no text in its validation split"):
        load_documents(data, "validation")


def test_names_do_not_depend_on_where_the_files_lie(tmp_path, monkeypatch):
    for place in ("here", "there"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub" / "a.txt").write_text("text\n" * 50)
    here, there = (
        load_documents(DataConfig(corpus=f"text:{tmp_path}/{p}/**/*.txt"), "train") for p in ("here", "there")
    )
    monkeypatch.chdir(tmp_path / "here")
    relative = load_documents(DataConfig(corpus="text:**/*.txt"), "train")
    single = load_documents(DataConfig(corpus="text:sub/a.txt"), "train")
    assert names(here) == names(there) == names(relative) == ["sub/a.txt"]
    assert here.fingerprint == there.fingerprint == relative.fingerprint
    assert names(single) == ["a.txt"]


def test_a_glob_without_files_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"no file matches text:books/\*\.md in {tmp_path}"):
        load_documents(DataConfig(corpus="text:books/*.md"), "train")


# Prepared TFDS sets.


class LmarchTiny(tfds.core.GeneratorBasedBuilder):
    """A set as anyone may have it: two splits, a text feature that is not called text."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"body": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=3)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(7), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for n in range(count):
            yield n, {"body": f"héllo\x00 {n}\r\n", "label": n % 3}


@pytest.fixture
def tiny_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    LmarchTiny(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return DataConfig(corpus="tfds:lmarch_tiny", text_field="body")


def test_a_prepared_set_is_read_by_name(tiny_set):
    assert sorted(texts(load_documents(tiny_set, "train"))) == [f"héllo\x00 {n}\r\n" for n in range(7)]
    assert len(load_documents(tiny_set, "test")) == 3


def test_a_missing_split_lists_those_there_are(tiny_set):
    with pytest.raises(UserError, match=r"no split 'validation'; it has: .*(train, test|test, train)"):
        load_documents(tiny_set, "validation")


def test_a_set_without_three_splits_is_cut_into_them(tiny_set):
    """`c4` has no test split, `wikipedia` a single one."""
    cut = dataclasses.replace(tiny_set, splits=("train[:3]", "train[3:5]", "train[5:]"))
    parts = [texts(load_documents(cut, split)) for split in SPLITS]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(text for part in parts for text in part) == sorted(texts(load_documents(tiny_set, "train")))
    with pytest.raises(UserError, match=r"has no split 'trian'; it has: .*: say what is for training"):
        load_documents(dataclasses.replace(tiny_set, splits=("trian", "train[3:5]", "test")), "train")
    for corpus, splits, message in (
        ("tfds:lmarch_tiny", ("train",), "must be three: training, validation, testing"),
        ("sotu", ("a", "b", "c"), "is of other corpora: 'sotu' has its own"),
    ):
        with pytest.raises(UserError, match=f"config.data.splits.*{message}"):
            DataConfig(corpus=corpus, splits=splits)


def test_the_corpus_may_name_the_feature(tiny_set):
    by_corpus = load_documents(DataConfig(corpus="tfds:lmarch_tiny#body"), "train")
    assert by_corpus.fingerprint == load_documents(tiny_set, "train").fingerprint


def test_a_text_of_a_set_that_is_not_utf8_is_named_with_its_row(tiny_set, monkeypatch):
    rows = [{"body": b"good"}, {"body": b"caf\xe9"}]
    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", lambda self, split: rows)
    with pytest.raises(UserError, match=r"tfds:lmarch_tiny/1\.0\.0 train row 1: 'body' is not UTF-8 at byte 3"):
        list(load_documents(tiny_set, "train"))


@pytest.mark.parametrize("field", ["text", "label"])
def test_a_field_without_text_lists_the_features(tiny_set, field):
    data = DataConfig(corpus=tiny_set.corpus, text_field=field)
    with pytest.raises(UserError, match=rf"text_field='{field}'.*body \(Text\), label \(ClassLabel\)"):
        load_documents(data, "train")


def test_a_set_prepared_in_another_format_is_refused(tiny_set, tmp_path):
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"tfds:lmarch_tiny.*tfrecord"):
        load_documents(tiny_set, "train")


def test_download_prepares_a_set_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = DataConfig(corpus="tfds:lmarch_tiny", text_field="body", download=True)
    assert len(load_documents(data, "train")) == 7


def test_a_set_that_needs_a_download_says_so_at_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"imdb_reviews is not prepared.*--config\.data\.download=true"):
        load_documents(DataConfig(corpus="tfds:imdb_reviews"), "train")
    assert time.perf_counter() - began < 5
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("corpus", "message"),
    [("tfds:imdb_revews", "did you mean 'imdb_reviews'"), ("tfds:imdb_reviews/nosuch", "nosuch"), ("tfds:a b", "a b")],
)
def test_unknown_sets_are_named(tmp_path, monkeypatch, corpus, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=message):
        load_documents(DataConfig(corpus=corpus), "train")


# Names, and what documents are.


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("sotuu", "did you mean 'sotu'"),
        ("python_stdlib", "did you mean 'python-stdlib'"),
        ("text:", "did you mean 'text:GLOB'"),
        ("sotu:train", "did you mean 'sotu'"),
        ("books/a.txt", "known: hf:FOLDER#COLUMN, jsonl:GLOB#FIELD, mixture:.*, python-stdlib, sotu, text:GLOB"),
    ],
)
def test_unknown_corpora_name_the_nearest(corpus, message):
    with pytest.raises(UserError, match=f"{corpus}.*{message}"):
        load_documents(DataConfig(corpus=corpus), "train")


def test_unknown_splits_name_the_nearest(sotu):
    with pytest.raises(UserError, match="did you mean 'validation'"):
        load_documents(sotu, "valid")


def test_documents_are_a_sequence_whose_fingerprint_covers_names_and_text():
    def fingerprint(*pairs):
        return Documents("c", "train", tuple(Document(*pair) for pair in pairs)).fingerprint

    documents = Documents("c", "train", (Document("a", "x"), Document("b", "y")))
    assert names(documents) == ["a", "b"]
    assert names(documents[1:]) == ["b"]
    variants = [
        fingerprint(("a", "x"), ("b", "y")),
        fingerprint(("b", "y"), ("a", "x")),
        fingerprint(("a", "x"), ("b", "z")),
        fingerprint(("a", "x"), ("c", "y")),
        fingerprint(("a", "xb"), ("", "y")),
        fingerprint(("a", "xby")),
    ]
    assert documents.fingerprint == variants[0]
    assert len(set(variants)) == len(variants)
