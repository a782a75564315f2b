"""Experiments: models are trained once, compared on the same targets, and found again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import call

from lmarch import experiment as experiments
from lmarch.errors import UserError
from lmarch.evaluation.claims import STATUSES, Claim
from lmarch.experiment import Experiment, experiment_names, load_experiment, publish, reproduce, stored_results
from lmarch.reporting.stored import results_document

SHIPPED = [(name, tier) for name in experiment_names() for tier in ("cpu", "gpu")]


@pytest.mark.parametrize(("name", "tier"), SHIPPED)
def test_every_model_of_a_shipped_experiment_has_a_config_that_loads(name: str, tier: str) -> None:
    made = load_experiment(name, tier)
    for label in made.configs:
        config = made.config(label, seed=1)
        assert (config.model.seed, config.data.seed) == (1, 1)
    lines = {line for _, line, *_ in made.cells()}
    for claim in made.claims:
        assert {claim.ahead, claim.behind} <= lines
        assert claim.multiple in made.multiples


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> tuple[Experiment, Path]:
    folder = tmp_path_factory.mktemp("experiment")
    configs = {}
    for architecture in ("causal_decoder", "prefix_decoder"):
        own = folder / architecture
        own.mkdir()
        changes = dict(model__architecture=architecture, train__steps=2, model__num_layers=1)
        configs[architecture] = str(tiny.config_file(own, **changes, data__corpus=tiny.write_corpus(folder / "text")))
    claim = Claim("prefix_decoder", "causal_decoder", multiple=2, axis="prefix")
    made = Experiment(
        "Which?", "Someone 2020", "a minute", configs, {}, (1, 2), ("rope",), windows=4, seeds=(0, 1), claims=(claim,)
    )
    assert reproduce("tiny", made, "cpu", folder / "runs") == 0
    return made, folder / "runs"


def results_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "tiny-cpu" / "results.jsonl").read_text().splitlines()]


def test_models_are_compared_along_every_axis_at_every_length(reproduced) -> None:
    everything = results_of(reproduced[1])
    assert len(everything) == 3 * 2 * 2 * 2  # axes, lengths, models, metrics
    rows = [row for row in everything if row["metric"] == "bpb"]
    for row in rows:
        assert row["seeds"] == len(row["seed_differences"]) == 2
        same = next(
            r for r in rows if (r["axis"], r["length"], r["line"]) == (row["axis"], row["length"], "causal_decoder")
        )
        np.testing.assert_allclose(row["difference"], row["value"] - same["value"], atol=1e-12)
        np.testing.assert_allclose(row["difference"], np.mean(row["seed_differences"]), atol=1e-9)
        if row["line"] == row["reference"]:
            assert row["difference"] == 0
    causal = {(row["length"], row["value"]) for row in rows if row["line"] == "causal_decoder"}
    assert len(causal) == 2  # the same along every axis
    assert len({(row["manifest_sha"], row["n_bytes"]) for row in rows}) == 1


def test_the_report_says_what_was_matched_and_what_to_beware_of(reproduced) -> None:
    folder = reproduced[1] / "tiny-cpu"
    page = (folder / "report.html").read_text()
    for text in (
        "Someone 2020",
        "prefix_decoder ahead of causal_decoder",
        "training FLOPs",
        "tokens scored",
        "LOW_N",
        "Means over 2 training seeds",
        "The continuation grows",
    ):
        assert text in page, text
    assert (folder / "contrast.png").stat().st_size > 10_000
    models = json.loads((folder / "models.json").read_text())["models"]
    assert models[0]["parameters"] == models[1]["parameters"]
    assert models[0]["loss_tokens"] > 1.5 * models[1]["loss_tokens"]  # a causal decoder is scored on all


def test_a_claim_is_judged_by_the_lead_of_its_line(reproduced) -> None:
    (verdict,) = json.loads((reproduced[1] / "tiny-cpu" / "verdicts.json").read_text())
    row = next(
        r
        for r in results_of(reproduced[1])
        if (r["axis"], r["length"], r["line"], r["metric"])
        == ("prefix", 2 * r["trained_length"], "prefix_decoder", "bpb")
    )
    assert verdict["lead"] == pytest.approx(-row["difference"])
    assert (verdict["lead_low"], verdict["lead_high"]) == pytest.approx(
        (-row["difference_high"], -row["difference_low"])
    )
    assert verdict["status"] in STATUSES


def test_what_is_published_can_be_listed_and_made_into_a_document(
    reproduced, monkeypatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    publish("tiny", "cpu", reproduced[1])
    (stored,) = stored_results().values()
    made = results_document([(stored.record, stored.verdicts, stored.results)])
    for text in ("## tiny (cpu)", "lmarch reproduce tiny --tier=cpu", "LOW_N", "prefix_decoder ahead of"):
        assert text in made, text
    from lmarch.commands.reproduce import last_status

    assert last_status(stored).startswith("1 ")


def test_methods_on_one_model_are_lines_and_a_failed_gate_judges_nothing(reproduced) -> None:
    made, workdir = reproduced
    claim = Claim("rope", "linear", multiple=2, metric="accuracy")
    one = dataclasses.replace(
        made,
        configs={"causal_decoder": made.configs["causal_decoder"]},
        methods=("rope", "linear"),
        lines="methods",
        metric="accuracy",
        claims=(claim,),
        gate=0.9,
    )
    assert reproduce("methods", one, "cpu", workdir) == 0
    rows = [json.loads(line) for line in (workdir / "methods-cpu" / "results.jsonl").read_text().splitlines()]
    assert {(row["group"], row["line"], row["axis"]) for row in rows} == {
        ("causal_decoder", "rope", None),
        ("causal_decoder", "linear", None),
    }
    (verdict,) = json.loads((workdir / "methods-cpu" / "verdicts.json").read_text())
    assert verdict["status"] == "INCONCLUSIVE"
    assert "misses the gate of 0.9" in verdict["reason"]


def test_a_second_run_trains_and_measures_nothing_again(reproduced, monkeypatch, capsys) -> None:
    made, workdir = reproduced
    before = results_of(workdir)

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("lmarch.evaluation.measuring.score", fail)
    assert reproduce("tiny", made, "cpu", workdir) == 0
    assert capsys.readouterr().out.count("is already trained") == 4
    assert results_of(workdir) == before


def test_another_config_is_another_model(reproduced) -> None:
    made, workdir = reproduced
    longer = dataclasses.replace(made, overrides={"train.steps": "3"})
    assert {made.config(m, 0).fingerprint() for m in made.configs}.isdisjoint(
        longer.config(m, 0).fingerprint() for m in made.configs
    )
    assert len(list((workdir / "models").iterdir())) == 4


def test_unknown_experiments_tiers_and_flags_are_one_line(monkeypatch) -> None:
    with pytest.raises(UserError, match="unknown experiment 'architecture'; did you mean 'architectures'"):
        call("reproduce", "architecture")
    with pytest.raises(UserError, match="architectures has no tier 'tpu'"):
        call("reproduce", "architectures", "--tier=tpu")
    with pytest.raises(UserError, match="an experiment is what its file says"):
        call("reproduce", "architectures", "--config.train.steps=3")
    monkeypatch.setattr(experiments, "EXPERIMENTS", Path("/nowhere"))
    with pytest.raises(UserError, match="unknown experiment"):
        call("reproduce", "architectures")


def test_nothing_is_published_where_there_is_no_checkout(monkeypatch, tmp_path: Path) -> None:
    """Before anything is trained: what is installed has no results/ of its own to store in."""
    monkeypatch.setattr("lmarch.commands.reproduce.checkout", lambda: None)
    monkeypatch.setattr("lmarch.experiment.train", lambda *_: pytest.fail("something is trained"))
    with pytest.raises(UserError, match="--publish stores results in a checkout of lmarch"):
        call("reproduce", "copy_by_position", "--publish", f"--workdir={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


def test_the_list_names_what_is_there(capsys) -> None:
    assert call("reproduce", "--list") == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if not line.startswith(" ")] == experiment_names()
    for name, tier in SHIPPED:
        assert load_experiment(name, tier).cost in out
