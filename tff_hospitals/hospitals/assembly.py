"""From pools of records to a data set: partition, split, scale, check. All real records go this way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, in_range, one_of, raise_if
from tff_hospitals.hospitals.checks import one_class_warnings
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.hospital import Hospital, Part, Preprocessing, Scaler
from tff_hospitals.hospitals.partitions import PARTITIONS, partition
from tff_hospitals.hospitals.preprocessing import Scaling, Site, prepare
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.hospitals.splits import test_rows, train_rows

# Sites of a data set that has no hospitals of its own, unless the caller says otherwise.
DEFAULT_SITES = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Records that one real hospital collected (or all records of a data set without hospitals), before scaling.

    Attributes:
      hospital_id: its id.
      values: of shape [records, *feature_shape] in original units.
      labels: of shape [records].
      tested: row numbers of the test records where a published split is to be kept; None splits by the seed.
    """

    hospital_id: str
    values: np.ndarray
    labels: np.ndarray
    tested: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Division:
    """How records come to hospitals and to train and test parts.

    Attributes:
      partition: "natural" or a name in `partitions.PARTITIONS`.
      sites: number of simulated sites; None takes as many as there are hospitals (10 where there are none).
      seed: of partition, split and preprocessing noise.
      test_fraction: share of each site's records kept for testing; None leaves it to the data set.
      min_records: a partition that leaves a site with fewer is refused.
      options: of the partition, such as {"alpha": 0.3}.
    """

    partition: str = "natural"
    sites: int | None = None
    seed: int = 0
    test_fraction: float | None = None
    min_records: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def testing(self, test_fraction: float) -> Division:
        """The same with this test fraction, unless another was asked for."""
        return self if self.test_fraction is not None else dataclasses.replace(self, test_fraction=test_fraction)


def divide(pools: Sequence[Pool], division: Division, *, has_hospitals: bool) -> tuple[list[Site], str, bool]:
    """Sites with their train and test rows; the partition in words; and whether it is simulated.

    Args:
      pools: natural hospitals, or one pool.
      division: what is asked for.
      has_hospitals: whether the pools are hospitals; if not, "natural" means an even random spread.

    Raises:
      InvalidInput: unknown partition, unfit options, sites that stay too small.
    """
    asked = division.test_fraction
    division = division.testing(0.34)
    test_fraction = float(division.test_fraction or 0.0)
    raise_if(
        [
            one_of("partition", division.partition, ["natural", *PARTITIONS]),
            in_range("test_fraction", test_fraction, low=0.0, high=0.5, low_open=True, remedy="give 0.2 or 0.34"),
        ]
    )
    streams = Streams.from_seed(division.seed).child("data")
    kind = division.partition
    if kind == "natural" and has_hospitals:
        raise_if(_natural_problems(pools, division, asked))
        sites = [_split(pool, test_fraction, streams) for pool in pools]
        words = f"natural: {len(pools)} hospitals, each with its own records"
        return sites, words, False
    values = np.concatenate([pool.values for pool in pools])
    labels = np.concatenate([pool.labels for pool in pools])
    count = division.sites if division.sites is not None else len(pools) if has_hospitals else DEFAULT_SITES
    split = partition(
        "iid" if kind == "natural" else kind,
        labels,
        sites=count,
        streams=streams,
        min_records=division.min_records,
        **division.options,
    )
    sites = []
    for site, rows in zip(split.ids, split.rows):
        sites.append(_split(Pool(site, values[rows], labels[rows]), test_fraction, streams))
    origin = (
        f" (pooled from {len(pools)} real hospitals)"
        if has_hospitals
        else " (the data set has no hospitals of its own)"
    )
    return sites, split.words + origin, True


