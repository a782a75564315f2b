"""`jsonl:GLOB#FIELD`: one JSON object a line, one document a line, named FILE#LINE."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmarch.config import DataConfig
from lmarch.data.documents import Document, Source, Split
from lmarch.data.files import find, reading, shown
from lmarch.data.parts import Part, part_of
from lmarch.errors import UserError


def read_json_lines(data: DataConfig, pattern: str, split: Split) -> Source:
    """The lines of one split, by the hash of their names; `data.text_field` holds the text.

    Raises:
      UserError: nothing matches; when they are read: a line that is not JSON or has no text in that field.
    """
    files, part = find("jsonl", pattern, data.folder), part_of(data, split)
    return Source(lambda: _documents(files, data.text_field, part), tuple(files.values()))


def _documents(files: dict[str, Path], field: str, part: Part) -> Iterator[Document]:
    for file, path in files.items():
        with reading(path) as lines:
            for number, line in enumerate(lines, 1):
                name = f"{file}#{number}"
                if part.holds(name):
                    yield Document(name, _text(line, field, f"{shown(path)} line {number}"))


def _text(line: bytes, field: str, where: str) -> str:
    """The text of a line; a blank one has none."""
    if line.isspace():
        return ""
    try:
        row: Any = json.loads(line)
    except ValueError as error:  # UnicodeDecodeError is one too
        raise UserError(f"{where} is not JSON: {error}; mend or remove it") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object but {type(row).__name__}: write {{{field!r}: ...}}")
    if field not in row:
        raise UserError(f"{where} has no field {field!r}; it has: {', '.join(row)}; name one: jsonl:GLOB#FIELD")
    text = row[field]
    if not isinstance(text, str):
        raise UserError(
            f"{where}: field {field!r} is no text but {json.dumps(text)[:40]}; name another: jsonl:GLOB#FIELD"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: field {field!r} has half a character ({error.reason}); mend or remove it") from error
    return text
