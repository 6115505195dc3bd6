"""A hash-chained journal: what happened, in order, so that nobody changes or removes a line unseen.

Every line is a JSON object with the SHA-256 of the line before it, and is on the disk when `append` returns. Who knows
the hash of the last line (it is told when a worker ends, and stands in every report) sees any change before it.

>>> import tempfile, pathlib
>>> journal = Journal(pathlib.Path(tempfile.mkdtemp()) / "journal.jsonl")
>>> for event in ("approved", "answered"):
...     journal.append(event, round=3)
>>> [entry["event"] for entry in journal.entries], problems(journal.path)
(['approved', 'answered'], [])
>>> _ = journal.path.write_text(journal.path.read_text().replace("approved", "improved"))
>>> problems(journal.path)
['line 2 does not follow from line 1: a line was changed, removed or added']
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any, BinaryIO

from tff_hospitals.foundations.files import RecordError, flush_folder, plain

if TYPE_CHECKING:
    from tff_hospitals.deployment.agreement import Agreement

_FIRST = "0" * 64
FILE_NAME = "journal.jsonl"
JOURNALLED_REJECTIONS = 1000
"""More of them are counted only, in a journal and not in a process: nobody may fill the disk from outside."""


class Journal:
    """A journal that is gone on with.

    Args:
      path: of the file; made when something is appended.

    Attributes:
      entries: all of them, in order.
      head: hash of the last line.

    Raises:
      RecordError: what is there is not whole.
    """

    def __init__(self, path: os.PathLike[str] | str):
        self.path = pathlib.Path(path)
        found = problems(self.path)
        if found:
            raise RecordError(
                f"{self.path}: {found[0]}. Nothing is sent on the ground of a journal that is not whole. Remedy: "
                "restore it from a backup; without one, count what was released so far as lost, and agree anew."
            )
        lines = _lines(self.path)
        self._size = sum(len(line.encode()) + 1 for line in lines)
        self.entries = [json.loads(line) for line in lines]
        self.head = _hash(lines[-1]) if lines else _FIRST
        self._first = _hash(lines[0]) if lines else _FIRST
        self._latest = max((str(entry.get("time", "")) for entry in self.entries), default="")

    @property
    def first(self) -> str:
        """Hash of the first line, which no other journal has; 64 zeros before there is one."""
        return self._first

    @property
    def latest(self) -> str:
        """The latest time in it (ISO 8601, UTC); empty before there is a line."""
        return self._latest

    def append(self, event: str, *, durable: bool = True, **fields: Any) -> None:
        """Adds a line; it is on the disk when this returns.

        Args:
          event: what happened.
          durable: False where nothing rests on it (what came from strangers): it survives the process, not a power cut.
          fields: plain values.

        Raises:
          RecordError: the disk refuses, or somebody else has written to the file meanwhile.
        """
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        entry = {"event": event, "time": now, **plain(fields), "before": self.head}
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "r+b") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                self._only_ours(file)
                file.write(line.encode() + b"\n")
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if new:
                flush_folder(self.path.parent)
        except OSError as error:
            raise RecordError(
                f"could not write {self.path}: {error.strerror or error}. Nothing was sent. Remedy: free some space."
            ) from error
        self.head = _hash(line)
        self._size += len(line) + 1
        self._latest = max(self._latest, now)
        if not self.entries:
            self._first = self.head
        self.entries.append(entry)

    def _only_ours(self, file: BinaryIO) -> None:
        """Takes away what a crash left of a last line, and refuses to go on behind lines of somebody else."""
        size = os.fstat(file.fileno()).st_size
        if size == self._size:
            return
        file.seek(self._size)
        if size < self._size or b"\n" in file.read():
            raise RecordError(
                f"{self.path} is not as this worker left it: another one writes to it, or it was removed. Nothing was "
                "sent. Remedy: let one worker run in a hospital's folder, and start it again."
            )
        file.truncate(self._size)


def journal_of(folder: pathlib.Path, agreement: Agreement) -> Journal:
    """A hospital's journal of one federation: charges and numbers of another one do not count there."""
    return Journal(folder / agreement.identity / FILE_NAME)


def problems(path: os.PathLike[str] | str) -> list[str]:
    """Where a journal is not whole; empty for one that is, or that does not exist."""
    before, found = _FIRST, []
    for number, line in enumerate(_lines(pathlib.Path(path)), start=1):
        try:
            entry = json.loads(line)
            follows = entry["before"] == before
        except (ValueError, KeyError, TypeError):
            found.append(f"line {number} is no entry")
            follows = True
        if not follows:
            found.append(f"line {number} does not follow from line {number - 1}: a line was changed, removed or added")
        before = _hash(line)
    return found


def printable(text: str) -> str:
    """Words from outside, as a journal, a table and a terminal may show them.

    >>> printable("too \\x1b[2Jmuch\\ud800")
    'too ?[2Jmuch?'
    """
    return "".join(one if one.isprintable() else "?" for one in text[:500])


def _lines(path: pathlib.Path) -> list[str]:
    """Whole lines; what a crash left of the last one is none: nothing was sent on its ground."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe would be read for ever
            raise RecordError(f"{path} is no ordinary file. Remedy: remove what stands there, or restore the journal.")
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}. Remedy: run as its owner.") from error
    return text.split("\n")[:-1]


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
