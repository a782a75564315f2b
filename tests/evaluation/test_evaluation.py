"""An evaluation end to end on a tiny trained model: what it measures, what it leaves, what it refuses."""

import csv
import json
import math
from pathlib import Path

import initialised
import jax
import numpy as np
import pytest
import tiny
from commands import call, finish, start
from measured import evaluate
from measured import rows_of as results

import lmarch
from lmarch.errors import UserError
from lmarch.evaluation import measuring
from lmarch.provenance import measurement, now
from lmarch.registry import split_variants
from lmarch.reporting.report import evaluate_and_report
from lmarch.training.loop import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    corpus = tiny.write_corpus(folder / "many", documents=120, words=150)  # six of them for validation
    train(tiny.config(folder, train__steps=30, data__corpus=corpus), folder / "run")
    return lmarch.load(folder / "run")


@pytest.fixture(scope="module")
def evaluated(model):
    assert evaluate_and_report(model, [("eval.suite", "smoke"), ("eval.lengths", "16,32,64,128")]) == 0
    return model


def test_every_method_and_length_scores_the_same_bytes(evaluated) -> None:
    rows = results(evaluated)
    assert [(row["method"], row["length"]) for row in rows] == [
        (method, length) for method in ("rope", "linear:factor=4", "ntk:factor=4") for length in (16, 32, 64, 128)
    ]
    assert len({(row["n"], row["n_bytes"], row["n_windows"], row["manifest_sha"]) for row in rows}) == 1
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows)


def test_the_crop_control_is_the_trained_model_at_its_length(evaluated) -> None:
    """And physically cutting the documents there gives the same number."""
    rows = {(row["label"], row["length"]): row for row in results(evaluated)}
    crop = rows["rope", 128]["crop"]
    assert rows["rope", 32]["value"] == crop
    assert rows["rope", 32]["gain"] == 0
    for row in rows.values():
        assert row["gain"] == pytest.approx(crop - row["value"])
        assert row["vs_trained"] == pytest.approx(row["value"] - rows[row["label"], 32]["value"])
    manifest = json.loads((evaluated.workdir / "eval" / "smoke" / "manifest.json").read_text())
    from lmarch.data.corpora import load_documents

    documents = load_documents(evaluated.config.data, "validation")
    nll = 0.0
    for window in manifest["windows"]:
        ids = evaluated.tokenizer.encode(documents[window["document"]].text)
        cut = ids[window["first"] + 8 - 33 : window["first"] + 8]  # a document of 33 bytes: 32 are read, 8 scored
        logits = jax.nn.log_softmax(evaluated.logits(cut[None, :-1]))[0, -8:]
        nll -= float(np.take_along_axis(np.asarray(logits), cut[-8:, None], -1).sum())
    assert nll / math.log(2) / rows["rope", 32]["n_bytes"] == pytest.approx(crop, rel=1e-5)


def test_methods_applied_to_the_weights_differ_where_they_should(evaluated) -> None:
    value = {(row["label"], row["length"]): row["value"] for row in results(evaluated)}
    assert value["linear", 32] != value["rope", 32]
    assert value["ntk", 128] != value["rope", 128]


def test_outputs_are_there_and_agree(evaluated) -> None:
    folder = evaluated.workdir / "eval" / "smoke"
    with (folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[0]["128"]) == results(evaluated)[3]["value"]
    for name in ("bits_per_byte.png", "bits_per_byte.svg", "report.html", "manifest.json"):
        assert (folder / name).stat().st_size > 500
    assert "http" not in (folder / "report.html").read_text().replace("http://www.w3.org", "")


def test_a_second_evaluation_measures_nothing_again(evaluated, monkeypatch) -> None:
    before = results(evaluated)
    monkeypatch.setattr(measuring, "score", None)  # calling it would fail
    assert evaluate(evaluated, [("eval.suite", "smoke"), ("eval.lengths", "16,32,64,128")]) == 0
    assert results(evaluated) == before


def test_scores_of_other_code_are_not_used_again(evaluated, monkeypatch, capsys) -> None:
    """As when `ntk` was changed and the next evaluation printed the old numbers."""
    scored = []
    real = measuring.score
    monkeypatch.setattr(measuring, "measurement", lambda: {**measurement(), "code": "changed"})
    monkeypatch.setattr(measuring, "score", lambda *given: scored.append(given[0].method) or real(*given))
    chosen = [("eval.suite", "smoke"), ("eval.lengths", "32,128"), ("eval.methods", "rope")]
    assert evaluate(evaluated, chosen) == 0
    assert scored == ["rope"] * 2  # at 32 it is the crop control too
    assert "2 of 3 scores were there by other code, and are measured anew" in capsys.readouterr().out
    assert {row["code"] for row in results(evaluated)} == {"changed"}
    monkeypatch.undo()
    assert evaluate(evaluated, chosen) == 0  # for the tests after this one


