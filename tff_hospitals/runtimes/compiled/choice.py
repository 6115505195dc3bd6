"""Which strategy a run takes, how that was chosen, and what earlier trials found.

Outcomes of trials (`trial`) are kept as one small JSON file each in the user's cache: a second run of the same model on
the same processor measures nothing. A cache that cannot be read or written costs a trial and nothing else.

| environment variable | means |
|---|---|
| `TFF_HOSPITALS_STRATEGY` | `measured` (default), `rule` (no trial), or the strategy of runs that begin |
| `TFF_HOSPITALS_CACHE` | the folder of the cache; default: `tff_hospitals` in `XDG_CACHE_HOME` or `~/.cache` |

Free of TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem, one_of

STRATEGY, CACHE = "TFF_HOSPITALS_STRATEGY", "TFF_HOSPITALS_CACHE"
MEASURED, RULE = "measured", "rule"
STRATEGIES = ("fused", "scanned", "side_by_side")
BY_XLA, WITHOUT_XLA = "scanned", "side_by_side"
"""The two that a trial compares: both run a round in the same chunks, and add up in the same order."""
_MOST_FILES = 500
_FOLDER = "strategies"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Choice:
    """A strategy, and how it was chosen.

    Attributes:
      strategy: its name.
      by: `rule`, `trial`, `cache` (a trial of an earlier run) or `asked`.
      seconds: of one local step of one hospital, by strategy, where there was a trial.
      lacks: the operation that XLA cannot compile; "" where it can, or nobody tried.
    """

    strategy: str
    by: str
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lacks: str = ""

    def record(self) -> dict[str, Any]:
        """For the record of a run, which takes the strategy again when it is resumed."""
        return {"strategy": self.strategy, "chosen_by": self.by, "seconds_per_step": dict(self.seconds)}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial found: `seconds` of one local step by strategy, and what XLA `lacks` where it could not compile.

    >>> Outcome({"scanned": 0.2, "side_by_side": 0.3}).best("side_by_side")
    'scanned'
    >>> Outcome({"scanned": 0.2, "side_by_side": 0.201}).best("side_by_side")  # no difference that could be told
    'side_by_side'
    """

    seconds: Mapping[str, float]
    lacks: str = ""

    def best(self, rule: str, margin: float = 0.95) -> str:
        """The quicker strategy: the rule's, unless the other one takes less than `margin` of its time."""
        other = WITHOUT_XLA if rule == BY_XLA else BY_XLA
        if self.lacks:
            return rule  # who asks for XLA goes on without it and says so
        return other if self.seconds[other] < margin * self.seconds[rule] else rule


def problems() -> list[Problem | None]:
    """What is wrong with the environment's choice."""
    return [one_of(STRATEGY, _environment(), (MEASURED, RULE, *STRATEGIES))]


def asked() -> str | None:
    """The strategy that the environment asks for; None: it leaves the choice."""
    return _environment() if _environment() in STRATEGIES else None


def may_measure() -> bool:
    """Whether trials are wanted."""
    return _environment() == MEASURED


def _environment() -> str:
    return os.environ.get(STRATEGY) or MEASURED


def processor() -> list[Any]:
    """What tells one processor from another: name, instructions and the number of cores that this process may use."""
    lines: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    name = lines.get("model name") or platform.processor() or platform.machine()
    return [name, files.fingerprint(sorted(lines.get("flags", "").split())), len(os.sched_getaffinity(0))]


def cache_folder() -> pathlib.Path | None:
    """Where outcomes are kept; None where there is no such place."""
    named = os.environ.get(CACHE)
    with contextlib.suppress(RuntimeError):  # nobody's home
        if named:
            return pathlib.Path(named).expanduser().absolute() / _FOLDER
        base = os.environ.get("XDG_CACHE_HOME")
        usual = pathlib.Path(base) if base else pathlib.Path.home() / ".cache"
        return usual / "tff_hospitals" / _FOLDER if usual.is_absolute() else None
    return None


def kept(key: str) -> Outcome | None:
    """The outcome that was kept under a key; None where there is none, or none that can be read."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        found = files.read_json(folder / f"{key}.json")
        if found["version"] != _VERSION or found["key"] != key:
            return None
        seconds = {str(name): float(value) for name, value in found["seconds"].items()}
        lacks = str(found["lacks"])
    except (files.RecordError, LookupError, TypeError, ValueError, AttributeError):
        return None
    whole = set(seconds) == {BY_XLA, WITHOUT_XLA} and all(0 < value < math.inf for value in seconds.values())
    return Outcome(seconds, lacks) if whole or lacks else None


def keep(key: str, outcome: Outcome, about: Mapping[str, Any]) -> None:
    """Keeps an outcome, if there is a place for it, and forgets the oldest beyond some hundreds.

    Args:
      key: names what was measured, and where.
      outcome: of the trial.
      about: the same in words, for a reader of the file.
    """
    folder = cache_folder()
    if folder is None:
        return
    content = {"version": _VERSION, "key": key, "seconds": outcome.seconds, "lacks": outcome.lacks, "about": about}
    with contextlib.suppress(OSError, files.RecordError), files.without_waiting():
        files.write_json(folder / f"{key}.json", content)
        there = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in there[:-_MOST_FILES]:
            old.unlink(missing_ok=True)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """One trial of this user at a time: two would slow each other, and might find different things.

    The lock is the system's and goes with the process that holds it. Where no folder can be had, nothing is kept apart.
    """
    folder, handle = cache_folder(), None
    with contextlib.suppress(OSError):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
