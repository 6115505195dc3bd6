"""Drafts a schema from files. What it cannot know, it leaves open: bounds, and how many records a patient may have.

Bounds are never the least and largest value of the records: they are public, so somebody states them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.inspection.gathered import Gathered, gather
from tff_hospitals.hospitals.inspection.kinds import Guess, guess_kind
from tff_hospitals.hospitals.inspection.roles import Roles, settle
from tff_hospitals.hospitals.own_data import no_tables, table_paths
from tff_hospitals.hospitals.schema import DEFAULT_MISSING
from tff_hospitals.hospitals.schema_files import OPEN
from tff_hospitals.hospitals.tables import InvalidTable, Problems

_HEAD = """\
# A draft that was made from the records of {files}. It stays inside until somebody has checked it:
# * bounds: open: write bounds: [low, high] in original units, from medicine or from the form that was filled in.
#   Never the records' own least and largest value: those tell of single patients.
# * Levels and words for missing are those that occur: confirm them from the form, and add what it lists besides.
"""
_MOST_RECORDS = "# a public bound on the records of one patient, such as the visits that the study plans"


@dataclasses.dataclass(frozen=True)
class Draft:
    """A drafted schema.

    Attributes:
      text: the schema as YAML.
      notes: what was guessed or could not be decided, one sentence each.
      open_columns: columns whose bounds somebody has to state.
    """

    text: str
    notes: tuple[str, ...]
    open_columns: tuple[str, ...]


def draft(path: os.PathLike[str] | str, stated: Roles, sheets: Mapping[str, str] | None = None) -> Draft:
    """Drafts the schema of a folder of files, or of one file.

    Args:
      path: as in `own_data`.
      stated: columns of which somebody says what they are.
      sheets: of Excel files with several sheets the one to read, by file; under "" that of all other files.

    Raises:
      InvalidInput: a stated column is not there, or no target can be guessed.
      InvalidTable: a file cannot be read.
    """
    place = pathlib.Path(path)
    problems = Problems()
    gathered = gather(table_paths(place) if place.is_dir() else [place], problems, sheets or {})
    if not gathered.files and not problems:
        no_tables(place, problems)
    if problems:
        raise InvalidTable(problems.list())
    guesses = {name: guess_kind(cells, gathered.formats) for name, cells in gathered.columns.items()}
    roles, notes = settle(stated, gathered, guesses)
    features, left_out = _divided(gathered, guesses, roles)
    notes += gathered.notes
    notes += [f"left out: {name}: {why}" for name, why in left_out.items() if name not in roles.drop]
    for name in (*features, roles.target or ""):
        notes += [f"{name}: {note}" for note in guesses[name].notes]
    lines = [_HEAD.format(files=f"{len(gathered.files)} file{'s' * (len(gathered.files) > 1)}")]
    lines += ["features:", *(f"  - {_feature(name, guesses[name])}" for name in features)]
    lines += [f"target: {_target(roles.target or '', guesses[roles.target or ''])}", ""]
    for role, column in roles.named.items():
        lines += [f"{role}: {quoted(column)}"] if role != "target" else []
        lines += [f"records_per_patient: open   {_MOST_RECORDS}"] if role == "patient_column" else []
    used = [guesses[name] for name in (*features, *roles.named.values())]
    words = {word for guess in used for word in guess.missing_words} | set(DEFAULT_MISSING)
    levels = {word for guess in used for level in guess.levels for word in (level, *guess.spellings.get(level, ()))}
    lines += [f"missing: {_list(sorted(words - levels))}", *_formats(gathered.formats)]
    if gathered.headers:
        read = {*features, *roles.named.values()}
        lines += ["headers:", *(f"  {quoted(f)}: {_map(h)}" for f, h in _kept(gathered.headers, read).items())]
    lines += ["scaling: fixed_bounds   # by the bounds alone: nothing is learnt from the records", ""]
    lines += ["# Columns that are left out, and why:"] if left_out else []
    lines += [_comment(f"  {name}: {why}") for name, why in left_out.items()]
    open_columns = [name for name in features if guesses[name].kind == "numeric"]
    return Draft("\n".join(lines) + "\n", tuple(notes), tuple(open_columns))


def _divided(gathered: Gathered, guesses: Mapping[str, Guess], roles: Roles) -> tuple[list[str], dict[str, str]]:
    """Columns that become features, and for the others the reason why not."""
    features: list[str] = []
    left_out: dict[str, str] = {}
    reasons = {
        "empty": "no cell holds anything",
        "constant": "one value everywhere; if empty means no: {kind: binary, categories: [no, VALUE], impute: no, "
        "missing_indicator: false}",
        "text": "free text, or an id: many different values",
        "date": "a date; to use it: {kind: date, since: DAY or COLUMN, bounds: open}",
    }
    for name, cells in gathered.columns.items():
        if name in roles.named.values():
            continue
        values = [set(column) for column in cells.values()]
        if name in roles.drop:
            left_out[name] = "you said so"
        elif not gathered.everywhere(name):
            lacking = sorted(set(gathered.files) - set(cells))
            left_out[name] = f"not in {', '.join(lacking[:3])}" + (f" and {len(lacking) - 3} more" * (len(lacking) > 3))
        elif guesses[name].kind in reasons:
            left_out[name] = guesses[name].why or _reason(name, guesses[name], reasons)
        elif guesses[name].kind == "numeric" and all(map(_counts_rows, cells.values())):
            left_out[name] = "counts the rows of each file: an id"
        elif len(values) > 1 and all(len(one) == 1 for one in values):
            left_out[name] = "one value in each file: it says which hospital it is"
        else:
            features.append(name)
    return features, left_out


def _reason(name: str, guess: Guess, reasons: Mapping[str, str]) -> str:
    reason = reasons[guess.kind]
    return reason if guess.has_missing else reason.split("; if empty")[0]


def _counts_rows(cells: Sequence[str]) -> bool:
    first = 0 if cells[:1] == ["0"] else 1
    return len(cells) > 4 and all(cell == str(row) for row, cell in enumerate(cells, first))


def _feature(name: str, guess: Guess) -> str:
    entries = [f"name: {quoted(name)}", f"kind: {guess.kind}"]
    if guess.kind == "numeric":
        entries.append("bounds: open")
        entries += ["censored: bound"] if guess.censored else []
    else:
        entries.append(f"categories: {_list(guess.levels)}")
        entries += _spellings(guess)
    entries += [f"missing_values: {_list(guess.missing_values)}"] if guess.missing_values else []
    if guess.has_missing:
        entries.append("impute: middle" if guess.kind == "numeric" else f"impute: {quoted(guess.levels[0])}")
    return _entry(entries, guess)


def _target(name: str, guess: Guess) -> str:
    entries = [f"name: {quoted(name)}"]
    if guess.kind == "numeric":
        entries += ["kind: regression", "bounds: open"]
    else:
        kind = "binary" if guess.kind == "binary" else "multiclass"
        entries += [f"kind: {kind}", f"classes: {_list(guess.levels)}", *_spellings(guess)]
    return _entry(entries, guess)


def _entry(entries: Iterable[str], guess: Guess) -> str:
    return f"{{{', '.join(entries)}}}" + (f"   {_comment('; '.join(guess.notes))}" if guess.notes else "")


def _spellings(guess: Guess) -> list[str]:
    if not guess.spellings:
        return []
    inner = ", ".join(f"{quoted(level)}: {_list(words)}" for level, words in guess.spellings.items())
    return [f"spellings: {{{inner}}}"]


def _formats(formats: Mapping[str, FileFormat]) -> list[str]:
    """What most files have, and what differs in single ones."""
    general, _ = collections.Counter(formats.values()).most_common(1)[0]
    usual = dataclasses.asdict(FileFormat())
    lines = [f"{name}: {quoted(v)}" for name, v in dataclasses.asdict(general).items() if v != usual[name]]
    differing = {
        file: {k: v for k, v in dataclasses.asdict(one).items() if v != getattr(general, k)}
        for file, one in formats.items()
    }
    shown = [f"  {quoted(file)}: {_map(settings)}" for file, settings in differing.items() if settings]
    return [*lines, *(["files:", *shown] if shown else [])]


def _kept(headers: Mapping[str, Mapping[str, str]], read: set[str]) -> dict[str, dict[str, str]]:
    kept = {file: {name: header for name, header in one.items() if name in read} for file, one in headers.items()}
    return {file: one for file, one in kept.items() if one}


def _map(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(key)}: {quoted(value)}" for key, value in entries.items()) + "}"


def _list(words: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, words))}]"


def quoted(text: str) -> str:
    """Text as YAML, in quotes where it needs them.

    >>> quoted("age"), quoted("age (years)"), quoted("")
    ('age', '"age (years)"', '""')
    """
    if re.fullmatch(r"\w[\w.%]*", text, re.ASCII) and text != OPEN:
        return text
    whole = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in whole)


def _comment(text: str) -> str:
    return "# " + "".join(letter if letter.isprintable() else " " for letter in text)
