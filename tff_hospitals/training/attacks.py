"""Plans with attacking hospitals: the data that they train on, and whether a hidden mark works."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.hospitals.hospital import Part
from tff_hospitals.hospitals.poisoning import marked, poisoned
from tff_hospitals.plan import poison
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.evaluation import POOLED, Evaluator

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel


def under_attack(plan: Plan, dataset: HospitalDataset) -> HospitalDataset:
    """The hospitals' data as a plan's attackers train on them.

    Raises:
      validation.InvalidInput: an attack that nobody can read, a hospital that is not there, records that are on disk.
    """
    if not plan.poison:
        return dataset
    raise_if(poison.problems(plan.poison, dataset.ids))
    of_data = {one.hospital: (one.kind, one.amount) for one in poison.parse(plan.poison) if one.of_data}
    if of_data and dataset.recipe:
        bound = "changes records, and those of this data set are read from disk when they are needed"
        raise_if([Problem("poison", plan.poison, bound, "take sign_flip or scale, or data that fit into memory")])
    return poisoned(dataset, of_data) if of_data else dataset


def backdoor_success(
    plan: Plan, model: FunctionalModel, dataset: HospitalDataset, weights: tuple, frozen: tuple
) -> float | None:
    """The share of marked test records of other classes that are taken for the first class.

    Args:
      plan: says whether a hospital hides a mark.
      model, weights, frozen: what was trained.
      dataset: whose test records are marked.

    Returns:
      A share, or None without such a hospital or without such records.
    """
    if model.task == "regression" or not any(one.kind == "backdoor" for one in poison.parse(plan.poison)):
        return None
    hospitals = []
    for one in dataset.hospitals:
        others = np.asarray(one.test.labels) != 0
        features = marked(np.asarray(one.test.features)[others])
        hospitals.append(dataclasses.replace(one, test=Part(features, np.zeros([len(features)], np.int64))))
    marked_data = dataclasses.replace(dataset, hospitals=tuple(hospitals))
    found = Evaluator(model, marked_data)(weights, frozen)[POOLED]
    return float(found["accuracy"]) if found["records"] else None
