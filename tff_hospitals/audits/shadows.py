"""Shadow models: the run's own plan on other random splits of the same hospitals' records.

Each shadow run keeps every hospital's number of training records, so the compiled program is the one that the run
itself used, and a shadow costs milliseconds. Features keep the scale that they have in the attacked run.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.membership import Shadows
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import raise_if, whole_number
from tff_hospitals.hospitals import Hospital, HospitalDataset, Part

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.plan.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """All records of all hospitals, training parts and test parts, as one table.

    Attributes:
      features, labels: [records, ...].
      hospital: [records], position of the hospital in the data set.
      member: [records], whether the attacked run trained on the record.
    """

    features: np.ndarray
    labels: np.ndarray
    hospital: np.ndarray
    member: np.ndarray

    @classmethod
    def of(cls, dataset: HospitalDataset) -> Records:
        """The records of a data set, hospital by hospital, training part first."""
        parts = [(at, part, flag) for at, h in enumerate(dataset) for part, flag in ((h.train, True), (h.test, False))]
        return cls(
            np.concatenate([part.features for _, part, _ in parts]),
            np.concatenate([part.labels for _, part, _ in parts]),
            np.concatenate([np.full(part.records, at) for at, part, _ in parts]),
            np.concatenate([np.full(part.records, flag) for _, part, flag in parts]),
        )

    def split(self, dataset: HospitalDataset, member: np.ndarray) -> HospitalDataset:
        """The data set in which the records of `member` are the training parts."""
        made = []
        for at, hospital in enumerate(dataset):
            inside, outside = member & (self.hospital == at), ~member & (self.hospital == at)
            train = Part(self.features[inside], self.labels[inside])
            made.append(Hospital(hospital.hospital_id, train, Part(self.features[outside], self.labels[outside])))
        return dataclasses.replace(dataset, hospitals=tuple(made))

    def random_members(self, streams: Streams) -> np.ndarray:
        """A new split [records] with as many training records at each hospital as there are now."""
        draws = streams.generator().random(len(self.member))
        chosen = np.zeros(len(self.member), bool)
        for at in np.unique(self.hospital):
            own = np.flatnonzero(self.hospital == at)
            chosen[own[np.argsort(draws[own], kind="stable")[: int(self.member[own].sum())]]] = True
        return chosen


def losses_of(
    model: FunctionalModel, dataset: HospitalDataset, weights: tuple, frozen: tuple, records: Records
) -> np.ndarray:
    """Loss [records] of each record under a model, float64."""
    return outputs_of(model, dataset, weights, frozen, records)[0]


def outputs_of(
    model: FunctionalModel, dataset: HospitalDataset, weights: tuple, frozen: tuple, records: Records
) -> tuple[np.ndarray, np.ndarray]:
    """Loss [records] and scores (probabilities) of each record under a model, float64."""
    from tff_hospitals.training.evaluation import Evaluator

    everyone = Hospital("everyone", Part(records.features, records.labels), Part(records.features, records.labels))
    found = Evaluator(model, dataclasses.replace(dataset, hospitals=(everyone,))).predictions(weights, frozen)
    return found.losses, found.scores


def train_shadows(
    plan: Plan, dataset: HospitalDataset, model: FunctionalModel, records: Records, *, count: int
) -> Shadows:
    """Trains shadow models and measures every record's loss under each.

    Args:
      plan: of the attacked run; seeds are replaced, everything else is kept, noise included.
      dataset: the hospitals of the attacked run.
      model: its model.
      records: all their records.
      count: shadow models, 4 or more.
    """
    from tff_hospitals.training.loop import train

    raise_if([whole_number("shadow_models", count, low=4, remedy="train 4 shadow models or more; 16 is a good start")])
    root = Streams.from_seed(plan.seed).child("audit", "shadows")
    once = plan.replace(
        evaluate_every=plan.rounds,
        checkpoint_every=plan.rounds,
        stopping={"patience": None, "max_epsilon": None, "outer_max_epsilon": None},
    )
    losses, included = [], []
    for number in range(count):
        member = records.random_members(root.child(number))
        seed = int(root.child(number, "seed").generator().integers(2**31))
        run = train(once.replace(seed=seed), records.split(dataset, member), model=model)
        losses.append(losses_of(model, dataset, run.weights, run.frozen, records))
        included.append(member)
    return Shadows(np.array(losses), np.array(included))
