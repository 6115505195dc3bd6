"""Labels from the gradient of the last layer's bias.

For cross-entropy, a record's derivative by the logit of its own class is p - 1 < 0 and by any other p > 0. The bias of
the last dense layer sums exactly these: its sign gives one record's label away, its size the number of records of each
class.

>>> import numpy as np
>>> one_label("binary", np.array([0.4])), one_label("binary", np.array([-0.6]))
(0, 1)
>>> class_counts(np.array([-0.9, 0.1, 0.8]) / 10, batch=10, classes=3).tolist()
[4, 3, 3]

Source: Zhao, Mopuri and Bilen 2020, "iDLG", arXiv:2001.02610; Yin et al. 2021, arXiv:2104.07586.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.gradients import Tensors, last_dense_layer
from tff_hospitals.foundations.validation import Problem, raise_if

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel


def one_label(task: str, bias: np.ndarray) -> int:
    """The label of a batch of one, from the bias's gradient [outputs]."""
    return int(bias[0] < 0) if task == "binary" else int(np.argmin(bias))


def recover_label(model: FunctionalModel, gradient: Tensors) -> int:
    """The label behind a gradient of a batch of one.

    Raises:
      validation.InvalidInput: a regression, or a model without a dense last layer with bias.
    """
    if model.task == "regression":
        raise_if([Problem("task", "regression", "has no classes to recover", "attack a classification")])
    return one_label(model.task, np.asarray(gradient[last_dense_layer(model).bias]))


def class_counts(bias: np.ndarray, *, batch: int, classes: int) -> np.ndarray:
    """How many records of each class are in a batch, from the bias's gradient of the mean loss.

    Untrained outputs are near chance, so class c adds batch * (1 / classes - bias[c]) records.

    Args:
      bias: [classes] (or [1] for binary: the gradient of class 1's logit).
      batch: records in the batch.
      classes: 2 for binary.
    """
    bias = np.asarray(bias, np.float64)
    if len(bias) == 1:
        bias = np.array([-bias[0], bias[0]])
    expected = np.clip(batch * (1.0 / classes - bias), 0.0, batch)
    counts = np.floor(expected).astype(int)
    rest = batch - int(counts.sum())
    order = np.argsort(-(expected - counts), kind="stable")
    if rest > 0:
        counts[order[np.arange(rest) % classes]] += 1
    for _ in range(-rest):
        counts[int(np.argmax(counts))] -= 1
    return counts
