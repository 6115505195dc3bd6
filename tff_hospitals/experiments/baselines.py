"""Baselines that stand in every comparison: all records in one place, and each hospital alone.

Both are a federation of one, with the run directory of any other run. Unless epochs are asked for they are trained to
their end (`training.loop.train_to_the_end`): what federation costs can only be read against the best without it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tff_hospitals.hospitals import Hospital, HospitalDataset, Part, load_dataset
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.plan.parts import DataPlan

POOLED_HOSPITAL = "all_records"
PUBLISHED_EPOCHS = 50
"""Epochs of Adam 1e-3 in FLamby's baselines, whatever the data (Ogier du Terrail et al. 2022)."""
_LOOKS = 10  # at a baseline on the way, where nothing else says whether it has come to its end


def load(data: DataPlan) -> HospitalDataset:
    """The data set of a plan."""
    return load_dataset(data.name, partition=data.partition, sites=data.sites, seed=data.seed, **dict(data.options))


def pooled(data: DataPlan, dataset: HospitalDataset) -> tuple[HospitalDataset, HospitalDataset]:
    """All training records as one hospital, and the hospitals to evaluate on.

    Where records are standardised per hospital, the pooled baseline standardises over all training records: whoever has
    them in one place would.
    """
    if dataset.preprocessing.kind == "per_hospital":
        dataset = load(dataclasses.replace(data, options={**data.options, "scaling": "pooled"}))
    train = dataset.pooled_train()
    empty = Part(train.features[:0], train.labels[:0])
    return dataclasses.replace(dataset, hospitals=(Hospital(POOLED_HOSPITAL, train, empty),)), dataset


def alone(dataset: HospitalDataset, hospital_id: str) -> HospitalDataset:
    """The data set of one hospital by itself."""
    return dataclasses.replace(dataset, hospitals=(dataset.hospital(hospital_id),))


def without(dataset: HospitalDataset, hospital_id: str) -> HospitalDataset:
    """The data set of all other hospitals."""
    others = tuple(one for one in dataset.hospitals if one is not dataset.hospital(hospital_id))
    return dataclasses.replace(dataset, hospitals=others)


def baseline_plan(plan: Plan, epochs: int | None) -> Plan:
    """The plan of a baseline: one round of `epochs` epochs (None: as published), all records of its only hospital."""
    epochs = PUBLISHED_EPOCHS if epochs is None else epochs
    return plan.replace(
        rounds=1,
        evaluate_every=1,
        weighting="records",
        cohort={"kind": "all", "hospitals_per_round": None, "sampling_probability": None},
        client={
            "local_epochs": epochs,
            "local_steps": None,
            "proximal_mu": 0.0,
            "head_share": None,
        },
        model={"local_layers": ""},
        personal={"kind": "none"},
        speeds="",
        target_accuracy=None,
        stopping={"patience": None, "max_epsilon": None, "outer_max_epsilon": None},
    )


def in_sight(plan: Plan) -> Plan:
    """A baseline's plan with the same epochs in several rounds, so that its last ones say how it ended."""
    return plan.replace(rounds=_LOOKS, client={"local_epochs": PUBLISHED_EPOCHS // _LOOKS})
