"""Own data for tests: tables that are written, and a key that gives the same split in every run."""

from __future__ import annotations

import pathlib


def keep_key(folder: pathlib.Path, key: bytes = bytes(32)) -> None:
    """Gives a folder of own data this key instead of a random one."""
    (folder / ".tff_hospitals").mkdir(mode=0o700)
    file = folder / ".tff_hospitals" / "key"
    file.touch(mode=0o600)
    file.write_bytes(key)
