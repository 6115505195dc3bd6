"""What planted faults are made of: their declaration, and how running code is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

SITE = "site_1"
SITE_BATCH = 40 / 3  # its expected batch: tells it from the others inside a graph


@dataclasses.dataclass(frozen=True)
class Plant:
    """One planted fault.

    Attributes:
      name: of the plant.
      method: that is trained.
      words: what is wrong, for the table.
      test: how the name of the self-test begins that must fail.
      patch: puts the fault in, given pytest's monkeypatch.
      hospital: at which the test must fail; None: anywhere.
      changes: of the plan, part by part.
      only_training: the fault is taken out before the audit.
    """

    name: str
    method: str
    words: str
    test: str
    patch: Callable[[Any], None]
    hospital: str | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    only_training: bool = False


PLANTS: dict[str, Plant] = {}
# Where a hospital comes back after three rounds, noise that later rounds take back pays.
CYCLIC = {"cohort": {"kind": "cyclic", "hospitals_per_round": 1}, "rounds": 6}


def plant(method: str, words: str, test: str, **options: Any) -> Callable:
    """Registers a patch function under its own name."""

    def keep(patch: Callable[[Any], None]) -> Callable[[Any], None]:
        name = patch.__name__
        PLANTS[name] = Plant(name, method, words, test, patch, **options)
        return patch

    return keep


def wrap(patch: Any, owner: Any, name: str, around: Callable) -> None:
    """Replaces `owner.name` by `around(original, ...)`."""
    sound = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **names: around(sound, *args, **names))


def quieter(patch: Any, ratio: float) -> None:
    from tff_hospitals.processes import noise

    wrap(patch, noise, "unit_normals", lambda sound, *args, **names: ratio * sound(*args, **names))


def each_hospital(patch: Any, changed: Callable) -> None:
    """Changes what hospitals bring to a round: `changed(one, round_number)`."""
    from tff_hospitals.training.round_inputs import RoundDrawer

    def around(sound: Callable, self: Any, hospital: Any, number: int, place: int) -> Any:
        return changed(sound(self, hospital, number, place), number)

    wrap(patch, RoundDrawer, "_hospital", around)


def keys_without(patch: Any, hospital: bool = False, round_number: bool = False) -> None:
    """Noise keys of hospitals that forget what they belong to."""
    from tff_hospitals.training.run_streams import RunStreams

    def around(sound: Callable, self: Any, name: str, number: int) -> Any:
        return sound(self, "any" if hospital else name, 0 if round_number else number)

    wrap(patch, RunStreams, "hospital_noise", around)


def figures(reports: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the tests saw, by plant, from pytest's reports (--junitxml)."""
    found = {}
    for path in reports:
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            seen = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
            if "plant" in seen:
                found[seen["plant"]] = seen
    return found


def table(seen: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The table of the page, one line for each plant."""
    lines = ["| planted fault | in | noticed by | figure | sound |", "|---|---|---|---|---|"]
    for one in PLANTS.values():
        row = seen.get(one.name, {})
        cells = (one.words, f"`{one.method}`", row.get("test", one.test), row.get("figure", ""), row.get("bound", ""))
        lines.append(f"| {' | '.join(cells)} |")
    return lines
