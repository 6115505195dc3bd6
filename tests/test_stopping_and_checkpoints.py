from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.plan.parts import StoppingPlan
from tff_hospitals.training.checkpoints import KEEP, Checkpoint, CheckpointFolder, from_bytes, to_bytes
from tff_hospitals.training.stopping import PlateauRule


def checkpoint(number=3):
    arrays = (np.arange(6, dtype=np.float32).reshape(2, 3), np.int32(7), np.array([1, -2], np.int64))
    return Checkpoint(number, "abc", arrays, {"ledger": {"x": 1}, "rows": [1.5, None]})


def same(first, second):
    return (
        (first.next_round, first.plan, first.progress) == (second.next_round, second.plan, second.progress)
        and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first.arrays, second.arrays))
        and len(first.arrays) == len(second.arrays)
    )


def test_round_trip_keeps_bits_and_types():
    assert same(from_bytes(to_bytes(checkpoint())), checkpoint())


@pytest.mark.parametrize("cut", [0, 10, 40, 100, -1])
def test_half_written_files_are_named(cut):
    with pytest.raises(RecordError, match="Remedy: delete this file"):
        from_bytes(to_bytes(checkpoint())[:cut])


@pytest.mark.parametrize("place", [30, 60, 90, 200, -5])
def test_one_flipped_byte_is_noticed(place):
    content = bytearray(to_bytes(checkpoint()))
    content[place] ^= 1
    with pytest.raises(RecordError):
        from_bytes(bytes(content))


def test_the_newest_whole_checkpoint_is_taken_and_old_ones_go(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert folder.latest() == (None, [])
    for number in (1, 2, 3):
        folder.save(checkpoint(number))
    assert len(list(tmp_path.iterdir())) == KEEP
    newest, warnings = folder.latest()
    assert (newest.next_round, warnings) == (3, [])
    (tmp_path / "round_000003.ckpt").write_bytes(b"half")
    older, warnings = folder.latest()
    assert older.next_round == 2
    assert "round_000003" in warnings[0]


def test_no_whole_checkpoint_is_an_error(tmp_path):
    (tmp_path / "round_000001.ckpt").write_bytes(b"")
    with pytest.raises(RecordError, match="no checkpoint of this run is whole"):
        CheckpointFolder(tmp_path).latest()


def test_plateau_counts_evaluations_without_improvement():
    rule = PlateauRule(StoppingPlan(metric="accuracy", patience=2, threshold=0.01))
    history = [0.5, 0.6, 0.605, 0.7, 0.7, 0.705]
    assert [rule.reason(history[:i]) is not None for i in range(1, 7)] == [False] * 5 + [True]
    assert PlateauRule(StoppingPlan()).reason([1.0] * 100) is None
