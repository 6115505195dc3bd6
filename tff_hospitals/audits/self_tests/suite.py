"""All self-tests that apply to a run: which they are follows from what its ledger declares."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tff_hospitals.audits.self_tests import (
    batches,
    clipping,
    cohorts,
    counts,
    covariance,
    declared,
    independence,
    keys,
    ledger,
    looks,
    loudness,
    noise_of_adaptive_steps,
    noise_of_rounds,
    noise_of_steps,
    probes,
    recount,
    replay,
    rig,
    shares,
    whole_rounds,
)
from tff_hospitals.audits.self_tests.findings import Finding, NotTested, share_of_error
from tff_hospitals.audits.self_tests.measures import draws_for_loudness
from tff_hospitals.audits.self_tests.noises import Noise, Observed
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.noise import noise_changes
from tff_hospitals.plan.zeroing import ZEROING

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun

MOST_HOSPITALS = 64  # that are looked at one by one
MOST_ROUNDS = 256  # of a hospital-level mechanism
_MOST_SEEDS = 400
_RUNS_OF_ROUNDS = 6000
_RUNS_OF_SLOW_ROUNDS = 1200  # whose noise is drawn one number after the other
_CLIPPED_ROUNDS = 15
_CLIPPED_ROUNDS_OF_UPDATES = 5
Found = list["Finding | NotTested"]


def all_findings(run: LoadedRun) -> Found:
    """Every self-test of a run, and what could not be tested; nothing for a run without a mechanism.

    Args:
      run: a finished run.
    """
    if not run.ledger.units():
        return []
    return _Suite(run).findings()


def taking_part(run: LoadedRun) -> list[str]:
    """The hospitals that are looked at one by one and were in a round: of the others nothing was released.

    Args:
      run: a finished run.
    """
    names = run.dataset.ids[:MOST_HOSPITALS]
    draws = keys.Draws("this run", run, run.plan, run.noise(), names)
    seen: set[str] = set()
    for cohort in recount.cohorts_of(run, draws):
        seen.update(cohort)
        if seen.issuperset(names):
            break
    return [name for name in names if name in seen]


class _Suite:
    """The tests of one run, and what they share."""

    def __init__(self, run: LoadedRun):
        self.run = run
        self.around = mechanisms.hospital_level(run.plan.privacy)
        self.hospitals = run.dataset.ids[:MOST_HOSPITALS]
        self.runs = keys.Runs(run, self.hospitals)
        settings = self.runs.own.noise.settings  # with what the plan leaves to the planner
        self.plan = run.plan.replace(privacy=next(iter(settings.values())).privacy) if settings else run.plan
        own = tuple(run.dataset.hospital(name) for name in self.hospitals)
        dataset = dataclasses.replace(run.dataset, hospitals=own, recipe="")
        self.dataset, self.places = probes.blown_up(dataset, probes.SCALES)

    def findings(self) -> Found:
        """Unit by unit, then what concerns the run as a whole."""
        found: Found = []
        units = self.run.ledger.units()
        foreign = keys.foreign(self.run.plan.privacy)
        if any(noise_changes(self.run.plan, unit) and not declared.tells_rounds(self.run, unit) for unit in units):
            foreign = foreign or "noise changes by round, and the ledger of a sweep's winner tells no rounds"
        if foreign:
            found.append(NotTested("noise, clipping and batches", None, foreign))
            return [*found, *cohorts.check(self.run, self.runs.own), *ledger.check(self.run, self.runs.own)]
        if "record" in units:
            found += self._record_level()
        if "hospital" in units:
            found += self._hospital_level()
        found += cohorts.check(self.run, self.runs.own)
        found += ledger.check(self.run, self.runs.own)
        found.append(replay.check(self.run, self.runs.own))
        if self.run.drawn_elsewhere and "record" in units:
            found = [self._not_ours(one) for one in found]
        left_out = len(self.run.dataset.ids) - len(self.hospitals)
        if left_out:
            reason = f"the first {MOST_HOSPITALS} hospitals are looked at one by one, not the other {left_out}"
            found.append(NotTested("all but the ledger", None, reason))
        return found

    def _not_ours(self, one: Finding | NotTested) -> Finding | NotTested:
        """What our streams would have drawn says nothing about batches that others drew."""
        if isinstance(one, NotTested) or one.kind != "batches":
            return one
        return NotTested(f"{one.kind}: {one.what}", one.hospital, self.run.drawn_elsewhere)

    # ------------------------------------------------------------------------------------------------- record level

    def _record_level(self) -> Found:
        run, own = self.run, self.runs.own
        multiplier = max(own.noise.multipliers.values())
        frame = self._frame("record", multiplier)
        steps = max(one.schedule.steps for one in own.round(0).cohort) if own.round(0).cohort else 1
        adaptive = CLIP_STYLES[self.plan.privacy.clip_style].follows
        look = looks.choose(
            hospitals=len(self.hospitals),
            rounds=run.rounds,
            steps=1 if self.plan.privacy.secure_noise else steps,
            parameters=frame.parameters,
            smallest=min(part.stop - part.start for part in frame.tensors.values()),
            error=share_of_error(),
        )
        if look.left_out:
            found: Found = [NotTested("noise on records: some rounds", None, _left_out(look.left_out, run.rounds))]
        else:
            found = []
        present = taking_part(run)  # with other seeds others may
        reason = "it takes part in no round: nothing is charged for it, and nothing declared"
        found += [NotTested("noise on records", name, reason) for name in self.hospitals if name not in present]
        if adaptive and present:
            found += self._adaptive_steps(look, present)
        elif present:
            other = self.runs.other_plan()
            seeds = [*self.runs.with_seeds(look.seeds), other]
            every = noise_of_steps.observe(run, frame, seeds, present, look)
            noises = [one for one in every if one.run != other.label]
            others = [one for one in every if one.run == other.label]
            found += self._of_noise("noise on records", noises, others, frame)
        keyed = self._frame("record", multiplier, keyed=True) if self.plan.privacy.secure_noise else frame
        rounds = self._with_everybody(look.rounds, _CLIPPED_ROUNDS)
        found += clipping.records(run, keyed.at(run.weights), own, self.hospitals, rounds, self.places)
        found += batches.check(run, own, self.hospitals, range(run.rounds))
        if self.plan.privacy.secure_noise or adaptive:
            found.append(NotTested("whole rounds: noise on records", None, _NORM_MOVES if adaptive else _FRESH))
        else:
            found.append(whole_rounds.of_steps(run, frame, own, look.rounds[:MOST_ROUNDS]))
        return found

    def _adaptive_steps(self, look: looks.Looks, hospitals: Sequence[str]) -> Found:
        """Noise on gradients and counts of adaptive clipping."""
        frame = self._frame("record", max(self.runs.own.noise.multipliers.values()), keyed=True)
        cells = len(hospitals) * len(look.rounds)
        counted = max(1, noise_of_adaptive_steps.STEPS - 1)
        wanted = -(-draws_for_loudness(share_of_error()) // (len(look.rounds) * counted))
        most = max(1, looks.MOST_RUNS // (cells * 3 * noise_of_adaptive_steps.STEPS))
        seeds = self.runs.with_seeds(min(wanted, most) - 1)
        common = (hospitals, look.rounds, self.places)
        gradients, steps = noise_of_adaptive_steps.observe(self.run, frame.at(self.run.weights), seeds, *common)
        others, _ = noise_of_adaptive_steps.observe(
            self.run, frame.at(self.run.weights), [self.runs.other_plan()], *common
        )
        found = self._of_noise("noise on records", gradients, others, frame)
        name = "count of unclipped records"
        if not steps:
            found.append(NotTested(f"counts: {name}", None, "a round has one step: its norm never moves"))
        else:
            seen = Observed(name, steps, counts.ONE_NUMBER, self.runs.own.label)
            found += loudness.check(seen, kind="counts") + independence.check(seen)
        if self.plan.privacy.secure_noise:
            reason = "adaptive norms were looked at with noise from keys in the place of the operating system's"
            found.append(NotTested("noise on records from the operating system", None, reason))
        return found

    # ----------------------------------------------------------------------------------------------- hospital level

    def _hospital_level(self) -> Found:
        run, own = self.run, self.runs.own
        event = declared.loudest(run.ledger, run.dataset, "hospital", self.hospitals[0])
        if event is None:
            return [NotTested("noise on updates", None, "the ledger holds no release of a round")]
        rounds, found = self._rounds()
        count = self._seeds(len(rounds))
        seeds = self.runs.with_seeds(count - 1)
        other = self.runs.other_plan()
        frame = self._frame("hospital", own.noise.server_multiplier, runs_per_call=count + 1)
        played = noise_of_rounds.play(frame, [*seeds, other], rounds)
        mine = [one for one in played if one.draws is own]
        over = self._over()
        noises = over([one for one in played if one.draws is not other], None)
        normal = event.local_stddev is None
        others = over([one for one in played if one.draws is other], None)
        found += self._of_noise("noise on updates", noises, others, frame, normal)
        if self.around.noise_by != "server":
            found += self._shares(frame, seeds, mine, over, normal)
        played = [one for one in played if one.draws is not other]
        found += self._counts(frame, seeds, rounds, played, event)
        found += self._clipped_updates(frame, rounds)
        if self.plan.privacy.secure_noise:
            found.append(NotTested("whole rounds: noise on updates", None, _FRESH))
        elif list(rounds) == list(range(len(rounds))):
            found.append(whole_rounds.of_rounds(run, frame, own, mine))
        return found

    def _rounds(self) -> tuple[Sequence[int], Found]:
        """Rounds of a hospital-level mechanism that are looked at, and what that leaves out."""
        total = self.run.rounds
        shown = min(total, MOST_ROUNDS)
        if shown == total:
            return range(total), []
        hang_together = noise_of_rounds.dependence_of(self.plan, len(self.hospitals), 1) is not None
        rounds = range(shown) if hang_together else looks.spread(total, shown)
        return rounds, [NotTested("noise on updates: some rounds", None, _left_out(total - shown, total))]

    def _with_everybody(self, rounds: Sequence[int], count: int) -> list[int]:
        """So many of these rounds, and others until every hospital that is in any of them is in one."""

        def cohort(number: int) -> set[str]:
            return {one.hospital.hospital_id for one in self.runs.own.round(number).cohort}

        chosen = [rounds[at] for at in looks.spread(len(rounds), min(len(rounds), count))]
        lacking = set(self.hospitals).difference(*map(cohort, chosen))
        for number in rounds:
            if not lacking:
                break
            if lacking & cohort(number):
                chosen.append(number)
                lacking -= cohort(number)
        return sorted(chosen)

    def _seeds(self, rounds: int) -> int:
        """How many seeds make every test see enough, the run's own included."""
        wanted = draws_for_loudness(share_of_error())
        sizes = [spec.shape.num_elements() for spec in self.run.model.trainable_specs]
        together = self.around.noise_by != "shares"
        most = (_RUNS_OF_ROUNDS if together else _RUNS_OF_SLOW_ROUNDS) // rounds
        return max(1, min(_MOST_SEEDS, most, max(-(-wanted // (rounds * min(sizes))), -(-wanted // sum(sizes)))))

    def _over(self) -> Callable[[Sequence[noise_of_rounds.Played], str | None], list[Noise]]:
        @functools.cache
        def event(number: int) -> MechanismEvent | None:
            return declared.of_round(self.run, "hospital", None, number + 1)

        def over(played: Sequence[noise_of_rounds.Played], hospital: str | None) -> list[Noise]:
            return noise_of_rounds.over_declared(self.plan, len(self.hospitals), played, event, hospital)

        return over

    def _shares(
        self,
        frame: rig.Rig,
        seeds: Sequence[keys.Draws],
        mine: Sequence[noise_of_rounds.Played],
        over: Callable[[Sequence[noise_of_rounds.Played], str | None], list[Noise]],
        normal: bool,
    ) -> Found:
        """Noise that every hospital adds itself, alone and in sum."""
        rounds = [one.round for one in mine]
        wanted = -(-draws_for_loudness(share_of_error()) // (len(rounds) * frame.parameters))
        few = seeds[: max(2, wanted)]
        alone: dict[str, Sequence[noise_of_rounds.Played]] = {
            name: noise_of_rounds.play_alone(frame, few, rounds, name) for name in self.hospitals
        }
        noises = [noise for name, played in alone.items() for noise in over(played, name)]
        found = self._of_noise("share of the noise", noises, [], frame, normal)
        if self.plan.privacy.secure_noise:
            return [*found, NotTested("shares: add up", None, _FRESH)]
        return [*found, shares.add_up(mine, alone)]

    def _counts(
        self,
        frame: rig.Rig,
        seeds: Sequence[keys.Draws],
        rounds: Sequence[int],
        played: Sequence[noise_of_rounds.Played],
        event: MechanismEvent,
    ) -> Found:
        """Noised counts of adaptive clipping and zeroing."""
        found: Found = []
        size = len(self.hospitals)
        seen: list[Observed | NotTested] = []
        if self.around.counts:
            seen.append(counts.of_clipping(self.plan, size, played, event))
        if self.around.zeroing and ZEROING[self.plan.privacy.zeroing].follows:
            seen.append(counts.of_zeroing(self.plan, size, frame, seeds, rounds, event))
        for one in seen:
            if isinstance(one, NotTested):
                found.append(one)
            else:
                found += loudness.check(one, kind="counts") + independence.check(one)
        return found

    def _clipped_updates(self, frame: rig.Rig, rounds: Sequence[int]) -> Found:
        multiplier = self.runs.own.noise.server_multiplier
        by_server = self.around.noise_by == "server"
        upload = self.plan.upload if by_server else ""
        if upload or self.plan.privacy.secure_noise:
            frame = self._frame("hospital", multiplier, keyed=True, upload=upload)
        event = declared.loudest(self.run.ledger, self.run.dataset, "hospital", self.hospitals[0])
        if event is None:
            return []
        chosen = self._with_everybody(rounds, _CLIPPED_ROUNDS_OF_UPDATES)
        return clipping.updates(self.run, frame.at(self.run.weights), self.runs.own, event, chosen, self.places)

    # -------------------------------------------------------------------------------------------------------- shared

    def _frame(
        self, unit: str, multiplier: float, *, keyed: bool = False, upload: str = "", runs_per_call: int = 1024
    ) -> rig.Rig:
        local_steps = None if unit == "record" else 1
        plan = rig.plain_plan(self.plan, unit, multiplier, local_steps=local_steps, keyed=keyed, upload=upload)
        return rig.Rig(plan, self.dataset, self.run.model, self.run.frozen, runs_per_call)

    def _of_noise(
        self, name: str, noises: list[Noise], others: list[Noise], frame: rig.Rig, normal: bool = True
    ) -> Found:
        seen = Observed(name, noises, frame.tensors, self.runs.own.label, normal)
        return [*loudness.check(seen), *covariance.check(seen), *independence.check(seen, others)]


_FRESH = "noise from the operating system cannot be drawn twice"
_NORM_MOVES = "the clip norm of a step follows from the noise of the step before"


def _left_out(left: int, rounds: int) -> str:
    return f"{left} of {rounds} rounds were not looked at: it would take too long"
