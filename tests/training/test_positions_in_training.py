"""Every position method trains; positions change on schedule, are sampled, and resume exactly."""

import json
import shutil
import sys
from pathlib import Path

import alone
import initialised
import numpy as np
import pytest
import tiny

import lmarch
from lmarch.config import from_dict
from lmarch.data.loader import Loader
from lmarch.data.plan import make_plan
from lmarch.errors import UserError
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics
from lmarch.training.setup import check_positions
from lmarch.training.step import make_program

sys.path.append(str(Path(__file__).parent))
from test_step import ragged_batch

# One of each kind in the fast tests; in the slow ones all that differ in more than the frequencies of a plain rotation.
KINDS = ("rerope", "t5_bias", "fire", "xpos")
OTHERS = ("nope", "sinusoidal", "learned", "alibi", "kerple_log", "kerple_power", "partial", "dynamic_ntk")
OTHERS = (*OTHERS, "longrope", "leaky_rerope", "self_extend", "dual_chunk")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_fifty_steps_are_finite_and_learn(name: str, tmp_path: Path) -> None:
    position = {"name": name, "temperature": "ssmax"}
    changes = {"model__position": position, "model__sink": True, "model__num_layers": 1, "train__steps": 50}
    config = from_dict(tiny.tree(tmp_path, **changes, mesh__data=1, mesh__fsdp=-1))
    assert make_program(config, alone.definition(config))  # what it learns can be split over eight devices
    alone.assert_learned_by_heart(config, ragged_batch())


SCHEDULE = {"train__position_schedule": ({"step": 5, "position": "nope"},)}


@pytest.mark.slow
def test_a_schedule_changes_the_position_after_its_step_and_resumes_exactly(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, **SCHEDULE, train__checkpoint_steps=2, train__keep_checkpoints=9)
    train(config, tmp_path / "whole")
    plain = tiny.config(tmp_path)
    train(plain, tmp_path / "plain")
    losses = {name: [m["loss"] for m in read_metrics(tmp_path / name) if "loss" in m] for name in ("whole", "plain")}
    assert losses["whole"][:5] == losses["plain"][:5]
    assert losses["whole"][5] != losses["plain"][5]
    assert (
        "rope from step 0, then nope from step 5"
        in json.loads((tmp_path / "whole" / "run.json").read_text())["position"]
    )

    for stop in (4, 6):  # before the change and after it
        folder = tmp_path / f"stopped at {stop}"
        shutil.copytree(tmp_path / "whole", folder)
        for later in range(stop + 2, 10, 2):
            shutil.rmtree(folder / "checkpoints" / str(later))
        train(config, folder)
        resumed = [m["loss"] for m in read_metrics(folder) if "loss" in m]
        assert resumed == losses["whole"]

    assert lmarch.load(tmp_path / "whole").method == "nope"
    assert lmarch.load(tmp_path / "whole", step=4).method == "rope"
    assert [config.model_at(step).position["name"] for step in (5, 6)] == [
        "rope",
        "nope",
    ]  # step 5 is the last of RoPE's


def test_positions_without_parameters_may_follow_each_other(tmp_path: Path) -> None:
    check_positions(make_plan(tiny.config(tmp_path, model__position="sinusoidal", **SCHEDULE)))


REFUSED = {
    "must give `step` and `position`": {"train__position_schedule": ({"step": 5},)},
    "must be a step between 0 and the run's last, 8": {"train__position_schedule": ({"step": 8, "position": "nope"},)},
    "must be a step between 5 and": {
        "train__position_schedule": tuple({"step": 5, "position": p} for p in ("nope", "rope"))
    },
    "changes what the model learns": {"train__position_schedule": ({"step": 5, "position": "t5_bias"},)},
    "at step 5 changes what the model learns": {
        "model__position": "t5_bias",
        "train__position_schedule": ({"step": 5, "position": "t5_bias:num_buckets=16"},),
    },
    "changes nothing: every layer names its own position": {
        "model__layers": ({"position": "rope"}, {"position": "rope"}),
        "train__position_schedule": ({"step": 5, "position": "nope"},),
    },
    "5 is not a variant": {"train__position_schedule": ({"step": 5, "position": 5},)},
    "unknown position method 'nop'": {"train__position_schedule": ({"step": 5, "position": "nop"},)},
    "has too few positions for rows of 32": {"data__position_sampler": "randomized:maximum=31"},
    "learned:size=32 cannot go beyond 32 tokens, and the text has 64": {
        "data__position_sampler": "pose:target_length=64",
        "model__position": "learned",
    },
    "unknown position sampler 'posse'": {"data__position_sampler": "posse"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_schedules_and_samplers_are_refused_before_any_text_is_read(message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        train(tiny.config(tmp_path, **REFUSED[message], data__corpus="text:/nowhere/*.txt"), tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_sampled_positions_reach_the_batches_and_depend_on_the_row_alone(tmp_path: Path) -> None:
    from lmarch.data.feed import Feed
    from lmarch.data.packing import pack
    from lmarch.data.tokenizers import load_tokenizer
    from lmarch.positions import SAMPLERS

    config, tokenizer = tiny.config(tmp_path), load_tokenizer("bytes")
    rows = pack(config.data, "train", 32, tokenizer)
    feed = Feed(tokenizer.byte_lengths, sampler=SAMPLERS.build("randomized:maximum=500"))
    whole = Loader(rows, 8, 0, feed).batch(3)
    assert whole.positions.max() > 32
    assert (whole.positions < 500).all()
    halves = [Loader(rows, 8, 0, feed, process_index=i, process_count=2).batch(3) for i in (0, 1)]
    assert np.array_equal(whole.positions, np.concatenate([half.positions for half in halves]))
    plain = Loader(rows, 8, 0, Feed(tokenizer.byte_lengths)).batch(3)
    assert np.array_equal(whole.tokens, plain.tokens)


def test_weights_meet_other_positions_only_if_they_have_what_those_learn(tmp_path: Path) -> None:
    biased = initialised.model(tiny.config(tmp_path, model__position="t5_bias"), tmp_path)
    tokens = np.arange(40)[None] + 60
    assert np.isfinite(biased.with_position("rope").logits(tokens)).all()  # the bias is left out
    assert np.array_equal(biased.with_position("t5_bias").logits(tokens), biased.logits(tokens))
    with pytest.raises(UserError, match="learns 'kerple_a', which these weights were not trained with"):
        biased.with_position("kerple_log")
    with pytest.raises(UserError, match="learns 't5_bias', which these weights were not trained with"):
        biased.with_position("t5_bias", num_buckets=16)
    back = biased.with_position("rope").with_position("t5_bias")
    assert np.array_equal(back.logits(tokens), biased.logits(tokens))