def test_every_row_says_where_its_number_is_from(evaluated) -> None:
    for row in results(evaluated):
        assert row["code"] == measurement()["code"]
        assert "cpu" in row["device"]
        assert "jax " in row["versions"]
        assert row["measured"] <= now()
        assert {"git_commit", "measured_in"} <= row.keys()


@pytest.mark.usefixtures("figures_are_empty_files")
def test_validation_text_is_read_until_the_last_evaluation_which_is_noted(model, capsys) -> None:
    chosen = ("--suite=smoke", "--lengths=32,64", "--methods=rope", "--parts=paired")
    assert call("eval", f"--workdir={model.workdir}", *chosen) == 0
    assert {row["split"] for row in results(model)} == {"validation"}
    readings = model.workdir / "eval" / "test_readings.jsonl"
    assert not readings.exists()
    for count in (1, 2):
        assert call("eval", f"--workdir={model.workdir}", *chosen, "--final") == 0
        assert f"test text: reading {count} of this run" in capsys.readouterr().out
    assert {row["split"] for row in results(model, "smoke-test")} == {"test"}
    noted = [json.loads(line) for line in readings.read_text().splitlines()]
    assert len(noted) == 2
    assert noted[0]["lengths"] == [32, 64]
    assert {"date", "git_commit", "methods", "checkpoint_step"} <= noted[0].keys()


def test_another_evaluation_leaves_the_earlier_ones_results_where_they_can_be_found(tmp_path: Path) -> None:
    model = initialised.model(tiny.config(tmp_path), tmp_path / "run")
    folder = model.workdir / "eval" / "smoke"
    chosen = [("eval.suite", "smoke"), ("eval.lengths", "16,32"), ("eval.parts", "paired")]
    manifests = []
    for method, seed in (("rope", "0"), ("linear:factor=2", "1"), ("rope", "0")):
        evaluate(model, [*chosen, ("eval.methods", method), ("eval.seed", seed)])
        manifests.append((folder / "manifest.json").read_text())
    assert [(folder / "earlier" / number / "manifest.json").read_text() for number in ("1", "2")] == manifests[:2]
    assert manifests[0] == manifests[2] != manifests[1]
    assert [row["method"] for row in results(model)] == ["rope"] * 2
    earlier = {
        number: [json.loads(line)["method"] for line in (folder / "earlier" / number / "results.jsonl").open()]
        for number in ("1", "2")
    }
    assert earlier == {"1": ["rope"] * 2, "2": ["linear:factor=2"] * 2}
    evaluate(model, [*chosen, ("eval.methods", "rope")])  # the same again is no other one
    assert {path.name for path in (folder / "earlier").iterdir()} == {"1", "2"}


def test_scores_of_other_targets_are_not_used_again(evaluated, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "score", None)
    with pytest.raises(TypeError):
        evaluate(evaluated, [("eval.suite", "smoke"), ("eval.lengths", "16,32,64,128"), ("eval.seed", "1")])


def test_scores_of_other_weights_are_not_used_again(evaluated, monkeypatch) -> None:
    import dataclasses

    monkeypatch.setattr(measuring, "score", None)
    params = jax.tree.map(lambda x: x, evaluated.params)
    params["embedding"] = params["embedding"].at[0, 0].add(1e-3)
    with pytest.raises(TypeError):
        evaluate(
            dataclasses.replace(evaluated, trained_params=params),
            [("eval.suite", "smoke"), ("eval.lengths", "16,32,64,128")],
        )


def test_out_of_design_reaches_the_results(evaluated) -> None:
    evaluate(evaluated, [("eval.suite", "smoke"), ("eval.lengths", "32,128"), ("eval.methods", "rope,linear:factor=2")])
    flagged = {(row["label"], row["length"]): row["out_of_design"] for row in results(evaluated)}
    assert "stretched for 64 tokens and is used at 128" in flagged["linear", 128]
    assert flagged["linear", 32] is None
    assert flagged["rope", 128] is None


def test_the_crop_control_is_the_model_as_trained_whatever_is_measured(evaluated) -> None:
    crops = []
    for methods in ("rope", "linear:factor=2"):
        evaluate(evaluated, [("eval.suite", "smoke"), ("eval.lengths", "32,128"), ("eval.methods", methods)])
        crops += [row["crop"] for row in results(evaluated)]
    assert len(crops) == 4
    assert len(set(crops)) == 1


def test_non_finite_values_are_counted_and_change_the_exit_status(model, tmp_path) -> None:
    import dataclasses

    broken = jax.tree.map(lambda x: x, model.params)
    broken["final_norm"]["scale"] = broken["final_norm"]["scale"].at[0].set(np.nan)
    (tmp_path / "run.json").write_text((model.workdir / "run.json").read_text())
    sick = dataclasses.replace(model, trained_params=broken, workdir=tmp_path)
    assert evaluate(sick, [("eval.suite", "smoke"), ("eval.lengths", "32,64"), ("eval.methods", "rope")]) == 3
    rows = results(sick)
    assert all(row["value"] is None for row in rows)  # JSON has no infinity
    assert "Infinity" not in (tmp_path / "eval" / "smoke" / "results.jsonl").read_text()
    assert all(row["n_nonfinite"] == row["n_windows"] * 8 for row in rows)


