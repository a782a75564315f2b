"""The coordinate check of muP: how much a few steps change the logits, by width, with and without a base width.

  python benchmarks/coordinate_check.py [--optimizer=adamw] [--untied] [--figure=coordinate_check.png]

With `model.base_dim` the lines level off: a learning rate found at a small width is one for a large width. (They fall at first,
most where the unembedding is a matrix of its own: what random initial weights contribute vanishes with the width.) Without,
steps change the logits more at every larger width, until the rate that was best is too high (Yang et al. 2022, arXiv
2203.03466, figure 5). `logit_changes` is what the tests check for every optimizer.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lmarch.config import from_dict
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.reporting.style import COLOURS, GREY, RC
from lmarch.training.step import make_program

WIDTHS = (32, 64, 128, 256)
STEPS = (1, 2, 4, 8)
ROWS, LENGTH, VOCABULARY = 8, 16, 64


def logit_changes(base_dim: int | None, optimizer: str = "adamw", tied: bool = True) -> dict[int, list[float]]:
    """Steps -> the standard deviation of the logits' change after so many steps on one batch, a value a width."""
    rng = np.random.default_rng(0)
    # One row, again and again: over many tokens a step is mostly noise at these widths, which wider models average out.
    tokens = np.tile(rng.integers(0, VOCABULARY, (1, LENGTH + 1), np.int32), (ROWS, 1))
    batch = Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        positions=np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH)),
        segment_ids=np.zeros((ROWS, LENGTH), np.int32),
        weights=np.ones((ROWS, LENGTH), np.float32),
        target_bytes=np.ones((ROWS, LENGTH), np.int32),
    )
    changes: dict[int, list[float]] = {steps: [] for steps in STEPS}
    for dim in WIDTHS:
        sizes = {"trained_length": LENGTH, "num_layers": 2, "dim": dim, "num_heads": dim // 8, "tied_embeddings": tied}
        train = {"steps": 10, "learning_rate": 1e-2, "schedule": "constant", "optimizer": f"{optimizer}:weight_decay=0"}
        config = from_dict({"model": {**sizes, "base_dim": base_dim}, "train": train})
        definition = ModelDefinition(config.model, VOCABULARY)
        program = make_program(config, definition)
        state = program.init()
        apply = jax.jit(definition.apply)
        before = apply(jax.device_get(state["params"]), batch.tokens)
        for step in range(1, max(STEPS) + 1):
            state, _ = program.step(state, batch, program.rates.at(step - 1))
            if step in changes:
                after = apply(jax.device_get(state["params"]), batch.tokens)
                changes[step].append(float(jnp.std(after - before)))
    return changes


def figure_of(panels: dict[str, dict[int, list[float]]]) -> Figure:
    """A panel a parametrisation, a line a number of steps."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
        for axes, (title, changes) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            for number, (steps, values) in enumerate(changes.items()):
                axes.plot(WIDTHS, values, "o-", color=COLOURS[number], label=f"{steps} step{'s' * (steps > 1)}")
            axes.set(xscale="log", yscale="log", title=title, xlabel="width", ylabel="change of logits (std)")
            axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
            axes.minorticks_off()
            axes.axvline(WIDTHS[0], color=GREY, linewidth=0.8, linestyle=":")
            axes.legend()
        return figure


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--optimizer", default="adamw")
    flags.add_argument("--untied", action="store_true", help="an unembedding of its own")
    flags.add_argument("--figure", default="coordinate_check.png")
    given = flags.parse_args()
    panels = {
        f"{title} ({given.optimizer})": logit_changes(base, given.optimizer, not given.untied)
        for title, base in (("no base width", None), (f"base_dim={WIDTHS[0]}", WIDTHS[0]))
    }
    for title, changes in panels.items():
        for steps, values in changes.items():
            print(f"{title:<28} {steps} steps: " + "  ".join(f"{v:.3f}" for v in values))
    figure_of(panels).savefig(given.figure, dpi=150, facecolor="white")
    print(f"widths {WIDTHS}; figure: {given.figure}")


if __name__ == "__main__":
    main()
