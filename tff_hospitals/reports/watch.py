"""What a run in training has come to, from its folder: rounds, loss per hospital, epsilon of its budget, time left.

Losses are figures that no epsilon covers: they are read from `inside/`, where the run keeps them, and shown to whoever
may look there; where that folder is not to be read they are missing.
"""

from __future__ import annotations

import pathlib
import time
from typing import NamedTuple

from tff_hospitals.deployment import status
from tff_hospitals.foundations import files
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.run_files import POOLED, read_csv, read_metrics
from tff_hospitals.reports.wording import bytes_text, significant
from tff_hospitals.training.run_record import fullest

_PACE = 20  # rounds that say how long the next ones take
_BAR = 30
_SILENT_SECONDS, _SILENT_ROUNDS = 60.0, 20  # without a word, at least so long and so many rounds: it may have ended


class View(NamedTuple):
    """The lines to show, and whether the run has finished."""

    lines: list[str]
    finished: bool


def view(directory: str | pathlib.Path, width: int = 100) -> View:
    """What stands in a run's folder now.

    Args:
      directory: of a run, or of a comparison, whose runs are then listed.
      width: longest line.

    Raises:
      records.RecordError: it holds no run.
    """
    folder = pathlib.Path(directory)
    if (folder / "plan.json").is_file():
        found = _run(folder)
        found = View([*found.lines, *_federation(folder)], found.finished)
    elif fullest(folder, status.FILE_NAME).is_file():
        found = View([f"{folder.name}: waits for hospitals", *_federation(folder)], False)
    elif (folder / "runs").is_dir():
        runs = sorted(one for one in (folder / "runs").iterdir() if (one / "plan.json").is_file())
        found = View([_short(one) for one in runs], bool(runs) and (folder / "summary.json").is_file())
    else:
        raise files.RecordError(
            f"{folder} holds no run: there is no plan.json. Remedy: name the --run_dir of a run or of a comparison."
        )
    return View([_plain(line)[:width] for line in found.lines], found.finished)


def _plain(line: str) -> str:
    """A line in which no name can move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _plan(folder: pathlib.Path) -> Plan:
    return Plan.from_json(files.read_json(folder / "plan.json"))


def _short(folder: pathlib.Path) -> str:
    if (folder / "summary.json").is_file():
        return f"{folder.name}: finished"
    try:
        done = max(row["round"] or 0 for rows in read_metrics(fullest(folder, "metrics.csv")).values() for row in rows)
    except files.RecordError:
        done = 0
    return f"{folder.name}: round {done:g} of {_plan(folder).rounds}"


def _run(folder: pathlib.Path) -> View:
    plan = _plan(folder)
    finished = (folder / "summary.json").is_file()
    title = f"{folder.name}: {plan.label} on {plan.data.name}"
    try:
        metrics = read_metrics(fullest(folder, "metrics.csv"))
    except files.RecordError:
        return View([title, f"no round of {plan.rounds} is written yet"], finished)
    done = int(max(row["round"] or 0 for rows in metrics.values() for row in rows))
    state = "finished" if finished else _left(folder, plan.rounds - done)
    filled = round(_BAR * done / plan.rounds)
    lines = [title, f"round {done} of {plan.rounds}  [{'#' * filled}{'.' * (_BAR - filled)}]  {state}"]
    sent = [row for rows in metrics.values() for row in rows[-1:]]
    pooled = metrics.get(POOLED, [{}])[-1]
    totals = [pooled.get(f"bytes_{way}") for way in ("up", "down")]
    if not any(totals):
        totals = [sum(row.get(f"bytes_{way}") or 0 for row in sent) for way in ("up", "down")]
    lines.append(f"sent {bytes_text(totals[0])} up, {bytes_text(totals[1])} down")
    budget = plan.stopping.max_epsilon or plan.privacy.target_epsilon
    lines += ["", f"{'hospital':<24}{'loss':>10}{'accuracy %':>12}{'epsilon':>10}  of its budget"]
    for scope, rows in metrics.items():
        loss, accuracy, epsilon = (
            next((row[name] for row in reversed(rows) if row.get(name) is not None), None)
            for name in ("loss", "accuracy", "epsilon_rdp")
        )
        share = f"  {epsilon / budget:.0%} of {budget:g}" if epsilon is not None and budget else ""
        percent = "-" if accuracy is None else f"{100 * accuracy:.1f}"
        lines.append(
            f"{scope[:23]:<24}{significant(loss) or '-':>10}{percent:>12}{significant(epsilon) or '-':>10}{share}"
        )
    if all(row.get("loss") is None for rows in metrics.values() for row in rows):
        lines.append("no loss is shown: it stands in inside/, which is not here or not yours to read")
    return View(lines, finished)


def _federation(folder: pathlib.Path) -> list[str]:
    """Who is there, who is waited for, who refused, where the run is one of real hospitals."""
    path = fullest(folder, status.FILE_NAME)
    if not path.is_file():
        return []
    try:
        found = files.read_json(path)
        hospitals = dict(found["hospitals"])
        there = sum(one["present"] for one in hospitals.values())
        ago = f"written {_duration(max(0.0, time.time() - found['written']))} ago"
        asked = f", asked {found['asking']} of round {found['round']}" if found["asking"] else ""
        over = ", over" if found["ended"] else f": {there} of {len(hospitals)} hospitals are there{asked}, {ago}"
        lines = ["", f"federation {found['federation']} over {found['engine']}{over}"]
        lines.append(f"messages that did not count: {found['rejected']} rejected, {found['dropped']} dropped")
        for name, one in hospitals.items():
            heard = one["heard_seconds_ago"]
            last = "never heard of" if heard is None else f"last heard {_duration(heard)} before"
            if one["refused"]:
                lines.append(f"{name}: refused: {one['refused']}")
            elif not found["ended"] and not one["present"]:
                lines.append(f"{name}: not connected, {last}")
            elif one["waited_for"]:
                lines.append(f"{name}: waited for, {last}")
    except (files.RecordError, KeyError, TypeError, ValueError, AttributeError):
        return ["", f"{status.FILE_NAME} cannot be read"]
    return lines


def _left(folder: pathlib.Path, rounds: int) -> str:
    """Time left at the pace of the last rounds, and when the run last wrote."""
    path = fullest(folder, "timing.csv")
    try:
        seconds = [float(row["seconds"]) for row in read_csv(path, ("round", "seconds"))][-_PACE:]
        written = time.time() - path.stat().st_mtime
    except (files.RecordError, OSError, ValueError):
        return "time left not known"
    settled = seconds[1:] or seconds  # the first round compiles
    if not settled:
        return "time left not known"
    pace = sum(settled) / len(settled)
    if written > max(_SILENT_SECONDS, _SILENT_ROUNDS * pace):
        return f"nothing written for {_duration(written)}: if it was stopped, the same command goes on with it"
    return f"{_duration(rounds * pace)} left, last written {_duration(written)} ago"


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> _duration(7), _duration(200), _duration(8000)
    ('7 s', '3 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
