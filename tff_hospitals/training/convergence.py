"""Training of a baseline to its end: L-BFGS on all records at once, stopped by its own loss and by records held out.

A baseline that is not trained to its end turns a ranking round. First the records are split: L-BFGS runs on three
quarters until its loss stops falling, and the quarter held out says after which iteration going on did harm. Then it
runs on all records: to the end, or for that many iterations where the harm is larger than twice its standard error
(models that are as good at their end as before are never stopped early). The line search finds its own rates, whatever
the scale of features and targets.

Source: Liu and Nocedal 1989, Mathematical Programming 45 (as in SciPy); Prechelt 1998, Early stopping, but when?
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Part
    from tff_hospitals.models import FunctionalModel

MOST_ITERATIONS = 1000
MOST_WORK = 2e8
"""Records times parameters, above which a pass over all records is too dear to be made a thousand times."""
NOT_CONVERGED = "not trained to its end"
_FEWEST_RECORDS = 8  # of which a quarter can be held out
_CHUNK = 8192
_FLAT = 1e-4  # relative fall of the loss over the last tenth of the iterations that still counts as its end


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained model.

    Attributes:
      weights: found.
      loss: on all records it was trained on.
      iterations: of L-BFGS on them.
      converged: whether its loss had stopped falling, or records held out said when to stop.
      words: why it ended.
    """

    weights: tuple[np.ndarray, ...]
    loss: float
    iterations: int
    converged: bool
    words: str


def can_fit(model: FunctionalModel, records: int) -> bool:
    """Whether passes over all records are cheap enough."""
    return records * model.parameters <= MOST_WORK


