"""Fine-tuning: each hospital trains the finished model on, for itself, on its own training records.

What comes out is the hospital's own model. It never leaves the hospital, so that nothing is clipped or noised, no
message is sent and no guarantee of the federated model changes: for all others it is as if nothing had happened (Wang
et al. 2019, arXiv:1910.10252; Yu, Bagdasaryan and Shmatikov 2020, arXiv:2002.04758).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, whole_number
from tff_hospitals.hospitals import batches
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.local_training import LocalTraining
from tff_hospitals.processes.rounds import HospitalRound, own_element
from tff_hospitals.training.evaluation import Evaluator
from tff_hospitals.training.metrics import Predictions

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel


def problems(epochs: int | None, dataset: HospitalDataset | None = None) -> list[Problem]:
    """What is wrong with so many epochs, and with hospitals whose own model nothing would measure or train."""
    if epochs is None:
        return []
    wrong = whole_number("finetune_epochs", epochs, low=1, remedy="give 1 or more epochs, or leave it out")
    found = [] if wrong is None else [wrong]
    for part, train in (("test", False), ("training", True)):
        empty = [] if dataset is None else [one for one, records in dataset.records(train=train).items() if not records]
        if empty:
            bound = f"needs {part} records at every hospital, and there are none at {', '.join(empty)}"
            remedy = "leave --finetune_epochs out, or these hospitals, or divide the records another way"
            found.append(Problem("finetune_epochs", epochs, bound, remedy))
    return found


class FineTuning:
    """Trains and tests each hospital's own model.

    Args:
      plan: how hospitals train (optimiser, batch size, and the learning rate of the last round); its mechanisms and its
        proximal term are left out.
      model: of the federation.
      dataset: the hospitals.
      epochs: over each hospital's own training records.

    >>> from tff_hospitals.hospitals import load_dataset
    >>> from tff_hospitals.training.loop import train
    >>> data = load_dataset("heart_disease")
    >>> run = train(Plan(rounds=2), data)
    >>> own = FineTuning(run.plan, run.model, data, epochs=2)
    >>> len(own.predictions(run.weights, run.frozen, seed=1)) == sum(data.records(train=False).values())
    True
    """

    def __init__(self, plan: Plan, model: FunctionalModel, dataset: HospitalDataset, epochs: int):
        import tensorflow as tf

        client = dataclasses.replace(plan.client, local_epochs=epochs, local_steps=None, proximal_mu=0.0)
        work = LocalTraining(model, client, PrivacyPlan(), max_local_steps=1)
        settings = work.settings()
        rate = work.rate(tf.constant(max(0, plan.rounds - 1)), settings)
        self._model, self._epochs, self._batch_size = model, epochs, client.batch_size
        self._hospitals = [
            dataclasses.replace(one, train=load_part(one.train)) for one in dataset.hospitals if one.train.records
        ]
        self._evaluators = {
            one.hospital_id: Evaluator(model, dataclasses.replace(dataset, hospitals=(one,)))
            for one in dataset.hospitals
        }
        self._train = tf.function(
            lambda weights, element: work.run(weights, rate, element, None, settings)[0],
            input_signature=[tuple(model.trainable_specs), work.element_spec()],
            autograph=False,
        )

    def weights(self, weights: tuple, frozen: tuple, seed: int) -> dict[str, tuple]:
        """Each hospital's own weights.

        Args:
          weights, frozen: of the federated model.
          seed: of the run; batches follow from it.
        """
        found = {}
        for one in self._hospitals:
            streams = Streams.from_seed(seed).child("fine_tuning", one.hospital_id)
            schedule = batches.shuffled_epochs(
                streams.child("batches"), one.train.records, batch_size=self._batch_size, local_epochs=self._epochs
            )
            element = own_element(
                HospitalRound(one, schedule, streams.child("key").key(), 0.0, 1.0), self._model.task, tuple(frozen)
            )
            found[one.hospital_id] = self._train(tuple(weights), element)
        return found

    def predictions(self, weights: tuple, frozen: tuple, seed: int) -> Predictions:
        """What each hospital's own model says about its own test records, hospitals in order."""
        own = self.weights(weights, frozen, seed)
        return Predictions.joined([of.predictions(own[one], frozen) for one, of in self._evaluators.items()])
