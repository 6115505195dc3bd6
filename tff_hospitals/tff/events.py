"""Events out: what a process released so far, for every process, and a ledger that a TFF program fills.

TFF's own `extract_dp_event_from_state` knows Gaussian sums alone, and not their trees or shares. Here the events of
every process of `build_learning_process` come from the same releases that our own runs account for.

Example (needs TFF)::

    ledger = LedgerReleaseManager(process, "run/ledger.json")
    await tff.learning.programs.train_model(
        train_process=process,
        train_metrics_manager=tff.program.GroupingReleaseManager([csv, ledger]),
        ...
    )
    ledger.rows[-1]["epsilon"]
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tff_hospitals.accounting import Ledger, after_selection, compose_dp_event, group_epsilon
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.tff.process import Claims, HospitalLearningProcess

COLUMNS = ("round", "unit", "client", "epsilon", "delta", "conversion", "adjacency")


def empty_ledger(claims: Claims) -> Ledger:
    """The ledger before the first round: what preprocessing released, and the clients that it will be about."""
    noise = claims.noise
    ledger = Ledger(delta=noise.delta, adjacency=noise.adjacency)
    for part in noise.parts:
        if not next(iter(part.releases.values())).shared:
            ledger.expect(part.unit, claims.clients.ids)
        for client, released in noise_plan.preprocessing_events(claims.clients, part.unit).items():
            for event, count in released:
                ledger.record(part.unit, client, 0, event, count)
    return ledger


def charge(ledger: Ledger, claims: Claims, round_number: int, clients: int) -> None:
    """Enters what one round releases.

    TFF does not say which clients took part. So every client is charged, which is never too little.

    Args:
      ledger: of the process.
      claims: of the process.
      round_number: 0-based.
      clients: how many took part: each of them brings its share of distributed noise.
    """
    sizes = claims.clients.records()
    for part in claims.noise.parts:
        first = next(iter(part.releases.values()))
        if first.shared:
            event, count = first.in_round(round_number, 1, clients)
            ledger.record(part.unit, None, round_number + 1, event, count)
            continue
        for client, release in part.releases.items():
            steps = noise_plan.steps_per_round(claims.plan, sizes[client])
            event, count = release.in_round(round_number, steps, clients)
            ledger.record(part.unit, client, round_number + 1, event, count)


def ledger_of(process: HospitalLearningProcess, rounds: int) -> Ledger:
    """The ledger of the first rounds of a process, each of them run once with a whole cohort.

    Args:
      process: from `build_learning_process`.
      rounds: how many.
    """
    claims = process.claims
    ledger = empty_ledger(claims)
    expected = round(claims.plan.cohort.expected_size(len(claims.clients)))
    for round_number in range(rounds):
        charge(ledger, claims, round_number, expected)
    return ledger


def extract_dp_event(process: HospitalLearningProcess, state: Any, *, unit: str | None = None) -> Any:
    """What the rounds up to a state released, as a `dp_accounting.DpEvent`; of the client that it costs most.

    Args:
      process: from `build_learning_process`.
      state: after any number of rounds.
      unit: `record` or `hospital`, where a process protects both; by default its own.

    Returns:
      The composed event; `NonPrivateDpEvent` of a process without privacy that has run a round. The adjacency is
      `process.claims.noise.adjacency`.

    Raises:
      InvalidInput: a unit that the process does not protect, or a mechanism that dp_accounting has no event for.
    """
    import dp_accounting

    claims, rounds = process.claims, rounds_of(state)
    units = [part.unit for part in claims.noise.parts]
    if not units:
        return dp_accounting.NonPrivateDpEvent() if rounds else dp_accounting.NoOpDpEvent()
    chosen = units[0] if unit is None else unit
    if chosen not in units:
        raise InvalidInput([Problem("unit", unit, f"must be one of {', '.join(units)}", "take a protected unit")])
    ledger = ledger_of(process, rounds)
    return compose_dp_event(ledger.events(chosen, worst_client(ledger, chosen)), claims.noise.adjacency)


def worst_client(ledger: Ledger, unit: str) -> str | None:
    """The client whose epsilon is the largest; None where all share what was released."""
    ids = ledger.hospital_ids(unit)
    if not ids:
        return None
    of_events: dict[Any, str] = {}  # clients of one size have the same events
    for client in ids:
        of_events.setdefault(ledger.events(unit, client), client)
    return max(of_events.values(), key=lambda client: ledger.epsilon(unit, client))


def rounds_of(state: Any) -> int:
    """Rounds that a `LearningAlgorithmState` has behind it.

    Raises:
      InvalidInput: a state that does not count them.
    """
    for part in (state.client_work, state.aggregator):
        if hasattr(part, "keys") and "round" in part:
            return int(np.asarray(part["round"]))
    bound = "does not count its rounds: a model of TFF's trains by client work that keeps no number"
    raise InvalidInput([Problem("state", type(state).__name__, bound, "use ledger_of(process, rounds)")])


class LedgerReleaseManager(tff.program.ReleaseManager):
    """Fills a ledger from a TFF program and keeps epsilon by round.

    While it is there, every call of `process.next` is charged *before* the round runs: also of rounds that a program
    discards and draws again, which are never released. `release` adds the epsilon of the round to `rows`; a round that
    was run elsewhere is charged then.

    With `path` the ledger is on disk before the round begins, and a manager that finds one there goes on with it.

    Args:
      process: from `build_learning_process`.
      path: a JSON file for ledger and rows; None keeps them in memory.

    Attributes:
      ledger: what was released so far.
      rows: one dict for each released round and unit, see `COLUMNS`.

    Raises:
      InvalidInput: a file of another process.
    """

    def __init__(self, process: HospitalLearningProcess, path: os.PathLike[str] | str | None = None):
        self._claims, self._path = process.claims, path
        self.ledger, self.rows = empty_ledger(self._claims), list[dict[str, Any]]()
        self._charged: dict[int, int] = {}
        self._identity = files.fingerprint([self._claims.plan.fingerprint(), self._claims.clients.records()])
        if path is not None and os.path.exists(path):
            self._read(path)
        process.before_round(self._on_call)

    def _read(self, path: os.PathLike[str] | str) -> None:
        content = files.read_json(path)
        if content.get("process") != self._identity:
            bound = "must be the ledger of this plan and these clients"
            raise InvalidInput([Problem("path", os.fspath(path), bound, "choose another file for another process")])
        self.ledger, self.rows = Ledger.from_json(content["ledger"]), list(content["rows"])
        self._charged = {int(number): count for number, count in content["charged"].items()}

    def _write(self) -> None:
        if self._path is not None:
            content = {
                "process": self._identity,
                "claims": self._claims.words,
                "ledger": self.ledger.to_json(),
                "rows": self.rows,
                "charged": self._charged,
            }
            files.write_json(self._path, content)

    def _on_call(self, state: Any, clients: int | None) -> None:
        try:
            number = rounds_of(state)
        except (InvalidInput, TypeError, AttributeError):  # a state that is not here yet, or does not count
            number = max(self._charged, default=-1) + 1
        self._charge(number, clients)

    def _charge(self, number: int, clients: int | None) -> None:
        whole = self._claims.plan.cohort.expected_size(len(self._claims.clients))
        charge(self.ledger, self._claims, number, round(whole) if clients is None else clients)
        self._charged[number] = self._charged.get(number, 0) + 1
        self._write()

    async def release(self, value: Any, key: int) -> None:
        """Adds the epsilon after a round.

        Args:
          value: what the program releases; not looked at.
          key: number of the round, from 1.
        """
        number = int(key) - 1
        if number not in self._charged:
            self._charge(number, None)
        self.rows = [row for row in self.rows if row["round"] != key]
        self.rows += await asyncio.to_thread(self._rows_of, int(key))
        self._write()

    def _rows_of(self, key: int) -> list[dict[str, Any]]:
        return [
            {
                "round": key,
                "unit": part.unit,
                "client": client,
                "epsilon": self.epsilon(part.unit, client),
                "delta": self.ledger.delta,
                "conversion": "rdp",
                "adjacency": self.ledger.adjacency,
            }
            for part in self._claims.noise.parts
            for client in [worst_client(self.ledger, part.unit)]
        ]

    def epsilon(self, unit: str, client: str | None = None) -> float:
        """Epsilon so far of a unit by Renyi accounting; of a patient, where the plan says that one has several records.

        Args:
          unit: `record` or `hospital`.
          client: whose; None for what touches all alike.
        """
        ledger, selected = self.ledger, self._claims.plan.privacy.selected_from
        if selected > 1:
            ledger = after_selection(ledger, selected)
        several = self._claims.noise.records_per_patient if unit == "record" else 1
        if several == 1:
            return ledger.epsilon(unit, client)
        events = ledger.events(unit, client)
        return group_epsilon(events, ledger.delta, several, adjacency=ledger.adjacency, conversion="rdp")
