"""TFDS without TensorFlow and without noise: prepare a set once, as array_record files, and read it."""

import contextlib
import difflib
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from lmarch.config import DataConfig
from lmarch.data.documents import SPLITS, Document, Source, Split
from lmarch.errors import UserError

FILE_FORMAT = "array_record"  # the only one that can be read in any order without TensorFlow and loses nothing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, no prints and no warnings about custom configurations from TFDS."""
    tfds.disable_progress_bar()
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.setLevel(level)


@_quiet()
def prepare(make_builder: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder:
    """A builder whose files are there, made now if they were not. Processes may do this side by side.

    Raises:
      OSError: the files cannot be written.
    """
    try:
        make_builder().download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except (OSError, RuntimeError) as error:  # the second is what array_record raises when the disk is full
        # TFDS renames a finished folder into place: the slower of two processes fails, but finds it there.
        if not make_builder().is_prepared():
            raise OSError(str(error)) from error
    return make_builder()


def read(builder: tfds.core.DatasetBuilder, split: str, text_field: str, name_field: str | None = None) -> Source:
    """The documents of a prepared set, in stored order; named by their index if no feature names them.

    Args:
      split: one of the set's, or a slice of one: `train[:98%]`.

    Raises:
      UserError: when they are read: a text that is not UTF-8, files that are damaged.
    """

    def documents() -> Iterator[Document]:
        for index, example in enumerate(builder.as_data_source(split)):
            name = example[name_field].decode() if name_field else str(index)
            try:
                yield Document(name, example[text_field].decode())
            except UnicodeDecodeError as error:
                raise UserError(
                    f"tfds:{builder.info.full_name} {split} row {index}: {text_field!r} is not UTF-8 at byte {error.start}; "
                    "prepare the set again without that row, or choose rows with --config.data.splits"
                ) from error

    files = tuple(sorted(path for path in Path(builder.data_dir).iterdir() if path.is_file()))
    remark = (builder.info.metadata or {}).get("remark")
    return Source(documents, files, () if remark is None else (remark,))


@_quiet()
def read_standard_set(data: DataConfig, name: str, split: Split) -> Source:
    """`tfds:NAME[/CONFIG][#FEATURE]`: a set prepared in TFDS's own folder, or with `data.download` one to prepare there.

    Raises:
      UserError: an unknown set, one that is not prepared, in another file format, without this split or text feature.
    """
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    builder = _standard_builder(name, folder)
    if not builder.is_prepared():
        if not data.download:
            raise UserError(
                f"tfds:{name} is not prepared in {folder} and would need a download: allow it with "
                "--config.data.download=true, or set TFDS_DATA_DIR to the folder that holds it"
            )
        builder = _download(name, folder)
    part = split if data.splits is None else data.splits[SPLITS.index(split)]
    _check(builder, name, part, data.text_field)
    return read(builder, part, data.text_field)


def _standard_builder(name: str, folder: Path, **options: str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=folder, **options)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.partition("/")[0], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"TFDS knows {len(known)} others"
        raise UserError(f"no set tfds:{name} is known or prepared in {folder}; {hint}") from error
    except Exception as error:  # an unknown config, a set whose code needs TensorFlow ...
        raise UserError(f"tfds:{name} in {folder} cannot be used: {_first_line(error)}") from error


def _download(name: str, folder: Path) -> tfds.core.DatasetBuilder:
    downloader.MAX_RETRIES = 0  # without a network the ten default ones take minutes to say so
    try:
        return prepare(lambda: _standard_builder(name, folder, file_format=FILE_FORMAT))
    except Exception as error:  # the network, the disk, a checksum, a package the set's own code wants
        raise UserError(f"tfds:{name} could not be prepared in {folder}: {_first_line(error)}") from error


def _check(builder: tfds.core.DatasetBuilder, name: str, split: str, text_field: str) -> None:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if FILE_FORMAT not in formats:
        raise UserError(
            f"tfds:{name} is prepared as {', '.join(sorted(formats))} in {builder.data_dir}, which only TensorFlow can "
            f"read: prepare it again with file_format={FILE_FORMAT!r}"
        )
    try:
        builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"tfds:{name} has no split {split!r}; it has: {', '.join(builder.info.splits)}: say what is for training, "
            "validation and testing, such as --config.data.splits=train[:98%],train[98%:99%],train[99%:]"
        ) from error
    features = dict(builder.info.features.items())
    if not isinstance(features.get(text_field), tfds.features.Text):
        listed = ", ".join(f"{field} ({type(feature).__name__})" for field, feature in features.items())
        raise UserError(f"config.data.text_field={text_field!r} is no Text feature of tfds:{name}; it has: {listed}")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
