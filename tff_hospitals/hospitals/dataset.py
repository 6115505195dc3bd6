"""What a named data set is: hospitals with ids, each with a train and a test part, and where it all comes from.

>>> import numpy as np
>>> from tff_hospitals.hospitals.hospital import NO_PREPROCESSING
>>> def part(records):
...     return Part(np.ones((records, 2), np.float32), np.arange(records) % 2)
>>> dataset = HospitalDataset(
...     name="toy",
...     hospitals=(Hospital("north", part(4), part(2)), Hospital("south", part(6), part(0))),
...     task="binary",
...     num_classes=2,
...     feature_shape=(2,),
...     feature_names=("a", "b"),
...     provenance="made up",
...     licence="none",
...     simulated=True,
...     partition="by hand",
...     preprocessing=NO_PREPROCESSING,
... )
>>> dataset.records(train=True)
{'north': 4, 'south': 6}
>>> dataset.hospital("south").test.records
0
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tff_hospitals.foundations.signature import TASKS, ModelSignature
from tff_hospitals.foundations.validation import one_of, raise_if
from tff_hospitals.hospitals import checks
from tff_hospitals.hospitals.division import Division
from tff_hospitals.hospitals.hospital import Hospital, Part, Preprocessing
from tff_hospitals.hospitals.in_memory import array_fields, frame_fields
from tff_hospitals.hospitals.preprocessing import Scaling
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.secret import DataSecret, passing_secret


@dataclasses.dataclass(frozen=True, eq=False)
class HospitalDataset:
    """Hospitals and what a reader must know about their data.

    Attributes:
      name: under which the data set was loaded.
      hospitals: in stable order; ids are unique.
      task: "binary" (labels 0 and 1), "multiclass" or "regression".
      num_classes: 2 for binary, 1 for regression.
      feature_shape: shape of one record's features, such as (13,) or (8, 8, 1).
      feature_names: one per column of a table; empty for images.
      provenance, licence: where the records come from and what one may do with them.
      simulated: True unless every hospital holds what a real hospital collected.
      partition: how records came to hospitals, in words.
      preprocessing: what was done to the features.
      schema: columns before encoding, with public bounds (tables only).
      split_rule: how records came to train and test parts, in words (see `splits`).
      records_per_patient: public bound on the records of one patient in a hospital.
      warnings: what is allowed but may disappoint, one sentence each; they say nothing exact of the records.
      inside_warnings: exact statements about records (a hospital of one class): for people at the hospitals, never
        among what a private run publishes.
      recipe: where hospitals are lazy (see `lazy`), all that their records follow from; it names the data set instead
        of the records, which are checked when they are read. Empty: records are in memory.
      secret: the key of all that is derived from the records (see `secret`). Default: one for this process alone, so
        that a run cannot be resumed in another.
      target_bounds: public bounds of a regression's target.
      inputs: names and shapes of what a record's numbers mean, in their order: the columns of a table before encoding,
        or the keys of features that were given as dictionaries.

    Raises:
      InvalidInput: names every hospital that is empty, doubled or out of shape.
    """

    name: str
    hospitals: tuple[Hospital, ...]
    task: str
    num_classes: int
    feature_shape: tuple[int, ...]
    feature_names: tuple[str, ...]
    provenance: str
    licence: str
    simulated: bool
    partition: str
    preprocessing: Preprocessing
    split_rule: str = "given: as the parts were made"
    schema: Schema | None = None
    records_per_patient: int = 1
    warnings: tuple[str, ...] = ()
    inside_warnings: tuple[str, ...] = ()
    recipe: str = ""
    secret: DataSecret = dataclasses.field(default_factory=passing_secret)
    target_bounds: tuple[float, float] | None = None
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        signature = ModelSignature.of(self)
        found = checks.hospitals_problems(self.hospitals, signature, lazy=bool(self.recipe))
        raise_if([one_of("task", self.task, TASKS), *found])

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        *,
        task: str,
        num_classes: int | None = None,
        division: Division | None = None,
        secret: DataSecret | None = None,
        name: str = "arrays",
        target_bounds: tuple[float, float] | None = None,
    ) -> HospitalDataset:
        """Hospitals whose records are in memory.

        Args:
          arrays: by hospital id a pair of features [records, ..] and labels [records], or a `tf.data.Dataset` of such
            pairs (single records or batches). Features may be a dictionary of arrays, for models of several inputs.
          task: "binary", "multiclass" or "regression".
          num_classes: of "multiclass": public, so it is not counted from the labels.
          division: partition, seed and test fraction.
          secret: key of split and noise, such as `secret_of(folder)`; default: one for this process alone.
          name: for the run record.
          target_bounds: public bounds of the target of a regression.

        Raises:
          InvalidInput: shapes, types or values that do not fit, by hospital.
        """
        fields = array_fields(
            arrays, task=task, num_classes=num_classes, division=division or Division(), secret=secret
        )
        fields["target_bounds"] = target_bounds
        return cls(name=name, provenance="arrays in memory", licence="not stated", **fields)

    @classmethod
    def from_frames(
        cls,
        frames: Mapping[str, Any],
        schema: Schema,
        *,
        division: Division | None = None,
        scaling: Scaling | None = None,
        secret: DataSecret | None = None,
    ) -> HospitalDataset:
        """Hospitals whose tables are in memory as data frames.

        Args:
          frames: by hospital id a `pandas.DataFrame`; columns that the schema does not name are not read.
          schema: what the columns mean.
          division, scaling: default: as the schema says.
          secret: as in `from_arrays`.

        Raises:
          InvalidInput: the schema has problems.
          InvalidTable: frames have problems; names hospital, row and column of each.

        >>> import pandas as pd
        >>> from tff_hospitals.hospitals import Feature, Target
        >>> north = pd.DataFrame({"age": range(20, 100), "ill": ["no", "yes"] * 40})
        >>> schema = Schema((Feature("age", low=18, high=100),), Target("ill", positive=("yes",), negative=("no",)))
        >>> HospitalDataset.from_frames({"north": north, "south": north}, schema).ids
        ('north', 'south')
        """
        fields = frame_fields(frames, schema, division=division, scaling=scaling, secret=secret)
        return cls(
            name=schema.name or "frames",
            provenance=schema.provenance or "data frames in memory",
            licence=schema.licence or "not stated",
            **fields,
        )

    @functools.cached_property
    def _by_id(self) -> dict[str, Hospital]:
        return {hospital.hospital_id: hospital for hospital in self.hospitals}

    @property
    def ids(self) -> tuple[str, ...]:
        """Hospital ids in the order of `hospitals`."""
        return tuple(self._by_id)

    def hospital(self, hospital_id: str) -> Hospital:
        """The hospital of that id.

        Raises:
          InvalidInput: offers the nearest known ids.
        """
        if hospital_id not in self._by_id:
            raise_if([one_of("hospital", hospital_id, self.ids)])
        return self._by_id[hospital_id]

    def __iter__(self) -> Iterator[Hospital]:
        return iter(self.hospitals)

    def __len__(self) -> int:
        return len(self.hospitals)

    def records(self, train: bool = True) -> dict[str, int]:
        """Number of training (or test) records by hospital id."""
        return {h.hospital_id: (h.train if train else h.test).records for h in self.hospitals}

    def pooled_test(self) -> Part:
        """All hospitals' test records, in the order of `hospitals`, each scaled as at its hospital."""
        return _pool([hospital.test for hospital in self.hospitals])

    def pooled_train(self) -> Part:
        """All hospitals' training records; only baselines that give up federation use it."""
        return _pool([hospital.train for hospital in self.hospitals])

    def examples(self, count: int = 64) -> np.ndarray | None:
        """Features of some training records, for a probe of a few batches; None where no records are here."""
        return self.hospitals[0].train.features[:count]

    def describe(self) -> dict[str, Any]:
        """Everything but the records, as plain types, for run records and reports."""
        return {
            "name": self.name,
            "task": self.task,
            "num_classes": self.num_classes,
            "feature_shape": list(self.feature_shape),
            "feature_names": list(self.feature_names),
            "provenance": self.provenance,
            "licence": self.licence,
            "simulated": self.simulated,
            "partition": self.partition,
            "split_rule": self.split_rule,
            "records_per_patient": self.records_per_patient,
            "preprocessing": self.preprocessing.describe(),
            "hospitals": [
                {"id": h.hospital_id, "train_records": h.train.records, "test_records": h.test.records}
                for h in self.hospitals
            ],
            "warnings": list(self.warnings),
            "fingerprint": self.fingerprint(),
            "salt": "public" if self.secret.public else "secret",
            "target_bounds": self.target_bounds,
            "inputs": [[name, list(shape)] for name, shape in self.inputs],
        }

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any feature, label, id or order (lazy hospitals: the recipe).

        A keyed digest: without the data set's secret nobody can test a guess of the records against it.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.task} {self.num_classes} {self.feature_shape} {self.feature_names}".encode())
        digest.update(self.recipe.encode())
        for hospital in self.hospitals:
            digest.update(f"\n{hospital.hospital_id!r} {hospital.train.records} {hospital.test.records}".encode())
            for part in () if self.recipe else (hospital.train, hospital.test):
                # Little-endian bytes, so that every machine gives the same name.
                digest.update(part.features.astype("<f4").tobytes())
                digest.update(part.labels.astype("<f4" if self.task == "regression" else "<i8").tobytes())
        return self.secret.digest("fingerprint", digest.digest())[:16]


def _pool(parts: list[Part]) -> Part:
    return Part(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))
