"""What a checkpoint was trained on is known from its own record, whatever has become of the text since."""

import shutil
from pathlib import Path

import initialised
import numpy as np
import pytest
import tiny
from measured import evaluate, rows_of

import lmarch
from lmarch.data.corpora import load_documents
from lmarch.evaluation.training_text import NotKnown, rows_trained_on, training_text
from lmarch.training.loop import train


def write(folder: Path, numbers: range, words: int = 400) -> str:
    """Documents of words that no two share in the same order; returns the corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        drawn = np.random.default_rng(number).integers(0, 999, words)
        (folder / f"{number:03}.txt").write_text(" ".join(f"w{n}" for n in drawn))
    return f"text:{folder}/*.txt"


def trained(folder: Path, corpus: str, **changes) -> lmarch.loading.Model:
    train(tiny.config(folder, data__corpus=corpus, train__steps=1, **changes), folder / "run")
    return lmarch.load(folder / "run")


def shared(model, **chosen: str) -> dict:
    given = {"suite": "smoke", "methods": "rope", "lengths": "16,32", "parts": "paired", **chosen}
    assert evaluate(model, [(f"eval.{name}", text) for name, text in given.items()]) == 0
    suite = "smoke-test" if chosen.get("split") == "test" else "smoke"
    return rows_of(model, suite)[0]


@pytest.mark.slow
def test_the_text_is_the_corpus_as_long_as_that_is_the_same(tmp_path: Path) -> None:
    model = trained(tmp_path, write(tmp_path / "texts", range(24)))
    assert list(training_text(model)) == [d.text for d in load_documents(model.config.data, "train")]
    assert shared(model)["shared_text"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal_lm", "span_corruption"])
def test_packed_rows_say_what_the_text_was_before_it_changed(objective: str, tmp_path: Path) -> None:
    """Language modelling's rows overlap by a token; those of a denoising objective do not."""
    architecture = "causal_decoder" if objective == "causal_lm" else "encoder_decoder"
    changes = dict(data__objective={"name": objective}, model__architecture=architecture)
    model = trained(tmp_path, write(tmp_path / "texts", range(24)), **changes)
    before = [d.text for d in load_documents(model.config.data, "train")]
    write(tmp_path / "texts", range(100, 130))
    assert list(training_text(model)) == before


def test_text_that_grew_since_training_is_compared_with_what_was_trained(tmp_path: Path) -> None:
    """19 files each give 90 % to training; with one more whole files are dealt, and one that was trained on is scored."""
    corpus = write(tmp_path / "texts", range(19))
    model = trained(tmp_path, corpus)
    assert shared(model)["contaminated"] is False
    write(tmp_path / "texts", range(19, 21))
    row = shared(model)
    assert row["contaminated"] is True
    assert row["shared_text"] == pytest.approx(0.9, abs=0.06)  # nine tenths of the one file that is for validation now


def test_without_text_and_rows_it_is_not_known_and_not_nothing(tmp_path: Path, capsys) -> None:
    corpus = write(tmp_path / "texts", range(24))
    model = trained(tmp_path, corpus)
    write(tmp_path / "texts", range(24, 26))
    shutil.rmtree(tmp_path / "cache" / "streams")
    row = shared(model)
    assert (row["shared_text"], row["contaminated"]) == (None, None)
    assert "is not known" in capsys.readouterr().out
    with pytest.raises(NotKnown, match="no record of the text"):
        rows_trained_on(initialised.model(model.config, tmp_path / "other"))


@pytest.mark.slow
def test_a_fine_tuned_run_was_trained_on_its_ancestors_text_too(tmp_path: Path) -> None:
    """The base trained on what the fine-tuned one is scored with."""
    base = trained(tmp_path / "base", write(tmp_path / "first", range(24)))
    tested = load_documents(base.config.data, "train")[0].text
    second = write(tmp_path / "second", range(200, 224))
    tuned_data = tiny.config(tmp_path / "tuned", data__corpus=second).data
    for document in load_documents(tuned_data, "validation"):
        (tmp_path / "second" / document.name).write_text(tested)
    changes = dict(train__start_from=str(base.workdir), model__target_length=64)
    tuned = trained(tmp_path / "tuned", second, **changes)
    assert rows_trained_on(tuned)[1:] == rows_trained_on(base)
    row = shared(tuned)
    assert row["contaminated"] is True
    assert row["shared_text"] == pytest.approx(1.0)
    again = trained(tmp_path / "again", second, train__start_from=str(tuned.workdir), model__target_length=64)
    assert len(rows_trained_on(again)) == 3
