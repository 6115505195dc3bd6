"""What TensorBoard shows of a run: read back with its own reader, and only in inside/ where a run is private."""

from __future__ import annotations

import csv
import pathlib

import pytest
import toy

from tff_hospitals.foundations import files
from tff_hospitals.hospitals.checks import id_problem
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training import event_files
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
PRIVATE = {"mechanism": "dp_sgd", "noise_multiplier": 1.0}


def shown(folder: pathlib.Path, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {one.step: one.value for one in found.Scalars(tag)}


def measured(folder: pathlib.Path, scope: str, column: str) -> dict[int, float]:
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["hospital"] == scope]
    return {int(row["round"]): float(row[column]) for row in rows if row[column]}


@pytest.mark.parametrize("privacy", [{}, PRIVATE], ids=["open", "private"])
def test_tensorboard_reads_what_metrics_csv_holds(privacy, tmp_path):
    dataset = toy.hospitals()
    train(Plan(rounds=3, seed=1, privacy=Plan().replace(privacy=privacy).privacy), dataset, run_dir=tmp_path)
    place = tmp_path / "inside" if privacy else tmp_path
    assert (tmp_path / event_files.FOLDER).exists() != bool(privacy)
    for scope in (*dataset.ids, "pooled"):
        for column in ("loss", "bytes_up", *(["epsilon_rdp"] if privacy else [])):
            expected = measured(place, scope, column)
            assert len(expected) == 3
            assert shown(place / event_files.FOLDER / scope, column) == pytest.approx(expected)


def rows(first: int, last: int, hospitals: int = 1) -> list[dict]:
    names = [*(f"site_{k}" for k in range(hospitals)), "pooled"]
    return [
        {"round": number, "hospital": one, "loss": 1.0 / number, "unit": "none", "delta": None, "bytes_up": 4 * number}
        for number in range(first, last + 1)
        for one in names
    ]


def test_each_writing_adds_a_file_and_a_run_that_is_taken_up_again_starts_anew(tmp_path, monkeypatch):
    writer = event_files.EventFiles(tmp_path)
    writer.write(rows(1, 2), [(1, 0.5), (2, 0.5)], last=False)  # too soon after the start
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(event_files, "SECONDS_BETWEEN", 0.0)
    writer.write(rows(1, 2), [(1, 0.5), (2, 0.5)], last=False)
    writer.write(rows(1, 4), [(number, 0.5) for number in range(1, 5)], last=True)
    assert len(list((tmp_path / "site_0").iterdir())) == 2
    assert shown(tmp_path / "site_0", "loss") == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25})
    event_files.EventFiles(tmp_path).write(rows(1, 3), [(number, 0.5) for number in range(1, 4)], last=True)
    assert len(list((tmp_path / "site_0").iterdir())) == 1
    assert shown(tmp_path / "site_0", "bytes_up") == {1: 4.0, 2: 8.0, 3: 12.0}


def test_many_hospitals_are_shown_together(tmp_path):
    many = event_files.MOST_HOSPITALS + 1
    event_files.EventFiles(tmp_path).write(rows(1, 2, many), [(1, 1.0), (2, 1.0)], last=True)
    assert [path.name for path in tmp_path.iterdir()] == ["pooled"]


def test_a_disk_that_refuses_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "site_0").write_text("a file where a folder must be")
    with pytest.raises(files.RecordError, match="Remedy: free some space"):
        event_files.EventFiles(tmp_path).write(rows(1, 1), [(1, 1.0)], last=True)


def test_without_a_folder_nothing_is_kept():
    event_files.EventFiles(None).write(rows(1, 1), [(1, 1.0)], last=True)


def test_every_id_that_a_hospital_may_have_names_a_folder(tmp_path):
    """A longer one would end a run at its last round, with nothing but the disk's refusal."""
    longest = "ä" * 100
    assert id_problem("hospital_id", longest) is None
    assert "at most 200 bytes" in str(id_problem("hospital_id", longest + "a"))
    event_files.EventFiles(tmp_path).write([{"round": 1, "hospital": longest, "loss": 0.5}], [(1, 0.1)], last=True)
    assert [path.parent.name for path in tmp_path.glob("*/events*")] == [longest]
