"""Are batches and cohorts drawn as the ledger declares?

* Poisson batches: every record by itself, with its probability, in every step anew. Shuffled or fixed-size batches have
  the right mean and vary too little from step to step; batches that return use some records too often.
* Passes in one order (DP-FTRL): every record once in a pass, and in the same step of every pass of a round.
* Cohorts: who takes part, how often and in which turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.self_tests import declared
from tff_hospitals.audits.self_tests.findings import Finding, share_of_error
from tff_hospitals.audits.self_tests.measures import AtMost, Share, Spread, differences

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.hospitals.batches import BatchSchedule

_MOST_MARKS = 40_000_000  # cells of a table of steps by records
_EXTRA_ROUNDS = 400


def check(run: LoadedRun, draws: Draws, hospitals: Sequence[str], rounds: Sequence[int]) -> list[Finding]:
    """All tests of batches that fit what the ledger declares.

    Args:
      run: with the ledger.
      draws: of the run.
      hospitals: ids.
      rounds: 0-based.
    """
    found: list[Finding] = []
    for name in hospitals:
        event = declared.loudest(run.ledger, run.dataset, "record", name)
        if event is None:
            continue
        turns = draws.turns(name)
        if event.sampling_probability is not None or turns > 1:
            found += _poisson(run, draws, name, event.sampling_probability or 1.0, turns, rounds)
        elif event.kind == "tree":
            found += _passes(run, draws, name, event.period, rounds)
        elif event.kind == "matrix":
            found += _passes(run, draws, name, draws.noise.settings[name].steps_per_epoch, rounds)
    return found


def _schedules(draws: Draws, hospital: str, rounds: Sequence[int]) -> Iterator[tuple[int, BatchSchedule]]:
    for number in rounds:
        for one in draws.round(number).cohort:
            if one.hospital.hospital_id == hospital:
                yield number, one.schedule


def marks(schedule: BatchSchedule) -> np.ndarray:
    """How often each step uses each record, int64 [steps, records]."""
    used = schedule.mask > 0
    table = np.zeros((schedule.steps, schedule.records), np.int64)
    step = np.repeat(np.arange(schedule.steps), schedule.capacity).reshape(schedule.indices.shape)
    np.add.at(table, (step[used], schedule.indices[used]), 1)
    return table


def _poisson(run: LoadedRun, draws: Draws, hospital: str, q: float, turns: int, rounds: Sequence[int]) -> list[Finding]:
    """Each record with chance q in a step; with `turns` above 1, in the steps of its group alone."""
    records = run.dataset.hospital(hospital).train.records
    sizes: list[np.ndarray] = []
    rooms: list[np.ndarray] = []
    uses, chances = np.zeros(records, np.int64), np.zeros(records, np.int64)
    used_steps = most = out_of_turn = 0
    wanted = _steps_wanted(records // turns, q)
    for _, schedule in _schedules(draws, hospital, [*rounds, *range(run.rounds, run.rounds + _EXTRA_ROUNDS)]):
        if used_steps >= wanted and len(sizes) >= len(rounds):
            break
        table = marks(schedule)
        turn = np.subtract.outer(np.arange(schedule.steps), np.arange(records)) % turns == 0
        out_of_turn += int(table[~turn].sum())
        sizes.append(table.sum(axis=1))
        rooms.append(turn.sum(axis=1))
        uses += table.sum(axis=0)
        chances += turn.sum(axis=0)
        used_steps += schedule.steps
        most = max(most, int(table.max(initial=0)))
        if used_steps * records > _MOST_MARKS:
            break
    if not used_steps:
        return []
    each = np.concatenate(sizes)
    where = f"{used_steps} steps of {records} records, q = {q:.4g}"
    room = np.concatenate(rooms)
    share = Share(int(each.sum()), int(room.sum()), q)
    found = [
        Finding("batches", "no record twice", hospital, AtMost(float(most), 1.0, "a record twice in a step"), where),
        Finding("batches", "as many records as declared", hospital, share, where),
    ]
    if turns > 1:
        measure = differences(out_of_turn, "a record in the step of another group")
        found.append(Finding("batches", "groups in turn", hospital, measure, f"{where}, {turns} groups"))
    if q < 1:
        found.append(Finding("batches", "sizes vary as declared", hospital, Spread.of(each, room, q), where))
        found.append(Finding("batches", "records vary as declared", hospital, Spread.of(uses, chances, q), where))
    return found


def _steps_wanted(records: int, q: float) -> int:
    """Steps after which a rate of .9 or 1.1 would be found."""
    steps = 16
    while steps * records < _MOST_MARKS and q * 1.1 < 1:
        if Share(int(steps * records * q), steps * records, q).power(share_of_error()) >= 0.95:
            break
        steps *= 2
    return steps


def _passes(run: LoadedRun, draws: Draws, hospital: str, period: int | None, rounds: Sequence[int]) -> list[Finding]:
    """Steps that do not repeat the step one pass before, and records that are not used once in a pass."""
    moved = uneven = steps = 0
    for _, schedule in _schedules(draws, hospital, rounds):
        table = marks(schedule)
        steps += schedule.steps
        every = schedule.steps if period is None else period
        moved += int((table[every:] != table[:-every]).any(axis=1).sum()) if schedule.steps > every else 0
        for start in range(0, schedule.steps - every + 1, every):
            uneven += int((table[start : start + every].sum(axis=0) > 1).sum())
    where = f"{steps} steps, period {'the whole round' if period is None else period}"
    return [
        Finding("batches", "passes in one order", hospital, differences(moved, "a step that returns changed"), where),
        Finding("batches", "once in a pass", hospital, differences(uneven, "a record twice in a pass"), where),
    ]
