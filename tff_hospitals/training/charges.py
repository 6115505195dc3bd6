"""Charges: what a run may have released, on disk before any of it exists.

A file of charges is only ever appended to. Each line is one charge with a checksum, written under a lock and flushed to
the disk before the caller goes on, so that a crash at any moment leaves the charge and not the result, or both. The
last charge of an attempt is what that attempt released at most: it replaces the attempt's earlier ones.

>>> import tempfile
>>> from tff_hospitals.accounting import MechanismEvent
>>> ledger = Ledger(delta=1e-3)
>>> ledger.record("record", "north", 1, MechanismEvent("gaussian", noise_multiplier=2.0))
>>> file = ChargeFile(pathlib.Path(tempfile.mkdtemp()) / "charges.jsonl")
>>> file.append(Charge("a", "release", 1, ledger))
>>> file.append(Charge("a", "release", 2, ledger, settled=True))
>>> [(charge.attempt, charge.rounds, charge.settled) for charge in file.last_of_attempts()]
[('a', 2, True)]
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations.files import RecordError, flush_folder, plain
from tff_hospitals.foundations.validation import InvalidInput

_CHECKSUM_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Charge:
    """What one attempt at a run released at most.

    Attributes:
      attempt: names one process's work on a run; a run that is resumed has several.
      release: two attempts with equal names release the same bits in the rounds that they have in common; unique where
        noise cannot be drawn again.
      rounds: how many rounds of the run the ledger reaches through.
      ledger: of this attempt.
      settled: whether the attempt has ended, so that the ledger is what really happened.
      words: what a reader wants to know: method, when it began.
    """

    attempt: str
    release: str
    rounds: int
    ledger: Ledger
    settled: bool = False
    words: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_line(self) -> bytes:
        """One line: a checksum, a blank, strict JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["ledger"] = self.ledger.to_json()
        body = json.dumps(plain(fields), separators=(",", ":"), allow_nan=False)
        return f"{_checksum(body)} {body}\n".encode()

    @classmethod
    def from_line(cls, line: str) -> Charge:
        """The charge that `to_line` wrote.

        Raises:
          ValueError: the line is not one.
        """
        found, _, body = line.partition(" ")
        if found != _checksum(body):
            raise ValueError("its checksum does not fit")
        fields = json.loads(body)
        return cls(**{**fields, "ledger": Ledger.from_json(fields["ledger"])})


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:_CHECKSUM_DIGITS]


class ChargeFile:
    """The charges of one run, or of all runs on one data set.

    Args:
      path: of the file; its folder is made when the first charge is written.
      durable: flush every charge to the disk. Without it a charge survives the process and not a power cut.
    """

    def __init__(self, path: pathlib.Path, *, durable: bool = True):
        self.path, self._durable = path, durable

    def append(self, charge: Charge, unless: Callable[[], None] | None = None) -> None:
        """Adds a charge; it is on the disk when this returns.

        Args:
          charge: to add.
          unless: raises what speaks against it, with the file as it is when the charge would be added: nobody else can
            add one in between.

        Raises:
          RecordError: the disk refuses, or what is there is damaged.
        """
        try:
            with self._locked() as file:
                size = self._cut_off_torn_line(file)
                if unless is not None:
                    unless()
                file.write(charge.to_line())
                file.flush()
                if self._durable:
                    os.fsync(file.fileno())
                    if not size:  # a new file: its name must last as well
                        flush_folder(self.path.parent)
        except OSError as error:
            raise RecordError(
                f"could not write the charge to {self.path}: {error.strerror or error}. Nothing was trained that is "
                "not charged. Remedy: make the folder writable or free some space, then start the same command again."
            ) from error

    def read(self) -> list[Charge]:
        """All charges in the order in which they were written; a last line that a crash cut off is left out.

        Raises:
          RecordError: a line is damaged.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(f"it cannot be read ({error})") from error
        found = []
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                found.append(Charge.from_line(line))
            except (ValueError, KeyError, TypeError, InvalidInput) as error:
                raise self._damaged(f"line {number} is not a charge ({str(error)[:80]})") from error
        return found

    def last_of_attempts(self) -> list[Charge]:
        """The charge that counts of each attempt, in the order of their first ones."""
        return list({charge.attempt: charge for charge in self.read()}.values())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, open for reading and appending, and nobody else's until it is closed."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "r+b") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield file

    @staticmethod
    def _cut_off_torn_line(file: BinaryIO) -> int:
        """Removes what a crash left of a line, for no result exists of a charge that is not whole; the size then."""
        size = file.seek(0, os.SEEK_END)
        end = size
        while end and (start := max(0, end - 4096)) < end:
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
        return file.seek(end)

    def _damaged(self, why: str) -> RecordError:
        return RecordError(
            f"{self.path} is damaged: {why}, so it cannot be told what was released. Remedy: restore it from a backup. "
            "Without one move it away, and count everything that was trained on these data so far by hand."
        )