def fit(model: FunctionalModel, weights: tuple, frozen: tuple, part: Part, streams: Streams) -> Fit:
    """Trains on a hospital's records until nothing is gained any more.

    Args:
      model: to train.
      weights, frozen: to start from.
      part: its records.
      streams: which of them are held out to find the end.
    """
    features, labels = np.asarray(part.features, np.float32), np.asarray(part.labels)
    most, why = MOST_ITERATIONS, "its training loss no longer falls"
    if len(labels) >= _FEWEST_RECORDS:
        order = streams.child("held out").generator().permutation(len(labels))
        out, kept = order[: len(labels) // 4], order[len(labels) // 4 :]
        best = _best_iteration(model, weights, frozen, (features[kept], labels[kept]), (features[out], labels[out]))
        if best is not None:
            most, why = best, f"records held out say to stop after {best} iterations"
    found, losses, ended = _minimise(_Objective(model, frozen, features, labels), weights, most)
    early = most < MOST_ITERATIONS
    converged = early or ended or _flat(losses)
    if not converged:
        why = f"{NOT_CONVERGED}: the loss still falls after {len(losses)} iterations"
    return Fit(found, losses[-1] if losses else math.nan, len(losses), converged, f"{why} (L-BFGS)")


def _best_iteration(model: Any, weights: tuple, frozen: tuple, kept: tuple, out: tuple) -> int | None:
    """After how many iterations the records held out were served best; None where the end is as good."""
    held_out = _Objective(model, frozen, *out)
    history: list[np.ndarray] = []
    _minimise(
        _Objective(model, frozen, *kept), weights, MOST_ITERATIONS, lambda flat: history.append(held_out.each(flat))
    )
    if len(history) < 2:
        return None
    means = [float(np.mean(losses)) if np.isfinite(losses).all() else math.inf for losses in history]
    best = int(np.argmin(means))
    harm = history[-1] - history[best]
    if not np.isfinite(harm).all():
        return best + 1
    error = float(np.std(harm, ddof=1)) / math.sqrt(len(harm)) if len(harm) > 1 else math.inf
    return best + 1 if float(np.mean(harm)) > 2 * error else None


def _minimise(
    objective: _Objective, weights: tuple, most: int, look: Any = None
) -> tuple[tuple[np.ndarray, ...], list[float], bool]:
    """Weights, the loss after each iteration, and whether the method itself found its end."""
    from scipy.optimize import minimize

    losses: list[float] = []

    def after(flat: np.ndarray) -> None:
        losses.append(objective(flat)[0])
        if look is not None:
            look(flat)

    options = {"maxiter": most, "maxfun": 4 * most + 20, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-7}
    found = minimize(objective, objective.flat(weights), jac=True, method="L-BFGS-B", callback=after, options=options)
    return objective.unflat(found.x), losses, bool(found.success)


def _flat(losses: list[float]) -> bool:
    if len(losses) < 20:
        return True  # the line search found nothing lower within the precision of float32
    before = losses[-max(2, len(losses) // 10)]
    return before - losses[-1] <= _FLAT * max(abs(losses[-1]), 1e-12)


class _Objective:
    """Mean loss and gradient over records, as SciPy wants them: float64 vectors."""

    def __init__(self, model: FunctionalModel, frozen: tuple, features: np.ndarray, labels: np.ndarray):
        import tensorflow as tf

        self._frozen, self._records = tuple(map(tf.constant, frozen)), len(labels)
        self._shapes = [tuple(spec.shape) for spec in model.trainable_specs]
        self._total, self._each = _functions_of(model)
        rows = [slice(start, start + _CHUNK) for start in range(0, len(labels), _CHUNK)]
        self._chunks = [(tf.constant(features[one]), tf.constant(labels[one])) for one in rows]
        self._last: tuple[bytes, tuple[float, np.ndarray]] | None = None

    def flat(self, weights: tuple) -> np.ndarray:
        return np.concatenate([np.asarray(weight, np.float64).ravel() for weight in weights])

    def unflat(self, flat: np.ndarray) -> tuple[np.ndarray, ...]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])[:-1]
        return tuple(part.reshape(shape).astype(np.float32) for part, shape in zip(np.split(flat, ends), self._shapes))

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        key = flat.tobytes()
        if self._last is None or self._last[0] != key:
            total, gradient = 0.0, np.zeros(len(flat))
            for features, labels in self._chunks:
                loss, part = self._total(self._vector(flat), self._frozen, features, labels)
                total += float(loss)
                gradient += part.numpy()
            self._last = key, (total / self._records, gradient / self._records)
        return self._last[1]

    def _vector(self, flat: np.ndarray) -> Any:
        import tensorflow as tf

        return tf.constant(flat.astype(np.float32))

    def each(self, flat: np.ndarray) -> np.ndarray:
        """The loss of every record."""
        vector = self._vector(flat)
        parts = [self._each(vector, self._frozen, *chunk).numpy() for chunk in self._chunks]
        return np.concatenate(parts).astype(np.float64)


_KEPT: dict[int, tuple[Any, tuple[Any, Any]]] = {}


def _functions_of(model: FunctionalModel) -> tuple[Any, Any]:
    """Loss with gradient, and the loss of every record, of all weights as one vector: traced once for each model."""
    import tensorflow as tf

    if id(model) not in _KEPT:
        shapes = [tuple(spec.shape) for spec in model.trainable_specs]
        sizes = [int(np.prod(shape)) for shape in shapes]

        def split(flat: Any) -> tuple:
            return tuple(tf.reshape(part, shape) for part, shape in zip(tf.split(flat, sizes), shapes))

        def each(flat: Any, frozen: tuple, features: Any, labels: Any) -> Any:
            return model.per_record_loss(model.predict(split(flat), frozen, features, training=False), labels)

        def total(flat: Any, frozen: tuple, features: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(flat)
                loss = tf.reduce_sum(tf.cast(each(flat, frozen, features, labels), tf.float64))
                if model.penalties:
                    rows = tf.cast(tf.shape(labels)[0], tf.float64)
                    loss += rows * tf.cast(model.penalties(split(flat)), tf.float64)
            return loss, tape.gradient(loss, flat, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        if len(_KEPT) >= 8:
            _KEPT.clear()
        # Called a thousand times on few records: what looks for a fitting trace would take longer than the passes.
        labels = tf.float32 if model.task == "regression" else tf.int64
        specs = (
            tf.TensorSpec([sum(sizes)], tf.float32),
            tuple(tf.TensorSpec(spec.shape, spec.dtype) for spec in model.frozen_specs),
            tf.TensorSpec([None, *model.feature_shape], tf.float32),
            tf.TensorSpec([None], labels),
        )
        made = [tf.function(one, autograph=False).get_concrete_function(*specs) for one in (total, each)]
        _KEPT[id(model)] = model, (made[0], made[1])
    return _KEPT[id(model)][1]
