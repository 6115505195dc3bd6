"""The noise on the hospitals' sum, round by round, over its declared size: hospital-level mechanisms.

Every hospital trains on no record at all, so that its update is zero and what the round changes is noise alone: that of
the server, or the shares of the hospitals, together or of one of them alone. Many seeds of the plan run their rounds
side by side, each from the state that its own rounds left.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits.self_tests import rig
from tff_hospitals.audits.self_tests.noises import Noise
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.mechanisms.base import HospitalSetting
from tff_hospitals.plan.mechanisms.counts import counts_of
from tff_hospitals.plan.noise import clip_factor
from tff_hospitals.processes.rounds import RoundInput

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.rounds import HospitalRound


Events = Callable[[int], "MechanismEvent | None"]


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """One round of one seed: what it changed, and the mechanism's state before and after it.

    Attributes:
      update: float64 [parameters], the mean that the server applied.
      cohort: how many hospitals took part.
      before, after: states of the aggregator, as numpy values.
    """

    draws: Draws
    round: int  # 0-based
    update: np.ndarray
    cohort: int
    before: Any
    after: Any


def play(
    frame: rig.Rig, seeds: Sequence[Draws], rounds: Sequence[int], *, active: bool = False, **held: float
) -> list[Played]:
    """Rounds in which the hospitals of the cohort send nothing.

    Args:
      frame: around the mechanism.
      seeds: the run's draws and those of other seeds.
      rounds: 0-based, ascending. Those that begin at 0 without a gap run one after the other, each from the state that
        the one before left; others start from the first state.
      active: the first half of every cohort takes one step with its own records.
      held: values of the mechanism's state that every round starts with.
    """
    in_order = list(rounds) == list(range(len(rounds))) and not held
    states = [frame.state(0, draws.aggregator) for draws in seeds]
    found: list[Played] = []
    for number in rounds:
        if not in_order:
            states = [frame.state(number, _with(draws.aggregator, held)) for draws in seeds]
        states = [state._replace(round_number=np.int32(number)) for state in states]
        inputs = [RoundInput(number, _quiet(draws.round(number).cohort, active)) for draws in seeds]
        updates, after = frame.updates(states, inputs)
        for draws, one, update, state, then in zip(seeds, inputs, updates, states, after):
            found.append(Played(draws, number, update, len(one.cohort), state.aggregator, then.aggregator))
        states = after
    return found


def _with(aggregator: Any, held: Mapping[str, float]) -> Any:
    values = ((name, held.get(name, value)) for name, value in aggregator.items())
    return collections.OrderedDict(
        (name, np.asarray(value, np.asarray(aggregator[name]).dtype)) for name, value in values
    )


def _quiet(cohort: Sequence[HospitalRound], active: bool) -> tuple[HospitalRound, ...]:
    loud = len(cohort) // 2 if active else 0
    return tuple(rig.one_step(one) if at < loud else rig.silent(one, 1) for at, one in enumerate(cohort))


def play_alone(frame: rig.Rig, seeds: Sequence[Draws], rounds: Sequence[int], hospital: str) -> list[Played]:
    """Rounds with one silent hospital alone, out of those in which it takes part: the noise that it adds itself."""
    chosen: list[tuple[Draws, int, HospitalRound]] = [
        (draws, number, one)
        for draws, number in itertools.product(seeds, rounds)
        for one in draws.round(number).cohort
        if one.hospital.hospital_id == hospital
    ]
    states = [frame.state(number, draws.aggregator) for draws, number, _ in chosen]
    inputs = [rig.one_hospital(number, rig.silent(one, 1), draws) for draws, number, one in chosen]
    updates, after = frame.updates(states, inputs)
    return [
        Played(draws, number, update, 1, state.aggregator, then.aggregator)
        for (draws, number, _), update, state, then in zip(chosen, updates, states, after)
    ]


def over_declared(
    plan: Plan, hospitals: int, played: Sequence[Played], events: Events, hospital: str | None = None
) -> list[Noise]:
    """The noise of rounds over its declared deviation.

    Args:
      plan: of the run.
      hospitals: how many there are.
      played: rounds of one or several seeds; those that the ledger declares nothing for are left out.
      events: whose noise the ledger declares, by round (0-based).
      hospital: whose share it is; None: of the whole round.
    """
    sums, shown = [], []
    for one in played:
        event = events(one.round)
        if event is not None:
            deviates = max(deviation(plan, event, one), 1e-30)
            sums.append(one.update * divisor(plan, hospitals, one.cohort) / deviates)
            shown.append(one)
    played = shown
    dependence = dependence_of(plan, hospitals, 1 + max((one.round for one in played), default=0))
    if dependence is not None:
        sums = _apart(played, sums, dependence)
    return [as_noise(hospital, one, noise) for one, noise in zip(played, sums)]


def as_noise(hospital: str | None, one: Played, values: np.ndarray) -> Noise:
    """Numbers of one round as noise in one part."""
    return Noise(hospital, one.round + 1, one.draws.label, values.reshape(1, -1))


def divisor(plan: Plan, hospitals: int, cohort: int) -> float:
    """By what the server divides the sum."""
    return plan.cohort.expected_size(hospitals) if plan.cohort.kind == "poisson" else float(max(1, cohort))


def deviation(plan: Plan, event: MechanismEvent, one: Played) -> float:
    """Declared deviation of the noise on the sum of a round, in units of the update.

    Where the noises of rounds hang together: of the normals that make them.
    """
    if event.local_stddev is not None:  # whole numbers
        return math.sqrt(one.cohort) * event.local_stddev / float(one.before["scale"])
    clip_norm = float(one.before["clip_norm"]) * clip_factor(plan, "hospital", one.round)
    size = float(event.noise_multiplier or 0.0) * clip_norm
    locally = mechanisms.hospital_level(plan.privacy).noise_by == "hospital"
    return size * math.sqrt(one.cohort) if locally else size


def count_stddev(plan: Plan, event: MechanismEvent) -> float:
    """Declared deviation of the noise on one count; the ledger states that of all counts of a round together."""
    settings = mechanisms.hospital_settings(plan.privacy)
    counts = counts_of(mechanisms.hospital_level(plan.privacy), settings)
    return float(event.bit_noise_stddev or 0.0) * math.sqrt(counts) or 1e-30


def dependence_of(plan: Plan, hospitals: int, rounds: int) -> np.ndarray | None:
    """How the noises of the first rounds hang together; None where every round has noise of its own."""
    settings = mechanisms.hospital_settings(plan.privacy)
    setting = HospitalSetting(settings, plan.rounds, plan.cohort, hospitals)
    return mechanisms.hospital_level(plan.privacy).dependence(setting, rounds)


def _apart(played: Sequence[Played], sums: Sequence[np.ndarray], dependence: np.ndarray) -> list[np.ndarray]:
    """Independent noise out of that of rounds that hang together, seed by seed (all rounds from the first on)."""
    found: list[np.ndarray] = [np.zeros(0)] * len(sums)
    of_seed: dict[str, list[int]] = {}
    for place, one in enumerate(played):
        of_seed.setdefault(one.draws.label, []).append(place)
    factor = np.linalg.cholesky(dependence @ dependence.T)
    for places in of_seed.values():
        rounds = [played[at].round for at in places]
        white = np.linalg.solve(factor[np.ix_(rounds, rounds)], np.array([sums[at] for at in places]))
        for place, noise in zip(places, white):
            found[place] = noise
    return found
