"""What a data set asks of a model, in three fields: what records, tasks and models are checked against."""

from __future__ import annotations

import dataclasses
from typing import Any

TASKS = ("binary", "multiclass", "regression")


@dataclasses.dataclass(frozen=True)
class ModelSignature:
    """Shape of one record's features, number of classes (2 for binary, 1 for regression) and the task.

    `target_bounds` are public bounds of a regression's target. `inputs` are names and shapes of what the numbers of a
    record mean, in their order; `named` features are a dictionary of them to whoever has a choice.

    >>> ModelSignature((28, 28), 10, "multiclass").units
    10
    """

    feature_shape: tuple[int, ...]
    num_classes: int
    task: str
    target_bounds: tuple[float, float] | None = None
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    named: bool = False

    @classmethod
    def of(cls, source: Any) -> ModelSignature:
        """Reads the three attributes from a data set (or copies a signature)."""
        inputs = tuple((str(name), tuple(map(int, shape))) for name, shape in getattr(source, "inputs", ()))
        named = getattr(source, "named", bool(inputs) and not getattr(source, "feature_names", ()))
        return cls(
            tuple(int(size) for size in source.feature_shape),
            int(source.num_classes),
            str(source.task),
            getattr(source, "target_bounds", None),
            inputs,
            named,
        )

    @property
    def units(self) -> int:
        """Number of outputs that the zoo's models give: one for binary and regression, else one per class."""
        return self.num_classes if self.task == "multiclass" else 1
