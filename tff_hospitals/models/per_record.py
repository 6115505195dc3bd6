"""Sums of clipped per-record gradients: what record-level differential privacy adds its noise to.

Three ways to the same sum: `ghost` makes one backward pass and no per-record gradients, `vectorized` forms them in
chunks, `loop` takes one record after the other and is the plain reference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import one_of, raise_if
from tff_hospitals.models import building, clipping, mixing
from tff_hospitals.models.ghost import plan as ghost
from tff_hospitals.models.ghost.parts import Part, formed
from tff_hospitals.models.randomness import Rows
from tff_hospitals.models.tracing import plain_python
from tff_hospitals.models.vectorizing import of_each_record

METHODS = ("auto", "ghost", "loop", "vectorized")
# Per-record gradients of one chunk, with their squares in float64, are kept below this size.
_CHUNK_BYTES = 192 * 2**20

_Result = tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]


@plain_python
def clipped_gradient_sum(
    model: Any,
    trainable: Sequence[Any],
    frozen: Sequence[Any],
    features: Any,
    labels: Any,
    mask: Any,
    clip_norm: Any,
    *,
    key: Any = None,
    style: str = "flat",
    method: str = "auto",
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
    """Clips the gradient of each record's loss and sums over the records that `mask` keeps.

    Whatever the style and whatever the record holds, blanking it out changes the sum by at most `clip_norm` in
    Euclidean norm. A record whose gradient is not finite counts as zero and touches no other.

    The gradient of logistic regression at zero weights is (1/2 - label) times the features and 1, here of norm 2.55:

    >>> import numpy as np
    >>> from tff_hospitals.models import ModelSignature, build_model
    >>> model = build_model("logistic_regression", ModelSignature((2,), 2, "binary"), init="zeros")
    >>> weights = model.initial_weights(np.array([1, 2]))
    >>> total, norms, _ = clipped_gradient_sum(model, *weights, [[3.0, 4.0]], [1], [1.0], clip_norm=1.0)
    >>> norms.numpy().round(3), total[0].numpy().ravel().round(3)
    (array([2.55], dtype=float32), array([-0.588, -0.784], dtype=float32))

    Args:
      model: a `FunctionalModel` that does not mix records.
      trainable: weights in the order of `model.trainable_specs`.
      frozen: weights in the order of `model.frozen_specs`.
      features: float32 [batch, *feature_shape]. Padded records may hold any finite numbers; there may be no records.
      labels: [batch]. Padded records may hold anything.
      mask: [batch], zero for padded records, which contribute exactly nothing.
      clip_norm: bound on each record's gradient, a positive number or scalar tensor; infinity does not clip.
      key: int64 [2] for dropout and its like; record i gets the same noise with every method.
      style: "flat" scales a gradient by min(1, clip_norm/norm) (Abadi et al. 2016, arXiv:1607.00133); "per_layer" does
        so for each layer by itself with clip_norm/sqrt(layers) (McMahan et al. 2018, arXiv:1710.06963); "automatic"
        scales every gradient by clip_norm/(norm + 0.01) (Bu, Wang, Zha, Karypis 2023, arXiv:2206.07136).
      method: "ghost", "vectorized", "loop", or "auto": ghost where the model allows it, else vectorized.

    Returns:
      The sum of clipped gradients (a tuple in the order of `trainable`), the norm of each record's gradient before
      clipping [batch] (zero for padded records, infinite for those that are not finite), and the mean of the finite
      losses of the records that `mask` keeps.

    Raises:
      InvalidInput: an unknown style or method.
    """
    raise_if([one_of("style", style, clipping.STYLES), one_of("method", method, METHODS)])
    features, labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels)
    trainable = [tf.convert_to_tensor(w, spec.dtype) for w, spec in zip(trainable, model.trainable_specs)]
    if features.shape[0] == 0:
        none = tf.zeros([0]), tf.constant(0.0)
        return tuple(tf.zeros(spec.shape, spec.dtype) for spec in model.trainable_specs), *none
    keep = tf.not_equal(tf.cast(mask, tf.float32), 0.0)  # `!=` compares identities inside a TFF computation
    # A label that stands for "none", such as -1, would make the loss of a padded record fail before it is masked.
    labels = tf.where(keep, labels, tf.zeros([], labels.dtype))
    if method == "auto" or (method == "ghost" and ghost.ghost_plan(model).obstacle is not None):
        method, _ = method_for(model)
    work = _Work(model, trainable, frozen, clip_norm, key, style)
    ways = {"ghost": _ghost, "vectorized": _vectorized, "loop": _loop}
    gradients, norms, losses = ways[method](work, features, labels, keep)
    counted = tf.logical_and(keep, tf.abs(losses) < losses.dtype.max)
    loss = tf.reduce_sum(tf.where(counted, losses, 0.0))
    return tuple(gradients), norms, loss / tf.maximum(tf.reduce_sum(tf.cast(counted, tf.float32)), 1.0)


def method_for(model: Any) -> tuple[str, str]:
    """What `method="auto"` does with this model, and why in words for a run record; decided once per model.

    Example: ("ghost", "ghost norms: dense_1, output; per-record gradients: attention").
    """
    with model.lock:
        if model.clipping_method is None:
            with building.outside_graphs():
                model.clipping_method = _choose(model)
        return model.clipping_method


def fallback(model: Any) -> str | None:
    """Which layers have no ghost rule, and what is done instead, in words for a run record; None where all have one."""
    method, words = method_for(model)
    complete = method == "ghost" and all(unit.rule is not None for unit in ghost.ghost_plan(model).units)
    return None if complete else words


def _choose(model: Any) -> tuple[str, str]:
    plan = ghost.ghost_plan(model)
    if plan.obstacle is None and all(unit.rule is not None for unit in plan.units):
        return "ghost", plan.describe()
    reason = plan.obstacle
    for method in ("ghost", "vectorized"):
        if method == "ghost" and plan.obstacle is not None:
            continue
        error = _cannot_trace(model, method)
        if error is None:
            words = plan.describe() if method == "ghost" else f"per-record gradients of the whole model: {reason}"
            return method, words
        reason = f"{reason}; {error}" if reason and error not in reason else error
    return "loop", f"one record after the other, which is slow: {reason}"


def _cannot_trace(model: Any, method: str) -> str | None:
    """Why a model that no rule knows cannot be vectorised; None when it can, and gives what single records give."""
    label = tf.float32 if model.task == "regression" else tf.int64
    work = _Work(model, list(model.trainable_specs), model.frozen_specs, 1.0, None, "automatic")

    def traced(way: Callable[..., _Result]) -> Any:
        def trace(trainable: Any, frozen: Any, features: Any, labels: Any, key: Any) -> Any:
            given = dataclasses.replace(work, trainable=trainable, frozen=frozen, key=key)
            return way(given, features, labels, tf.ones_like(labels, tf.bool))

        return tf.function(trace, autograph=False).get_concrete_function(
            model.trainable_specs,
            model.frozen_specs,
            tf.TensorSpec([mixing.RECORDS, *model.feature_shape], tf.float32),
            tf.TensorSpec([mixing.RECORDS], label),
            tf.TensorSpec([2], tf.int64),
        )

    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("FATAL")  # TensorFlow prints whole graphs when a layer cannot be vectorised
    try:
        with building.recording():
            together = traced(_ghost if method == "ghost" else _vectorized)
            return _differs(model, together, traced(_loop), label)
    except Exception as error:  # whatever an unknown layer makes of it
        return f"it cannot be vectorised ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    finally:
        logger.setLevel(level)


def _differs(model: Any, together: Any, one_by_one: Any, label: tf.DType) -> str | None:
    """Whether gradients of records together are others than those of one record after the other, on ordinary numbers.

    They would be where TensorFlow's vectorised form of some operation is wrong (see `vectorizing`).
    """
    generator = np.random.default_rng(0)
    key = tf.constant([1, 2], tf.int64)
    trainable, frozen = model.initial_weights(key.numpy())
    moved = [np.asarray(value + 0.05 * generator.standard_normal(value.shape), np.float32) for value in trainable]
    labels = tf.cast(tf.range(mixing.RECORDS) % 2, label)
    for features in mixing.batches(model.feature_shape, None, generator)[:2]:
        given = [tf.nest.map_structure(tf.constant, one) for one in (tuple(moved), tuple(frozen), features)]
        try:
            expected = tf.nest.flatten(one_by_one(*given, labels, key))
        except tf.errors.OpError:  # numbers that the model cannot take, such as tokens below zero
            continue
        for found, right in zip(tf.nest.flatten(together(*given, labels, key)), expected):
            if not np.allclose(found, right, rtol=1e-2, atol=1e-3, equal_nan=True):
                return "TensorFlow's vectorised form of it gives other gradients than single records have"
    return None


@dataclasses.dataclass(frozen=True)
class _Work:
    """What stays the same for all records of a call."""

    model: Any
    trainable: list[tf.Tensor]
    frozen: Sequence[Any]
    clip_norm: Any
    key: Any
    style: str

    def clipped(self, parts: Callable[[], Sequence[Part]], keep: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The clipped sum of each weight, and the norms of the records.

        `parts` is called inside a branch. Compilers do not merge what is computed before a branch with what is computed
        in it: so the numbers whose norm is taken are the very numbers that are added up, in rounding as well, and are
        computed once.
        """

        def of_some() -> Any:
            found = parts()
            squared, groups = [part.squared_norms for part in found], clipping.layer_groups(self.model)
            factors, norms = clipping.factors(squared, keep, self.clip_norm, self.style, groups)

            def sums(careful: bool) -> list[tf.Tensor]:
                return [part.weighted_sum(factor, careful) for part, factor in zip(found, factors)]

            ordinary = tf.reduce_all([part.ordinary for part in found])
            return tf.cond(ordinary, lambda: sums(False), lambda: sums(True)), norms

        return tf.cond(tf.reduce_any(keep), of_some, lambda: (self.zeros(), tf.zeros_like(keep, tf.float32)))

    def zeros(self) -> list[tf.Tensor]:
        return [tf.zeros(spec.shape, spec.dtype) for spec in self.model.trainable_specs]

    def gradient_of_one(self, record: tf.Tensor, label: tf.Tensor, rows: Rows) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.trainable)
            outputs = self.model.predict(
                self.trainable, self.frozen, record[None], training=True, key=self.key, rows=rows
            )
            loss = self.model.per_record_loss(outputs, label[None])[0]
        gradients = tape.gradient(loss, self.trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in gradients], loss


