"""What records of all hospitals say together: columns that give the outcome away, swapped classes, copied records.

These are hints for people at the hospitals, who know whether there is a reason.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tff_hospitals.hospitals.features import Feature

_FEW = 20  # records from which on a share means something
_TELLS = 0.98  # of the records whose outcome one column alone tells
_UNEVEN = 0.9  # of the records are of one class: most columns seem to tell it then
_SURE = 3.0  # standard errors
_COPIED = 0.1  # of a hospital's records that another has too
_BY_CHANCE = 4  # times as many as chance makes equal

Columns = Mapping[str, Mapping[str, Sequence[str]]]  # by hospital and column the cells; "" is missing


def tells_outcome(
    features: Sequence[Feature], columns: Columns, classes: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Features that alone tell the class of nearly all records, and of which share; a number does so by one threshold.

    Args:
      features: of the schema.
      columns: cells by hospital and column.
      classes: by hospital the class of each record (-1: unknown).
    """
    labels = np.concatenate([np.asarray(of, np.int64) for of in classes.values()]) if classes else np.zeros(0, np.int64)
    known = labels >= 0
    labels = labels[known]
    if len(labels) < _FEW or np.bincount(labels).max() > _UNEVEN * len(labels):
        return {}
    found = {}
    for feature in features:
        cells = [cell for hospital_id in classes for cell in columns[hospital_id][feature.name]]
        kept = [cell for cell, sure in zip(cells, known) if sure]
        share = (_by_threshold if feature.is_number else _by_level)(kept, labels) / len(labels)
        if share >= _TELLS:
            found[feature.name] = share
    return found


def _by_level(cells: Sequence[str], labels: np.ndarray) -> int:
    counts: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for cell, label in zip(cells, labels.tolist()):
        counts[cell][label] += 1
    return sum(max(of.values()) for of in counts.values())


def _by_threshold(cells: Sequence[str], labels: np.ndarray) -> int:
    """Records told right by the best threshold, those without a number by their most frequent class."""
    numbers = numbers_of(cells)
    there = np.isfinite(numbers)
    right = int(np.bincount(labels[~there]).max()) if (~there).any() else 0
    if not there.any():
        return right
    values, inner = numbers[there], labels[there]
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # a threshold lies between two values
    below = np.stack([np.cumsum(inner[order] == one)[ends] for one in range(int(labels.max()) + 1)])
    above = below[:, -1:] - below
    return right + int((below.max(axis=0) + above.max(axis=0)).max())


def numbers_of(cells: Sequence[str]) -> np.ndarray:
    """Cells as float64, NaN for those that are none."""
    known: dict[str, float] = {}
    for cell in set(cells):
        try:
            known[cell] = float(cell)
        except ValueError:
            known[cell] = math.nan
    return np.array([known[cell] for cell in cells], np.float64)


def other_way(
    features: Sequence[Feature], columns: Columns, classes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[str, ...]]:
    """By hospital the numbers that go with the outcome there and against it elsewhere, where none goes with both."""
    names = [feature.name for feature in features if feature.kind == "numeric"]
    if len(classes) < 2 or max((label for of in classes.values() for label in of), default=2) > 1:
        return {}
    outcomes = {hospital_id: np.asarray(of, np.float64) for hospital_id, of in classes.items()}
    numbers = {one: {name: numbers_of(columns[one][name]) for name in names} for one in classes}
    found = {}
    for hospital_id in classes:
        rest = [one for one in classes if one != hospital_id]
        signs = {}
        for name in names:
            here = _association(numbers[hospital_id][name], outcomes[hospital_id])
            there = _association(
                np.concatenate([numbers[one][name] for one in rest]), np.concatenate([outcomes[one] for one in rest])
            )
            if min(abs(here), abs(there)) > _SURE:
                signs[name] = here * there > 0
        if signs and not any(signs.values()):
            found[hospital_id] = tuple(signs)
    return found


def _association(numbers: np.ndarray, outcomes: np.ndarray) -> float:
    """The correlation in standard errors; 0 where nothing defines it."""
    kept = np.isfinite(numbers) & (outcomes >= 0)
    values, labels = numbers[kept], outcomes[kept]
    if len(values) < _FEW or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(np.corrcoef(values, labels)[0, 1] * math.sqrt(len(values)))


def copies(records: Mapping[str, Sequence[tuple[str, ...]]]) -> dict[str, dict[str, int]]:
    """By hospital how many of its records another hospital has too, cell by cell; by the other hospital.

    Said only of more than chance makes equal, which shows in the records that are equal within one hospital.
    """
    pairs = sum(len(of) * (len(of) - 1) / 2 for of in records.values())
    equal = sum(count * (count - 1) / 2 for of in records.values() for count in collections.Counter(of).values())
    chance = equal / max(1.0, pairs)
    distinct = {hospital_id: set(of) for hospital_id, of in records.items()}
    owners: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
    for hospital_id, of in distinct.items():
        for one in of:
            owners[one].append(hospital_id)
    counts: dict[str, collections.Counter[str]] = {hospital_id: collections.Counter() for hospital_id in records}
    for shared in owners.values():
        for hospital_id in shared if len(shared) > 1 else ():
            counts[hospital_id].update(other for other in shared if other != hospital_id)
    found = {}
    for hospital_id, elsewhere in counts.items():
        own = len(records[hospital_id])
        many = {other: count for other, count in elsewhere.items() if count >= max(5, _COPIED * own)}
        many = {
            other: count for other, count in many.items() if count > _BY_CHANCE * chance * own * len(records[other])
        }
        found.update({hospital_id: many} if many else {})
    return found
