"""All columns of all files under one name each: what a draft is made from."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.inspection.formats import guess_cells, guess_text
from tff_hospitals.hospitals.inspection.words import TOTALS, plain
from tff_hospitals.hospitals.table_files import read_sheet
from tff_hospitals.hospitals.tables import Problems, Sheet, plain_text

_BRACKETS = re.compile(r"[(\[{]([^)\]}]*)[)\]}]")

FIRST_LINE = "seems to be a record, and the line that names the columns to be missing"


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Files as they were found.

    Attributes:
      formats: how each file seems to be written.
      columns: for each column its cells by file.
      headers: for each file the headers that differ from the columns' names.
      notes: what could not be decided, by file.
      headless: files whose first line seems to be a record.
    """

    formats: dict[str, FileFormat]
    columns: dict[str, dict[str, list[str]]]
    headers: dict[str, dict[str, str]]
    notes: list[str]
    headless: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(self.formats)

    def everywhere(self, column: str) -> bool:
        """Whether every file has the column."""
        return set(self.columns[column]) == set(self.formats)


def gather(paths: Sequence[pathlib.Path], problems: Problems, sheets: Mapping[str, str]) -> Gathered:
    """Reads all columns of files; what cannot be read is noted in `problems`.

    Args:
      paths: the files.
      problems: takes up what cannot be read.
      sheets: by file the sheet of an Excel file with several; under "" that of all other files.
    """
    formats: dict[str, FileFormat] = {}
    cells: dict[str, dict[str, list[str]]] = {}
    notes: list[str] = []
    headless: list[str] = []
    for path in paths:
        file = plain_text(path.name)
        try:
            written = dataclasses.replace(guess_text(path), sheet=_sheet(path, sheets))
        except OSError as error:
            problems.add(path.name, error.strerror, "must be a readable file", "check its permissions")
            continue
        sheet = read_sheet(path, written, problems)
        if sheet is None or sheet.empty:
            if sheet is not None:
                problems.add(path.name, sheet.empty, "must have at least one record", "remove the file or fill it")
            continue
        counts = collections.Counter(sheet.header)
        doubled = sorted(name for name, count in counts.items() if count > 1 and name)
        notes += [f"{file}: several columns are called {name!r}: none of them is read" for name in doubled]
        unnamed = [at for at, name in enumerate(sheet.header) if not name and any(sheet.column(at))]
        notes += [f"{file}: column {at + 1} has no name and is not read" for at in unnamed]
        kept = {name: sheet.column(at) for at, name in enumerate(sheet.header) if name and counts[name] == 1}
        sums = _sum(sheet, kept)
        notes += [f"{file}: {sums}"] if sums else []
        headless += [file] if _is_headless(sheet.header) else []
        formats[file], undecided = guess_cells(list(kept.values()), written)
        notes += [f"{file}: {note}" for note in undecided]
        cells[file] = kept
    notes += [f"{file}: the first line holds numbers: it {FIRST_LINE}" for file in headless]
    names = _common_names({file: list(columns) for file, columns in cells.items()})
    gathered: dict[str, dict[str, list[str]]] = {}
    for file, columns in cells.items():
        for header, column in columns.items():
            gathered.setdefault(names[file, header], {})[file] = column
    headers = {
        file: {names[file, header]: header for header in columns if names[file, header] != header}
        for file, columns in cells.items()
    }
    return Gathered(
        formats, gathered, {file: changed for file, changed in headers.items() if changed}, notes, tuple(headless)
    )


def _sheet(path: pathlib.Path, sheets: Mapping[str, str]) -> str:
    return sheets.get(plain_text(path.name), sheets.get("", "")) if path.suffix.lower() == ".xlsx" else ""


def _is_headless(header: Sequence[str]) -> bool:
    """Whether most names are numbers, and do not just count the columns."""
    named = [name for name in header if name]
    numbers = [name for name in named if FileFormat().number(name) is not None]
    return 2 * len(numbers) >= len(named) and numbers != [str(at) for at in range(len(named))]


def _sum(sheet: Sheet, columns: dict[str, list[str]]) -> str:
    """What is to be said of a last line that sums up the others."""
    last = [cells[-1] for cells in columns.values() if cells]
    sums = next((cell for cell in last if plain(cell) in TOTALS), None)
    if sums is None:
        return ""
    return f"{sheet.places[-1]} seems to sum up the others ({sums!r}): remove it if it is no record"


def _common_names(headers: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """For each file and header the column's name: the spelling that most files use.

    Headers are the same column if they differ in case, marks and spaces, or if one leaves out what stands in brackets.
    """
    brackets: dict[str, set[str]] = collections.defaultdict(set)
    for names in headers.values():
        for header in names:
            brackets[plain(_BRACKETS.sub("", header))].update(map(plain, _BRACKETS.findall(header)))

    def key(header: str) -> str:
        bare = plain(_BRACKETS.sub("", header))
        return bare if bare and len(brackets[bare]) < 2 else plain(header) or header

    known: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    keys: dict[tuple[str, str], str] = {}
    for file, names in headers.items():
        counts = collections.Counter(map(key, names))
        for header in names:
            found = key(header)
            keys[file, header] = found if counts[found] == 1 else header  # two of one file are two columns
            known[keys[file, header]][header] += 1
    return {place: min(known[k], key=lambda name: (-known[k][name], name)) for place, k in keys.items()}
