"""What a column of cells seems to be: a number, yes or no, categories, a date, free text."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.hospitals.features import canonical
from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.inspection.formats import count_of, is_number, other_marks
from tff_hospitals.hospitals.inspection.words import MISSING, SENTINELS, pair_of

_CODES = 6  # whole numbers with at most so many different values are taken for codes
_LEVELS = 20
_MOSTLY = 0.9
_LONGEST = 60  # characters of a level or of a word
_CODE = re.compile(r"0\d")  # a number that is written so is a code
_DOUBTFUL = (
    (re.compile(r"\d+[eE]\d+"), "read as powers of ten: write kind: categorical if these are codes"),
    (
        re.compile(r"[+-]?\d{1,3}([.,]\d{3})+|0"),
        "all have three digits after the mark: if it stands between thousands, write thousands in the schema",
    ),
    (
        re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
        'read as large numbers: if they are dates, write kind: date, and date: "%Y%m%d" in the schema',
    ),
)


@dataclasses.dataclass
class Guess:
    """Of one column.

    Attributes:
      kind: "numeric", "binary", "categorical", "date", "text" (free text), "constant" or "empty".
      levels: of a binary or categorical column, in order.
      spellings: further spellings of levels, as they stand in the files.
      missing_words: cells that mean missing in every column.
      missing_values: cells that seem to mean missing in this one.
      censored: whether there are limits of detection.
      has_missing: whether cells are missing.
      notes: what somebody should look at.
      why: for free text that seems to be something else: what.
    """

    kind: str
    levels: list[str] = dataclasses.field(default_factory=list)
    spellings: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    missing_words: set[str] = dataclasses.field(default_factory=set)
    missing_values: list[str] = dataclasses.field(default_factory=list)
    censored: bool = False
    has_missing: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)
    why: str = ""


def guess_kind(cells: Mapping[str, Sequence[str]], formats: Mapping[str, FileFormat]) -> Guess:
    """What the cells of a column (by file) seem to be.

    >>> guess = guess_kind({"a.csv": ["yes", "no", "YES", "n/a"]}, {"a.csv": FileFormat()})
    >>> guess.kind, guess.levels, guess.spellings, guess.missing_words
    ('binary', ['no', 'yes'], {'yes': ['YES']}, {'n/a'})
    """
    counts: collections.Counter[str] = collections.Counter()
    numbers = 0
    values: collections.Counter[float] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    missing: set[str] = set()
    guess = Guess("empty", missing_words=missing)
    for file, column in cells.items():
        written = formats[file]
        for cell, count in collections.Counter(column).items():
            if cell.casefold() in MISSING:
                missing.add(cell)
                continue
            counts[cell] += count
            if is_number(cell, written):
                numbers += count
                limit = written.limit(cell)
                number = written.number(cell) if limit is None else limit[1]
                guess.censored |= limit is not None
                values[number or 0.0] += count
            else:
                words[cell] += count
    total = sum(counts.values())
    guess.has_missing = bool(missing)
    if not total:
        return guess
    folded = {canonical(cell).casefold() for cell in counts}
    if pair_of(folded) is None and numbers < _MOSTLY * total and _are_dates(cells, formats):
        guess.kind = "date"
    elif pair_of(folded) is None and numbers >= _MOSTLY * total and _may_be_numbers(counts, words):
        _guess_number(guess, counts, values, words)
        _look_at_marks(guess, counts)
    else:
        _guess_levels(guess, counts)
        if guess.kind == "text":
            guess.why = other_marks(counts)
    return guess


def _are_dates(cells: Mapping[str, Sequence[str]], formats: Mapping[str, FileFormat]) -> bool:
    """Whether most cells are dates as their files write them."""
    there = [(cell, formats[file]) for file, of in cells.items() for cell in of if cell.casefold() not in MISSING]
    known: dict[tuple[str, str], bool] = {}

    def is_date(place: int) -> bool:
        cell, written = there[place]
        key = (cell, written.date)
        if key not in known:
            known[key] = written.day(cell) is not None
        return known[key]

    return count_of(range(len(there)), is_date, _MOSTLY) > 0


def _may_be_numbers(counts: collections.Counter[str], words: collections.Counter[str]) -> bool:
    """Whether cells, most of which hold a number, are no text and no codes (few values, of which 01 and 1 are two)."""
    return len(words) <= 5 and (len(counts) > _LEVELS or not any(map(_CODE.match, counts)))


def _look_at_marks(guess: Guess, counts: collections.Counter[str]) -> None:
    """Numbers that may be something else as well."""
    for pattern, words in _DOUBTFUL:
        if guess.kind == "numeric" and len(counts) > 1 and all(map(pattern.fullmatch, counts)):
            guess.notes.append(words)
    if guess.kind == "numeric" and any(map(_CODE.match, counts)):
        guess.notes.append("numbers that begin with 0: write kind: categorical if these are codes, drop them if ids")


def _guess_number(
    guess: Guess, counts: collections.Counter[str], values: collections.Counter[float], words: collections.Counter[str]
) -> None:
    odd = [value for value in SENTINELS if value in values and _stands_apart(value, values)]
    short = [word for word in words if len(word) <= _LONGEST]  # a longer one is a slip, which reading names
    far = [f"{value:g}" for value in odd]
    guess.missing_values = [*short, *far]
    guess.has_missing |= bool(guess.missing_values)
    if short:
        guess.notes.append(f"{_listed(short)} is no number: drafted as missing, confirm it")
    if odd:
        guess.notes.append(f"{_listed(far)} lies far from all others: drafted as missing")
    kept = [value for value in values if value not in odd]
    whole = all(value == int(value) for value in kept)
    if len(kept) == 1:
        guess.kind = "constant"
    elif whole and len(kept) <= _CODES and not guess.censored and sum(values.values()) > 4 * len(kept):
        guess.kind = "binary" if len(kept) == 2 else "categorical"
        guess.levels = [_written(value, counts) for value in sorted(kept)]
        if len(kept) > 2:
            guess.notes.append("few whole numbers: drafted as codes; write kind: numeric if they count something")
        for cell in counts:
            if canonical(cell) not in (*guess.levels, *guess.missing_values):
                level = next((one for one in guess.levels if _plain_number(one) == _plain_number(cell)), None)
                if level is not None:
                    guess.spellings.setdefault(level, []).append(cell)
        _note_rare(guess, [(_written(value, counts), values[value]) for value in kept])
    else:
        guess.kind = "numeric"


def _written(value: float, counts: collections.Counter[str]) -> str:
    """A whole number as its cells write it."""
    spelled = [canonical(cell) for cell in counts if _plain_number(cell) == value]
    return min(spelled, key=lambda cell: (len(cell), cell), default=f"{value:.0f}")


def _plain_number(cell: str) -> float | None:
    return FileFormat().number(cell.replace(",", "."))


def _stands_apart(value: float, values: Mapping[float, int]) -> bool:
    others = [other for other in values if other not in SENTINELS]
    if len(others) < 2:
        return False
    return min(others) >= 0 if value < 0 else max(others) <= value / 2


def _guess_levels(guess: Guess, counts: collections.Counter[str]) -> None:
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for cell in counts:
        groups[canonical(cell).casefold()].append(cell)
    pair = pair_of(set(groups))
    if pair is not None:
        merged = [[cell for word in sorted(side) for cell in groups[word]] for side in pair]
    else:
        merged = [groups[word] for word in sorted(groups)]
    total = sum(counts.values())
    if len(merged) == 1:
        guess.kind = "constant"
        return
    long = any(len(cell) > _LONGEST for cell in counts)
    if long or len(merged) > _LEVELS or (len(merged) > 2 and total < 3 * len(merged)):
        guess.kind = "text"
        return
    guess.kind = "binary" if len(merged) == 2 else "categorical"
    for cells in merged:
        level = canonical(max(cells, key=lambda cell: (counts[cell], cell)))
        guess.levels.append(level)
        others = sorted(cell for cell in cells if canonical(cell) != level)
        if others:
            guess.spellings[level] = others
    _note_rare(guess, [(level, sum(counts[c] for c in cells)) for level, cells in zip(guess.levels, merged)])
    if guess.missing_words & {"NA"} and all(re.fullmatch("[A-Z]{2}", level) for level in guess.levels):
        guess.notes.append("NA is drafted as missing: list it among the categories if it is a code like the others")


def _note_rare(guess: Guess, levels: Sequence[tuple[str, int]]) -> None:
    rare = [level for level, count in levels if count < 5]
    if rare:
        guess.notes.append(f"{_listed(rare)} occurs in fewer than 5 records: keep it only if the form lists it")


def _listed(words: Any) -> str:
    return ", ".join(map(repr, list(words)[:5])) + (" and others" if len(words) > 5 else "")
