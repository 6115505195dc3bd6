"""Records that are in memory already: arrays, data sets of batches or data frames, one per hospital."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tff_hospitals.foundations.signature import TASKS, ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.hospitals.assembly import table_fields
from tff_hospitals.hospitals.checks import id_problem, one_class_warnings, part_problems, untested_warnings
from tff_hospitals.hospitals.division import Division, Pool, divide
from tff_hospitals.hospitals.hospital import NO_PREPROCESSING, Hospital, Part
from tff_hospitals.hospitals.pools import pools_of
from tff_hospitals.hospitals.preprocessing import Scaling
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.secret import DataSecret, passing_secret
from tff_hospitals.hospitals.table_files import table_of
from tff_hospitals.hospitals.table_places import check_places, with_units
from tff_hospitals.hospitals.tables import InvalidTable, Problems
from tff_hospitals.hospitals.typed_files import frame_sheet


def array_fields(
    arrays: Mapping[str, Any],
    *,
    task: str,
    num_classes: int | None,
    division: Division,
    secret: DataSecret | None,
) -> dict[str, Any]:
    """Fields of a `HospitalDataset`; see `HospitalDataset.from_arrays`."""
    raise_if([one_of("task", task, TASKS), _classes_problem(task, num_classes)])
    if not arrays:
        raise InvalidInput([Problem("arrays", 0, "must be at least one hospital", "give {id: (features, labels)}")])
    classes = int(num_classes or {"binary": 2, "regression": 1}[task])
    inputs: list[tuple[tuple[str, tuple[int, ...]], ...]] = []
    parts = {str(hospital_id): _part(str(hospital_id), pair, task, inputs) for hospital_id, pair in arrays.items()}
    if len(set(inputs)) > 1 or len(inputs) not in (0, len(parts)):
        bound = f"must have the same inputs and shapes at every hospital, not {' and '.join(map(str, set(inputs)))}"
        raise InvalidInput([Problem("features", "dictionaries", bound[:400], "give every hospital the same keys")])
    signature = ModelSignature(next(iter(parts.values())).features.shape[1:], classes, task)
    raise_if([p for name, part in parts.items() for p in part_problems(f"records of {name}", part, signature)])
    secret = secret or passing_secret()
    pools = [Pool(name, part.features, part.labels) for name, part in parts.items()]
    divided = divide(pools, division, secret, has_hospitals=True)
    hospitals = tuple(
        Hospital(
            site.hospital_id,
            Part(site.values[site.trained], site.labels[site.trained]),
            Part(site.values[site.tested], site.labels[site.tested]),
            test_patients=None if site.patients is None else site.patients[site.tested],
        )
        for site in divided.sites
    )
    return {
        "hospitals": hospitals,
        "task": task,
        "num_classes": classes,
        "feature_shape": signature.feature_shape,
        "feature_names": (),
        "simulated": divided.simulated,
        "partition": divided.partition,
        "split_rule": divided.split_rule,
        "preprocessing": NO_PREPROCESSING,
        "inside_warnings": (*one_class_warnings(hospitals, task), *untested_warnings(hospitals)),
        "secret": secret,
        "inputs": inputs[0] if inputs else (),
    }


def frame_fields(
    frames: Mapping[str, Any],
    schema: Schema,
    *,
    division: Division | None,
    scaling: Scaling | None,
    secret: DataSecret | None,
) -> dict[str, Any]:
    """Fields of a `HospitalDataset`; see `HospitalDataset.from_frames`."""
    found = [*schema.problems()]
    if schema.hospital_column is not None:
        remedy = "drop it: the keys of the frames are the hospitals' ids; frame.groupby(column) makes them"
        found.append(Problem("hospital_column", schema.hospital_column, "is for files", remedy))
    if not frames:
        found.append(Problem("frames", 0, "must be at least one hospital", "give {id: DataFrame}"))
    found += [p for name in frames if (p := id_problem("frames", str(name))) is not None]
    raise_if(found)
    problems, tables = Problems(), {}
    for hospital_id, frame in frames.items():
        name = str(hospital_id)
        written = schema.format_of(name)
        sheet = frame_sheet(name, frame, written, problems)
        if sheet is not None:
            table = table_of(name, sheet, schema.columns_read, written, problems, schema.headers.get(name, {}))
            tables[name] = [] if table is None else [table]
    check_places(schema, list(map(str, frames)), (), problems)
    tables = {name: with_units(schema, name, parts) for name, parts in tables.items() if parts}
    pools = pools_of(tables, schema, problems)
    if problems:
        raise InvalidTable(problems.list())
    return table_fields(
        pools,
        schema,
        division or Division(seed=schema.seed),
        scaling or Scaling(schema.scaling or "per_hospital", schema.scaling_noise_multiplier),
        secret=secret or passing_secret(),
        given=schema.given_split,
        simulated=schema.simulated,
    )


def _classes_problem(task: str, num_classes: int | None) -> Problem | None:
    fixed = {"binary": 2, "regression": 1}.get(task)
    if fixed is None and (num_classes is None or num_classes < 2):
        return Problem(
            "num_classes", num_classes, "must be given for multiclass, 2 or more", "state how many there are"
        )
    if fixed is not None and num_classes not in (None, fixed):
        return Problem("num_classes", num_classes, f"must be {fixed} for {task}", "drop it")
    return None


def _part(hospital_id: str, given: Any, task: str, inputs: list) -> Part:
    """Features and labels of one hospital in the types that training takes; nothing is rounded in silence.

    Features that are a dictionary are laid side by side, and what lies where is added to `inputs`.
    """
    name = f"records of {hospital_id}"
    if hasattr(given, "iloc"):
        remedy = "use HospitalDataset.from_frames with a schema, or give (features, labels)"
        raise InvalidInput([Problem(name, type(given).__name__, "must be a pair (features, labels)", remedy)])
    if hasattr(given, "as_numpy_iterator"):
        given = _gathered(name, given)
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InvalidInput([Problem(name, type(given).__name__, "must be a pair (features, labels)", "give both")])
    if isinstance(given[0], Mapping):
        given = (_side_by_side(name, given[0], inputs), given[1])
    features, labels = np.asarray(given[0]), np.asarray(given[1])
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or features.ndim < 2 or len(features) != len(labels):
        shapes = (features.shape, labels.shape)
        bound = "must have shapes [records, ..] and [records]"
        raise InvalidInput([Problem(name, shapes, bound, "reshape them; one column is [records, 1]")])
    if features.dtype.kind not in "fiub" or labels.dtype.kind not in "fiub":
        types = (str(features.dtype), str(labels.dtype))
        raise InvalidInput([Problem(name, types, "must be numbers", "encode categories and text as numbers")])
    with np.errstate(over="ignore"):
        numbers = features.astype(np.float32)
    if task == "regression":
        return Part(numbers, labels.astype(np.float32))
    whole = np.where(np.isfinite(labels), labels, -1).astype(np.int64)
    if (whole != labels).any():
        raise InvalidInput([Problem(name, "labels", "must be whole class numbers", "number the classes 0, 1, ..")])
    return Part(numbers, whole)


_ENDLESS = -1  # tf.data.INFINITE_CARDINALITY


def _side_by_side(name: str, features: Mapping[str, Any], inputs: list) -> np.ndarray:
    """A dictionary of arrays [records, ..] as one array [records, numbers], keys in alphabetical order."""
    arrays = {str(key): np.asarray(value) for key, value in sorted(features.items())}
    arrays = {key: value[:, None] if value.ndim == 1 else value for key, value in arrays.items()}
    if len({value.shape[:1] for value in arrays.values()}) != 1 or not all(value.ndim for value in arrays.values()):
        shapes = {key: value.shape for key, value in arrays.items()}
        bound = "must be a dictionary of arrays with as many records each"
        raise InvalidInput([Problem(name, str(shapes)[:200], bound, "give every input [records, ..]")])
    inputs.append(tuple((key, value.shape[1:]) for key, value in arrays.items()))
    return np.concatenate([value.reshape(len(value), -1) for value in arrays.values()], axis=1)


def _gathered(name: str, given: Any) -> tuple[Any, np.ndarray]:
    """All elements of a `tf.data.Dataset` of (features, labels), single records or batches; they are read once."""
    if hasattr(given, "cardinality") and int(given.cardinality()) == _ENDLESS:
        raise InvalidInput([Problem(name, "endless", "must come to an end", "drop repeat() from the data set")])
    pairs = []
    for element in given.as_numpy_iterator():
        if not isinstance(element, (tuple, list)) or len(element) != 2:
            words = sorted(element) if isinstance(element, dict) else type(element).__name__
            remedy = "map the data set to (features, labels), one array each"
            raise InvalidInput([Problem(name, words, "must hold pairs (features, labels)", remedy)])
        pairs.append((element[0], np.asarray(element[1])))
    if not pairs:
        raise InvalidInput([Problem(name, 0, "must hold at least one element", "leave the hospital out")])
    join = np.stack if pairs[0][1].ndim == 0 else np.concatenate
    first, labels = pairs[0][0], join([pair[1] for pair in pairs])
    if isinstance(first, Mapping):
        return {key: join([np.asarray(pair[0][key]) for pair in pairs]) for key in first}, labels
    return join([np.asarray(pair[0]) for pair in pairs]), labels
