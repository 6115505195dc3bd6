"""Checks that every data set passes before anyone trains on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem, counted
from tff_hospitals.hospitals.hospital import Hospital, Part

# Rows of metrics.csv that are no hospital: a hospital of that name could not be told from them.
RESERVED_IDS = ("pooled", "server")
_MOST_BYTES = 200  # of an id: file systems take names of 255


def id_problem(name: str, hospital_id: str) -> Problem | None:
    """What is wrong with an id: ids become file names, table rows and stream names."""
    if hospital_id.casefold() in RESERVED_IDS:
        return Problem(
            name, hospital_id, f"must not be {' or '.join(RESERVED_IDS)} (rows of the metrics table)", "rename it"
        )
    plain = hospital_id.strip() == hospital_id and hospital_id.isprintable() and not set(hospital_id) & set('/\\:,"')
    if not hospital_id or not plain or hospital_id.startswith("."):
        return Problem(
            name,
            hospital_id,
            'must be printable text without / \\ : , " or a leading dot or outer spaces',
            "rename it, for example st_mary",
        )
    if len(hospital_id.encode()) > _MOST_BYTES:
        bound = f"must have at most {_MOST_BYTES} bytes: it becomes the name of a folder"
        return Problem(name, hospital_id, bound, "give it a shorter name, for example st_mary")
    return None


def no_training_problem(hospital_id: str) -> Problem:
    """A hospital with nothing to train on."""
    remedy = "give it records, leave the hospital out, take fewer sites, or split by another seed"
    return Problem(f"training records of {hospital_id}", 0, "must be at least 1", remedy)


def hospitals_problems(hospitals: Sequence[Hospital], signature: ModelSignature, *, lazy: bool) -> list[Problem | None]:
    """Empty, doubled and misshapen hospitals: everything that training would trip over later.

    Args:
      hospitals: of one data set.
      signature: what their records must fit.
      lazy: records are not in memory: they are checked when they are read.
    """
    if not hospitals:
        return [Problem("hospitals", 0, "must be at least one", "give a data set with hospitals")]
    found: list[Problem | None] = []
    seen: dict[str, str] = {}
    for hospital in hospitals:
        key = hospital.hospital_id.casefold()
        if key in seen:
            found.append(Problem("hospital_id", hospital.hospital_id, f"already taken by {seen[key]!r}", "rename one"))
        seen[key] = hospital.hospital_id
        found.append(id_problem("hospital_id", hospital.hospital_id))
        if not hospital.train.records:
            found.append(no_training_problem(hospital.hospital_id))
        for word, part in (("train", hospital.train), ("test", hospital.test)):
            if not lazy:
                found.extend(part_problems(f"{word} part of {hospital.hospital_id}", part, signature))
    return found


def part_problems(name: str, part: Part, signature: ModelSignature) -> list[Problem | None]:
    """Arrays of the wrong shape or type, values that are not finite, labels out of range."""
    shape = (part.records, *signature.feature_shape)
    if part.features.shape != shape:
        return [Problem(f"features in {name}", part.features.shape, f"must have shape {shape}", "reshape them")]
    wanted = np.float32 if signature.task == "regression" else np.int64
    found: list[Problem | None] = []
    if part.features.dtype != np.float32 or part.labels.dtype != wanted:
        types = (str(part.features.dtype), str(part.labels.dtype))
        found.append(Problem(f"types in {name}", types, f"must be float32 and {np.dtype(wanted)}", "convert them"))
    if not np.isfinite(part.features).all() or not np.isfinite(part.labels).all():
        found.append(Problem(f"values in {name}", "NaN or infinity", "must be finite", "fill or drop missing values"))
    if (
        signature.task != "regression"
        and part.records
        and not 0 <= part.labels.min() <= part.labels.max() < signature.num_classes
    ):
        span = (int(part.labels.min()), int(part.labels.max()))
        found.append(
            Problem(f"labels in {name}", span, f"must lie in 0 to {signature.num_classes - 1}", "renumber them")
        )
    return found


def untested_warnings(hospitals: Sequence[Hospital]) -> tuple[str, ...]:
    """One sentence for hospitals without test records: nothing can be said of a model there."""
    untested = [h.hospital_id for h in hospitals if not h.test.records]
    if not untested:
        return ()
    shown = ", ".join(untested[:5]) + (f" and {len(untested) - 5} more" if len(untested) > 5 else "")
    who = f"no hospital has a test record ({shown})" if len(untested) == len(hospitals) else f"no test record: {shown}"
    return (f"{who}; results there are undefined. Raise test_fraction, or take another seed of the split.",)


def one_class_warnings(hospitals: Sequence[Hospital], task: str) -> tuple[str, ...]:
    """One sentence for hospitals whose training records are all of one class; an error when that is all hospitals.

    Raises:
      InvalidInput: when all training records together have one class only: nothing can be learnt.
    """
    if task == "regression" or not hospitals:
        return ()
    single = {
        h.hospital_id: int(h.train.labels[0]) for h in hospitals if h.train.records and np.ptp(h.train.labels) == 0
    }
    if len(single) == len(hospitals) and len(set(single.values())) == 1:
        label = next(iter(single.values()))
        raise InvalidInput(
            [
                Problem(
                    "training labels",
                    f"class {label} only",
                    "must hold at least two classes",
                    "check the target column, or split by another seed",
                )
            ]
        )
    if not single:
        return ()
    shown = ", ".join(f"{hospital_id} (class {label})" for hospital_id, label in list(single.items())[:5])
    more = f" and {len(single) - 5} more" if len(single) > 5 else ""
    have, they = ("has", "It") if len(single) == 1 else ("have", "They")
    whose = "its" if len(single) == 1 else "their"
    return (
        f"{len(single)} of {counted(len(hospitals), 'hospital')} {have} one class only among {whose} training records: "
        f"{shown}{more}. {they} cannot learn the other class from {whose} own data; AUC is undefined where the test "
        "part is alike.",
    )
