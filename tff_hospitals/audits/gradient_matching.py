"""Gradient matching: search the records whose gradient is the one that was sent.

The attacker knows model, broadcast weights, learning rate and number of local steps, takes the labels from
`labels.recover_label`, and moves made-up records until their update agrees with the observed one: in squared distance
(DLG) or in direction, with a penalty on rough images (cosine with total variation). Several local steps are simulated
and differentiated through.

Source: Zhu, Liu and Han 2019, "Deep Leakage from Gradients", arXiv:1906.08935; Geiping et al. 2020, "Inverting
Gradients", arXiv:2003.14053; unrolled local steps: Dimitrov et al. 2022, arXiv:2206.12395.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits.gradients import Tensors
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import in_range, one_of, raise_if, whole_number

if TYPE_CHECKING:
    from tff_hospitals.audits.probe import Seen
    from tff_hospitals.models import FunctionalModel

OBJECTIVES = ("squared", "cosine")


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """What the search found.

    Attributes:
      features: [records, *feature_shape].
      distance: of the updates at the end, relative: 0 is a perfect match.
      evaluations: of the objective and its derivative.
    """

    features: np.ndarray
    distance: float
    evaluations: int


class GradientMatching:
    """The search, compiled once for a number of records and local steps.

    Args:
      model: the attacked model.
      weights, frozen: the broadcast model.
      steps, learning_rate: of the local training that is inverted.
      objective: `squared` or `cosine`.
      total_variation: weight of the penalty on differences between neighbouring pixels (images).
      low, high: public bounds of the features; the search stays between them.
    """

    def __init__(
        self,
        model: FunctionalModel,
        weights: Tensors,
        frozen: Tensors,
        *,
        steps: int = 1,
        learning_rate: float = 0.1,
        objective: str = "squared",
        total_variation: float = 0.0,
        low: float | np.ndarray = -5.0,
        high: float | np.ndarray = 5.0,
    ):
        import tensorflow as tf

        raise_if(
            [
                one_of("objective", objective, OBJECTIVES),
                whole_number("local_steps", steps, low=1, remedy="invert one step or more"),
                in_range("total_variation", total_variation, low=0.0, remedy="give 0 or more"),
            ]
        )
        self._model, self._frozen = model, frozen
        self._weights = tuple(tf.convert_to_tensor(weight) for weight in weights)
        self._steps, self._rate = steps, learning_rate
        self._objective, self._variation = objective, total_variation
        shape = model.feature_shape
        self._low = np.broadcast_to(np.asarray(low, np.float64), shape)
        self._high = np.broadcast_to(np.asarray(high, np.float64), shape)
        self._value = tf.function(self._value_and_slope, autograph=False, reduce_retracing=True)

    def _simulated(self, features: Any, labels: Any) -> tuple:
        """The update that these records would have caused, divided by rate and steps; differentiable."""
        import tensorflow as tf

        weights = self._weights
        for _ in range(self._steps):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs = self._model.predict(weights, self._frozen, features, training=False)
                loss = tf.reduce_mean(self._model.per_record_loss(outputs, labels))
            slopes = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            if self._steps == 1:
                return tuple(slopes)
            weights = tuple(weight - self._rate * slope for weight, slope in zip(weights, slopes))
        scale = self._rate * self._steps
        return tuple((start - end) / scale for start, end in zip(self._weights, weights))

    def _value_and_slope(self, features: Any, labels: Any, target: Any) -> tuple:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(features)
            made = self._simulated(features, labels)
            if self._objective == "squared":
                size = tf.add_n([tf.reduce_sum(part**2) for part in target])
                distance = tf.add_n([tf.reduce_sum((a - b) ** 2) for a, b in zip(made, target)])
                value = distance / tf.maximum(size, 1e-20)
            else:
                product = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(made, target)])
                sizes = [tf.add_n([tf.reduce_sum(part**2) for part in parts]) for parts in (made, target)]
                value = 1.0 - product * tf.math.rsqrt(sizes[0] + 1e-20) * tf.math.rsqrt(sizes[1] + 1e-20)
            whole = value
            if self._variation and len(self._model.feature_shape) >= 2:
                across = tf.reduce_mean(tf.abs(features[:, 1:] - features[:, :-1]))
                along = tf.reduce_mean(tf.abs(features[:, :, 1:] - features[:, :, :-1]))
                whole = value + self._variation * (across + along)
        return whole, tape.gradient(whole, features), value

    def __call__(
        self, seen: Seen, labels: np.ndarray, *, iterations: int = 300, restarts: int = 2, seed: int = 0
    ) -> Match:
        """Searches the records behind an update; the best of several starts by its own distance.

        Args:
          seen: what the attacker saw.
          labels: [records], recovered before.
          iterations: of the quasi-Newton search, per start.
          restarts: starts; a start that matches ends the search.
          seed: of the random starts.
        """
        import tensorflow as tf
        from scipy import optimize

        raise_if(
            [
                whole_number("iterations", iterations, low=1, remedy="search for 1 iteration or more"),
                whole_number("restarts", restarts, low=1, remedy="start once or more"),
            ]
        )
        count = len(labels)
        shape = (count, *self._model.feature_shape)
        target = tuple(tf.convert_to_tensor(part, tf.float32) for part in seen.gradient)
        kind = tf.float32 if self._model.task == "regression" else tf.int64
        truth = tf.convert_to_tensor(labels, kind)
        low = np.broadcast_to(self._low, shape).ravel()
        high = np.broadcast_to(self._high, shape).ravel()
        last = [np.inf]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            features = tf.convert_to_tensor(flat.reshape(shape), tf.float32)
            whole, slope, value = self._value(features, truth, target)
            last[0] = float(value)
            return float(whole), np.asarray(slope, np.float64).ravel()

        best: Match | None = None
        evaluations = 0
        for start in range(restarts):
            generator = Streams.from_seed(seed).child("gradient_matching", start).generator()
            first = low + (high - low) * (0.35 + 0.3 * generator.random(len(low)))
            result = optimize.minimize(
                objective,
                first,
                jac=True,
                method="L-BFGS-B",
                bounds=list(zip(low, high)),
                options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-14, "gtol": 1e-10, "maxcor": 30},
            )
            evaluations += int(result.nfev)
            objective(result.x)
            if best is None or last[0] < best.distance:
                best = Match(result.x.reshape(shape), last[0], evaluations)
            if best.distance < 1e-7:
                break
        return dataclasses.replace(best, evaluations=evaluations) if best else Match(np.zeros(shape), np.inf, 0)