def _natural_problems(pools: Sequence[Pool], division: Division, test_fraction: float | None) -> list[Problem | None]:
    """Settings that hospitals as they are cannot honour: each would be ignored in silence otherwise."""
    known = ", ".join(PARTITIONS)
    bound = f"has no meaning for the natural partition: its {len(pools)} hospitals are taken as they are"
    found: list[Problem | None] = [
        Problem(name, value, bound, f"drop it, or choose partition {known}") for name, value in division.options.items()
    ]
    if division.sites not in (None, len(pools)):
        found.append(Problem("sites", division.sites, bound, f"drop it, or choose partition {known}"))
    if test_fraction is not None and any(pool.tested is not None for pool in pools):
        words = "has no meaning here: the published test records are kept"
        found.append(Problem("test_fraction", test_fraction, words, f"drop it, or choose partition {known}"))
    small = [f"{pool.hospital_id}: {len(pool.labels)}" for pool in pools if len(pool.labels) < division.min_records]
    if small:
        words = f"must be <= the records of every hospital ({', '.join(small[:4])})"
        found.append(Problem("min_records", division.min_records, words, "lower it, or leave those hospitals out"))
    return found


def _split(pool: Pool, test_fraction: float, streams: Streams) -> Site:
    tested = pool.tested
    if tested is None:
        tested = test_rows(pool.labels, test_fraction, streams.child("split", pool.hospital_id))
    return Site(pool.hospital_id, pool.values, pool.labels, tested, train_rows(len(pool.labels), tested))


def assemble_table(
    name: str,
    pools: Sequence[Pool],
    schema: Schema,
    division: Division,
    scaling: Scaling,
    *,
    secret: DataSecret,
    provenance: str,
    licence: str,
    simulated: bool = False,
    warnings: Sequence[str] = (),
    has_hospitals: bool = True,
) -> HospitalDataset:
    """A data set of encoded tables: divides, fills, scales and checks."""
    sites, words, is_simulated = divide(pools, division, has_hospitals=has_hospitals)
    streams = Streams.from_seed(division.seed).child("data", "preprocessing")
    features, scalers, preprocessing = prepare(sites, schema, scaling, streams)
    hospitals = tuple(_hospital(site, block, scaler) for site, block, scaler in zip(sites, features, scalers))
    return HospitalDataset(
        name=name,
        hospitals=hospitals,
        task=schema.target.kind,
        num_classes=schema.target.num_classes,
        feature_shape=(len(schema.columns),),
        feature_names=schema.column_names,
        provenance=provenance,
        licence=licence,
        simulated=simulated or is_simulated,
        partition=words,
        preprocessing=preprocessing,
        schema=schema,
        warnings=(*warnings, *one_class_warnings(hospitals, schema.target.kind)),
        secret=secret,
    )


def assemble_images(
    name: str,
    pool: Pool,
    division: Division,
    *,
    secret: DataSecret,
    brightest: float,
    num_classes: int,
    provenance: str,
    licence: str,
) -> HospitalDataset:
    """A data set of images, pixels divided by the brightest possible one (a public constant)."""
    sites, words, _ = divide([pool], division, has_hospitals=False)
    scaler = Scaler(np.zeros(()), np.full((), float(brightest)))
    hospitals = tuple(_hospital(site, scaler.apply(site.values), scaler) for site in sites)
    scaled = f"pixels divided by {brightest:g}, the brightest possible (nothing is learnt from the records)"
    return HospitalDataset(
        name=name,
        hospitals=hospitals,
        task="multiclass",
        num_classes=num_classes,
        feature_shape=pool.values.shape[1:],
        feature_names=(),
        provenance=provenance,
        licence=licence,
        simulated=True,
        partition=words,
        preprocessing=Preprocessing("fixed_bounds", True, scaled),
        warnings=one_class_warnings(hospitals, "multiclass"),
        secret=secret,
    )


def _hospital(site: Site, features: np.ndarray, scaler: Scaler) -> Hospital:
    train = Part(features[site.trained], site.labels[site.trained])
    return Hospital(site.hospital_id, train, Part(features[site.tested], site.labels[site.tested]), scaler)
