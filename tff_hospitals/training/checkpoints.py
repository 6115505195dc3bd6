"""Checkpoints: everything that a run needs to go on as if it had never been interrupted.

A checkpoint is one file, written whole or not at all (`records.write_bytes`): the server's state as arrays, and as
JSON the ledger, bytes, metrics so far and the next round. Random streams are functions of (seed, round, hospital), so
the round number is their whole state. The newest `KEEP` checkpoints stay; one that cannot be read is passed over with
a warning if an older one is whole, and is an error if none is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tff_hospitals.foundations import files

KEEP = 2
_MAGIC = b"tff_hospitals checkpoint 1\n"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A point between two rounds.

    Attributes:
      next_round: the round to run next, 0-based.
      plan: fingerprint of the plan and the data that it belongs to.
      arrays: flat leaves of the server state, in order.
      progress: plain JSON values: ledger, bytes, metrics rows, stopping history.
    """

    next_round: int
    plan: str
    arrays: tuple[np.ndarray, ...]
    progress: Mapping[str, Any]


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Serialises a checkpoint with a SHA-256 over its content."""
    buffer = io.BytesIO()
    np.savez(buffer, **{f"leaf_{i:05d}": array for i, array in enumerate(checkpoint.arrays)})
    header = json.dumps(
        {
            "next_round": checkpoint.next_round,
            "plan": checkpoint.plan,
            "progress": files.plain(checkpoint.progress),
            "arrays": len(checkpoint.arrays),
        }
    ).encode()
    body = len(header).to_bytes(8, "little") + header + buffer.getvalue()
    return _MAGIC + hashlib.sha256(body).digest() + body


def from_bytes(content: bytes, name: str = "checkpoint") -> Checkpoint:
    """Reads what `to_bytes` wrote.

    Raises:
      records.RecordError: when the bytes are truncated, corrupt or no checkpoint.
    """
    remedy = "Remedy: delete this file; the run then resumes from the checkpoint before it, or from the start."
    if not content.startswith(_MAGIC):
        raise files.RecordError(f"{name} is not a checkpoint of this version ({len(content)} bytes). {remedy}")
    digest, body = content[len(_MAGIC) : len(_MAGIC) + 32], content[len(_MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != digest:
        raise files.RecordError(
            f"{name} is corrupt or half-written: its checksum does not fit its {len(body)} bytes. {remedy}"
        )
    size = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + size])
    with np.load(io.BytesIO(body[8 + size :]), allow_pickle=False) as stored:
        arrays = tuple(stored[f"leaf_{i:05d}"] for i in range(header["arrays"]))
    return Checkpoint(header["next_round"], header["plan"], arrays, header["progress"])


class CheckpointFolder:
    """The checkpoints of one run directory."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and removes the oldest beyond `KEEP`.

        Raises:
          records.RecordError: when it could not be written; older checkpoints are untouched.
        """
        files.write_bytes(self._folder / f"round_{checkpoint.next_round:06d}.ckpt", to_bytes(checkpoint))
        for old in self._files()[:-KEEP]:
            old.unlink()

    def _files(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob("round_*.ckpt")) if self._folder.is_dir() else []

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint (None if there never was one) and warnings about those passed over.

        Raises:
          records.RecordError: when there are checkpoints and none is whole.
        """
        warnings: list[str] = []
        for path in reversed(self._files()):
            try:
                return from_bytes(path.read_bytes(), str(path)), warnings
            except (files.RecordError, OSError) as error:
                warnings.append(str(error))
        if warnings:
            raise files.RecordError("no checkpoint of this run is whole:\n" + "\n".join(warnings))
        return None, []
