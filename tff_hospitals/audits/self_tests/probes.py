"""Hospitals with a few records blown up: what no clipping may let through."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.hospitals.dataset import Part

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital, HospitalDataset

SCALES = (1e3, 1.0, 1e1, 1e6)
"""Factors by which features of probed records are multiplied; the first is used where one record must reach far."""


def blown_up(dataset: HospitalDataset, scales: tuple[float, ...]) -> tuple[HospitalDataset, dict[str, tuple[int, ...]]]:
    """The data set with two copies of a record, of different labels, at each scale; and which records they are.

    One of two labels is wrong whatever the model says, so that its gradient does not vanish. Sizes stay.

    Args:
      dataset: the hospitals.
      scales: of the features.
    """
    made, places = [], {}
    for hospital in dataset:
        count = min(hospital.train.records, 2 * len(scales))
        places[hospital.hospital_id] = tuple(range(count))
        made.append(_with_probes(hospital, dataset.task, scales, count))
    return dataclasses.replace(dataset, hospitals=tuple(made), recipe=""), places


def _with_probes(hospital: Hospital, task: str, scales: tuple[float, ...], count: int) -> Hospital:
    part = hospital.train
    features, labels = np.array(part.features), np.array(part.labels)
    for place in range(count):
        record, scale = part.features[place // 2], np.float32(scales[place // 2])
        features[place] = np.where(record == 0, np.float32(1.0), record) * scale
        labels[place] = (-1e3, 1e3)[place % 2] if task == "regression" else place % 2
    return dataclasses.replace(hospital, train=Part(features, labels))
