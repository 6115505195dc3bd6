"""Where the embedded data lie, and whether they are what they were.

In a wheel the tables are in `tff_hospitals/data`, in a checkout in `data/` beside the package.
"""

from __future__ import annotations

import hashlib
import pathlib

from tff_hospitals.foundations.files import RecordError


def data_folder() -> pathlib.Path:
    """The folder of the embedded data sets.

    Raises:
      RecordError: when neither place holds it.
    """
    package = pathlib.Path(__file__).resolve().parents[1]
    candidates = [package / "data", package.parent / "data"]
    for candidate in candidates:
        if (candidate / "heart_disease" / "SHA256SUMS").is_file():
            return candidate
    raise RecordError(
        f"the embedded data are in neither {candidates[0]} nor {candidates[1]}. Remedy: install the package again."
    )


def read_checked(folder: pathlib.Path, name: str) -> str:
    """The text of `folder/name`, if its SHA-256 is the one in `folder/SHA256SUMS`.

    Raises:
      RecordError: when the file or its checksum is missing, or the content is not what it was.
    """
    sums = _read(folder / "SHA256SUMS").decode()
    expected = {
        parts[1].lstrip("*"): parts[0] for parts in (line.split() for line in sums.splitlines()) if len(parts) == 2
    }
    if name not in expected:
        raise RecordError(f"{folder / 'SHA256SUMS'} does not list {name}. Remedy: restore the folder {folder.name}.")
    content = _read(folder / name)
    found = hashlib.sha256(content).hexdigest()
    if found != expected[name]:
        raise RecordError(
            f"{folder / name} is not the file that was published: SHA-256 {found[:16]}.., "
            f"must be {expected[name][:16]}.., {len(content)} bytes. "
            "Remedy: restore it (git checkout, or install the package again), or load your table as own data."
        )
    return content.decode()


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read: {error.strerror or error}. Remedy: install the package again."
        ) from error
