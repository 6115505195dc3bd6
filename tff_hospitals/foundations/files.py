"""Files that a run leaves behind: written whole or not at all, and read back with named errors.

Every file is written beside its final name, flushed to the disk and renamed over it, so that a reader (or a run that
resumes after a power cut) meets the old file or the new one, never half of one.

>>> import tempfile, pathlib
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> write_json(folder / "a.json", {"rounds": 3})
>>> read_json(folder / "a.json")
{'rounds': 3}
"""

from __future__ import annotations

import contextlib
import contextvars
import csv
import hashlib
import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import Failure


class RecordError(Failure):
    """A file of a run could not be written or read; the message names the file, the cause and the remedy."""


class DataError(RecordError):
    """Records that a command was given are missing or not what they should be: bad input, told before any training."""


_waits = contextvars.ContextVar("waits for the disk", default=True)


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """What is written in this block does not wait for the disk: whole or not at all, but a power cut may undo it.

    For what can be made again from something that is durable.
    """
    before = _waits.set(False)
    try:
        yield
    finally:
        _waits.reset(before)


def write_bytes(path: os.PathLike[str] | str, content: bytes, mode: int = 0o644) -> None:
    """Writes `content` to `path` atomically and durably, making parent folders as needed; `mode` says who may read.

    Raises:
      RecordError: when the disk refuses (full, read-only, no permission). What stood at `path` before is untouched.
    """
    target = pathlib.Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if _waits.get():
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, target)
        temporary = None
        if _waits.get():
            flush_folder(target.parent)
    except OSError as error:
        raise RecordError(
            f"could not write {target} ({len(content)} bytes): {error.strerror or error}. "
            "What stood there before is untouched. Remedy: free some space or choose another --run_dir, then start "
            "the same command again; the run resumes from its last checkpoint."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def flush_folder(folder: pathlib.Path) -> None:
    """Makes a rename durable; not every file system lets a folder be opened, which is then no error."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: os.PathLike[str] | str, text: str) -> None:
    """Writes UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: os.PathLike[str] | str, value: Any) -> None:
    """Writes strict JSON atomically: NaN and infinity become null, tuples lists, numpy scalars numbers."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: os.PathLike[str] | str, *, strict: bool = False) -> Any:
    """Reads a JSON file.

    Args:
      path: of the file.
      strict: refuse what people and programs may read differently: a name that is there twice, NaN, Infinity.

    Raises:
      RecordError: when the file is missing or is not JSON; names the file, the line and the remedy.
    """
    target = pathlib.Path(path)
    try:
        text = target.read_text(encoding="utf-8")
        if strict:
            return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
        return json.loads(text)
    except FileNotFoundError as error:
        raise RecordError(f"{target} does not exist. Remedy: name a folder that a finished run wrote.") from error
    except (OSError, ValueError, RecursionError) as error:  # no JSON, or no name that a file can have
        raise RecordError(
            f"{target} cannot be read: {error}. Remedy: restore the file or start in a new folder."
        ) from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def write_csv(path: os.PathLike[str] | str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as CSV atomically; floats in full precision (`repr`), missing values as empty cells."""
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The CSV text of `rows` with a header line; a column that a row lacks is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """`value` as plain JSON types: mappings, lists, strings, numbers, booleans and None."""
    if value is None or type(value) in (str, int, bool):  # most of what is written, a hundred thousand times a run
        return value
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that name a value (of plain types): equal values, equal names.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