def test_parameters_belong_to_the_method_before_them() -> None:
    assert split_variants("rope,yarn:factor=8,beta=2,ntk") == ("rope", "yarn:factor=8,beta=2", "ntk")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lengths=128,90000"], "documents of"),
        (["--methods=rope,ropee"], "unknown position method 'ropee'; did you mean 'rope'?"),
        (["--methods=ntk:fctor=2"], "unknown field 'fctor' in position method ntk; did you mean 'factor'?"),
        (["--suite=huge"], "config.eval.suite='huge' is not one of smoke, cpu, full"),
        (["--lengths=long"], "config.eval.lengths='long' must be a whole number"),
        (["--config.model.dim=3"], "would not be this trained model"),
        (["--step=7"], "no checkpoint of step 7"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(model, flags: list[str], message: str, monkeypatch, capsys) -> None:
    with pytest.raises(UserError) as error:
        call("eval", f"--workdir={model.workdir}", *flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_without_a_run_is_one_line_and_status_2(tmp_path: Path) -> None:
    status, _, err = finish(start("eval", f"--workdir={tmp_path}"))
    assert status == 2
    assert "no run in" in err
    assert err.count("\n") == 1


def test_lengths_a_method_cannot_compute_are_named_and_refused_if_asked_for(tmp_path: Path, capsys) -> None:
    model = initialised.model(tiny.config(tmp_path, model__position="learned"), tmp_path)
    assert evaluate(model, [("eval.suite", "smoke")]) == 0
    assert "learned:size=32 cannot go beyond 32 tokens: 64, 128, 256 left out" in capsys.readouterr().out
    assert [row["length"] for row in results(model)] == [16, 32]
    with pytest.raises(UserError, match="cannot go beyond 32 tokens: leave 64 out of --lengths"):
        evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "32,64")])


@pytest.mark.slow
def test_a_mixture_keeps_what_its_layers_name_and_changes_the_rest(tmp_path: Path) -> None:
    layers = ({"window": "sliding:size=8"}, {"position": "nope"})
    model = initialised.model(tiny.config(tmp_path, model__layers=layers), tmp_path / "run")
    assert evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "32,64"), ("eval.methods", "rope,ntk")]) == 0
    assert {(row["method"], row["label"]) for row in results(model)} == {
        (f"1 x {name} in sliding:size=8 + 1 x nope", f"1 x {label} (sliding) + 1 x nope")
        for name, label in (("rope", "rope"), ("ntk:factor=2", "ntk"))
    }


@pytest.mark.slow
def test_layers_that_name_their_position_keep_what_they_were_trained_with(tmp_path: Path) -> None:
    """Also what they derived from the target length, which an evaluation changes for the others."""
    layers = ({"window": "sliding:size=8"}, {"position": "yarn"})
    model = initialised.model(tiny.config(tmp_path, model__layers=layers), tmp_path / "run")
    assert evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "32,64")]) == 0
    rows = {(row["label"], row["length"]): row for row in results(model)}
    trained = rows["1 x rope (sliding) + 1 x yarn", 32]
    assert trained["value"] == trained["crop"]
    assert "yarn:factor=1" in trained["method"]
    every = tuple({"position": name} for name in ("rope", "nope"))
    named = initialised.model(tiny.config(tmp_path, model__layers=every), tmp_path / "named")
    assert evaluate(named, [("eval.suite", "smoke"), ("eval.lengths", "32")]) == 0
    assert {row["method"] for row in results(named)} == {"1 x rope + 1 x nope"}
    with pytest.raises(UserError, match="no layer takes position 'ntk'"):
        named.with_position("ntk")


def test_what_was_trained_and_is_left_out_is_said(tmp_path: Path) -> None:
    model = initialised.model(tiny.config(tmp_path, model__position="rope:temperature=ssmax"), tmp_path)
    assert evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "32"), ("eval.methods", "linear")]) == 0
    assert "linear:factor=1 leaves out what was trained: ssmax_scale" in results(model)[0]["out_of_design"]
    assert model.out_of_design(32) is None


@pytest.mark.slow
def test_a_model_of_randomized_positions_is_evaluated_at_such(tmp_path: Path, capsys) -> None:
    model = initialised.model(tiny.config(tmp_path, data__position_sampler="randomized:maximum=64"), tmp_path)
    assert evaluate(model, [("eval.suite", "smoke")]) == 0
    assert "the position sampler cannot go beyond 64 tokens: 128, 256 left out" in capsys.readouterr().out
    first = {row["length"]: row["value"] for row in results(model)}
    import dataclasses

    plain = dataclasses.replace(model.config, data=dataclasses.replace(model.config.data, position_sampler=None))
    assert evaluate(dataclasses.replace(model, config=plain), [("eval.suite", "smoke"), ("eval.lengths", "32,64")]) == 0
    assert all(row["value"] != first[row["length"]] for row in results(model))
