"""One hospital: its records for training and testing, how they were scaled, and what was done to them before.

>>> import numpy as np
>>> part = Part(np.ones((4, 2), np.float32), np.array([0, 1, 0, 1]))
>>> Hospital("north", part, part, Scaler(np.full(2, 50.0), np.full(2, 10.0))).restore(part.features)[0].tolist()
[60.0, 60.0]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Records of one hospital that are used for one purpose.

    Attributes:
      features: float32 of shape [records, *feature_shape].
      labels: int64 of shape [records] (class numbers), or float32 (regression).
    """

    features: np.ndarray
    labels: np.ndarray

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaler:
    """Turns columns in original units into features: `feature = (value - centre) / scale`.

    Attributes:
      centres, scales: float64 of shape [columns], or of shape [] for images; every scale is > 0.
    """

    centres: np.ndarray
    scales: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Original units to float32 features; computed in float64."""
        return ((np.asarray(values, np.float64) - self.centres) / self.scales).astype(np.float32)

    def restore(self, features: np.ndarray) -> np.ndarray:
        """Features, also those that an attack rebuilt, back to original units (float64)."""
        return np.asarray(features, np.float64) * self.scales + self.centres


@dataclasses.dataclass(frozen=True, eq=False)
class Hospital:
    """One federated client.

    Attributes:
      hospital_id: travels through metrics, ledger and reports.
      train, test: its records.
      scaler: restores original units.
      test_patients: int [test records], a number for the patient of each, the same in every split of the data: what
        intervals over patients draw. It stays in memory. None: every test record is a patient of its own.
    """

    hospital_id: str
    train: Part
    test: Part
    scaler: Scaler | None = None
    test_patients: np.ndarray | None = None

    def restore(self, features: np.ndarray) -> np.ndarray:
        """Features in original units (float64); returned as they are when nothing was scaled."""
        return np.asarray(features, np.float64) if self.scaler is None else self.scaler.restore(features)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What was done to the features before training, and whether it respects the records' privacy.

    Attributes:
      kind: such as "per_hospital", "pooled", "fixed_bounds", "dp_moments" or "none".
      private: True if nothing but public constants and releases listed in `events` depends on the records.
      words: one or two sentences for the run record.
      events: the private releases, for the ledger: {"unit": "record", "hospital_id": .., "kind": "gaussian",
        "noise_multiplier": z, "count": 1}. Empty when nothing was released.
    """

    kind: str
    private: bool
    words: str
    events: tuple[Mapping[str, Any], ...] = ()

    def describe(self) -> dict[str, Any]:
        """Plain dict for the run record."""
        return {**dataclasses.asdict(self), "events": [dict(event) for event in self.events]}


NO_PREPROCESSING = Preprocessing("none", True, "features are used as they are")
