"""The records of one hospital: tables of its own, or a file that was prepared for it.

records.npz    train_features, train_labels, test_features, test_labels
"""

from __future__ import annotations

import io
import os
import pathlib
import zipfile
import zlib

import numpy as np

from tff_hospitals.deployment.agreement import Agreement
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.hospitals import DataSecret, Hospital, Part, load_dataset
from tff_hospitals.hospitals.secret import secret_of

FILE_NAME = "records.npz"


def write(folder: pathlib.Path, hospital: Hospital) -> None:
    """Prepares a hospital's records in a folder, for its owner alone."""
    buffer = io.BytesIO()
    parts = {"train": hospital.train, "test": hospital.test}
    arrays = {f"{word}_{name}": getattr(part, name) for word, part in parts.items() for name in ("features", "labels")}
    np.savez(buffer, **arrays)
    files.write_bytes(folder / FILE_NAME, buffer.getvalue(), mode=0o600)


def read(path: os.PathLike[str] | str, hospital_id: str, agreement: Agreement) -> tuple[Hospital, DataSecret]:
    """The hospital of that id, and the secret of its data.

    Args:
      path: a folder with `records.npz`, or own tables as `load_dataset` reads them.
      hospital_id: as the roster has it.
      agreement: whose plan says how tables are prepared.

    Raises:
      InvalidInput: other hospitals, or a schema that differs, with the columns.
      RecordError: unreadable.
    """
    place = pathlib.Path(path)
    prepared = place / FILE_NAME
    if prepared.is_file():
        return Hospital(hospital_id, *_parts(prepared)), secret_of(place)
    data = agreement.the_plan().data
    dataset = load_dataset(str(place), seed=data.seed, **dict(data.options))
    found = {one.hospital_id: one for one in dataset.hospitals}
    if hospital_id not in found:
        bound = f"is not among the hospitals of these tables ({', '.join(sorted(found)[:10])})"
        raise_if([Problem("hospital", hospital_id, bound, "name the folder of this hospital's own tables")])
    described = tuple(agreement.data["feature_names"])
    if dataset.feature_names != described:
        missing, more = set(described) - set(dataset.feature_names), set(dataset.feature_names) - set(described)
        bound = f"differ from the agreement's: missing {sorted(missing)[:10]}, unknown {sorted(more)[:10]}"
        raise_if([Problem("columns", str(place), bound, "prepare the tables by the federation's schema")])
    return found[hospital_id], dataset.secret


def _parts(path: pathlib.Path) -> tuple[Part, Part]:
    try:
        with np.load(path, allow_pickle=False) as found:
            train, test = (Part(found[f"{word}_features"], found[f"{word}_labels"]) for word in ("train", "test"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise files.RecordError(f"{path} cannot be read: {error}. Remedy: prepare it again.") from error
    return train, test
