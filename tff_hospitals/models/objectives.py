"""The loss of a record that is trained: that of the task or the user's own, class weights, and the target's scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.extensions import import_module
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import losses
from tff_hospitals.models.target import TargetScale


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss as a function of outputs and labels, record by record.

    Attributes:
      task: says the loss where there is no function.
      function: of (labels, outputs) to [batch].
      name: of the function, for messages.
      class_weights: factor of each class's records.
      factor: of every record.
      target: on which scale a regression is learnt.
    """

    task: str
    function: Callable[[Any, Any], Any] | None = None
    name: str = ""
    class_weights: tuple[float, ...] | None = None
    factor: float = 1.0
    target: TargetScale | None = None

    def __call__(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The loss of each record: float32 [batch].

        Args:
          outputs: float32 [batch, units], logits or scaled predictions.
          labels: [batch], class numbers or targets in original units.
        """
        learnt = labels if self.target is None else self.target.apply(tf.cast(labels, outputs.dtype))
        if self.function is None:
            found = losses.per_record_loss(self.task, outputs, learnt)
        else:
            found = self._own(outputs, learnt)
        if self.class_weights is not None:
            found = found * tf.gather(tf.constant(self.class_weights, found.dtype), labels)
        return found if self.factor == 1.0 else found * self.factor

    def _own(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """What the function says, which must be one number for each record.

        Raises:
          InvalidInput: it is not.
        """
        function: Any = self.function
        found = tf.convert_to_tensor(function(labels, outputs))
        if found.shape.rank == 2 and found.shape[1] == 1:
            found = found[:, 0]
        if found.shape.rank != 1 or not found.shape.is_compatible_with(outputs.shape[:1]):
            bound = f"returns shape {tuple(found.shape)} for {outputs.shape[0]} records; must be [records]"
            raise InvalidInput([Problem("loss", self.name, bound, "return the loss of each record, not their mean")])
        return tf.cast(found, tf.float32)


def load_loss(path: str) -> Callable[[Any, Any], Any]:
    """A user's loss by `package.module:function`: of (labels, outputs) to the loss of each record.

    Raises:
      InvalidInput: no such module, or no function in it.
    """
    module_name, _, attribute = str(path).partition(":")
    if not module_name or not attribute:
        raise InvalidInput(
            [Problem("loss", path, "must be package.module:function", "write for example --loss=my_losses:focal")]
        )
    found = getattr(import_module(module_name, "loss", path), attribute, None)
    if not callable(found):
        bound = f"{module_name} has no function {attribute!r}"
        raise InvalidInput([Problem("loss", path, bound, "write `def " + attribute + "(labels, outputs): ...` there")])
    return found


def problems(model: Any, units: int) -> list[Problem]:
    """Why a loss is no function of single records, found by computing it for records together and one by one.

    Args:
      model: a `FunctionalModel`.
      units: of its outputs.
    """
    objective = model.objective
    if objective.function is None:
        return []
    records = 4
    outputs = tf.random.stateless_normal([records, units], [1, 2])
    labels = tf.range(records) % max(2, model.num_classes)
    labels = tf.cast(labels, tf.float32 if model.task == "regression" else tf.int64)
    traced = tf.function(objective, autograph=False, reduce_retracing=True)
    try:
        whole = traced(outputs, labels)
        alone = tf.concat([traced(outputs[row : row + 1], labels[row : row + 1]) for row in range(records)], 0)
    except InvalidInput as error:
        return list(error.problems)
    except Exception as error:  # whatever a user's function does
        bound = f"fails for labels [{records}] and outputs [{records}, {units}]: {type(error).__name__}: "
        bound += " ".join(str(error).split())[:200]
        return [Problem("loss", objective.name, bound, "compute it with TensorFlow from (labels, outputs)")]
    if not bool(tf.reduce_all(tf.math.is_finite(whole))):
        bound = "is not finite for outputs near 0"
        return [Problem("loss", objective.name, bound, "check its logarithms and divisions")]
    if float(tf.reduce_max(tf.abs(whole - alone))) > 1e-4:
        bound = "of one record depends on the other records of its batch, which no record may"
        return [Problem("loss", objective.name, bound, "compute every record by itself: no mean or sum over records")]
    return []


def class_weights_of(given: Any) -> tuple[float, ...] | None:
    """The weights of the option, as numbers: "1,5" and [1, 5] alike; None: none.

    >>> class_weights_of("1,5"), class_weights_of(None), class_weights_of("")
    ((1.0, 5.0), None, None)
    """
    if given is None or given == "":
        return None
    parts: Sequence[Any] = given.split(",") if isinstance(given, str) else given
    return tuple(float(part) for part in parts)
