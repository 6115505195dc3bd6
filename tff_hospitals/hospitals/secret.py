"""The secret of a data set: a key that names its records to its owner and says nothing to anybody else.

A plain hash of records is an oracle: who has a guess of a record tests it against the hash. All that is derived from
records (the data set's fingerprint, a record's side of the split, the noise of private runs) therefore uses a keyed
hash, and the key stays with the data:

| data | key | `folder` |
|---|---|---|
| own files | 32 random bytes in `.tff_hospitals/key` beside them, mode 0600 | `.tff_hospitals` beside them |
| own files where nothing can be written | the same, in the state folder under a name of the data's path | there |
| embedded public data | a public constant: research on them is the same everywhere | in the state folder |
| made-up data and arrays in memory | drawn for this process, unless the caller gives one | None |

The state folder is `$TFF_HOSPITALS_STATE`, else `$XDG_STATE_HOME/tff_hospitals`, else `~/.local/state/tff_hospitals`.
Whoever copies data to another machine and wants the same split there copies `.tff_hospitals` too.

>>> secret = public_secret("example")
>>> secret.digest("north", 3) == secret.digest("north", 3) != secret.digest("north", "3")
True
>>> secret
DataSecret(public=True)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import secrets
import stat
import tempfile
from typing import Union

from tff_hospitals.foundations.files import RecordError

KEY_BYTES = 32
FOLDER_NAME = ".tff_hospitals"
_PUBLIC_SALT = hashlib.blake2b(b"tff_hospitals/public data/1", digest_size=KEY_BYTES).digest()

Parts = Union[str, int, bytes]


@dataclasses.dataclass(frozen=True)
class DataSecret:
    """Keyed digests for one data set.

    Attributes:
      key: 32 bytes; never printed, never in a file of a run.
      public: whether the key is the public constant of embedded data: then nothing that follows from it is secret.
      folder: where records about this data set lie that outlive a run (the key, the sum of all that was released); may
        not exist yet. None: nothing outlives the process.

    Raises:
      ValueError: if the key is not 32 bytes long.
    """

    key: bytes = dataclasses.field(repr=False)
    public: bool
    folder: pathlib.Path | None = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(
                f"key has {len(self.key)} bytes: must be {KEY_BYTES}. Remedy: give secrets.token_bytes(32)."
            )

    def digest(self, *parts: Parts) -> str:
        """32 hexadecimal digits that follow from key and parts (BLAKE2b as a keyed hash, RFC 7693).

        Args:
          *parts: text, whole numbers or bytes; each keeps its type and length.
        """
        return self._hash(parts, 16).hex()

    def uniform(self, *parts: Parts) -> float:
        """A number in [0, 1) with 53 bits that follows from key and parts alone."""
        return (int.from_bytes(self._hash(parts, 8), "little") >> 11) * 2.0**-53

    def child(self, name: str) -> DataSecret:
        """A secret for one purpose: its key tells nothing of this one nor of another child's."""
        return dataclasses.replace(self, key=self._hash(("child", name), KEY_BYTES))

    def _hash(self, parts: tuple[Parts, ...], size: int) -> bytes:
        hashed = hashlib.blake2b(digest_size=size, key=self.key)
        for part in parts:
            kind = "b" if isinstance(part, bytes) else "s" if isinstance(part, str) else "i"
            content = part if isinstance(part, bytes) else str(part).encode()
            hashed.update(f"{kind}{len(content)} ".encode() + content)
        return hashed.digest()


def public_secret(name: str) -> DataSecret:
    """The public constant for embedded data; `name` is that of its records, whatever is chosen or made of them."""
    return DataSecret(_PUBLIC_SALT, True, state_folder() / "public" / name)


def passing_secret() -> DataSecret:
    """A key for this process alone: nothing that follows from it comes again in another process."""
    return DataSecret(secrets.token_bytes(KEY_BYTES), False, None)


def secret_of(path: os.PathLike[str] | str) -> DataSecret:
    """The secret of a folder or file of own data; its key is made when it is asked for the first time.

    Args:
      path: the data. Tables of one folder have one key, whether they are named alone or as a folder.

    Raises:
      RecordError: the key cannot be read, is readable for others, has another length, or can be kept nowhere.
    """
    place = pathlib.Path(path).resolve()
    beside = (place if place.is_dir() else place.parent) / FOLDER_NAME
    elsewhere = state_folder() / "own" / _name_of(beside.parent)
    for folder in (beside, elsewhere):
        if os.path.lexists(folder / "key"):
            return DataSecret(_read_key(folder / "key"), False, folder)
    refusals = []
    for folder in (beside, elsewhere):
        try:
            _make_key(folder)
        except OSError as error:
            refusals.append(f"{folder} ({error.strerror or error})")
        else:
            return DataSecret(_read_key(folder / "key"), False, folder)
    raise RecordError(
        f"the secret key of {place} can be kept neither in {' nor in '.join(refusals)}. Remedy: make one of them "
        "writable, or name a folder of yours in the environment variable TFF_HOSPITALS_STATE."
    )


def state_folder() -> pathlib.Path:
    """Where that is kept which outlives a run and has no place beside the data."""
    named = os.environ.get("TFF_HOSPITALS_STATE")
    if named:
        return pathlib.Path(named).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".local" / "state") / "tff_hospitals"


def _name_of(folder: pathlib.Path) -> str:
    """A folder name that people recognise and that no other path has."""
    return f"{folder.name[:40] or 'data'}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _read_key(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise RecordError(
            f"the secret key {path} cannot be read: {error.strerror or error}. Remedy: run as the user who made it, or "
            "work on a copy of the data of your own (its key is then another: splits and noise differ)."
        ) from error
    if mode & 0o077:
        raise RecordError(
            f"the secret key {path} has mode {mode:04o}: others may read it, must be 0600. Remedy: chmod 600 {path}; "
            "if somebody may have read it, do not publish runs whose noise follows from it."
        )
    if len(key) != KEY_BYTES:
        found = f"more than {KEY_BYTES}" if len(key) > KEY_BYTES else str(len(key))
        raise RecordError(
            f"the secret key {path} has {found} bytes: must be {KEY_BYTES}. Remedy: restore it from a backup; without "
            "one remove it: a new key is made, splits change, and runs of the old key cannot be resumed."
        )
    return key


def _make_key(folder: pathlib.Path) -> None:
    """Writes a new key whole or not at all; if another process was faster, its key stays."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".key.", dir=folder)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:  # a file system without modes
                raise OSError("its file system lets others read every file")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, folder / "key")
    finally:
        os.unlink(temporary)
    with contextlib.suppress(OSError):
        (folder / ".gitignore").write_text("*\n")
