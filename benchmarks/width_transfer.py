"""Which learning rate is best at which width: the picture of sweeps of learning rate × width.

  lmarch sweep ... --space=width:base=0 --workdir=runs/width-0        (the command is in the space)
  lmarch sweep ... --space=width:base=128 --workdir=runs/width-128
  python benchmarks/width_transfer.py runs/width-0 runs/width-128 [--figure=width_transfer.png]

A panel a sweep, a line a width; the best rate of each is marked. Where rates transfer, the marks stand above one another.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from lmarch.reporting.style import RC, look

Curves = Mapping[int, Mapping[float, float]]  # width -> learning rate -> bits per byte


def curves_of(workdir: Path) -> Curves:
    """Of a sweep that `lmarch sweep` has collected; the mean over seeds."""
    found: dict[int, dict[float, list[float]]] = {}
    for row in json.loads((workdir / "trials.json").read_text()):
        if row["state"] == "finished":
            rates = found.setdefault(row["model.dim"], {})
            rates.setdefault(row["train.learning_rate"], []).append(row["validation_bits_per_byte"])
    return {width: {rate: statistics.mean(all_) for rate, all_ in rates.items()} for width, rates in found.items()}


def figure_of(panels: Mapping[str, Curves]) -> Figure:
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(1.0 + 3.6 * len(panels), 3.4), layout="constrained")
        for axes, (title, curves) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
        ):
            for index, (width, curve) in enumerate(curves.items()):
                best = min(curve, key=lambda rate: curve[rate])
                looks = {**look(index), "marker": ""}
                axes.plot(list(curve), list(curve.values()), label=str(width), **looks)
                axes.plot([best], [curve[best]], "o", color=looks["color"], markersize=6)
            rates = sorted({rate for curve in curves.values() for rate in curve})
            axes.set(xscale="log", title=title, xlabel="learning rate")
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=30)
            axes.minorticks_off()
        figure.axes[0].set_ylabel("validation bits per byte")
        figure.axes[-1].legend(title="width")
    return figure


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("workdirs", nargs="+", type=Path)
    flags.add_argument("--figure", default="width_transfer.png")
    given = flags.parse_args()
    panels: dict[str, Curves] = {}
    for workdir in given.workdirs:
        if not (workdir / "trials.json").exists():
            flags.error(f"{workdir} has no trials.json: lmarch sweep collect --workdir={workdir}")
        base = json.loads((workdir / "trials.json").read_text())[0]["model.base_dim"]
        title = f"base_dim={base}" if base else "no base width"
        if title in panels:
            flags.error(f"{workdir} is a second sweep with {title}")
        panels[title] = curves_of(workdir)
        for width, curve in panels[title].items():
            print(f"{workdir} {width:>5} wide: " + "  ".join(f"{rate:g} {bits:.3f}" for rate, bits in curve.items()))
    figure_of(panels).savefig(given.figure, dpi=150, facecolor="white")
    print(f"figure: {given.figure}")


if __name__ == "__main__":
    main()
