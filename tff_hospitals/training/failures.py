"""Errors of a model's own layers while it is trained or evaluated: hospital, layer, shapes and remedy in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.training.results import TrainingError

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

_CHUNK = 1024
_REMEDY = (
    "check what the layer is given: features come as float32, scaled as the data set says (--scaling), and categories "
    "as columns of 0 and 1"
)


@contextlib.contextmanager
def explained(
    model: FunctionalModel, dataset: HospitalDataset, weights: Any, frozen: Any, where: str, *, training: bool
) -> Iterator[None]:
    """Turns an error of a layer into one line; any other error passes as it is.

    Args:
      model: that computes.
      dataset: whose records it computes with.
      weights, frozen: that it began with.
      where: such as "round 3".
      training: whether on training records, or on test records.

    Raises:
      TrainingError: a layer fails on the records of a hospital.
    """
    try:
        yield
    except (TrainingError, InvalidInput, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a runtime makes of it
        words = _found(model, dataset, weights, frozen, training)
        if words is None:
            raise
        raise TrainingError(f"{where}: {words}. Remedy: {_REMEDY}.") from error


def _found(model: Any, dataset: HospitalDataset, weights: Any, frozen: Any, training: bool) -> str | None:
    from tff_hospitals.models.failures import failing_layer

    if not hasattr(model, "keras"):
        return None
    for hospital in dataset.hospitals:
        try:
            part = load_part(hospital.train if training else hospital.test)
        except InvalidInput:  # they cannot be read here, as at the server of a federation: the error is told as it is
            return None
        for start in range(0, part.records, _CHUNK):
            features = np.asarray(part.features[start : start + _CHUNK], np.float32)
            key = np.array([0, 0], np.int64)
            words = failing_layer(model, weights, frozen, features, training=training, key=key)
            if words is not None:
                return f"at hospital {hospital.hospital_id!r} {words}"
    return None
