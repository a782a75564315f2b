"""What an evaluation measures beside the paired bits per byte."""

from types import SimpleNamespace

import initialised
import jax
import measured
import numpy as np
import pytest
import tiny
from measured import evaluate

from lmarch.data.corpora import load_documents
from lmarch.evaluation import by_position, repeated
from lmarch.evaluation.exact_crop import chosen_targets
from lmarch.evaluation.far_copies import far_copies, lags
from lmarch.evaluation.manifest import make_manifest
from lmarch.evaluation.suites import PARTS, SUITES

LENGTHS = (16, 32, 64, 128)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    corpus = tiny.write_corpus(folder / "long", documents=120, words=200)
    return initialised.model(tiny.config(folder, data__corpus=corpus), folder / "run")


@pytest.fixture(scope="module")
def rows(model) -> list[dict]:
    chosen = {"suite": "smoke", "lengths": "16,32,64,128", "methods": "rope,ntk", "parts": ",".join(PARTS)}
    assert evaluate(model, [(f"eval.{name}", text) for name, text in chosen.items()]) == 0
    return measured.rows_of(model)


@pytest.fixture(scope="module")
def session(model) -> SimpleNamespace:
    """What parts need of a session, as the evaluation above has it."""
    documents = load_documents(model.config.data, "validation")
    sizes = dict(longest=128, shortest=16, targets=8, num_windows=64, seed=0)
    manifest, tokens = make_manifest(documents, model.tokenizer, **sizes)
    return SimpleNamespace(
        lengths=LENGTHS,
        axes=(None,),
        tokens=tokens,
        size=SUITES["smoke"].size,
        byte_lengths=model.tokenizer.byte_lengths,
        trained_length=32,
        manifest=manifest,
    )


def of(rows: list[dict], task: str, method: str = "rope") -> list[dict]:
    return [row for row in rows if row["task"] == task and row["label"] == method]


def test_every_part_gives_rows_for_every_method(rows) -> None:
    for task in ("paired", "far_copies", "by_position", "slope", "perplexity", "repeated"):
        for method in ("rope", "ntk"):
            assert of(rows, task, method), task
    for row in rows:
        low, high = row.get("ci_low"), row.get("ci_high")  # null: of a few documents nothing is bounded
        assert low is None or low <= row["value"]
        assert high is None or row["value"] <= high
        assert row["n_nonfinite"] == 0


def test_the_exact_crop_control_reads_a_trained_length_before_each_of_its_targets(model, session, rows) -> None:
    (row,) = (row for row in rows if row["task"] == "exact_crop")
    chosen_NS = chosen_targets(session)
    assert chosen_NS.sum(1).tolist() == [8] * len(session.manifest.windows)
    read = [
        session.tokens[window.document][window.first + place - 32 : window.first + place + 1]
        for window, chosen_S in zip(session.manifest.windows, chosen_NS, strict=True)
        for place in np.flatnonzero(chosen_S)
    ]
    read_NT = np.stack(read)
    log_p_NV = np.asarray(jax.nn.log_softmax(model.logits(read_NT[:, :-1])[:, -1]))
    nats = -np.take_along_axis(log_p_NV, read_NT[:, -1:], axis=1).sum()
    assert (row["length"], row["n_targets"]) == (32, len(read))
    assert row["value"] == pytest.approx(nats / np.log(2) / session.byte_lengths[read_NT[:, -1]].sum(), rel=1e-5)
    assert row["gain"] == pytest.approx(row["crop"] - row["value"])


def test_suites_are_made_of_parts_and_the_full_one_has_all() -> None:
    assert all(set(suite.parts) <= set(PARTS) for suite in SUITES.values())
    assert set(SUITES["full"].parts) == set(PARTS)


def test_the_last_occurrence_of_a_run_is_found() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, 200)
    for run in (1, 3, 5):
        found = lags(tokens, run)
        for end in range(len(tokens)):
            own = tokens[end - run + 1 : end + 1] if end >= run - 1 else None
            before = [
                end - other
                for other in range(run - 1, end)
                if own is not None and (tokens[other - run + 1 : other + 1] == own).all()
            ]
            assert found[end] == (min(before) if before else np.iinfo(np.int64).max)


def test_a_far_copy_stands_beyond_the_trained_length_and_within_the_longest_window() -> None:
    """A target in each of four windows, which ends a run of eight that stands just so many tokens earlier.

    The longest window has 128 tokens before the target: of a copy 121 tokens back it holds all eight, of the next but seven.
    """
    distances, trained, longest = (32, 33, 121, 122), 32, 128
    tokens, places = np.random.default_rng(0).integers(0, 256, 900), (200, 400, 600, 800)
    for place, distance in zip(places, distances, strict=True):
        tokens[place - 7 : place + 1] = tokens[place - 7 - distance : place + 1 - distance]
    windows = [SimpleNamespace(document=0, first=place) for place in places]
    manifest = SimpleNamespace(windows=windows, targets=1, document_ids=lambda: [0])
    byte_lengths = np.ones(256, int)
    session = SimpleNamespace(
        manifest=manifest, trained_length=trained, lengths=(64, longest), tokens=[tokens], byte_lengths=byte_lengths
    )
    assert far_copies(session).tolist() == [[False], [True], [True], [False]]


