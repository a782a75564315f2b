"""The picture of a layer: phase coverage against closed forms, and the command that draws it."""

from pathlib import Path

import matplotlib.figure
import matplotlib.text
import numpy as np
import pytest
from commands import call

import lmarch
from lmarch.errors import UserError
from lmarch.positions import POSITIONS
from lmarch.registry import rounded
from lmarch.reporting.figures import inline_svg
from lmarch.reporting.position_figure import phase_coverage, position_figure


def spec(position: str, **kwargs):
    sizes = dict(head_dim=64, num_heads=4, trained_length=64, target_length=256)
    return lmarch.attention_spec(position=position, **{**sizes, **kwargs})


def test_rope_past_training_meets_new_angles_where_it_never_finished_a_turn() -> None:
    seen, wavelengths = phase_coverage(spec("rope"), 256, 1e4)
    assert np.array_equal(seen, wavelengths <= 64)
    assert phase_coverage(spec("rope"), 64, 1e4)[0].all()


@pytest.mark.parametrize(
    "position", ["linear", "yarn", "rerope", "leaky_rerope", "self_extend", "dual_chunk", "ntk_by_parts"]
)
def test_methods_that_promise_it_meet_no_new_angle(position: str) -> None:
    assert phase_coverage(spec(position), 256, 1e4)[0].all()


def test_methods_that_stop_some_pairs_or_miss_their_length_show_it() -> None:
    seen, wavelengths = phase_coverage(spec("p_rope:fraction=0.5"), 256, 1e4)
    assert np.isinf(wavelengths).sum() == 16
    assert seen[np.isinf(wavelengths)].all()
    assert not phase_coverage(spec("linear:factor=2"), 256, 1e4)[0].all()
    assert not phase_coverage(spec("ntk"), 256, 1e4)[0].all()  # its middle frequencies are partly extrapolated


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *((name, "causal_decoder") for name in POSITIONS),
        *((name, "prefix_decoder") for name in ("rope", "nope", "t5_bias", "rerope", "self_extend")),
    ],
)
def test_every_method_can_be_drawn(name: str, architecture: str) -> None:
    made = spec(name, architecture=architecture)
    figure = position_figure(made, 100, 1e4, prefix_length=20 if architecture == "prefix_decoder" else None)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert any(
        rounded(made.position.method).split(",")[0] in text.get_text() for text in figure.findobj(matplotlib.text.Text)
    )


@pytest.mark.parametrize("name", ["rope", "t5_bias", "dual_chunk"])
def test_a_picture_says_its_method_in_plain_text(name: str) -> None:
    made = spec(name)
    svg = inline_svg(position_figure(made, 100, 1e4))
    assert rounded(made.position.method).split(",")[0] in svg
    assert "mathdefault" not in svg  # tick labels are plain text


def test_the_command_draws_and_says_what_it_derived(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("show", "leaky_rerope", "--trained=128", "--length=300") == 0
    said = capsys.readouterr().out
    assert "leaky_rerope:k=2.81,window=32" in said
    assert "largest distance 127" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"leaky_rerope.{kind}" for kind in ("pdf", "png", "svg")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rerop"], "did you mean 'rerope'?"),
        (["rope", "--length=0"], "--length=0 must be in [1, 4096]"),
        (["rope", "--windw=full"], "did you mean '--window'?"),
        (["rope", "--out=/nowhere/figure"], "--out=/nowhere/figure cannot be written"),
        (["xpos", "--architecture=encoder"], "it needs a causal layer"),
        (["learned", "--length=200", "--trained=64"], "cannot go beyond 64 tokens"),
        (["rope", "--prefix=5"], "belongs to --architecture=prefix_decoder"),
        (["rope:temperature=5"], "5 is not a variant"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        call("show", *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
