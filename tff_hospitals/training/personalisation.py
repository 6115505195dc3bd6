"""Each hospital's own model: what it makes of the finished one for itself, on its own training records.

| kind | is |
|---|---|
| `fine_tune` | training goes on (Wang et al. 2019, arXiv:1910.10252; Yu et al. 2020, arXiv:2002.04758) |
| `ditto` | the same, pulled back by lambda / 2 of the squared distance (Li et al. 2021, arXiv:2012.04221) |
| `interpolate` | between the finished model and one trained on, by a weight (Deng et al. 2020, arXiv:2003.13461) |

An own model never leaves its hospital, so that nothing is clipped or noised, no message is sent and no guarantee of the
federated model changes: for all others it is as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals import batches
from tff_hospitals.hospitals.hospital import Hospital, Part
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.local_training import LocalTraining
from tff_hospitals.processes.rounds import HospitalRound, own_element
from tff_hospitals.processes.settings_by_round import factors_of
from tff_hospitals.training.evaluation import POOLED, Evaluator, OwnWeights
from tff_hospitals.training.metrics import summary_fields

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

SHARES = tuple(number / 10 for number in range(11))
"""Weights of a hospital's own model that an interpolation chooses from."""


@dataclasses.dataclass(frozen=True)
class OwnModels:
    """What hospitals made for themselves.

    Attributes:
      weights: by hospital, trained and frozen weights.
      own_share: by hospital, the weight of what it trained itself; 1 but for interpolation.
    """

    weights: OwnWeights
    own_share: dict[str, float]

    def fields(self, plan: Plan, evaluator: Evaluator) -> dict[str, Any]:
        """For the summary of a run: figures of own models, each on its hospital's test records."""
        found = evaluator((), (), self.weights)
        pooled = found.pop(POOLED)
        chosen = {"own_share_per_hospital": self.own_share} if plan.personal.kind == "interpolate" else {}
        return {
            "kind": plan.personal.kind,
            "epochs": plan.personal.epochs,
            **chosen,
            **summary_fields(found, pooled),
        }


def statements(plan: Plan) -> tuple[str, ...]:
    """What a reader must know of a plan whose hospitals make models of their own."""
    if plan.personal.kind == "none":
        return ()
    return (
        f"after the last round every hospital makes a model of its own ({plan.personal.kind}, {plan.personal.epochs} "
        "epochs); it lies in inside/own_models/ and must stay at its hospital: nothing of it is released, and the "
        "ledger has no entry for it",
    )


class Personalisation:
    """Makes each hospital's own model.

    Args:
      plan: what hospitals make, and how they train (optimiser, batch size, learning rate of the last round); its
        mechanisms are left out.
      model: of the federation.
      dataset: the hospitals.

    >>> from tff_hospitals.hospitals import load_dataset
    >>> from tff_hospitals.training.loop import train
    >>> data = load_dataset("heart_disease")
    >>> run = train(Plan(rounds=2).replace(personal={"kind": "fine_tune", "epochs": 2}), data)
    >>> sorted(run.own) == sorted(data.ids), run.summary["personal"]["kind"]
    (True, 'fine_tune')
    """

    def __init__(self, plan: Plan, model: FunctionalModel, dataset: HospitalDataset):
        import tensorflow as tf

        self._plan, self._model, self._dataset = plan, model, dataset
        pull = plan.personal.pull if plan.personal.kind == "ditto" else 0.0
        client = dataclasses.replace(
            plan.client, local_epochs=plan.personal.epochs, local_steps=None, proximal_mu=pull, head_share=None
        )
        rate_by_round = factors_of(plan).get("client_learning_rate")
        by_round = {} if rate_by_round is None else {"learning_rate": rate_by_round}
        work = LocalTraining(model, client, PrivacyPlan(), max_local_steps=1, by_round=by_round)

        def trained(weights: tuple, element: Any, last: Any) -> tuple:
            settings = work.settings_at(last, work.settings())
            return work.run(weights, work.rate(last, settings), element, None, settings)[0]

        self._last = max(0, plan.rounds - 1)
        self._train = tf.function(
            trained,
            input_signature=[tuple(model.trainable_specs), work.element_spec(), tf.TensorSpec([], tf.int32)],
            autograph=False,
        )

    def __call__(self, weights: tuple, frozen: tuple, seed: int, rounds: int | None = None) -> OwnModels:
        """Every hospital's own model, of those that have training records.

        Args:
          weights, frozen: of the federated model.
          seed: of the run; batches follow from it.
          rounds: that were run, where the run may have ended early; by default those of the plan.
        """
        self._last = max(0, (self._plan.rounds if rounds is None else rounds) - 1)
        found: dict[str, tuple[tuple, tuple]] = {}
        shares: dict[str, float] = {}
        for hospital in self._dataset.hospitals:
            if hospital.train.records:
                name, streams = hospital.hospital_id, Streams.from_seed(seed).child("fine_tuning", hospital.hospital_id)
                own, shares[name] = self._of(hospital, load_part(hospital.train), weights, frozen, streams)
                found[name] = (own, tuple(frozen))
        return OwnModels(found, shares)

    def _of(
        self, hospital: Hospital, part: Part, weights: tuple, frozen: tuple, streams: Streams
    ) -> tuple[tuple, float]:
        """A hospital's own weights, and the share of what it trained itself."""
        if self._plan.personal.kind != "interpolate":
            return self._trained(dataclasses.replace(hospital, train=part), weights, frozen, streams), 1.0
        out, rest = held_out(part, self._plan.personal.validation_share, streams.child("validation"))
        own = self._trained(dataclasses.replace(hospital, train=rest), weights, frozen, streams)
        judge = Evaluator(
            self._model,
            dataclasses.replace(self._dataset, hospitals=(dataclasses.replace(hospital, test=out),)),
        )
        between = {share: interpolated(weights, own, share) for share in SHARES}
        losses = {share: judge(one, frozen)[POOLED]["loss"] for share, one in between.items()}
        best = min(SHARES, key=lambda share: losses[share])  # of equals the one nearest to the federated model
        return between[best], best

    def _trained(self, hospital: Hospital, weights: tuple, frozen: tuple, streams: Streams) -> tuple:
        schedule = batches.shuffled_epochs(
            streams.child("batches"),
            hospital.train.records,
            batch_size=self._plan.client.batch_size,
            local_epochs=self._plan.personal.epochs,
        )
        one = HospitalRound(hospital, schedule, streams.child("key").key(), 0.0, 1.0)
        element = own_element(one, self._model.task, tuple(frozen))
        return tuple(weight.numpy() for weight in self._train(tuple(weights), element, np.int32(self._last)))


def held_out(part: Part, share: float, streams: Streams) -> tuple[Part, Part]:
    """Records to choose by, one at least, and the rest to train on, one at least.

    Args:
      part: two or more records.
      share: of the records to hold out.
      streams: of the hospital.
    """
    count = min(part.records - 1, max(1, round(share * part.records)))
    order = streams.generator().permutation(part.records)
    out, rest = np.sort(order[:count]), np.sort(order[count:])
    features, labels = np.asarray(part.features), np.asarray(part.labels)
    return Part(features[out], labels[out]), Part(features[rest], labels[rest])


def interpolated(weights: tuple, own: tuple, share: float) -> tuple:
    """(1 - share) of one model's weights and share of another's.

    >>> interpolated((np.float32([0.0]),), (np.float32([2.0]),), 0.25)
    (array([0.5], dtype=float32),)
    """
    factor = np.float32(share)
    return tuple(one + factor * (other - one) for one, other in zip(weights, own))
