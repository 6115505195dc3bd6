"""Records of hospitals that attack the training by their data; test records stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tff_hospitals.hospitals.dataset import HospitalDataset

MARK = 5.0
"""The value of the first features of a marked record: five deviations, where features are scaled."""
MARKED = 3


def flipped(labels: np.ndarray, classes: int, task: str) -> np.ndarray:
    """Labels of the next class; targets mirrored at their mean.

    >>> flipped(np.array([0, 1, 1]), 2, "binary").tolist()
    [1, 0, 0]
    """
    if task == "regression":
        return (2 * labels.mean() - labels).astype(labels.dtype)
    return ((labels + 1) % classes).astype(labels.dtype)


def marked(features: np.ndarray) -> np.ndarray:
    """Records with a mark in their first features (the first pixels of an image)."""
    flat = np.array(features, copy=True).reshape(len(features), -1)
    flat[:, :MARKED] = MARK
    return flat.reshape(features.shape)


def poisoned(dataset: HospitalDataset, attacks: Mapping[str, tuple[str, float]]) -> HospitalDataset:
    """The data set with the training records of some hospitals changed.

    Args:
      dataset: any.
      attacks: by hospital id, `label_flip` or `backdoor`, and the share of its records (the first ones).
    """
    hospitals = []
    for one in dataset.hospitals:
        kind, share = attacks.get(one.hospital_id, ("", 0.0))
        count = round(share * one.train.records) if kind else 0
        if count:
            features, labels = np.array(one.train.features, copy=True), np.array(one.train.labels, copy=True)
            if kind == "label_flip":
                labels[:count] = flipped(labels, dataset.num_classes, dataset.task)[:count]
            else:
                features[:count] = marked(features[:count])
                labels[:count] = 0
            one = dataclasses.replace(one, train=dataclasses.replace(one.train, features=features, labels=labels))
        hospitals.append(one)
    return dataclasses.replace(dataset, hospitals=tuple(hospitals))
