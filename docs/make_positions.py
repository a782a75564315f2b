"""Writes docs/positions.md from the registries: `python docs/make_positions.py`. A test keeps the two equal."""

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmarch.positions import POSITIONS, SAMPLERS, TEMPERATURES
from lmarch.visibility import WINDOWS

INTRODUCTION = """\
# Position methods

Made by `python docs/make_positions.py` from the registries; do not edit by hand.

RoPE turns channel pair i of a query and a key by the angle f(t, i) = g(t)·h(i), so that a logit depends on their distance.
t, s are the positions of query and key, d = t − s, δ the effective distance a pair is turned by; K the head size, b the
base, θ_i = b^(−2i/K), H heads; L the trained length, L′ the target length. *Frequency maps* change h(i), *index maps* g(t).

In a config a method is `dict(name="rerope", window=64)`, on a command line `rerope:window=64`. Index maps and `truncated`,
`power`, `resonance` take any frequency map, and every method takes a temperature:

    rerope:window=64,frequencies=yarn,frequencies.factor=8,temperature=log_n

Parameters without a value are derived and spelled out in every result: a `factor` is L′/L, `window`, `k`, `group`, `chunk`
as the method's docstring says. `python -m lmarch.show METHOD` draws what a method does to distances, and which angles
it meets that training has not seen.
"""
KINDS = {
    "frequencies": "Frequency maps",
    "index map": "Index maps",
    "bias": "Additive biases (nothing is rotated)",
    "none": "No encoding",
    "absolute": "Absolute positions",
}
HEADINGS = ("method", "formula", "near and far", "fast and slow frequencies", "fine-tuning", "extra cost", "source")
LEAKY = """\
**The k of Leaky ReRoPE.** Two conventions stretch L to L′ outside a window w: (L′ − w)/(L − w), whose largest effective
distance is a fraction above L − 1, and (L′ − 1 − w)/(L − 1 − w), which lands on L − 1, the largest distance training
has seen. The second is the default. For L = 512, L′ = 4096, w = 128 they are 10.333 and 10.358; the first reaches 511.90.
"""
PLACES = """\
## Where a method may be used

Causal layers take all of them. Where keys after their query are seen (the prefix of a prefix decoder, an encoder), index
maps mirror their far branch, T5's buckets are split between the two directions, ALiBi, KERPLE and FIRE use |t − s|
(ALiBi also `variant=offset`); `xpos` and `dual_chunk` are refused; `nope` is refused in an encoder and remarked upon in
a prefix decoder. Settings that leave a method's design range (a `factor` too small for the text, an index map or a window
that reaches a distance training has not seen) run, and every result says so.
"""


def document() -> str:
    parts = [INTRODUCTION]
    for kind, title in KINDS.items():
        methods = [cls for cls in map(POSITIONS.__getitem__, POSITIONS) if cls.card.kind == kind]
        rows = [[signature(cls), *cls.card[1:]] for cls in methods]
        parts.append(f"## {title}\n\n" + table(HEADINGS, rows) + ("\n" + LEAKY if kind == "index map" else ""))
    for title, registry in (
        ("Temperatures", TEMPERATURES),
        ("Position samplers (`config.data.position_sampler`)", SAMPLERS),
        ("Windows (`config.model.window`)", WINDOWS),
    ):
        rows = [[signature(registry[name]), summary(registry[name])] for name in registry]
        parts.append(f"## {title}\n\n" + table(("name and parameters", "what it does"), rows))
    return "\n".join([*parts, PLACES])


def signature(cls: Any) -> str:
    """`name` and its parameters with their defaults; those derived from others have none."""
    fields = [
        field.name if field.default is None else f"{field.name}={field.default}" for field in dataclasses.fields(cls)
    ]
    return f"`{cls.name}`" + (f" {', '.join(fields)}" if fields else "")


def summary(cls: Any) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings)]
    lines += [["---"] * len(lines[0])]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    Path(__file__).with_name("positions.md").write_text(document(), encoding="utf-8")
