"""Experiments: models are trained once, compared on the same targets, and found again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny

import reproduce as command
from lmarch import experiment as experiments
from lmarch.errors import UserError
from lmarch.experiment import Experiment, experiment_names, load_experiment, reproduce

SHIPPED = [(name, tier) for name in experiment_names() for tier in ("cpu", "gpu")]


@pytest.mark.parametrize(("name", "tier"), SHIPPED)
def test_every_model_of_a_shipped_experiment_has_a_config_that_loads(name: str, tier: str) -> None:
    made = load_experiment(name, tier)
    for label in made.configs:
        config = made.config(label, seed=1)
        assert (config.model.seed, config.data.seed) == (1, 1)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> tuple[Experiment, Path]:
    folder = tmp_path_factory.mktemp("experiment")
    configs = {}
    for architecture in ("causal_decoder", "prefix_decoder"):
        own = folder / architecture
        own.mkdir()
        changes = dict(model__architecture=architecture, train__steps=2, model__num_layers=1)
        configs[architecture] = str(tiny.config_file(own, **changes, data__corpus=tiny.write_corpus(folder / "text")))
    made = Experiment("Which?", configs, {}, (1, 2), ("rope",), windows=4, seeds=(0, 1))
    assert reproduce("tiny", made, "cpu", folder / "runs") == 0
    return made, folder / "runs"


def results_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "tiny-cpu" / "results.jsonl").read_text().splitlines()]


def test_models_are_compared_along_every_axis_at_every_length(reproduced) -> None:
    rows = results_of(reproduced[1])
    assert len(rows) == 3 * 2 * 2  # axes, lengths, models
    for row in rows:
        assert row["seeds"] == len(row["seed_differences"]) == 2
        same = next(
            r for r in rows if (r["axis"], r["length"], r["model"]) == (row["axis"], row["length"], "causal_decoder")
        )
        np.testing.assert_allclose(row["difference"], row["value"] - same["value"], atol=1e-12)
        np.testing.assert_allclose(row["difference"], np.mean(row["seed_differences"]), atol=1e-9)
        if row["model"] == row["reference"]:
            assert row["difference"] == 0
    causal = {(row["length"], row["value"]) for row in rows if row["model"] == "causal_decoder"}
    assert len(causal) == 2  # the same along every axis
    assert len({(row["manifest_sha"], row["n_bytes"]) for row in rows}) == 1


def test_the_report_says_what_was_matched_and_what_to_beware_of(reproduced) -> None:
    folder = reproduced[1] / "tiny-cpu"
    page = (folder / "report.html").read_text()
    for text in ("training FLOPs", "tokens scored", "LOW_N", "Means over 2 training seeds", "The continuation grows"):
        assert text in page, text
    assert (folder / "contrast.png").stat().st_size > 10_000
    models = json.loads((folder / "models.json").read_text())["models"]
    assert models[0]["parameters"] == models[1]["parameters"]
    assert models[0]["loss_tokens"] > 1.5 * models[1]["loss_tokens"]  # a causal decoder is scored on all


def test_a_second_run_trains_and_measures_nothing_again(reproduced, monkeypatch, capsys) -> None:
    made, workdir = reproduced
    before = results_of(workdir)

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("lmarch.evaluation.run.score", fail)
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
        command.main(["architecture"])
    with pytest.raises(UserError, match="architectures has no tier 'tpu'"):
        command.main(["architectures", "--tier=tpu"])
    with pytest.raises(UserError, match="an experiment is what its file says"):
        command.main(["architectures", "--config.train.steps=3"])
    monkeypatch.setattr(experiments, "EXPERIMENTS", Path("/nowhere"))
    with pytest.raises(UserError, match="unknown experiment"):
        command.main(["architectures"])


def test_the_list_names_what_is_there(capsys) -> None:
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == experiment_names()
