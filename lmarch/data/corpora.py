"""Text by name: `load_documents(config.data, "train")`."""

import dataclasses
from collections.abc import Callable, Iterator

from lmarch.config import DataConfig
from lmarch.data.corpus_mixtures import KIND, ingredients_of
from lmarch.data.documents import SPLITS, Document, Documents, Source, Split
from lmarch.data.json_lines import read_json_lines
from lmarch.data.kept_folders import cache_folder, caching
from lmarch.data.text_files import read_text_files
from lmarch.errors import UserError, nearest


def load_documents(data: DataConfig, split: Split) -> Documents:
    """The documents of one split of `data.corpus`, which are read when they are gone through.

    A corpus that comes with lmarch is prepared under `data.cache_dir` the first time.

    Raises:
      UserError: an unknown corpus or split, text that cannot be read, a split without text, a full cache disk.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; {nearest(split, SPLITS)}")
    source = _source(data, split)
    documents = Documents(data.corpus, split, source, source.files, source.remarks)
    if next(iter(documents), None) is None:
        raise UserError(f"config.data.corpus={data.corpus!r} has no text in its {split} split: it needs more text")
    return documents


def _source(data: DataConfig, split: Split) -> Source:
    kind, _, argument = data.corpus.partition(":")
    for spelling, read in _READERS.items():
        name, _, parameter = spelling.partition(":")
        if name == kind and bool(parameter) == bool(argument):
            if "#" in parameter and "#" in argument:
                argument, _, field = argument.rpartition("#")
                data = dataclasses.replace(data, text_field=field)
            return read(data, argument, split)
    raise UserError(f"unknown config.data.corpus={data.corpus!r}; {nearest(data.corpus, _READERS)}")


def _read_mixture(data: DataConfig, _argument: str, split: Split) -> Source:
    """The documents of each corpus, once, and named after it."""
    corpora = [one.corpus for one in ingredients_of(data.corpus)]
    parts = [load_documents(dataclasses.replace(data, corpus=corpus), split) for corpus in corpora]

    def read() -> Iterator[Document]:
        for part in parts:
            yield from (Document(f"{part.corpus}/{one.name}", one.text) for one in part.source)

    return Source(read)


def _read_own(data: DataConfig, _argument: str, split: Split) -> Source:
    from lmarch.data import builders, prepared  # only here: importing TFDS takes seconds

    builder = {"sotu": builders.Sotu, "python-stdlib": builders.PythonStdlib}[data.corpus]
    folder = cache_folder(data, "tfds")
    with caching(folder):
        made = prepared.prepare(lambda: builder(data_dir=folder, file_format=prepared.FILE_FORMAT))
    return prepared.read(made, split, text_field="text", name_field="name")


def _read_standard_set(data: DataConfig, name: str, split: Split) -> Source:
    from lmarch.data import prepared  # only here: importing TFDS takes seconds

    return prepared.read_standard_set(data, name, split)


def _read_parquet(data: DataConfig, pattern: str, split: Split) -> Source:
    from lmarch.data import tables  # only here: text files need no Arrow

    return tables.read_parquet(data, pattern, split)


def _read_saved_set(data: DataConfig, folder: str, split: Split) -> Source:
    from lmarch.data import tables  # only here: text files need no Arrow

    return tables.read_saved_set(data, folder, split)


_READERS: dict[str, Callable[[DataConfig, str, Split], Source]] = {
    "sotu": _read_own,
    "python-stdlib": _read_own,
    "text:GLOB": read_text_files,
    "jsonl:GLOB#FIELD": read_json_lines,
    "parquet:GLOB#COLUMN": _read_parquet,
    "hf:FOLDER#COLUMN": _read_saved_set,
    "tfds:NAME#FEATURE": _read_standard_set,
    f"{KIND}WEIGHT CORPUS + WEIGHT CORPUS": _read_mixture,
}
