"""Which columns are no features: target, hospital, patient, record, side of the split."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.hospitals.inspection.gathered import FIRST_LINE, Gathered
from tff_hospitals.hospitals.inspection.kinds import Guess
from tff_hospitals.hospitals.inspection.words import HOSPITAL, MISSING, PATIENT, RECORD, TARGET, plain
from tff_hospitals.hospitals.pools import SIDES

_NAME = "write the names of the columns into a first line of their own"
_UNFIT = {
    "empty": "is empty",
    "constant": "has one value everywhere",
    "text": "is free text",
    "date": "holds dates",
}


@dataclasses.dataclass(frozen=True)
class Roles:
    """Names of columns, as somebody states them or as they were guessed; None: there is none.

    Attributes:
      target: the column to predict.
      hospital_column, patient_column, id_column, split_column: as in a `Schema`.
      drop: columns that are to be left out.
    """

    target: str | None = None
    hospital_column: str | None = None
    patient_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    drop: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """Column by role, for those that there are."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "drop"}
        return {role: column for role, column in found.items() if column is not None}


def settle(stated: Roles, gathered: Gathered, guesses: Mapping[str, Guess]) -> tuple[Roles, list[str]]:
    """The roles that were stated and those that can be guessed; and what was guessed, in words.

    Raises:
      InvalidInput: a stated column is in no file or not in all; no target was stated and none can be guessed.
    """
    by_word = {plain(name): name for name in gathered.columns}
    known = {role: by_word.get(plain(name), name) for role, name in stated.named.items()}
    drop = tuple(by_word.get(plain(name), name) for name in stated.drop)
    problems = [one_of(f"--{role}", name, tuple(gathered.columns)) for role, name in known.items()]
    problems += [one_of("--drop", name, tuple(gathered.columns)) for name in drop]
    for role, name in known.items():
        if name in gathered.columns and not gathered.everywhere(name):
            lacking = ", ".join(sorted(set(gathered.files) - set(gathered.columns[name])))
            problems.append(
                Problem(f"--{role}", name, f"must be in every file, and is not in {lacking}", "add it there")
            )
    raise_if(problems)
    free = [name for name in gathered.columns if gathered.everywhere(name) and name not in (*known.values(), *drop)]
    notes = []
    for role, name in _guessed(gathered, guesses, free, known).items():
        known[role] = name
        notes.append(f"{role} is guessed: {name!r}. Say --{role}=COLUMN if it is another")
    if "target" not in known:
        bound = "cannot be guessed: no column has such a name"
        for name in filter(_named_as_target, free):
            why = _UNFIT.get(guesses[name].kind, "says something else")
            bound = f"cannot be guessed: {name!r} has such a name, but {why}"
        remedy = f"say --target=COLUMN; the files have: {', '.join(list(gathered.columns)[:20])}"
        headless = [Problem(file, "a first line of numbers", FIRST_LINE, _NAME) for file in gathered.headless]
        raise InvalidInput([Problem("--target", None, bound, remedy), *headless])
    return Roles(**known, drop=drop), notes


def _guessed(
    gathered: Gathered, guesses: Mapping[str, Guess], free: list[str], known: Mapping[str, str]
) -> dict[str, str]:
    found: dict[str, str] = {}

    def first(role: str, fits: list[str]) -> None:
        fits = [name for name in fits if name not in found.values()]
        if role not in known and fits:
            found[role] = fits[0]

    if len(gathered.files) == 1:
        sites = [name for name in free if HOSPITAL.fullmatch(plain(name)) and guesses[name].kind != "constant"]
        first("hospital_column", sites)
    whose = known.get("hospital_column", found.get("hospital_column"))
    first("split_column", [name for name in free if _levels(guesses[name]) == set(SIDES)])
    unique = {name: _is_unique(gathered, name, whose) for name in free}
    patients = [name for name in free if PATIENT.fullmatch(plain(name)) and unique[name] is not None]
    first("patient_column", [name for name in patients if unique[name] is False])
    records = [name for name in free if RECORD.fullmatch(plain(name)) and unique[name]]
    first("id_column", [*records, *(name for name in patients if unique[name])])
    outcomes = [name for name in free if guesses[name].kind in ("binary", "categorical", "numeric")]
    first("target", list(filter(_named_as_target, outcomes))[::-1])
    return found


def _named_as_target(name: str) -> bool:
    return any(TARGET.fullmatch(word) for word in re.split(r"[\W_]+", name.lower()))


def _levels(guess: Guess) -> set[str]:
    return {level.casefold() for level in guess.levels}


def _is_unique(gathered: Gathered, name: str, whose: str | None) -> bool | None:
    """Whether no value stands twice at one hospital; None where a value is missing."""
    seen: set[tuple[str, str, str]] = set()
    unique = True
    for file, cells in gathered.columns[name].items():
        owners = gathered.columns[whose][file] if whose is not None else [""] * len(cells)
        for owner, cell in zip(owners, cells):
            if cell.casefold() in MISSING:
                return None
            unique &= (file, owner, cell) not in seen
            seen.add((file, owner, cell))
    return unique
