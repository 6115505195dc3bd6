"""What must be in the ledger, counted again from the rounds that the run drew and the noise that its parts were given.

Nothing is taken from what the plan meant to release: steps and sampling come from the batch schedules, multipliers from
what each hospital and the server's state carry, participation from the cohorts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import KINDS, Ledger, MechanismEvent
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.noise import multiplier_factor
from tff_hospitals.training.budgets import RoundBudgets

if TYPE_CHECKING:
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.rounds import HospitalRound

RELATIVE = 1e-5  # multipliers are float32 where they are used
Counts = list[tuple[MechanismEvent, int]]


@dataclasses.dataclass(frozen=True)
class Recount:
    """What every hospital must be charged with: by (unit, hospital) and round (from 1), and its steps by round."""

    events: Mapping[tuple[str, str], Mapping[int, Counts]]
    steps: Mapping[str, Mapping[int, int]]


def recount(run: LoadedRun, draws: Draws) -> Recount:
    """Counts the releases of a finished run.

    Args:
      run: whose rounds are counted; its ledger decides only who had spent a budget, as it did in the run.
      draws: what it drew.
    """
    plan, ids = run.plan, run.dataset.ids
    units = [unit for unit in ("record", "hospital") if _has(plan, unit)]
    events: dict[tuple[str, str], dict[int, Counts]] = {(unit, name): {} for unit in units for name in ids}
    steps: dict[str, dict[int, int]] = {name: {} for name in ids}
    for number, cohort in enumerate(cohorts_of(run, draws)):
        for name, one in cohort.items():
            steps[name][number + 1] = one.schedule.steps
        for unit, name in events:
            if unit == "record":
                released = _record(plan, cohort.get(name), draws.noise.settings[name].privacy.noise_bands)
            else:
                released = _hospital(plan, len(ids), draws.aggregator, number, cohort, name)
            if released is not None:
                events[unit, name].setdefault(number + 1, []).append(released)
    return Recount(events, steps)


def cohorts_of(run: LoadedRun, draws: Draws) -> Iterator[Mapping[str, HospitalRound]]:
    """Who took part in each round: those who were drawn and could pay."""
    budgets = RoundBudgets(run.plan, run.dataset, draws.noise)
    spent = Ledger(run.ledger.delta, run.ledger.adjacency)
    for unit in run.ledger.units():
        spent.expect(unit, run.ledger.hospital_ids(unit))
    charged = run.ledger.by_round() if budgets else {}
    for number in range(run.rounds):
        cohort = {one.hospital.hospital_id: one for one in draws.whole_round(number).cohort}
        if budgets:
            for (unit, hospital), of in charged.items():
                for event, counts in of.items():
                    spent.record(unit, hospital, number, event, counts.get(number, 0))
            stay = budgets.decide(spent, number, tuple(cohort)).may_train
            cohort = {name: one for name, one in cohort.items() if name in stay}
        yield cohort


def _has(plan: Plan, unit: str) -> bool:
    return any(mechanism.unit == unit for mechanism, _ in mechanisms.layers(plan.privacy))


def _record(plan: Plan, one: HospitalRound | None, bands: int | None) -> tuple[MechanismEvent, int] | None:
    """What one hospital's round releases about its records; with bands, as many groups of them take turns."""
    if one is None or one.schedule.steps == 0:
        return None
    schedule, multiplier = one.schedule, float(one.noise_multiplier)
    if bands and schedule.sampling in ("poisson", "cyclic_poisson"):
        return _turn(multiplier, bands * schedule.expected_batch / schedule.records), -(-schedule.steps // bands)
    if bands:
        return MechanismEvent("matrix", noise_multiplier=multiplier, sensitivity=1.0, steps=schedule.steps), 1
    if schedule.sampling != "poisson":
        one_pass = math.ceil(schedule.records / plan.client.batch_size)
        period = one_pass if schedule.steps > one_pass else None
        return MechanismEvent("tree", noise_multiplier=multiplier, steps=schedule.steps, period=period), 1
    q = min(1.0, schedule.expected_batch / schedule.records)
    if not CLIP_STYLES[plan.privacy.clip_style].follows or multiplier == 0:
        return MechanismEvent("poisson_gaussian", noise_multiplier=multiplier, sampling_probability=q), schedule.steps
    count_stddev = plan.privacy.record_count_stddev(multiplier)
    values = (multiplier**-2 - (2 * count_stddev) ** -2) ** -0.5  # what the count leaves for the gradients
    event = MechanismEvent(
        "adaptive_clip", noise_multiplier=values, bit_noise_stddev=count_stddev, sampling_probability=q
    )
    return event, schedule.steps


def _turn(multiplier: float, chance: float) -> MechanismEvent:
    """A step about the group of records whose turn it is."""
    if chance > 1 - RELATIVE:
        return MechanismEvent("gaussian", noise_multiplier=multiplier)
    return MechanismEvent("poisson_gaussian", noise_multiplier=multiplier, sampling_probability=chance)


def _hospital(
    plan: Plan, hospitals: int, state: Mapping[str, Any], number: int, cohort: Mapping[str, HospitalRound], name: str
) -> tuple[MechanismEvent, int] | None:
    """What a round releases about one hospital.

    Where its noise is its own, or its turn is known, only when it takes part; else in every round, whoever takes part.
    A tree whose nodes or a strategy whose noise is kept is one mechanism for everybody.
    """
    level = mechanisms.hospital_level(plan.privacy)
    locally = level.noise_by == "hospital"
    grows = "kept_noise" in state or "open_nodes" in state  # recorded for everybody, as it has grown by the round
    if name not in cohort and (locally or (plan.cohort.kind == "cyclic" and not grows)):
        return None
    if "local_stddev" in state:
        return _shares(level.name, state, len(cohort)), 1
    multiplier = float(state["noise_multiplier"]) * multiplier_factor(plan, "hospital", number)
    if "open_nodes" in state:
        per_tree = min(plan.rounds, plan.privacy.restart_every or plan.rounds)
        tree, position = divmod(number, per_tree)
        period = plan.cohort.period(hospitals)
        event = MechanismEvent("tree", noise_multiplier=multiplier, steps=position + 1, period=period, restart=tree)
        return event, 1
    if "kept_noise" in state:
        event = MechanismEvent("matrix", noise_multiplier=multiplier, sensitivity=1.0, steps=number + 1, restart=0)
        return event, 1
    q = plan.cohort.sampling_probability if plan.cohort.kind == "poisson" and not locally else None
    counts = [float(state[name]) for name in ("clipped_count_stddev", "zeroing_count_stddev") if state.get(name)]
    fields: dict[str, Any] = {"noise_multiplier": multiplier, "sampling_probability": q}
    if counts:
        fields["bit_noise_stddev"] = math.fsum(stddev**-2 for stddev in counts) ** -0.5
    kind = "adaptive_clip" if counts else "gaussian" if q is None else "poisson_gaussian"
    return MechanismEvent(kind, **{name: value for name, value in fields.items() if value is not None}), 1


def _shares(mechanism: str, state: Mapping[str, Any], shares: int) -> MechanismEvent:
    """Whole-number noise: the sensitivity is the bound that every hospital's vector is held to."""
    return MechanismEvent(
        mechanism,
        local_stddev=float(state["local_stddev"]),
        shares=max(1, shares),
        l2_sensitivity=float(state["norm_bound"]),
        l1_sensitivity=1.0,
        dimension=1 if "dimension" in KINDS[mechanism].required else None,
    )


def alike(one: MechanismEvent, other: MechanismEvent) -> bool:
    """Whether two events say the same but for rounding."""
    if one.kind != other.kind:
        return False
    for field in dataclasses.fields(MechanismEvent):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("l1_sensitivity", "dimension", "sensitivity"):
            continue  # follow from the others and the model's size; what hangs together is tested by itself
        if isinstance(a, float) and isinstance(b, float):
            if not math.isclose(a, b, rel_tol=RELATIVE):
                return False
        elif a != b:
            return False
    return True


def missing(expected: Counts, charged: Counts) -> Counts:
    """What is expected and not charged as often as it should; counts below zero are charged too often."""
    events, counts = [event for event, _ in charged], [count for _, count in charged]
    found: Counts = []
    for event, count in expected:
        for at, other in enumerate(events):
            if alike(event, other):
                taken = min(count, counts[at])
                count -= taken
                counts[at] -= taken
        if count:
            found.append((event, count))
    return [*found, *((event, -count) for event, count in zip(events, counts) if count)]
