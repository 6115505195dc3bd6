"""From pools of records to the fields of a data set: partition, split, scale, check. All real records go this way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals.checks import one_class_warnings, untested_warnings
from tff_hospitals.hospitals.division import Division, Pool, divide
from tff_hospitals.hospitals.hospital import Hospital, Part, Preprocessing, Scaler
from tff_hospitals.hospitals.preprocessing import Scaling, Site, median_warnings, prepare
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.secret import DataSecret


def table_fields(
    pools: Sequence[Pool],
    schema: Schema,
    division: Division,
    scaling: Scaling,
    *,
    secret: DataSecret,
    given: str = "",
    simulated: bool = False,
    inside_warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Fields of a `HospitalDataset` from encoded tables: divides, fills, scales and checks.

    Args:
      pools: encoded tables of the hospitals.
      schema: what their columns mean.
      division, scaling: what is asked for.
      secret: of the data set.
      given: where the split is given: by what, in words.
      simulated: whether the hospitals are no real ones.
      inside_warnings: exact statements about the records.
    """
    fraction = {} if schema.test_fraction is None else {"test_fraction": schema.test_fraction}
    divided = divide(pools, division, secret, has_hospitals=True, given=given, **fraction)
    streams = Streams(secret.child("preprocessing").key).child(division.seed)
    if division.split:  # other training records: noise that two splits shared could be taken away
        streams = streams.child("split", division.split)
    features, scalers, preprocessing = prepare(divided.sites, schema, scaling, streams)
    hospitals = tuple(_hospital(site, block, scaler) for site, block, scaler in zip(divided.sites, features, scalers))
    return {
        "hospitals": hospitals,
        "task": schema.target.kind,
        "num_classes": schema.target.num_classes,
        "feature_shape": (len(schema.columns),),
        "feature_names": schema.column_names,
        "simulated": simulated or divided.simulated,
        "partition": divided.partition,
        "split_rule": divided.split_rule,
        "preprocessing": preprocessing,
        "schema": schema,
        "records_per_patient": schema.records_per_patient or 1,
        "inside_warnings": (
            *inside_warnings,
            *median_warnings(divided.sites, schema),
            *_shared_patients(pools),
            *one_class_warnings(hospitals, schema.target.kind),
            *untested_warnings(hospitals),
        ),
        "secret": secret,
        "target_bounds": _target_bounds(schema),
        "inputs": tuple((one.name, (len(one.columns()),)) for one in schema.features),
    }


def _shared_patients(pools: Sequence[Pool]) -> tuple[str, ...]:
    """One sentence where hospitals name patients alike: they may be the same people, or each may count from one."""
    homes: dict[bytes, set[tuple[str, bool]]] = {}
    for pool in pools:
        tested = set() if pool.tested is None else set(pool.tested.tolist())
        for row, one in enumerate((pool.ids or ()) if pool.patients else ()):
            homes.setdefault(one, set()).add((pool.hospital_id, row in tested))
    shared = [places for places in homes.values() if len({name for name, _ in places}) > 1]
    if not shared:
        return ()
    across = sum(len({side for _, side in places}) > 1 for places in shared)
    sides = f", {across} of them for training at one and for testing at another" if across else ""
    return (
        f"{len(shared)} patient ids stand at more than one hospital{sides}. If they are the same people, the "
        "epsilons of their hospitals add up for them. Remedy: keep each patient at one hospital; if hospitals only "
        "count alike, write the hospital into the id.",
    )


def _target_bounds(schema: Schema) -> tuple[float, float] | None:
    low, high = schema.target.low, schema.target.high
    return None if schema.target.kind != "regression" or low is None or high is None else (float(low), float(high))


def image_fields(
    pool: Pool,
    division: Division,
    *,
    secret: DataSecret,
    brightest: float,
    num_classes: int,
    test_fraction: float,
    given: str = "",
) -> dict[str, Any]:
    """Fields of a `HospitalDataset` of images, pixels divided by the brightest possible one (a public constant)."""
    divided = divide([pool], division, secret, has_hospitals=False, test_fraction=test_fraction, given=given)
    scaler = Scaler(np.zeros(()), np.full((), float(brightest)))
    hospitals = tuple(_hospital(site, scaler.apply(site.values), scaler) for site in divided.sites)
    scaled = f"pixels divided by {brightest:g}, the brightest possible (nothing is learnt from the records)"
    return {
        "hospitals": hospitals,
        "task": "multiclass",
        "num_classes": num_classes,
        "feature_shape": pool.values.shape[1:],
        "feature_names": (),
        "simulated": True,
        "partition": divided.partition,
        "split_rule": divided.split_rule,
        "preprocessing": Preprocessing("fixed_bounds", True, scaled),
        "inside_warnings": (*one_class_warnings(hospitals, "multiclass"), *untested_warnings(hospitals)),
        "secret": secret,
    }


def _hospital(site: Site, features: np.ndarray, scaler: Scaler) -> Hospital:
    train = Part(features[site.trained], site.labels[site.trained])
    patients = None if site.patients is None else site.patients[site.tested]
    return Hospital(site.hospital_id, train, Part(features[site.tested], site.labels[site.tested]), scaler, patients)
