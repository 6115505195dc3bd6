"""The update that given records cause under a run's own mechanism: what a reconstruction attack is handed.

A probe pushes chosen records through the composition's own client work (clipping, noise, several steps), the
aggregator's clipping at the hospital and, where one is given, a chain of encoders. So an attack meets exactly the
defences that a run has, and none that it only claims.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits.gradients import Tensors
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import raise_if, whole_number

if TYPE_CHECKING:
    from tff_hospitals.communication import Chain
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.plan.plan import Plan


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the attacker sees of one probe.

    Attributes:
      gradient: the update divided by learning rate and steps: for one step, the gradient as it was sent.
      update: the update itself (initial - final weights).
      steps: local steps that it holds.
    """

    gradient: Tensors
    update: Tensors
    steps: int


class Probe:
    """Client work of a plan on records of one's choice.

    Args:
      plan: whose mechanism is probed; client optimiser and rate are plain SGD here, so that an update is a gradient.
      dataset: its hospitals (sizes decide sampling and noise).
      model: its model.
      weights, frozen: the broadcast model.
      steps: local steps of a probe, all on the same records.
      learning_rate: of these steps.
      chain: encoders of the upload; None sends float32.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        model: FunctionalModel,
        weights: Tensors,
        frozen: Tensors,
        *,
        steps: int = 1,
        learning_rate: float = 0.1,
        chain: Chain | None = None,
    ):
        import tensorflow as tf

        from tff_hospitals.plan import mechanisms
        from tff_hospitals.plan import noise as noise_plan
        from tff_hospitals.processes import composition

        raise_if([whole_number("local_steps", steps, low=1, remedy="probe one step or more")])
        self.noise = noise_plan.make(plan, dataset)  # of the run itself, not of the probe
        corrects = mechanisms.hospital_level(plan.privacy).corrects
        simple = plan.in_step().replace(
            client={
                "optimizer": "sgd",
                "learning_rate": learning_rate,
                "learning_rate_schedule": "constant",
                "local_steps": steps,
                "local_epochs": None,
                # What corrects steps may need them; in the first round, which is probed, they change a scale alone.
                **({} if corrects else {"momentum": 0.0, "proximal_mu": 0.0}),
            },
            poison="",
            by_round="",
        )
        if mechanisms.record_level(plan.privacy) is not None:  # each probe brings its multiplier: no target to meet
            simple = simple.replace(privacy={"target_epsilon": None, "noise_multiplier": 1.0})
        self._parts = composition.compose(simple, dataset, model)
        self._model, self._weights, self._frozen = model, weights, frozen
        self._steps, self._rate, self._chain = steps, learning_rate, chain
        state = self._parts.initial_state(weights, Streams.from_seed(plan.seed), self.noise.server_multiplier)
        self._state = tf.nest.map_structure(tf.convert_to_tensor, state)
        self._remembered = self._parts.remembered(state, dataset.ids[0])  # alike at all of them before the first round
        self._streams = Streams.from_seed(plan.seed).child("audit", "probe")
        self._work = tf.function(self._update, autograph=False, reduce_retracing=True)

    def _update(self, weights: Any, element: Any) -> Any:
        """The hospital's contribution, read as the server would read it if it were the only one and unprotected."""
        import tensorflow as tf

        state = self._state._replace(weights=weights)
        parameters = self._parts.aggregator.parameters(state.aggregator)
        contribution, *_ = self._parts.hospital_round(state, parameters, element)
        if self._parts.client_work.correction is not None:  # its server's half adds what it remembers
            return tuple(part / contribution["weight"] for part in contribution["delta"][: len(weights)])
        silent = tf.nest.map_structure(tf.zeros_like, self._parts.aggregator.server_noise(state.aggregator))
        update, _, _ = self._parts.aggregator.finish(state.aggregator, contribution, silent)
        divisor = getattr(self._parts.aggregator, "expected_cohort", None)
        return update if divisor is None else tuple(part * divisor for part in update)

    def noise_multiplier(self, hospital_id: str | None = None) -> float:
        """Of the noise that a hospital adds itself; the smallest of all when no hospital is named."""
        if self.noise.unit != "record":
            return 0.0
        values = self.noise.multipliers
        return float(min(values.values()) if hospital_id is None else values[hospital_id])

    def __call__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        *,
        number: int = 0,
        noise_multiplier: float | None = None,
        weights: Tensors | None = None,
    ) -> Seen:
        """What arrives at the server when a hospital trains on these records alone.

        Args:
          features, labels: [records, ...].
          number: of the probe; another number draws other noise.
          noise_multiplier: replaces the run's.
          weights: other broadcast weights (a malicious server's).
        """
        import tensorflow as tf

        count = len(labels)
        noise = self.noise_multiplier() if noise_multiplier is None else noise_multiplier
        labels_type = np.float32 if self._model.task == "regression" else np.int64
        element = collections.OrderedDict(
            features=np.asarray(features, np.float32),
            labels=np.asarray(labels, labels_type),
            indices=np.tile(np.arange(count, dtype=np.int32), (self._steps, 1)),
            mask=np.ones((self._steps, count), np.float32),
            steps=np.int32(self._steps),
            expected_batch=np.float32(count),
            noise_multiplier=np.float32(noise),
            key=self._streams.child(number).key(),
            weight=np.float32(1.0),
            frozen=tuple(self._frozen),
            **self._remembered,
        )
        if "factor" in self._parts.client_work.drawn:  # of the steps of all hospitals: it is alone
            element["factor"] = np.float32(1.0)
        sent = self._work(
            tuple(tf.convert_to_tensor(weight) for weight in (self._weights if weights is None else weights)),
            tf.nest.map_structure(tf.convert_to_tensor, element),
        )
        update = [part.numpy() for part in sent]
        if self._chain is not None:
            names = self._model.trainable_names
            key = self._streams.child(number, "shared").key()
            _, decoded, _ = self._chain.encode(list(zip(names, update)), key=key)
            update = update if decoded is None else list(decoded)
        scale = np.float32(self._rate * self._steps)
        return Seen(tuple(part / scale for part in update), tuple(update), self._steps)
