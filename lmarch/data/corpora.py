"""Text by name: `load_documents(config.data, "train")`."""

from collections.abc import Callable, Iterable, Iterator

from lmarch.config import DataConfig
from lmarch.data import text_files
from lmarch.data.cache import cache_folder, writing
from lmarch.data.documents import SPLITS, Document, Documents, Split
from lmarch.errors import UserError, nearest


def load_documents(data: DataConfig, split: Split) -> Documents:
    """The documents of one split of `data.corpus`, all in memory.

    A corpus that comes with lmarch is prepared under `data.cache_dir` the first time.

    Raises:
      UserError: an unknown corpus or split, text that cannot be read, a split without text, a full cache disk.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; {nearest(split, SPLITS)}")
    kind, _, argument = data.corpus.partition(":")
    for spelling, read in _READERS.items():
        name, _, parameter = spelling.partition(":")
        if name == kind and bool(parameter) == bool(argument):
            documents = Documents(data.corpus, split, tuple(read(data, argument, split)))
            break
    else:
        raise UserError(f"unknown config.data.corpus={data.corpus!r}; {nearest(data.corpus, _READERS)}")
    if not documents:
        raise UserError(f"config.data.corpus={data.corpus!r} has no text in its {split} split: it needs more text")
    return documents


# TFDS is imported by those that read with it: it takes seconds, and text files need none of it.


def _read_own(data: DataConfig, _argument: str, split: Split) -> Iterator[Document]:
    from lmarch.data import builders, prepared

    builder = {"sotu": builders.Sotu, "python-stdlib": builders.PythonStdlib}[data.corpus]
    folder = cache_folder(data, "tfds")
    with writing(folder):
        made = prepared.prepare(lambda: builder(data_dir=folder, file_format=prepared.FILE_FORMAT))
    return prepared.read(made, split, text_field="text", name_field="name")


def _read_standard_set(data: DataConfig, name: str, split: Split) -> Iterator[Document]:
    from lmarch.data import prepared

    return prepared.read_standard_set(data, name, split)


_READERS: dict[str, Callable[[DataConfig, str, Split], Iterable[Document]]] = {
    "sotu": _read_own,
    "python-stdlib": _read_own,
    "text:GLOB": text_files.read_files,
    "tfds:NAME": _read_standard_set,
}