def test_far_copies_are_some_of_the_paired_targets_and_the_same_ones_at_every_length(rows) -> None:
    paired, far = of(rows, "paired"), of(rows, "far_copies")
    assert len({row["n_targets"] for row in far}) == 1
    assert 0 < far[0]["n_targets"] < paired[0]["n_targets"]
    assert [row["length"] for row in far] == list(LENGTHS)
    assert all(row["gain"] == pytest.approx(row["crop"] - row["value"]) for row in far)


def test_loss_by_position_is_the_loss_of_one_pass_over_windows_inside_documents(model, session, rows) -> None:
    buckets = of(rows, "by_position")
    assert [(row["from_position"], row["to_position"]) for row in buckets] == [(n, n + 2) for n in range(0, 128, 2)]
    assert len({row["manifest_sha"] for row in buckets}) == 1
    total = sum(row["value"] * row["n_bytes"] for row in buckets) / sum(row["n_bytes"] for row in buckets)
    items = by_position.long_items(session)
    for row, document in zip(items.rows_NT, items.clusters_N, strict=True):
        assert row.tobytes() in session.tokens[document].astype(np.int32).tobytes()
    log_p = np.asarray(jax.nn.log_softmax(model.logits(items.rows_NT[:, :-1])))
    bits = -np.take_along_axis(log_p, items.rows_NT[:, 1:, None], -1) / np.log(2)
    assert total == pytest.approx(float(bits.mean()), rel=1e-4)
    np.testing.assert_allclose([row["value"] for row in buckets], bits.reshape(16, 64, 2).mean((0, 2)), rtol=1e-3)
    (slope,) = of(rows, "slope")
    expected = (bits[:, 32:48].mean() - bits[:, 16:32].mean()) * np.log(2)
    assert slope["value"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_perplexities_score_the_same_tokens_once_and_name_their_stride(rows) -> None:
    found = {row["metric"]: row for row in of(rows, "perplexity")}
    assert set(found) == {
        *(f"ppl_nonoverlap@{length}" for length in LENGTHS),
        *(f"ppl_slide@{length}_s16" for length in (32, 64, 128)),
    }
    assert len({row["n_targets"] for row in found.values()}) == 1
    assert found["ppl_nonoverlap@16"]["stride"] == 16
    assert found["ppl_slide@128_s16"]["stride"] == 16


@pytest.mark.parametrize(("name", "window", "stride"), [("ppl_nonoverlap@32", 32, 32), ("ppl_slide@64_s16", 64, 16)])
def test_a_perplexity_is_what_reading_by_hand_gives(name: str, window: int, stride: int, model, rows) -> None:
    """Of the second half of passages of 256 tokens: the first of every document, the second of every one, eight in all."""
    documents = [model.tokenizer.encode(d.text) for d in load_documents(model.config.data, "validation")]
    passages = [d[256 * n : 256 * (n + 1) + 1] for n in range(9) for d in documents]
    nats = []
    for passage in [p for p in passages if len(p) == 257][:8]:
        for end in range(128 + stride, 257, stride):
            read = passage[end - window : end + 1]
            log_p = np.asarray(jax.nn.log_softmax(model.logits(read[None, :-1])))[0, -stride:]
            nats += [-log_p[place, target] for place, target in enumerate(read[-stride:])]
    (row,) = (row for row in of(rows, "perplexity") if row["metric"] == name)
    assert row["n_targets"] == len(nats)
    assert row["value"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-4)


def test_repeated_text_is_half_a_trained_length_again_and_again_and_ends_in_the_paired_targets(session, rows) -> None:
    windows = session.manifest.windows
    for length in LENGTHS:
        items = repeated._tiled(session, length)
        assert items.rows_NT.shape == (len(windows), length + 1)
        np.testing.assert_array_equal(items.rows_NT[:, 16:], items.rows_NT[:, :-16])
        for row, window in zip(items.rows_NT, windows, strict=True):
            end = window.first + session.manifest.targets
            np.testing.assert_array_equal(row[-16:], session.tokens[window.document][end - 16 : end])
    assert {(row["length"], row["metric"]) for row in of(rows, "repeated")} == {
        (length, metric) for length in LENGTHS for metric in ("accuracy", "bpb")
    }


def test_parts_of_one_stream_are_left_out_elsewhere_by_name(tmp_path, capsys) -> None:
    model = initialised.model(tiny.config(tmp_path, model__architecture="prefix_decoder"), tmp_path / "run")
    chosen = {"suite": "smoke", "lengths": "16,64", "methods": "rope", "parts": "by_position,repeated"}
    assert evaluate(model, [(f"eval.{name}", text) for name, text in chosen.items()]) == 0
    assert "by_position: defined for causal_decoder only" in capsys.readouterr().out
