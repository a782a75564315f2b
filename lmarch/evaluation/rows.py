"""Result rows: what a line of `results.jsonl` may hold, how it is written and read.

A row is one number with what it takes to understand it. Fields that do not belong to a number are left out. JSON has no
infinity, so a number that is not finite is `null` in the file, beside `n_nonfinite`, which counts the losses that made it so.
"""

import dataclasses
import glob
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmarch.durable import read_json_lines, write_text
from lmarch.errors import UserError

if TYPE_CHECKING:
    import pandas

Optional = float | None


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """Every field of a row. `low` and `high` are the ends of 95 % intervals."""

    # The number.
    task: str  # the part of the evaluation: paired, far_copies, problems, contrast, ...
    metric: str | None  # bpb, nll, accuracy, exact_match, ...
    value: Optional = None
    ci_low: Optional = None
    ci_high: Optional = None
    crop: Optional = None  # the crop control of the same targets
    crop_low: Optional = None
    crop_high: Optional = None
    gain: Optional = None  # by how much the value is better than the crop control
    gain_low: Optional = None
    gain_high: Optional = None
    vs_trained: Optional = None  # the value minus that of the same method at the trained length
    vs_trained_low: Optional = None
    vs_trained_high: Optional = None
    status: str | None = None  # ok, or oom where memory did not suffice
    n_nonfinite: int = 0  # losses that are not finite; none is dropped
    out_of_design: str | None = None  # what the method is not meant for

    # Of what model, read how.
    run_id: str | None = None  # the fingerprint of its config
    architecture: str | None = None
    objective: str | None = None
    cross_positions: str | None = None
    trained_with: str | None = None  # the position method of training
    position_sampler: str | None = None
    trained_length: int | None = None  # L, in tokens
    checkpoint_step: int | None = None
    averaged_weights: bool | None = None
    dtype: str | None = None
    seed_model: int | None = None
    seed_data: int | None = None
    method: str | None = None  # with every parameter
    label: str | None = None  # as people see it
    factor: Optional = None  # by which the method is stretched
    axis: str | None = None  # the side that the context grows along
    length: int | None = None  # W, in tokens of the window
    given: int | None = None  # of its tokens, how many are given to a prefix or an encoder
    stride: int | None = None  # in tokens, of perplexities
    implementation: str | None = None  # of attention
    tokens_per_second: Optional = None  # in the median batch; compares within one `measured_in` only

    # Of which targets.
    corpus: str | None = None
    split: str | None = None  # validation or test; made: problems
    bos: str | None = None
    manifest_sha: str | None = None
    seed_eval: int | None = None
    n: int | None = None  # documents, or problems: what intervals are over
    low_n: bool | None = None  # fewer than 30 of them
    n_windows: int | None = None
    n_targets: int | None = None
    n_bytes: int | None = None
    targets: int | None = None  # in a window
    tokens: int | None = None  # that a problem's row feeds
    distance: Optional = None  # in tokens, from a problem's answer to where it stands
    depth: Optional = None  # of a needle, as a share of the text
    from_position: int | None = None  # in the window
    to_position: int | None = None
    shared_text: Optional = None  # share of the documents' runs of words that training read; null: not known
    contaminated: bool | None = None
    layer: int | None = None  # of attention statistics
    heads: list[float] | None = None
    part: str | None = None  # that ran out of memory

    # Of lines that are compared in an experiment.
    line: str | None = None
    lines: str | None = None  # models or methods
    group: str | None = None
    reference: str | None = None  # the line that differences are to
    difference: Optional = None  # over training seeds and documents, where there are several seeds
    difference_low: Optional = None
    difference_high: Optional = None
    documents_low: Optional = None  # the interval of the difference over documents alone
    documents_high: Optional = None
    seeds: int | None = None
    seed_differences: list[float] | None = None

    # Where the number is from.
    git_commit: str | None = None  # with +changes:DIGEST where the tree differed
    code: str | None = None  # digest of the code that computes scores
    versions: str | None = None
    device: str | None = None
    measured: str | None = None  # when
    measured_in: str | None = None  # by which process


FIELDS = tuple(field.name for field in dataclasses.fields(ResultRow))


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One line of JSON a row, all of them or none."""
    lines = []
    for row in rows:
        unknown = row.keys() - set(FIELDS)
        assert not unknown, f"not in ResultRow: {', '.join(sorted(unknown))}"
        lines.append(json.dumps(finite(row), allow_nan=False) + "\n")
    write_text(file, "".join(lines))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """As written, `null` for what was not finite."""
    return read_json_lines(file)


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite, which is what JSON can hold."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def results(pattern: str) -> "pandas.DataFrame":
    """A table of all result rows of the evaluations that a pattern names: `lmarch.results("runs/*/eval/cpu")`.

    Args:
      pattern: of folders with a `results.jsonl`, or of folders that hold such folders; `*` and `**` as in a shell.

    Returns:
      A row a number, the fields of `ResultRow` that any of them has, and `folder`.

    Raises:
      UserError: no results there.
    """
    import pandas

    folders = [Path(found) for found in sorted(glob.glob(pattern, recursive=True))]
    files = [file for folder in folders for file in (folder / "results.jsonl", *sorted(folder.glob("*/results.jsonl")))]
    rows = [{"folder": str(file.parent), **row} for file in files if file.is_file() for row in read_rows(file)]
    if not rows:
        raise UserError(f"no results in {pattern!r}: name folders of evaluations, such as runs/*/eval")
    found = {key for row in rows for key in row}
    return pandas.DataFrame(rows, columns=["folder", *(name for name in FIELDS if name in found)])
