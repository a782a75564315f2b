"""The worked row of objectives.md: twelve tokens of text as every kind of objective has a model read them.

python docs/worked_row.py        writes it into objectives.md; a test keeps it equal
"""

from pathlib import Path
from typing import Any

import numpy as np

from lmarch.config import from_dict
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer

DOCUMENT = Path(__file__).with_name("objectives.md")
BEGIN, END = "<!-- python docs/worked_row.py -->\n", "<!-- end -->\n"
TEXT = "^rows$^feed$"  # bos and eos as regular expressions have them
BYTES = load_tokenizer("bytes")
SIGNS = {BYTES.bos: "^", BYTES.eos: "$", BYTES.pad: "_"}

INTRODUCTION = """\
**A worked row.** Two documents, `rows` and `feed`, are twelve tokens: `^` is bos, `$` eos, `_` padding, `.` a target that is
not scored. A row of language modelling has a thirteenth, the first of the next row; here that is of another document, so that
nothing is asked about it. There are no positions: they count from 0 in each segment, which a model does itself, untold.
The last `$` of what `span_corruption` and UL2's R and X make is their own, beside that of the text.
"""


def row(architecture: str, objective: str, **lengths: int) -> str:
    """What the feed makes of the text as the first row of a run whose `data.seed` is 0: a line for each array."""
    model: dict[str, Any] = {"architecture": architecture, "trained_length": 24}
    config = from_dict({"data": {"objective": objective, **lengths}, "model": model, "train": {"steps": 1}})
    plan = make_plan(config)
    text = np.array([{"^": BYTES.bos, "$": BYTES.eos}.get(sign, ord(sign)) for sign in TEXT])
    documents = np.repeat([0, 1], 6)
    if plan.objective.overlapping:
        text, documents = np.append(text, BYTES.bos), np.append(documents, 2)
    batch = plan.feed(BYTES)(text[None], documents[None], 0, [0], sample=False)
    special = [name.replace("extra_id_", "") for name in plan.objective.special_tokens()]
    signs = SIGNS | {BYTES.vocab_size + index: name for index, name in enumerate(special)}
    lines = []
    for name, column in batch._asdict().items():
        if column is not None and column.ndim == 2:
            is_text = "tokens" in name or name == "targets"
            cells = [signs.get(int(x), chr(int(x))) if is_text else f"{x:g}" for x in column[0]]
            if name == "targets":
                cells = [cell if weight else "." for cell, weight in zip(cells, batch.weights[0], strict=True)]
            lines.append(f"  {name:<18}" + "".join(f"{cell:>4}" for cell in cells))
    return f"{objective}, {architecture}\n" + "\n".join(lines) + "\n"


def worked_row() -> str:
    rows = [
        row("causal_decoder", "causal_lm", row_length=12),
        row("prefix_decoder", "prefix_lm", row_length=12),
        row("encoder_decoder", "span_corruption:density=0.3", row_length=14, target_length=10),
        row("encoder_decoder", "ul2", row_length=16, target_length=10),
    ]
    return INTRODUCTION + "\n```\n" + "\n".join(rows) + "```\n"


def document() -> str:
    """objectives.md with the row as it is made now."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + worked_row() + END + rest.split(END)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
