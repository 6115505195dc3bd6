"""Drawing a round: who takes part, with which batches, which noise key and which weight.

Everything here is a function of (the run's streams, the round number), so a resumed run draws what it would have
drawn. Each hospital draws from a stream of its own, derived from its id. `run_streams` says what each stream follows
from.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals import cohorts
from tff_hospitals.plan import mechanisms, poison
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.hospital_draws import BatchRule, RunStreams
from tff_hospitals.processes.rounds import HospitalRound, RoundInput
from tff_hospitals.training.clock import Clock
from tff_hospitals.training.run_streams import run_streams

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital, HospitalDataset
    from tff_hospitals.hospitals.buffered_cohorts import Answer


class RoundDrawer:
    """Draws the rounds of one run.

    Args:
      plan: a plan without problems.
      dataset: its hospitals.
      noise: the noise plan of the two.
      streams: of the run, or a root for draws that belong to no run; default: those of this plan without a model.
      at_workers: leave batches to be drawn where the hospitals train, as far as that can be done. The operating
        system's numbers are drawn here all the same: nobody could draw them twice.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        noise: noise_plan.NoisePlan,
        streams: RunStreams | Streams | None = None,
        *,
        at_workers: bool = False,
    ):
        self._plan = plan
        self._noise = noise
        self._batches = BatchRule(plan)
        self._at_workers = at_workers and not plan.privacy.secure_noise
        streams = run_streams(plan, dataset) if streams is None else streams
        self._streams = RunStreams.from_root(streams) if isinstance(streams, Streams) else streams
        self._attacks = poison.factors(plan.poison)
        self._tells = mechanisms.hospital_level(plan.privacy).tells
        self._hospitals = {hospital.hospital_id: hospital for hospital in dataset.hospitals}
        self._clock = Clock(plan, dataset, self._streams.common.child("speeds"))
        kind, size = plan.cohort.kind, plan.cohort.hospitals_per_round
        if plan.cohort.asynchronous:  # the clock knows who takes part
            kind, size = "all", None
        self._cohort = cohorts.Cohorts(dataset.ids, kind, size, plan.cohort.sampling_probability)

    def rounds_within(self, records: int, most: int) -> int:
        """How many rounds use at most so many records in all their steps together; 1 to `most`."""
        client, growth = self._plan.client, 1.0
        if client.local_steps or client.local_epochs:  # of one record: steps, or epochs, of the longest round
            growth = noise_plan.steps_per_round(self._plan, 1) / float(client.local_steps or client.local_epochs or 1)
        return max(1, min(most, int(records / max(1.0, growth * self.records_per_round))))

    @property
    def records_per_round(self) -> float:
        """Records that a round trains on, all steps and passes together, about."""
        client = self._plan.client
        uses = client.batch_size * client.local_steps * len(self._hospitals) if client.local_steps else 0
        if not uses:
            uses = int(client.local_epochs or 1) * sum(one.train.records for one in self._hospitals.values())
        return uses * self._cohort.sampling_probability

    def cohort(self, round_number: int) -> tuple[str, ...]:
        """Ids of the hospitals that take part, in the data set's order."""
        answers = self._clock.answers(round_number)
        if answers is not None:
            return tuple(answers)
        size, drawn = noise_plan.hospitals_in_round(self._plan, round_number), self._cohort
        if size != drawn.hospitals_per_round:
            drawn = dataclasses.replace(drawn, hospitals_per_round=size)
        return drawn(self._streams.cohorts(), round_number)

    def draw(self, round_number: int, cohort: tuple[str, ...] | None = None) -> RoundInput:
        """The round's input; `cohort` replaces the drawn one (hospitals that spent their budget are left out)."""
        ids = self.cohort(round_number) if cohort is None else cohort
        hospitals = tuple(self._hospital(self._hospitals[one], round_number, place) for place, one in enumerate(ids))
        if self._tells == "factor":
            hospitals = normalised(hospitals, self._plan.client.momentum)
        answers = self._clock.answers(round_number)
        if answers is not None:
            hospitals = tuple(self._late(one, answers[one.hospital.hospital_id]) for one in hospitals)
        seconds = self._clock.seconds(round_number, ids)
        streams = self._streams if self._at_workers else None
        return RoundInput(round_number, hospitals, self._streams.broadcast(round_number), seconds, streams)

    def _late(self, one: HospitalRound, answer: Answer) -> HospitalRound:
        """A hospital whose update counts by the age of the model that it was made from.

        The server knows that age and no hospital does: of an encoded update it multiplies what it decodes. One that is
        not encoded is multiplied before it is added up, wherever that is.
        """
        late, factor = self._plan.cohort.staleness_factor(answer.staleness), 1.0 if one.factor is None else one.factor
        one = dataclasses.replace(one, staleness=answer.staleness, waits=answer.waits)
        if self._plan.upload:
            return dataclasses.replace(one, factor=factor, late=late)
        return dataclasses.replace(one, factor=late * factor)

    def _hospital(self, hospital: Hospital, round_number: int, place: int) -> HospitalRound:
        records, name = hospital.train.records, hospital.hospital_id
        groups = int(self._noise.settings[name].privacy.noise_bands or 1) if self._batches.in_groups else 1
        draw = self._batches.later if self._at_workers else self._batches.draw
        schedule = draw(self._streams, name, records, round_number, groups)
        return HospitalRound(
            hospital,
            schedule,
            self._streams.hospital_noise(name, round_number),
            self._noise_multiplier(name, round_number),
            self._weight(records, place),
            self._streams.upload(name, round_number),
            self._attacks.get(name, 1.0) if self._attacks else None,
            groups=groups,
        )

    def _noise_multiplier(self, name: str, round_number: int) -> float:
        """Of the noise that a hospital adds inside its steps."""
        if self._noise.unit != "record":
            return 0.0
        return self._noise.multipliers[name] * noise_plan.multiplier_factor(self._plan, "record", round_number)

    def _weight(self, records: int, place: int) -> float:
        """A hospital's weight in the mean; a rule that sees every update is told the place of each instead."""
        if self._tells == "place":
            return place + 1.0
        return float(records) if self._plan.weighting == "records" else 1.0


def normalised(cohort: tuple[HospitalRound, ...], momentum: float) -> tuple[HospitalRound, ...]:
    """The hospitals of a round with the factors of FedNova (Wang et al. 2020, arXiv:2007.07481, eq. 6 and sec. 4.2).

    Each update is divided by the sum of the weights that its steps' gradients have in it, and all are multiplied by the
    mean of these sums, so that a mean of updates becomes the normalised one: tau_eff * sum_i p_i delta_i / |a_i|.
    """
    lengths = [_length(one.schedule.steps, momentum) for one in cohort]
    total = sum(one.weight for one in cohort)
    effective = sum(one.weight * length for one, length in zip(cohort, lengths)) / total if total else 0.0
    return tuple(
        dataclasses.replace(one, factor=effective / length * (1.0 if one.factor is None else one.factor))
        for one, length in zip(cohort, lengths)
    )


def _length(steps: int, momentum: float) -> float:
    """The sum of the weights of the gradients of so many steps: their number, without momentum."""
    if not momentum:
        return float(steps)
    return (steps - momentum * (1.0 - momentum**steps) / (1.0 - momentum)) / (1.0 - momentum)
