"""Experiments: models are trained once, compared on the same targets, and found again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import call
from rich.console import Console

from lmarch.errors import UserError
from lmarch.evaluation.claims import STATUSES, Claim
from lmarch.experiments import definition, models, publishing
from lmarch.experiments.definition import Experiment, experiment_names, load_experiment
from lmarch.experiments.publishing import publish, stored_results
from lmarch.experiments.reading import reading_of
from lmarch.experiments.reproduce import reproduce
from lmarch.lock import Busy
from lmarch.reporting.stored import results_document
from lmarch.training.run import Outcome

SHIPPED = [(name, tier) for name in experiment_names() for tier in ("cpu", "gpu")]


@pytest.mark.parametrize(("name", "tier"), SHIPPED)
def test_every_model_of_a_shipped_experiment_has_a_config_that_loads(name: str, tier: str) -> None:
    made = load_experiment(name, tier)
    for training in made.trainings():
        if training.seed == 1:
            config = made.config(training)
            assert (config.model.seed, config.data.seed) == (1, 1001)  # first weights and order of data are drawn apart
    lines = {line for _, line, *_ in made.cells()}
    for claim in made.claims:
        assert {claim.ahead, claim.behind} <= lines
        assert claim.multiple in made.multiples


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> tuple[Experiment, Path]:
    folder = tmp_path_factory.mktemp("experiment")
    configs, corpus = {}, tiny.write_corpus(folder / "text", documents=120, words=150)  # six of them for validation
    for architecture in ("causal_decoder", "prefix_decoder"):
        own = folder / architecture
        own.mkdir()
        changes = dict(model__architecture=architecture, train__steps=2, model__num_layers=1)
        configs[architecture] = str(tiny.config_file(own, **changes, data__corpus=corpus))
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
    for bounds, of_row in (("lead", "difference"), ("documents", "documents")):
        assert (verdict[f"{bounds}_low"], verdict[f"{bounds}_high"]) == pytest.approx(
            (-row[f"{of_row}_high"], -row[f"{of_row}_low"])
        )
    assert verdict["status"] in STATUSES


@pytest.mark.usefixtures("figures_are_empty_files")
def test_what_is_published_can_be_listed_and_made_into_a_document(
    reproduced, monkeypatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(publishing, "RESULTS", tmp_path)
    made, workdir = reproduced
    assert reproduce("tiny", made, "cpu", workdir, "test") == 0
    there = tmp_path / "tiny-cpu" / "test_readings.jsonl"
    there.parent.mkdir()
    there.write_text('{"date": "of another workdir"}\n')
    for _ in range(2):
        publish("tiny", "cpu", workdir)
    readings = there.read_text().splitlines()
    assert readings[0] == '{"date": "of another workdir"}'
    assert len(readings) == 2  # none is lost, and none comes twice
    monkeypatch.setattr(publishing, "load_experiment", lambda name, tier: made)
    (stored,) = stored_results().values()
    assert {row["split"] for row in stored.results} == {"test"}
    made = results_document([(stored.record, stored.verdicts, stored.results)])
    for text in ("## tiny (cpu)", "lmarch reproduce tiny --tier=cpu --final", "LOW_N", "prefix_decoder ahead of"):
        assert text in made, text
    from lmarch.commands.reproduce import last_status

    assert last_status(stored).startswith("1 ")


@pytest.mark.usefixtures("figures_are_empty_files")
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


@pytest.mark.usefixtures("figures_are_empty_files")
def test_a_second_run_trains_and_measures_nothing_again(reproduced, monkeypatch, capsys) -> None:
    made, workdir = reproduced
    before = results_of(workdir)

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("lmarch.evaluation.measuring.score", fail)
    assert reproduce("tiny", made, "cpu", workdir) == 0
    assert capsys.readouterr().out.count("is already trained") == 4
    assert results_of(workdir) == before


def test_a_model_of_other_code_is_trained_anew(reproduced, monkeypatch, capsys) -> None:
    made, workdir = reproduced
    monkeypatch.setattr(models, "code_digest", lambda parts: "changed")
    one = dataclasses.replace(made, configs={"causal_decoder": made.configs["causal_decoder"]}, seeds=(0,), claims=())
    trained = []
    monkeypatch.setattr(models, "train", lambda config, folder: trained.append(folder) or Outcome(0, 130, None))
    assert reproduce("changed", one, "cpu", workdir) == 130
    assert [folder.name.split("-")[1:] for folder in trained] == [["changed"]]
    assert "was trained by other code: training anew" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("figures_are_empty_files")
def test_a_model_that_learned_less_where_it_was_trained_is_not_judged(reproduced) -> None:
    """`dropped` once passed against RoPE with 3.17 bits per byte at L where RoPE had 1.69."""
    made, workdir = reproduced
    for margin, judged in ((1e-6, False), (100.0, True)):
        one = dataclasses.replace(made, margin=margin)
        assert reproduce("margins", one, "cpu", workdir) == 0
        (verdict,) = json.loads((workdir / "margins-cpu" / "verdicts.json").read_text())
        assert verdict["status"] == "INCONCLUSIVE"
        assert ("where it was trained, the best line has" in verdict["reason"]) is not judged


def test_another_config_is_another_model(reproduced) -> None:
    made, workdir = reproduced
    longer = dataclasses.replace(made, overrides={"train.steps": "3"})
    both = [{one.config(training).fingerprint() for training in one.trainings()} for one in (made, longer)]
    assert both[0].isdisjoint(both[1])
    assert made.settings != longer.settings
    assert len(list((workdir / "models").iterdir())) == 4


def test_unknown_experiments_tiers_and_flags_are_one_line(monkeypatch) -> None:
    with pytest.raises(UserError, match="unknown experiment 'architecture'; did you mean 'architectures'"):
        call("reproduce", "architecture")
    with pytest.raises(UserError, match="architectures has no tier 'tpu'"):
        call("reproduce", "architectures", "--tier=tpu")
    with pytest.raises(UserError, match="an experiment is what its file says"):
        call("reproduce", "architectures", "--config.train.steps=3")
    monkeypatch.setattr(definition, "EXPERIMENTS", Path("/nowhere"))
    with pytest.raises(UserError, match="unknown experiment"):
        call("reproduce", "architectures")


@pytest.fixture
def nothing_is_trained(monkeypatch) -> None:
    monkeypatch.setattr(models, "train", lambda *_: pytest.fail("something is trained"))


@pytest.mark.usefixtures("nothing_is_trained")
def test_nothing_is_published_where_there_is_no_checkout(monkeypatch, tmp_path: Path) -> None:
    """Before anything is trained: what is installed has no results/ of its own to store in."""
    monkeypatch.setattr(publishing, "checkout", lambda: None)
    monkeypatch.setattr(publishing, "git_commit", lambda: "abc")
    with pytest.raises(UserError, match="--publish needs a checkout of lmarch"):
        call("reproduce", "copy_by_position", "--final", "--publish", f"--workdir={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="add --final"):
        call("reproduce", "copy_by_position", "--publish")


@pytest.mark.usefixtures("nothing_is_trained")
def test_only_frozen_settings_of_a_clean_tree_whose_test_text_was_not_read_before_are_published(
    reproduced, monkeypatch, tmp_path: Path
) -> None:
    made, workdir = reproduced
    folder = workdir / "frozen-cpu-test"
    for name, value in (("EXPERIMENTS", tmp_path), ("RESULTS", tmp_path / "results"), ("checkout", lambda: tmp_path)):
        monkeypatch.setattr(publishing, name, value)

    def attempt(match: str, experiment: Experiment = made) -> None:
        with pytest.raises(UserError, match=match):
            reproduce("frozen", experiment, "cpu", workdir, "test", publishing=True)

    monkeypatch.setattr(publishing, "git_commit", lambda: "abc+changes:123")
    attempt("a work tree without changes")
    with pytest.raises(UserError, match="a work tree without changes"):
        publishing.freeze("frozen", "cpu", made)
    monkeypatch.setattr(publishing, "git_commit", lambda: "abc")
    attempt("is not frozen: lmarch reproduce frozen --tier=cpu --freeze")
    publishing.freeze("frozen", "cpu", made)
    first = (tmp_path / "frozen.json").read_text()
    monkeypatch.setattr(publishing, "now", lambda: "2999-01-01")
    publishing.freeze("frozen", "cpu", made)
    assert (tmp_path / "frozen.json").read_text() == first  # what has been frozen is not frozen later
    attempt("with other settings", dataclasses.replace(made, windows=5))
    (text,) = {reading[1] for reading in [reading_of(made, made.config(next(made.trainings())), [32, 64], "test")]}
    folder.mkdir()
    for date, texts, refused in (("2020-01-01", ["other text"], False), ("2020-01-01", [text], True)):
        reading = {"date": date, "git_commit": "abc", "settings": made.settings, "texts": texts}
        (folder / "test_readings.jsonl").write_text(json.dumps(reading) + "\n")
        if refused:
            attempt("test text of frozen .cpu. was read on 2020-01-01 .* before they were frozen")
        else:
            publishing.require_publishable("frozen", "cpu", made, workdir, [text])


@pytest.mark.slow
def test_each_model_is_trained_at_its_best_rate_by_validation(reproduced, tmp_path: Path, monkeypatch) -> None:
    made, workdir = reproduced
    label = "causal_decoder"
    one = dataclasses.replace(made, configs={label: made.configs[label]}, rates={label: (1e-7, 1e-2)}, claims=())
    assert reproduce("rates", one, "cpu", workdir) == 0
    (facts,) = json.loads((workdir / "rates-cpu" / "models.json").read_text())["models"]
    bits = {tried["rate"]: tried["validation_bits_per_byte"] for tried in facts["rates_tried"]}
    assert bits[1e-2] < bits[1e-7]
    assert facts["learning_rate"] == 1e-2
    assert [run["seed_model"] for run in facts["runs"]] == [0, 1]


@pytest.mark.slow
def test_windows_are_added_until_differences_are_as_precise_as_stated(reproduced) -> None:
    made, workdir = reproduced
    one = dataclasses.replace(made, precision=1e-3, claims=(), seeds=(0,))
    assert reproduce("precise", one, "cpu", workdir) == 0
    rows = [json.loads(line) for line in (workdir / "precise-cpu" / "results.jsonl").read_text().splitlines()]
    assert {row["n_windows"] for row in rows} != {6}  # one of each of six documents is the first look
    assert all(row["n_windows"] > 20 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("figures_are_empty_files")
def test_several_corpora_are_each_trained_measured_and_judged_on_their_own(reproduced, tmp_path: Path) -> None:
    made, workdir = reproduced
    corpora = tuple(tiny.write_corpus(tmp_path / name, words=words) for name, words in (("a", 400), ("b", 500)))
    claim = Claim("prefix_decoder", "causal_decoder", multiple=2, axis="prefix")
    both = dataclasses.replace(made, corpora=corpora, claims=(claim,), seeds=(0,))
    assert reproduce("both", both, "cpu", workdir) == 0
    rows = [json.loads(line) for line in (workdir / "both-cpu" / "results.jsonl").read_text().splitlines()]
    assert {row["corpus"] for row in rows} == set(corpora)
    verdicts = json.loads((workdir / "both-cpu" / "verdicts.json").read_text())
    assert [verdict["corpus"] for verdict in verdicts] == list(corpora)
    page = (workdir / "both-cpu" / "report.html").read_text()
    assert all(corpus in page for corpus in corpora)
    assert len(list((workdir / "both-cpu").glob("contrast-*.png"))) == 2


def test_the_list_names_what_is_there(capsys) -> None:
    assert call("reproduce", "--list") == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if not line.startswith(" ")] == experiment_names()
    for name, tier in SHIPPED:
        assert load_experiment(name, tier).cost in out


def test_a_model_that_another_process_trains_is_waited_for(tmp_path: Path, monkeypatch, capsys) -> None:
    """Experiments share models; what another one is training is taken when it is done."""
    asked = []

    def train(config, place):
        asked.append(place)
        if len(asked) < 3:
            raise Busy(f"{place} is being written by process 7 on elsewhere")
        return Outcome(8, 0, 2.0)

    monkeypatch.setattr(models, "train", train)
    monkeypatch.setattr(models, "SECONDS_BETWEEN_LOOKS", 0)
    done = models._train_alone(tiny.config(tmp_path), tmp_path / "model", Console())
    assert done.validation_bits_per_byte == 2.0
    assert capsys.readouterr().out.count("waiting:") == 1
