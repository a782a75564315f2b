"""Windows and selections on trained weights: which are measured, how they are named, what is refused before anything runs."""

from typing import Any

import initialised
import pytest
import tiny
from initialised import BYTES
from measured import evaluate, rows_of

from lmarch.errors import UserError
from lmarch.evaluation.asked import model_as
from lmarch.loading import Model, untrained
from lmarch.registry import split_variants


@pytest.fixture
def made(tmp_path) -> Any:
    def make(**changes) -> Model:
        return initialised.model(tiny.config(tmp_path, **changes), tmp_path)

    return make


@pytest.fixture
def without_weights(tmp_path) -> Any:
    """Make models that are asked what can be done with them, and compute nothing."""

    def make(**changes) -> Model:
        return untrained(tiny.config(tmp_path, **changes), tmp_path)

    return make


def measured(model: Model, **flags: str) -> list[str]:
    """The methods of an evaluation at one length."""
    overrides = {"suite": "smoke", "lengths": "48", "methods": "rope", **flags}
    assert evaluate(model, [(f"eval.{name}", value) for name, value in overrides.items()]) == 0
    return [row["method"] for row in rows_of(model)]


def test_each_window_and_each_selection_is_measured_once(made) -> None:
    windows, selections = "full,streaming:sinks=2,size=20,full", "all,infllm:local=16,block=4"
    assert measured(made(), windows=windows, selections=selections) == [
        "rope",
        "rope in streaming:sinks=2,size=20",
        "rope in infllm:block=4,local=16",
    ]


def test_a_method_can_name_its_own_window(made) -> None:
    model = made()
    read = model_as(model, "linear:factor=2 in streaming:sinks=2,size=9", 64)
    assert read.method == model.with_position("linear", factor=2).with_window("streaming", sinks=2, size=9).method
    assert split_variants("rope in streaming:sinks=2,size=9,ntk") == ("rope in streaming:sinks=2,size=9", "ntk")


def test_a_window_of_a_method_is_never_replaced_by_another(made) -> None:
    with pytest.raises(UserError, match="'rope in streaming' names its own window: leave out --windows"):
        measured(made(), methods="rope in streaming", windows="full")


def test_a_selection_that_a_forward_pass_does_not_make_is_refused(made) -> None:
    with pytest.raises(UserError, match=r"--selections=quest: .*prefill=selected"):
        measured(made(), selections="quest")


@pytest.mark.parametrize(("name", "change"), [("window", "streaming"), ("selection", "infllm")])
def test_a_change_that_no_layer_takes_is_refused(name: str, change: str, without_weights) -> None:
    own = {"window": {"name": "full"}, "selection": {"name": "knn"}}[name]
    model = without_weights(model__layers=({name: own}, {name: own}))
    with pytest.raises(UserError, match=f"no layer takes {name} '{change}'"):
        getattr(model, f"with_{name}")(change)
    some = without_weights(model__layers=({name: own}, {}))
    assert change in getattr(some, f"with_{name}")(change).method


def test_what_cross_attention_selects_is_part_of_the_method(without_weights) -> None:
    model = without_weights(model__architecture="encoder_decoder", model__cross_selection="knn:top=4")
    assert model.method == "rope, cross nope in knn:top=4"


def test_sampled_positions_and_parallel_windows_exclude_each_other(without_weights) -> None:
    sampler = {"name": "randomized", "maximum": 90}
    with pytest.raises(UserError, match="both give tokens positions"):
        without_weights(data__position_sampler=sampler, model__window="parallel")
    with pytest.raises(UserError, match="positions of its own"):
        without_weights(data__position_sampler=sampler).with_window("parallel")


@pytest.mark.parametrize("selection", ["infllm", "quest"])
def test_what_counts_blocks_of_one_text_is_not_trained(selection: str, made) -> None:
    with pytest.raises(UserError, match=f"config.model.selection={selection} counts blocks of one text"):
        made(model__selection=selection)


def test_marks_beyond_the_tokenizer_stand_for_no_text(made) -> None:
    """A model of another objective has more ids than its tokenizer, and may write them."""
    objective = {"name": "span_corruption"}
    model = made(model__architecture="encoder_decoder", data__objective=objective, model__tied_embeddings=False)
    assert model.definition.vocab_size > BYTES.vocab_size
    assert isinstance(model.generate("the fellow", 40, temperature=50.0), str)
    assert BYTES.decode([104, model.definition.vocab_size - 1, 105]) == "hi"
