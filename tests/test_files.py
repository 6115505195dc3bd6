from __future__ import annotations

import math
import os

import numpy as np
import pytest

from tff_hospitals.foundations import files


def test_json_round_trip_of_numpy_and_missing_values(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"a": np.float32(0.5), "b": (1, np.int64(2)), "c": math.nan, "d": {"e": np.arange(2)}})
    assert files.read_json(path) == {"a": 0.5, "b": [1, 2], "c": None, "d": {"e": [0, 1]}}


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(files.RecordError, match="does not exist"):
        files.read_json(tmp_path / "nothing.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(files.RecordError, match=r"half\.json cannot be read"):
        files.read_json(tmp_path / "half.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(files.RecordError, match="cannot be read"):
        files.read_json(tmp_path / "deep.json")
    with pytest.raises(files.RecordError, match="cannot be read: embedded null byte"):
        files.read_json("\0")


def test_floats_keep_full_precision_in_csv():
    value = 0.1 + 0.2
    assert files.csv_text(["x", "y"], [{"x": value}]) == "x,y\n0.30000000000000004,\n"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.RecordError, match="No space left on device") as caught:
        files.write_text(path, "new")
    assert "Remedy" in str(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]  # no half-written file is left


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(files.RecordError, match="could not write"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_equal_values_have_equal_fingerprints():
    assert files.fingerprint({"a": 1.0, "b": [1, 2]}) == files.fingerprint({"b": (1, 2), "a": 1.0})
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})
