"""The hospitals' training records, kept in one tensor each for features and labels.

All hospitals stand one after the other without padding; a batch schedule addresses a hospital's records by adding the
hospital's first row. So ragged sites waste nothing, and one compiled program serves all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


@dataclasses.dataclass(frozen=True)
class ResidentData:
    """`features` float32 [records, ...], `labels` [records], `first_row` of each hospital by id."""

    features: tf.Tensor
    labels: tf.Tensor
    first_row: Mapping[str, int]


def load(dataset: HospitalDataset) -> ResidentData:
    """Puts the training parts of all hospitals into memory once."""
    first_row, position = {}, 0
    for hospital in dataset.hospitals:
        first_row[hospital.hospital_id] = position
        position += hospital.train.labels.shape[0]
    labels = np.concatenate([hospital.train.labels for hospital in dataset.hospitals])
    labels = labels.astype(np.float32 if dataset.task == "regression" else np.int64)
    features = np.concatenate([np.asarray(hospital.train.features, np.float32) for hospital in dataset.hospitals])
    return ResidentData(tf.constant(features), tf.constant(labels), first_row)
