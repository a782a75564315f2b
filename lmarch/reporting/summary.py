"""The results as one nested JSON object: task -> metric -> method -> length -> value, low, high, n."""

from collections.abc import Sequence
from typing import Any

from lmarch.reporting.results import Row

# Columns of paired rows beside the value, which are metrics of their own here
DIFFERENCES = ("gain", "vs_trained", "crop")


def summary(results: Sequence[Row]) -> dict[str, Any]:
    """As in the rows: shares up to 1; what has no interval has null instead.

    A task that comes several times has its axis or its own name behind a slash, and where a length is not enough to tell rows
    apart the positions, the depth or the layer go with it: `by_position`: `"0-8"`, `by_depth/needle`: `"512 at depth 0.05"`.
    """
    made: dict[str, Any] = {}
    for row in results:
        metrics = made.setdefault(_task(row), {})
        for metric, key, bounds in ((row["metric"], "value", "ci"), *((name, name, name) for name in DIFFERENCES)):
            if row.get(key) is not None:
                ends = {end: row.get(f"{bounds}_{end}") for end in ("low", "high")}
                cells = metrics.setdefault(metric, {}).setdefault(row["method"], {})
                cells[_place(row)] = {"value": row[key], **ends, "n": row["n"]}
    return made


def _task(row: Row) -> str:
    own = row["corpus"] if row["task"] in ("problems", "by_depth") else row.get("axis")
    return f"{row['task']}/{own}" if own else str(row["task"])


def _place(row: Row) -> str:
    if row["task"] == "by_position":
        return f"{row['from_position']}-{row['to_position']}"
    within = [f"{key} {row[key]}" for key in ("depth", "layer") if row.get(key) is not None]
    return " at ".join([str(row["length"]), *within])