def _ghost(work: _Work, features: tf.Tensor, labels: tf.Tensor, keep: tf.Tensor) -> _Result:
    model, trainable, frozen, key = work.model, work.trainable, work.frozen, work.key
    trace = ghost.traced(model, trainable, frozen, features, labels, keep, key)
    return *work.clipped(lambda: ghost.parts_of(model, trace, trainable, frozen, key), keep), trace.losses


def _vectorized(work: _Work, features: tf.Tensor, labels: tf.Tensor, keep: tf.Tensor) -> _Result:
    """On as many records at once as keep the per-record gradients within bounds."""
    batch = features.shape[0]
    most = max(1, _CHUNK_BYTES // (12 * max(1, work.model.parameters)))
    if batch is None or batch <= most:
        whole = tf.shape(features)[0] if batch is None else batch
        return _at_once(work, features, labels, keep, tf.range(whole), whole)
    chunks = math.ceil(batch / most)
    size = math.ceil(batch / chunks)
    missing = chunks * size - batch

    def padded(values: tf.Tensor) -> tf.Tensor:
        return tf.pad(values, [[0, missing]] + [[0, 0]] * (values.shape.rank - 1))

    columns = (padded(features), padded(labels), padded(keep), tf.minimum(tf.range(chunks * size), batch - 1))

    def body(chunk: tf.Tensor, sums: Any, norms: tf.TensorArray, losses: tf.TensorArray) -> Any:
        def part(values: tf.Tensor) -> tf.Tensor:
            shape = [size, *values.shape[1:]]
            return tf.ensure_shape(tf.slice(values, [chunk * size] + [0] * (len(shape) - 1), shape), shape)

        x, y, kept, index = (part(column) for column in columns)
        more, norm, loss = _at_once(work, x, y, kept, index, batch)
        sums = [before + now for before, now in zip(sums, more)]
        return chunk + 1, sums, norms.write(chunk, norm), losses.write(chunk, loss)

    arrays = [tf.TensorArray(tf.float32, chunks, element_shape=[size]) for _ in range(2)]
    _, sums, norms, losses = tf.while_loop(
        lambda chunk, *_: chunk < chunks, body, (tf.constant(0), work.zeros(), *arrays), maximum_iterations=chunks
    )
    return sums, tf.reshape(norms.stack(), [-1])[:batch], tf.reshape(losses.stack(), [-1])[:batch]


def _at_once(
    work: _Work, features: tf.Tensor, labels: tf.Tensor, keep: tf.Tensor, index: tf.Tensor, batch: Any
) -> _Result:
    def of_one(item: Any) -> Any:
        record, label, row = item
        return work.gradient_of_one(record, label, Rows(row[None], batch))

    each, losses = of_each_record(of_one, (features, labels, index))
    specs = work.model.trainable_specs
    each = [tf.ensure_shape(one, [None, *spec.shape]) for one, spec in zip(each, specs)]
    return *work.clipped(lambda: [formed(one) for one in each], keep), losses


def _loop(work: _Work, features: tf.Tensor, labels: tf.Tensor, keep: tf.Tensor) -> _Result:
    known = features.shape[0]
    batch = tf.shape(features)[0] if known is None else known

    def body(row: tf.Tensor, sums: Any, norms: tf.TensorArray, losses: tf.TensorArray) -> Any:
        gradients, loss = work.gradient_of_one(features[row], labels[row], Rows(row[None], batch))
        more, norm = work.clipped(lambda: [formed(gradient[None]) for gradient in gradients], keep[row][None])
        sums = [before + now for before, now in zip(sums, more)]
        return row + 1, sums, norms.write(row, norm[0]), losses.write(row, loss)

    arrays = [tf.TensorArray(tf.float32, batch, element_shape=[]) for _ in range(2)]
    _, sums, norms, losses = tf.while_loop(
        lambda row, *_: row < batch, body, (tf.constant(0), work.zeros(), *arrays), maximum_iterations=known
    )
    return sums, norms.stack(), losses.stack()
