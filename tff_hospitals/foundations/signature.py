"""What a data set asks of a model, in three fields: what records, tasks and models are checked against."""

from __future__ import annotations

import dataclasses
from typing import Any

TASKS = ("binary", "multiclass", "regression")


@dataclasses.dataclass(frozen=True)
class ModelSignature:
    """Shape of one record's features, number of classes (2 for binary, 1 for regression) and the task.

    >>> ModelSignature((28, 28), 10, "multiclass").units
    10
    """

    feature_shape: tuple[int, ...]
    num_classes: int
    task: str

    @classmethod
    def of(cls, source: Any) -> ModelSignature:
        """Reads the three attributes from a data set (or copies a signature)."""
        return cls(tuple(int(size) for size in source.feature_shape), int(source.num_classes), str(source.task))

    @property
    def units(self) -> int:
        """Number of outputs that the zoo's models give: one for binary and regression, else one per class."""
        return self.num_classes if self.task == "multiclass" else 1
