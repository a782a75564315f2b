"""What is kept is there whole or not at all."""

import logging
import os
import shutil
import time

import numpy as np

from lmarch.data.kept_folders import keep, kept_in


def test_every_flipped_bit_is_noticed(tmp_path, caplog):
    """Of the numbers, of their shape and type, of the facts about them, and of the checksums themselves."""
    caplog.set_level(logging.CRITICAL, "lmarch")
    keep(tmp_path / "good", {"numbers": np.arange(5, dtype=np.uint16)}, {"count": 35, "last": False})
    for file in sorted((tmp_path / "good").iterdir()):
        for place in range(file.stat().st_size):
            shutil.copytree(tmp_path / "good", tmp_path / "damaged")
            content = bytearray(file.read_bytes())
            content[place] ^= 1 << (place % 4)
            (tmp_path / "damaged" / file.name).write_bytes(content)
            assert kept_in(tmp_path / "damaged") is None, (file.name, place)
            assert not (tmp_path / "damaged").exists()
    kept = kept_in(tmp_path / "good")
    assert kept is not None
    assert (kept.arrays["numbers"].tolist(), kept.facts) == ([0, 1, 2, 3, 4], {"count": 35, "last": False})


def test_what_another_process_has_just_kept_stays(tmp_path):
    for _ in range(2):
        keep(tmp_path / "same", {"numbers": np.arange(5)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_what_a_killed_process_left_half_written_goes_after_an_hour(tmp_path):
    ages = {".partial-old": 4000, ".partial-new": 40}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    keep(tmp_path / "kept", {}, {})
    assert {path.name for path in tmp_path.iterdir()} == {".partial-new", "kept"}
