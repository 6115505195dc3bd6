"""The view of a run in training, from files as a run leaves them on the way."""

from __future__ import annotations

import csv
import json
import os
import time
import types

import pytest

from tff_hospitals.deployment import status
from tff_hospitals.experiments import front_door
from tff_hospitals.foundations import files
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports import watch
from tff_hospitals.reports.run_files import METRIC_NUMBERS
from tff_hospitals.training import published_fields

PLAN = Plan(method="dp_sgd", rounds=10).replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 4.0})


def write(folder, hospitals, rounds):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(PLAN.to_json()))
    with open(folder / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, ["round", "hospital", *METRIC_NUMBERS], restval="")
        table.writeheader()
        for number in range(1, rounds + 1):
            for place, one in enumerate(hospitals):
                row = {"round": number, "hospital": one, "loss": 1.0 / number + place, "epsilon_rdp": 0.2 * number}
                table.writerow({**row, "bytes_up": 60 * number, "bytes_down": 50 * number})
    (folder / "timing.csv").write_text("round,seconds\n1,500\n" + "".join(f"{n},30\n" for n in range(2, rounds + 1)))


def test_a_run_on_the_way(tmp_path):
    write(tmp_path / "run", ["north", "south"], 4)
    lines, finished = watch.view(tmp_path / "run")
    assert not finished
    text = "\n".join(lines)
    assert "round 4 of 10" in text
    assert "3 min left" in text  # six rounds of 30 s: the first, which compiles, does not count
    assert "480 bytes up, 400 bytes down" in text
    assert next(line for line in lines if line.startswith("north")).split() == [
        *("north", "0.250", "-", "0.800", "20%", "of", "4"),
    ]


def test_a_run_that_has_not_written_for_long_is_not_given_a_time_left(tmp_path):
    """Of a killed process the page went on to say that minutes were left."""
    write(tmp_path / "run", ["north"], 4)
    for ago, words in ((500, "left, last written 8 min ago"), (700, "nothing written for 12 min: if it was stopped")):
        moment = time.time() - ago
        os.utime(tmp_path / "run" / "timing.csv", (moment, moment))
        assert words in watch.view(tmp_path / "run").lines[1]


def test_it_ends_with_the_run_and_prints_once(tmp_path, capsys):
    write(tmp_path / "run", ["north"], 10)
    (tmp_path / "run" / "summary.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        front_door.main("watch", ["watch", str(tmp_path / "run")])
    assert ended.value.code in (0, None)
    assert "finished" in capsys.readouterr().out


def test_names_cannot_move_the_cursor_and_lines_fit(tmp_path):
    write(tmp_path / "run", ["no\x1b[2Jrth", "x" * 200], 2)
    lines, _ = watch.view(tmp_path / "run", width=60)
    assert all(line.isprintable() and len(line) <= 60 for line in lines)


def test_a_comparison_lists_its_runs(tmp_path):
    write(tmp_path / "runs" / "dp_sgd_1", ["north"], 3)
    write(tmp_path / "runs" / "dp_sgd_2", ["north"], 0)
    (tmp_path / "runs" / "dp_sgd_2" / "metrics.csv").write_text("half")
    lines, finished = watch.view(tmp_path)
    assert lines == ["dp_sgd_1: round 3 of 10", "dp_sgd_2: round 0 of 10"]
    assert not finished


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(files.RecordError, match=r"holds no run.*Remedy"):
        watch.view(tmp_path)


class Federated:
    """What the view of a federation looks at."""

    def __init__(self):
        self.agreement = types.SimpleNamespace(
            federation="f\x1b[2J", ids=("north", "south", "west"), plan={"rounds": 10}
        )
        self.transport = types.SimpleNamespace(present=lambda: ("north",), engine="grpc", dropped=1)
        self.asking, self.waiting = ("ROUND", 3), frozenset(["north"])
        self.heard, self.arrivals = {"north": time.monotonic() - 200}, {"north": 2}
        self.refusals, self.rejected = {"west": "beyond its budget"}, 7


@pytest.mark.parametrize(
    ("plan", "where"),
    [(Plan(), "."), (Plan().replace(privacy={"mechanism": "dp_sgd"}), "inside")],
    ids=["open", "private"],
)
def test_a_federation_says_who_is_there_who_is_waited_for_and_who_refused(plan, where, tmp_path):
    place = status.place(tmp_path / "run", plan)
    assert place == tmp_path / "run" / where
    with status.kept(Federated(), place, 60.0):
        lines, finished = watch.view(tmp_path / "run")
        assert lines[0] == "run: waits for hospitals"
        assert not finished
        write(tmp_path / "run", ["north"], 4)
        text = "\n".join(watch.view(tmp_path / "run").lines)
    assert "round 4 of 10" in text
    assert "federation f?[2J over grpc: 1 of 3 hospitals are there, asked ROUND of round 4, written" in text
    assert "7 rejected, 1 dropped" in text
    assert "north: waited for, last heard 3 min before" in text
    assert "south: not connected, never heard of" in text
    assert "west: refused: beyond its budget" in text
    assert "federation f?[2J over grpc, over" in "\n".join(watch.view(tmp_path / "run").lines)
    for name in (status.FILE_NAME, status.METRICS_NAME):  # who takes part, and for how long, no epsilon covers
        assert (tmp_path / "run" / name).exists() == published_fields.leaves(plan)(name, "hospitals")
    metrics = (place / status.METRICS_NAME).read_text()
    assert 'tff_hospitals_present{federation="f\x1b[2J",hospital="south"} 0' in metrics
    (place / status.FILE_NAME).write_text("{}")
    assert "federation.json cannot be read" in watch.view(tmp_path / "run").lines
