"""Makes the folders of a test federation: authority, certificates, signing keys, and the agreement with its roster.

    FOLDER/authority/ca.key                      belongs on no machine of the federation
    FOLDER/server/      tls.*, ca.crt, signing.key, agreement.json
    FOLDER/hospitals/<id>/    the same, of one hospital

A real federation makes each signing key where it stays, and lets its own authority sign: the files are the same.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.deployment import agreement as agreements
from tff_hospitals.deployment.agreement import Agreement
from tff_hospitals.deployment.certificates import Authority, host_problems
from tff_hospitals.deployment.keys import SigningKey
from tff_hospitals.foundations.validation import Problem, in_range, raise_if
from tff_hospitals.hospitals import HospitalDataset
from tff_hospitals.plan.plan import Plan

SIGNING_KEY = "signing.key"
_MOST_DAYS = 3650.0


def found(
    folder: pathlib.Path,
    plan: Plan,
    dataset: HospitalDataset,
    *,
    name: str = "federation",
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    days: float = 90.0,
    test_mode: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Agreement:
    """Makes everything in a new folder.

    Args:
      folder: new or empty.
      plan: to be run.
      dataset: its description is taken, no record.
      name: of the federation.
      hosts: under which hospitals reach the server.
      days: of validity.
      test_mode: all noise follows from the data set's key, which then stands in the agreement.
      settings: of the agreement (`deadline_seconds`, ..).

    Raises:
      InvalidInput: a folder that is not empty, or what is wrong with plan and roster.
    """
    taken = os.path.lexists(folder)
    if taken and not folder.is_dir():
        raise_if([Problem("folder", str(folder), "is no folder", "name a new folder")])
    if taken and any(folder.iterdir()):
        raise_if([Problem("folder", str(folder), "is not empty: keys are never overwritten", "name a new folder")])
    remedy = f"give days above 0, at most {_MOST_DAYS:g}"
    raise_if([in_range("days", days, low=0, low_open=True, high=_MOST_DAYS, remedy=remedy), *host_problems(hosts)])
    keys = {one: SigningKey.generate() for one in (agreements.SERVER, *dataset.ids)}
    made = Agreement.make(
        name,
        plan,
        dataset,
        keys[agreements.SERVER].public,
        {one: keys[one].public for one in dataset.ids},
        days=days,
        test_key=dataset.secret.key if test_mode else b"",
        **(settings or {}),
    )
    authority = Authority(name, days)
    (folder / "authority").mkdir(mode=0o700, parents=True)
    authority.write_key(folder / "authority" / "ca.key")
    for one, key in keys.items():
        place = folder_of(folder, one)
        place.mkdir(mode=0o700, parents=True)
        key.write(place / SIGNING_KEY)
        made.write(place / agreements.FILE_NAME)
        if one == agreements.SERVER:
            authority.write_server(place, hosts)
        else:
            authority.write_hospital(place, one)
    return made


def folder_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the files of the server or of a hospital lie.

    >>> folder_of(pathlib.Path("f"), "north"), folder_of(pathlib.Path("f"), "../x").name
    (PosixPath('f/hospitals/north'), '%2E%2E%2Fx')
    """
    if name == agreements.SERVER:
        return folder / agreements.SERVER
    safe = re.sub(r"[^A-Za-z0-9_-]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)
    return folder / "hospitals" / safe
