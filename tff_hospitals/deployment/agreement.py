"""The agreement: everything that all hospitals and the server approved, and its digest, which every message names.

It holds the plan, what must be known of the data (names, shapes, numbers of records; no record), the roster of signing
keys, and how the federation is run. Whoever changes a character has another digest, and nobody answers to that.

In the declared *test mode* it also holds a common key, from which all noise and batches follow: then a run gives the
numbers of a simulation on the same data. It protects nobody, and everything says so.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import secrets
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import tff_hospitals
from tff_hospitals.deployment import keys
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput, Problem, in_range, raise_if, whole_number
from tff_hospitals.hospitals import DataSecret, HospitalDataset, Part
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan.checks.privacy import only_elsewhere
from tff_hospitals.plan.plan import Plan
from tff_hospitals.runtimes.cluster.dataset_description import stand_in
from tff_hospitals.training.run_streams import hides_cohorts

FILE_NAME = "agreement.json"
SERVER = "server"
MOST_NAME = 64  # bytes of a hospital's id: so long the name in a certificate may be
_SECURE_HOSPITALS = 3
_LONGEST_SECONDS = 7 * 86400.0
_MOST_TEXT = 200
_MOST_RECORDS = 10**9
_KEY_BOUND = "must be 64 hexadecimal digits in small letters, of a key that somebody has"


class Described(HospitalDataset):
    """A data set known by its description; it keeps the name that its owner gave the records."""

    def fingerprint(self) -> str:
        """As it was described."""
        return self.recipe

    def examples(self, count: int = 64) -> None:
        """None: the server has none, and a hospital looks at its own (`SiteWork`)."""
        return


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What everybody approved.

    Attributes:
      federation: its name, for people.
      identity: 32 hexadecimal digits that no other federation has.
      plan: `Plan.to_json`.
      data: `HospitalDataset.describe`: numbers of records are public among those who approve.
      server_key: the server's public signing key.
      hospital_keys: public signing keys by hospital id: the roster.
      valid_until: date (UTC) after which nobody answers.
      deadline_seconds: for the answer of a hospital.
      fewest_hospitals: below which a round is repeated.
      share_test_metrics: whether hospitals tell the metrics of their own test records, which no epsilon covers.
      test_key: 64 hexadecimal digits in test mode; empty: every hospital draws from its own secret.
      version: of the package.
    """

    federation: str
    identity: str
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    server_key: str
    hospital_keys: Mapping[str, str]
    valid_until: str
    deadline_seconds: float = 120.0
    fewest_hospitals: int = 2
    share_test_metrics: bool = True
    test_key: str = ""
    version: str = tff_hospitals.__version__

    @classmethod
    def make(
        cls,
        federation: str,
        plan: Plan,
        dataset: HospitalDataset,
        server_key: str,
        hospital_keys: Mapping[str, str],
        *,
        days: float = 90.0,
        test_key: bytes = b"",
        **settings: Any,
    ) -> Agreement:
        """A new agreement under a new identity.

        Raises:
          InvalidInput: what is wrong with it, all at once.
        """
        until = _now() + datetime.timedelta(days=days)
        everyone = len(dataset.hospitals)
        chosen = {"fewest_hospitals": max(1, everyone - everyone // 3), **settings}
        made = cls(
            federation,
            secrets.token_hex(16),
            plan.to_json(),
            files.plain(dataset.describe()),
            server_key,
            dict(hospital_keys),
            until.isoformat(timespec="seconds"),
            test_key=test_key.hex(),
            **chosen,
        )
        raise_if(made.problems())
        return made

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Agreement:
        """What `to_json` gave.

        Raises:
          InvalidInput: fields are missing, unknown, or wrong.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        found = sorted(set(value) ^ names) if isinstance(value, Mapping) else ["all"]
        found += [
            name for name in ("plan", "data", "hospital_keys") if not found and not isinstance(value[name], Mapping)
        ]
        remedy = "take the file that the federation gave out, and the version of tff_hospitals that it names"
        raise_if(Problem("agreement", name, "is missing or unknown", remedy) for name in found)
        made = cls(**value)
        raise_if(made.problems())
        return made

    @classmethod
    def read(cls, path: os.PathLike[str] | str) -> Agreement:
        """The agreement in a file.

        Raises:
          RecordError, InvalidInput: it cannot be read, or is not one.
        """
        return cls.from_json(files.read_json(path, strict=True))

    def write(self, path: os.PathLike[str] | str) -> None:
        """Writes it."""
        files.write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return files.plain(dataclasses.asdict(self))

    @functools.cached_property
    def digest(self) -> bytes:
        """32 bytes that name every character of it; every message is held against them, so that they are kept."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).digest()

    @property
    def identity_bytes(self) -> bytes:
        """16 bytes that name the federation in every message."""
        return bytes.fromhex(self.identity)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the hospitals, in the data's order."""
        return tuple(one["id"] for one in self.data["hospitals"])

    @property
    def threshold(self) -> int:
        """How many hospitals must help to open a secure sum: more than two thirds.

        So no two disjoint groups of them, nor a server that tells different hospitals different survivors, open two.
        """
        return 2 * len(self.hospital_keys) // 3 + 1

    def the_plan(self) -> Plan:
        """The plan as an object."""
        return Plan.from_json(self.plan)

    def dataset(self, secret: DataSecret, read: Callable[[str, str], Part]) -> HospitalDataset:
        """The data as one side sees it: numbers of all, records where `read` has them.

        Args:
          secret: of this side; in test mode the common one takes its place.
          read: records of (hospital id, "train" or "test"); raises where there are none.
        """
        if self.test_key:
            secret = DataSecret(bytes.fromhex(self.test_key), True, None)
        return stand_in(self.data, secret, read, Described)

    # -- checks ---------------------------------------------------------------

    def problems(self, now: datetime.datetime | None = None) -> list[Problem]:
        """All that is wrong with it; nobody starts with an agreement that has problems."""
        found = self._roster_problems()
        found += self._settings_problems(now or _now())
        found += _text_problems("agreement", dataclasses.asdict(self))
        if not found:
            try:
                plan = self.the_plan()
            except (files.RecordError, InvalidInput) as error:
                return [Problem("agreement.plan", "?", str(error)[:200], "take a plan of this version")]
            found = _described_problems(self.data)
            if found:
                return found
            try:
                described = self.dataset(DataSecret(bytes(32), True, None), no_records)
            except (LookupError, TypeError, ValueError) as error:
                return [Problem("agreement.data", "?", str(error)[:200], "describe them as a run does")]
            found += review.problems(plan, described)
            found += deployment_problems(plan, len(self.hospital_keys)) + ([] if found else self._cohort_problems(plan))
        return found

    def problems_of_today(self, known: str = "") -> list[Problem]:
        """What may become wrong with it under way: it ends one day.

        Args:
          known: a time (ISO 8601) that is over, whatever the clock says now.
        """
        now = max(_now(), datetime.datetime.fromisoformat(known)) if known else _now()
        return [one for one in self._settings_problems(now) if one.name == "valid_until"]

    def _roster_problems(self) -> list[Problem]:
        found = []
        try:
            ids = list(self.ids)
        except (KeyError, TypeError):
            return [Problem("agreement.data", "?", "does not describe hospitals", "describe them as a run does")]
        remedy = "give every hospital of the data one signing key, and nobody else"
        for name in sorted(set(ids) ^ set(self.hospital_keys)):
            bound = "is in the roster and not in the data" if name in self.hospital_keys else "has no key in the roster"
            found.append(Problem("hospital", name, bound, remedy))
        found += [
            Problem("hospital", name, "is there twice", remedy) for name in sorted(set(ids)) if ids.count(name) > 1
        ]
        for name in ids:
            if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= MOST_NAME or name == SERVER:
                bound = f"must be a text of 1 to {MOST_NAME} bytes, not 'server'"
                found.append(Problem("hospital", name, bound, "rename it"))
        looks = [unicodedata.normalize("NFKC", name).casefold() for name in ids if isinstance(name, str)]
        found += [
            Problem("hospital", name, "looks like another hospital's name", "rename one of them")
            for name, look in zip(ids, looks)
            if looks.count(look) > 1 and ids.count(name) == 1
        ]
        public = {SERVER: self.server_key, **self.hospital_keys}
        for name, key in public.items():
            if not keys.is_public_key(key):
                found.append(Problem(f"key of {name}", key, _KEY_BOUND, "give its public key"))
            elif list(public.values()).count(key) > 1:
                found.append(Problem(f"key of {name}", key[:8] + "..", "is somebody else's too", remedy))
        return found

    def _cohort_problems(self, plan: Plan) -> list[Problem]:
        drawn = plan.cohort.smallest_size(len(self.hospital_keys))
        if not mechanisms.summed_securely(plan.privacy) or drawn >= self.threshold:
            return []
        bound = f"may be {drawn} hospitals in a round, and {self.threshold} must help to open a secure sum"
        remedy = f"take at least {self.threshold} hospitals in a round"
        return [Problem("cohort", plan.cohort.kind, bound, remedy)]

    def _settings_problems(self, now: datetime.datetime) -> list[Problem]:
        most = len(self.hospital_keys)
        found = [
            in_range(
                "deadline_seconds",
                self.deadline_seconds,
                low=0,
                low_open=True,
                high=_LONGEST_SECONDS,
                remedy="give seconds above 0, at most a week",
            ),
            whole_number("fewest_hospitals", self.fewest_hospitals, low=1, high=most, remedy=f"give 1 to {most}"),
        ]
        shares: Any = self.share_test_metrics  # from a file it may be anything
        if not isinstance(shares, bool):
            remedy = "say whether hospitals tell the metrics of their own test records"
            found.append(Problem("share_test_metrics", shares, "must be true or false", remedy))
        name: Any = self.federation
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_TEXT:
            bound = f"must be a text of 1 to {_MOST_TEXT} letters"
            found.append(Problem("federation", str(name)[:40], bound, "give it a name"))
        for name, digits in (("identity", 32), ("test_key", 64)):
            value = getattr(self, name)
            if not (name == "test_key" and value == "") and not _is_hexadecimal(value, digits):
                found.append(Problem(name, value, f"must be {digits} hexadecimal digits", "make the agreement anew"))
        if self.version != tff_hospitals.__version__:
            bound = f"is another version than the {tff_hospitals.__version__} that is installed here"
            found.append(Problem("version", self.version, bound, f"install tff_hospitals {self.version}"))
        try:
            until = datetime.datetime.fromisoformat(self.valid_until)
            if until < now:
                found.append(Problem("valid_until", self.valid_until, "is over", "agree anew, with a later date"))
        except (TypeError, ValueError):
            found.append(Problem("valid_until", self.valid_until, "must be a date with its zone", "write it in UTC"))
        return [problem for problem in found if problem is not None]


def deployment_problems(plan: Plan, hospitals: int) -> list[Problem]:
    """What a simulation can do and real hospitals cannot."""
    found = only_elsewhere(plan.privacy, "deployed")
    if mechanisms.summed_securely(plan.privacy) and hospitals < _SECURE_HOSPITALS:
        bound = f"needs {_SECURE_HOSPITALS} hospitals: of two, each knows the other's part of the sum"
        found.append(Problem("secure_sum", hospitals, bound, "take part with more hospitals, or without it"))
    around = mechanisms.hospital_level(plan.privacy)
    if around.tells in ("factor", "loss"):
        bound = f"needs each update's {around.tells} beside it, which real hospitals do not send"
        found.append(Problem("mechanism", around.name, bound, "take another one, or simulate it"))
    if around.noise_by == "shares" and not mechanisms.repeatable(plan.privacy):
        bound = "cannot be drawn again for a round that is repeated: two sums of it have less noise than is charged"
        remedy = "drop --secure_noise: real hospitals draw noise from secrets of their own"
        found.append(Problem("secure_noise", plan.privacy.secure_noise, bound, remedy))
    if around.corrects:
        bound = "needs more of every hospital than the messages of a federation hold"
        found.append(Problem("mechanism", around.name, bound, "take another one, or simulate it"))
    if around.private and hides_cohorts(plan):
        bound = "amplifies the guarantee as long as nobody knows who takes part, and every request names them"
        found.append(Problem("cohort", plan.cohort.kind, bound, "take --cohort=fixed_size or --cohort=all"))
    if plan.model.local_layers:
        bound = "are kept at hospitals from round to round, which a federation's workers do not do"
        found.append(Problem("local_layers", plan.model.local_layers, bound, "drop --local_layers, or simulate it"))
    if plan.personal.kind != "none":
        bound = "is made at the end of a simulation, and a hospital's worker ends with the last round"
        found.append(Problem("personalisation", plan.personal.kind, bound, "drop --personalisation, or simulate it"))
    if plan.poison:
        bound = "makes hospitals attack, which simulations are for"
        found.append(Problem("poison", plan.poison, bound, "drop --poison"))
    if plan.by_round:
        bound = "changes settings by round, and real hospitals agree to one value of each"
        found.append(Problem("by_round", plan.by_round, bound, "drop --by_round, or simulate it"))
    if plan.speeds or plan.cohort.asynchronous:
        bound = "are of a simulation, in which who answers when is known beforehand"
        found.append(Problem("speeds", plan.speeds, bound, "drop --speeds and --cohort=buffered, or simulate it"))
    scaling = plan.data.options.get("scaling")
    if scaling == "pooled":
        bound = "takes means over the records of all hospitals, which nobody has"
        found.append(Problem("scaling", scaling, bound, "take --scaling=fixed_bounds or per_hospital"))
    return found


def no_records(hospital_id: str, word: str) -> Part:
    """Stands for the records of others.

    Raises:
      InvalidInput: always.
    """
    bound = "are not on this machine, and never will be"
    raise InvalidInput([Problem(f"{word} records", hospital_id, bound, "ask the hospital for what the plan allows")])


def _text_problems(where: str, value: Any) -> list[Problem]:
    """Texts that could write something else on the terminal of whoever approves."""
    if isinstance(value, Mapping):
        return [one for pair in value.items() for one in _text_problems(f"{where}.{pair[0]}"[:80], list(pair))]
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in _text_problems(where, item)]
    if isinstance(value, str) and not value.isprintable():
        return [
            Problem(
                where.encode("ascii", "backslashreplace").decode(),
                value[:80],
                "must be printable text in one line",
                "have it renamed",
            )
        ]
    return []


def _described_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Numbers in a description that are none of records or features."""
    found: list[Problem | None] = []
    for one in data["hospitals"]:
        for name in ("train_records", "test_records"):
            found.append(whole_number(name, one.get(name), low=0, high=_MOST_RECORDS, remedy="count the records"))
    shape = data.get("feature_shape")
    for length in shape if isinstance(shape, list) else [None]:
        found.append(
            whole_number("feature_shape", length, low=1, high=_MOST_RECORDS, remedy="give the features' shape")
        )
    return [problem for problem in found if problem is not None]


def _is_hexadecimal(value: object, digits: int) -> bool:
    try:
        return isinstance(value, str) and len(value) == digits and len(bytes.fromhex(value)) == digits // 2
    except ValueError:
        return False


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
