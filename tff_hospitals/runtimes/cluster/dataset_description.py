"""A data set without its records: what travels to a cluster's workers, who read the records where they run.

`describe` names hospitals, sizes and digests; `rebuild` makes a data set of lazy hospitals from it, which reads the
records by the plan's own words (name or path, partition, seed, options) when a hospital is first used. Records that are
not those that the run was started with are refused by the hospital's name.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.hospitals import DataSecret, HospitalDataset, Part, Preprocessing, load_dataset
from tff_hospitals.hospitals.lazy import PartStore, lazy_hospital, load_part

if TYPE_CHECKING:
    from tff_hospitals.plan.parts import DataPlan


@dataclasses.dataclass(frozen=True)
class Description:
    """`about`: `HospitalDataset.describe`. `digests`: of the training parts by id; empty for lazy hospitals.

    `secret` travels too: a worker has the records themselves, and what follows from the key must be the same there.
    """

    about: dict[str, Any]
    digests: dict[str, int]
    secret: DataSecret


def describe(dataset: HospitalDataset) -> Description:
    """Everything that a worker must know to compose the same process and to recognise the records."""
    digests = {} if dataset.recipe else {one.hospital_id: digest(one.train) for one in dataset.hospitals}
    return Description(dataset.describe(), digests, dataset.secret)


def digest(part: Part) -> int:
    """A check sum of features and labels."""
    return zlib.crc32(part.labels.tobytes(), zlib.crc32(part.features.tobytes()))


class Local:
    """The records that can be read on this machine."""

    def __init__(self, data: DataPlan):
        self._data = data

    @functools.cached_property
    def dataset(self) -> HospitalDataset:
        """Read at first use."""
        data = self._data
        return load_dataset(data.name, partition=data.partition, sites=data.sites, seed=data.seed, **dict(data.options))


def rebuild(description: Description, data: DataPlan) -> HospitalDataset:
    """The same hospitals, whose records are read here when they are used."""
    local = Local(data)
    recognised: set[str] = set()  # records do not change under way: looked at once

    def read(hospital_id: str, word: str) -> Part:
        hospital = local.dataset.hospital(hospital_id)
        part = load_part(hospital.train if word == "train" else hospital.test)
        if word != "train" or hospital_id in recognised:
            return part
        expected = description.digests.get(hospital_id)
        if expected is not None and digest(part) != expected:
            bound = "must be the records that the run was started with"
            remedy = "give every machine of the cluster the same data under the name or path in --dataset"
            raise_if([Problem(f"training records of {hospital_id}", "others", bound, remedy)])
        recognised.add(hospital_id)
        return part

    return stand_in(description.about, description.secret, read, AtAWorker)


class AtAWorker(HospitalDataset):
    """Hospitals at a worker, whose model the driver has probed with their records already."""

    def examples(self, count: int = 64) -> None:
        """None: records are read, and recognised, when a round uses them."""
        return None


def stand_in(
    about: Mapping[str, Any],
    secret: DataSecret,
    read: Callable[[str, str], Part],
    kind: type[HospitalDataset] = HospitalDataset,
) -> HospitalDataset:
    """A data set of lazy hospitals from its description.

    Args:
      about: `HospitalDataset.describe`.
      secret: of the data set, here.
      read: gives the records for (hospital id, "train" or "test").
      kind: the class of the data set.
    """
    signature = ModelSignature(tuple(about["feature_shape"]), about["num_classes"], about["task"])
    store = PartStore()
    hospitals = tuple(
        lazy_hospital(one["id"], one["train_records"], one["test_records"], read, store, signature)
        for one in about["hospitals"]
    )
    preprocessing = {**about["preprocessing"], "events": tuple(about["preprocessing"]["events"])}
    return kind(
        name=about["name"],
        hospitals=hospitals,
        task=about["task"],
        num_classes=about["num_classes"],
        feature_shape=tuple(about["feature_shape"]),
        feature_names=tuple(about["feature_names"]),
        provenance=about["provenance"],
        licence=about["licence"],
        simulated=about["simulated"],
        partition=about["partition"],
        preprocessing=Preprocessing(**preprocessing),
        warnings=tuple(about["warnings"]),
        recipe=about["fingerprint"],
        secret=secret,
        split_rule=about["split_rule"],
        target_bounds=None if about["target_bounds"] is None else tuple(about["target_bounds"]),
        inputs=tuple((name, tuple(shape)) for name, shape in about["inputs"]),
        records_per_patient=about["records_per_patient"],
    )
