"""One attention layer as a picture: effective distances, what is visible, and which phases training has seen."""

import math

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lmarch.attention.phases import phase_coverage
from lmarch.attention.spec import AttentionSpec
from lmarch.positions.frequencies import geometric
from lmarch.registry import rounded
from lmarch.reporting.style import COLOURS, GREY, INK, RC

SEEN, UNSEEN = COLOURS[0], COLOURS[1]


def position_figure(spec: AttentionSpec, length: int, rope_base: float, prefix_length: int | None = None) -> Figure:
    """Left: the effective distance of every visible pair. Middle: which pairs are visible. Right: phase coverage.

    Args:
      spec: the layer.
      length: tokens of the text that is drawn.
      rope_base: base of the plain RoPE that the model was trained with, for phase coverage.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(11.0, 3.9), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _draw_distances(figure, left, spec, length, prefix_length)
        _draw_visibility(middle, spec, length, prefix_length)
        if spec.position.rotation is not None:
            _draw_phases(right, spec, length, rope_base)
        elif spec.content.get("bias"):
            right.axis("off")
            right.text(0, 0.5, "the bias depends on what the tokens say", color=GREY)
        elif spec.position.bias is not None:
            _draw_bias(right, spec, length)
        else:
            right.axis("off")
            right.text(0, 0.5, "nothing is rotated, no bias is added", color=GREY)
        window = "" if spec.window == "full" else f", window {spec.window}"
        figure.suptitle(
            f"{rounded(spec.position.method)}{window}   ·   {spec.architecture}, trained on {spec.trained_length} tokens, "
            f"text of {length}",
            x=0.01,
            ha="left",
            fontsize=10.5,
        )
        remark = spec.out_of_design(length)
        if remark:
            figure.supxlabel(f"Note: {rounded(remark)}.", x=0.01, ha="left", fontsize=7.5, color=UNSEEN)
    return figure


def _pair_axes(axes: Axes, title: str) -> None:
    axes.set(xlabel="key s", ylabel="query t", title=title)
    axes.grid(False)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()


def _draw_distances(figure: Figure, axes: Axes, spec: AttentionSpec, length: int, prefix: int | None) -> None:
    distance = spec.effective_distance(length, prefix)
    trained = spec.trained_length - 1
    largest = min(float(np.nanmax(np.abs(distance), initial=1.0)), max(trained, 1))
    image = axes.imshow(np.abs(distance), cmap="viridis", vmin=0, vmax=largest, interpolation="nearest")
    beyond = np.where(np.abs(distance) > trained + 1e-9, 1.0, np.nan)
    if np.isfinite(beyond).any():
        axes.imshow(beyond, cmap=ListedColormap([UNSEEN]), interpolation="nearest")
    _pair_axes(axes, "Effective distance |δ|" + (f", orange: above {trained}" if np.isfinite(beyond).any() else ""))
    figure.colorbar(image, ax=axes, shrink=0.8)


def _draw_visibility(axes: Axes, spec: AttentionSpec, length: int, prefix: int | None) -> None:
    visible = spec.visible(length, prefix)
    axes.imshow(visible, cmap=ListedColormap(["white", SEEN]), vmin=0, vmax=1, interpolation="nearest")
    for side in axes.spines.values():
        side.set_visible(True)
    _pair_axes(axes, f"Visible pairs: {visible.mean():.0%} of the square")


def _draw_phases(axes: Axes, spec: AttentionSpec, length: int, rope_base: float) -> None:
    seen, wavelengths = phase_coverage(spec, length, rope_base)
    pairs = np.arange(seen.size)
    turning = np.isfinite(wavelengths)
    groups = (
        (seen & turning, SEEN, SEEN, "angles seen in training"),
        (~seen & turning, UNSEEN, "none", "angles never seen"),
    )
    for mask, colour, face, label in groups:
        if mask.any():
            axes.plot(
                pairs[mask], wavelengths[mask], "o", color=colour, markerfacecolor=face, markersize=5, label=label
            )
    still = int((~turning).sum())
    if still:
        axes.plot([], [], " ", label=f"{still} pairs do not turn")
    if spec.position.rotation and spec.position.rotation.inverse_frequencies:
        plain = 2 * math.pi / geometric(spec.head_dim, rope_base)
        axes.plot(np.arange(plain.size), plain, ":", color=GREY, linewidth=1.0, label="plain RoPE")
    for where, text in ((spec.trained_length, "L"), (length, "text")):
        axes.axhline(where, color=INK, linewidth=0.8)
        axes.annotate(
            f"{text} = {where}", (1.0, where), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7.5
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlabel="channel pair i", ylabel="wavelength 2π / h(i), tokens", title="Phase coverage")
    axes.legend(loc="upper left")


def _draw_bias(axes: Axes, spec: AttentionSpec, length: int) -> None:
    bias = spec.position.bias
    assert bias is not None
    learned = {name: p.init(jax.random.key(0)) for name, p in spec.learned().items()}
    distance = np.arange(length)
    rows = np.asarray(bias(learned, jnp.full((1, 1, 1), length - 1), jnp.asarray(length - 1 - distance)[None, None]))[0]
    for head, row in enumerate(rows[:, 0]):
        axes.plot(distance, row, color=COLOURS[head % len(COLOURS)], linewidth=1.0)
    axes.axvline(spec.trained_length - 1, color=INK, linewidth=0.8)
    state = ", at initialisation" if learned else ""
    axes.set(xlabel="distance t − s", ylabel="bias", title=f"Bias of every head{state}")
