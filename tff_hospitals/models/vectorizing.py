"""The same function of every record at once, with records kept apart where TensorFlow's own conversion mixes them.

`tf.vectorized_map` computes n sums over segments as one sum over n times as many: record i's segment s becomes segment
i * segments + s. A number below zero, which TensorFlow leaves out of a sum, then means a segment of the record before,
and a number that is too large (compiled code leaves it out, too) one of the record behind. So what one record holds
would enter the gradients of its neighbours, beside the clipping that bounds it. Here such numbers stay outside.

It also puts the axis of records before the axes of a `tf.roll`, and leaves an axis that is counted from the end as it
is, plus one: the last axis, -1, became 0, that of the records. Here axes are counted from the beginning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.parallel_for.pfor import _pfor_converter_registry, wrap

_SEGMENTS = {
    "UnsortedSegmentSum": tf.math.unsorted_segment_sum,
    "UnsortedSegmentMax": tf.math.unsorted_segment_max,
    "UnsortedSegmentMin": tf.math.unsorted_segment_min,
    "UnsortedSegmentProd": tf.math.unsorted_segment_prod,
}
# Their numbers of rows are shifted in the same way. Without a conversion they are computed record by record.
_RECORD_BY_RECORD = tuple(
    f"SparseSegment{kind}{form}" for kind in ("Sum", "Mean", "SqrtN") for form in ("", "Grad")
) + (*(f"SparseSegment{kind}WithNumSegments" for kind in ("Sum", "Mean", "SqrtN")),)


def of_each_record(function: Callable[[Any], Any], records: Any) -> Any:
    """`tf.vectorized_map` of a function that is computed from one record alone.

    >>> def counts(numbers):
    ...     return tf.math.unsorted_segment_sum(tf.ones_like(numbers), numbers, 2)
    >>> of_each_record(counts, tf.constant([[0, 1, 1], [-1, -1, -1]])).numpy().tolist()
    [[1, 2], [0, 0]]

    Args:
      function: of what belongs to one record.
      records: a structure of tensors [batch, ...].
    """
    return tf.vectorized_map(function, records)


def _segments_apart(operation: Callable[..., tf.Tensor], converted: Any) -> Any:
    """Converts a sum over segments (or a product, ...); `converted` is what pfor knows of its inputs."""
    converted.stack_inputs([0, 1])
    data, numbers = converted.stacked_input(0), tf.cast(converted.stacked_input(1), tf.int64)
    segments = tf.cast(converted.unstacked_input(2), tf.int64)
    records = tf.shape(numbers, out_type=tf.int64)[0]
    every = segments * records
    first = segments * tf.reshape(tf.range(records), tf.concat([[records], tf.ones_like(tf.shape(numbers))[1:]], 0))
    apart = tf.where(numbers < 0, tf.constant(-1, tf.int64), tf.where(numbers < segments, numbers + first, every))
    output = operation(data, apart, every)
    return wrap(tf.reshape(output, tf.concat([[records, segments], tf.shape(output, tf.int64)[1:]], 0)), True)


class _RollOfPositiveAxes:
    """What pfor knows of the inputs of a `tf.roll`, with axes counted from the beginning."""

    def __init__(self, converted: Any):
        self._converted = converted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._converted, name)

    def unstacked_input(self, index: int) -> tf.Tensor:
        """The axis is the third one."""
        found = self._converted.unstacked_input(index)
        if index != 2:
            return found
        return tf.where(found < 0, found + tf.rank(self._converted.stacked_input(0)) - 1, found)


def _roll_apart(operation: Callable[[Any], Any], converted: Any) -> Any:
    converted.stack_inputs([0])
    return operation(_RollOfPositiveAxes(converted))


def _keep_records_apart() -> None:
    # For good: a conversion that is put back for a moment would be met by whatever else is traced in that moment.
    registry: dict[str, Any] = _pfor_converter_registry
    for name, operation in _SEGMENTS.items():
        registry[name] = functools.partial(_segments_apart, operation)
    for name in _RECORD_BY_RECORD:
        registry.pop(name, None)
    registry["Roll"] = functools.partial(_roll_apart, registry["Roll"])


_keep_records_apart()
