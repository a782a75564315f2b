"""Columns of text: Parquet files, and data sets that Hugging Face's `datasets` saved on disk (Arrow streams)."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow
from pyarrow import ipc, parquet

from lmarch.config import DataConfig
from lmarch.data.documents import Document, Source, Split
from lmarch.data.files import find, shown
from lmarch.data.parts import Part, part_of
from lmarch.errors import UserError

BATCH = 1024  # rows that are read at once


def read_parquet(data: DataConfig, pattern: str, split: Split) -> Source:
    """`parquet:GLOB#COLUMN`: a document a row, named FILE#ROW from 1 on; splits by the hash of that.

    Raises:
      UserError: nothing matches, a file that is no Parquet, without this column of text; when read: a row without text.
    """
    files, part = find("parquet", pattern, data.folder), part_of(data, split)
    for path in files.values():
        with _errors(path):
            _check(parquet.read_schema(path), data.text_field, path)

    def read() -> Iterator[Document]:
        for name, path in files.items():
            with _errors(path), parquet.ParquetFile(path) as file:
                batches = file.iter_batches(BATCH, columns=[data.text_field])
                yield from _documents(batches, data.text_field, name, path, part)

    return Source(read, tuple(files.values()))


def read_saved_set(data: DataConfig, folder: str, split: Split) -> Source:
    """`hf:FOLDER#COLUMN`, what `save_to_disk` wrote: a document a row, named SET#ROW from 1 on (`data#ROW` of a single set).

    A `DatasetDict` has sets, which are the splits of that name unless `data.splits` says otherwise; a single data set has
    splits by the hash of the rows' names.

    Raises:
      UserError: no such folder, no set for this split, no column of text; when read: a row without text.
    """
    top = Path(data.folder or "", Path(folder).expanduser())
    sets = _json(top / "dataset_dict.json")["splits"] if (top / "dataset_dict.json").is_file() else [""]
    part = part_of(data, split, sets)
    state = _json(top / part.set / "state.json")
    if state.get("_indices_data_files"):
        raise UserError(
            f"{top / part.set} has its rows in another order than on disk: save it again after flatten_indices()"
        )
    files = tuple(top / part.set / file["filename"] for file in state["_data_files"])

    def batches() -> Iterator[pyarrow.RecordBatch]:
        for path in files:
            with _errors(path), pyarrow.memory_map(str(path)) as mapped, ipc.open_stream(mapped) as stream:
                _check(stream.schema, data.text_field, path)
                for batch in stream:
                    yield batch.select([data.text_field])

    return Source(lambda: _documents(batches(), data.text_field, part.set or "data", top, part), files)


def _documents(
    batches: Iterable[pyarrow.RecordBatch], column: str, name: str, path: Path, part: Part
) -> Iterator[Document]:
    number = 0
    for batch in batches:
        for value in batch.column(0):
            number += 1
            row = f"{name}#{number}"
            if part.holds(row):
                yield Document(row, _text(value, column, f"{shown(path)} row {row}"))


def _text(value: pyarrow.Scalar, column: str, where: str) -> str:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: column {column!r} is not UTF-8 ({error.reason}); mend or remove the row") from error
    if text is None:
        raise UserError(f"{where}: column {column!r} is null; remove the row, or give it the text ''")
    return text


def _check(schema: pyarrow.Schema, column: str, path: Path) -> None:
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
    kind = schema.field(column).type if column in schema.names else None
    if kind is not None and pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if kind is None or not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise UserError(f"{shown(path)} has no column of text {column!r}; it has: {listed}; name one: CORPUS#COLUMN")


def _json(file: Path) -> dict:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror}; hf:FOLDER is a folder that save_to_disk of `datasets` wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): save the data set again") from error


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"cannot read {shown(path)}: {reason}") from error
