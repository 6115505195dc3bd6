"""The page about the records of each hospital before training: as HTML and as text, for people inside.

It holds exact figures of patients. So it lies in a folder that only its owner may open, and says so.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from tff_hospitals.foundations.files import RecordError, write_bytes
from tff_hospitals.foundations.validation import counted
from tff_hospitals.hospitals.inspection.readiness import HospitalFacts, Readiness
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.reports.pages import render

INSIDE_WORDS = (
    "For people at the hospitals. Every figure here is exact and may tell of a single patient: this page is never "
    "published, mailed or put into a run that leaves the house."
)
_FEW = 10  # records that a split may put all on one side
Table = tuple[str, list[str], list[list[str]]]


def write_pages(
    facts: Readiness, schema: Schema, notes: Sequence[str], folder: pathlib.Path, name: str
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes readiness.html and readiness.txt, readable for their owner alone.

    Args:
      facts: what was found.
      schema: under which.
      notes: what was guessed or could not be decided.
      folder: where they go; it is made with mode 0700.
      name: of the data, for the title.

    Raises:
      RecordError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise RecordError(f"{folder} cannot be made: {words}. Remedy: name a folder of yours with --out.") from error
    title = f"The records of {name}"
    html = render(
        "readiness.html",
        title=title,
        badges=[
            {"text": "stays inside the hospital", "caution": True},
            {"text": counted(len(facts.hospitals), "hospital"), "caution": False},
        ],
        inside=INSIDE_WORDS,
        open_points=facts.open_points,
        notes=notes,
        tables=[{"caption": caption, "columns": head, "rows": rows} for caption, head, rows in tables(facts, schema)],
        remarks=remarks(facts),
    )
    text = "\n".join(_text(title, facts, schema, notes)) + "\n"
    paths = (folder / "readiness.html", folder / "readiness.txt")
    for path, content in zip(paths, (html, text)):
        write_bytes(path, content.encode(), mode=0o600)
    return paths


def tables(facts: Readiness, schema: Schema) -> list[Table]:
    """The tables of the page: caption, heads and rows."""
    patients = schema.patient_column is not None
    head = ["hospital", "records", *(["records of one patient, at most"] if patients else [])]
    head += ["missing cells", "missing, %", "duplicates", "constant columns", "nearly constant"]
    rows = []
    for one in facts.hospitals:
        missing = sum(one.missing.values())
        share = f"{100 * missing / max(1, one.cells):.1f}"
        most = [str(one.largest_patient)] if patients else []
        counts = (one.duplicates, len(one.constant), len(one.nearly_constant))
        rows.append([one.hospital_id, str(one.rows), *most, str(missing), share, *map(str, counts)])
    found: list[Table] = [("Records of each hospital", head, rows)]
    if any(one.classes for one in facts.hospitals):
        classes = list(facts.hospitals[0].classes)
        balance = [
            [one.hospital_id, *(f"{count} ({100 * count / max(1, one.rows):.0f} %)" for count in one.classes.values())]
            for one in facts.hospitals
        ]
        found.append((f"Class balance of {schema.target.name}", ["hospital", *classes], balance))
    gaps = [name for name in facts.columns if any(name in one.missing for one in facts.hospitals)]
    if gaps:
        cells = [[one.hospital_id, *(str(one.missing.get(name, 0)) for name in gaps)] for one in facts.hospitals]
        found.append(("Missing cells by column", ["hospital", *gaps], cells))
    return found


def remarks(facts: Readiness) -> list[str]:
    """What should be looked at before training, one sentence each."""
    found = [
        f"{name} alone tells the outcome of {100 * share:.0f} % of the records. Is it known before? If not, leave "
        "the column out."
        for name, share in facts.tells_outcome.items()
    ]
    if facts.shared_patients:
        stand = "patient id stands" if facts.shared_patients == 1 else "patient ids stand"
        found.append(
            f"{facts.shared_patients} {stand} at more than one hospital. For the same people the epsilons of their "
            "hospitals add up, and they may be trained on at one and tested at another: keep each patient at one "
            "hospital. If hospitals only count alike, write the hospital into the id."
        )
    if facts.target_unbounded:
        found.append(
            f"{facts.columns[-1]} is predicted in its own unit, since its bounds are not stated: with a guarantee, "
            "models then come nowhere near a number that is far from one. State public bounds of the target."
        )
    return found + [sentence for one in facts.hospitals for sentence in _remarks(one)]


def _remarks(one: HospitalFacts) -> list[str]:
    """What should be looked at in a hospital's records, one sentence each."""
    found = []
    if one.rows < _FEW:
        few = f"{_records(one.rows)} only"
        found.append(f"{one.hospital_id}: {few}: the split may leave none to train on, or none to test.")
    if one.duplicates:
        some = f"{_records(one.duplicates)} equal{'s' * (one.duplicates == 1)}"
        found.append(f"{one.hospital_id}: {some} another one in every column that is read.")
    if one.constant:
        found.append(f"{one.hospital_id}: one value in all records: {', '.join(one.constant)}.")
    if one.nearly_constant:
        found.append(f"{one.hospital_id}: one value in at least 99 % of the records: {', '.join(one.nearly_constant)}.")
    for name, levels in one.own_levels.items():
        found.append(f"{one.hospital_id}: no other hospital has {name} = {', '.join(levels)}.")
    for name, share in one.gives_away.items():
        found.append(
            f"{one.hospital_id}: {name} gives the hospital away: {100 * share:.0f} % of its records have values that "
            "no other hospital has. Another unit, device or code? See units and spellings, or leave the column out."
        )
    if one.copied:
        places = ", ".join(f"{count} at {other}" for other, count in one.copied.items())
        found.append(
            f"{one.hospital_id}: of its {one.rows} records others have some too, cell by cell: {places}. Is a file "
            "a copy, or were patients moved? The same patient may be trained on and tested."
        )
    if one.other_way:
        found.append(
            f"{one.hospital_id}: {', '.join(one.other_way)} goes with the outcome the other way than elsewhere. Are "
            "the classes swapped there?"
        )
    empty = [name for name, count in one.classes.items() if not count]
    if empty:
        found.append(f"{one.hospital_id}: no record of class {', '.join(empty)}.")
    return found


def _records(count: int) -> str:
    return f"{count} record{'s' * (count != 1)}"


def _text(title: str, facts: Readiness, schema: Schema, notes: Sequence[str]) -> Iterator[str]:
    yield from (title, "=" * len(title), "", INSIDE_WORDS, "")
    yield from _section("To settle before training", facts.open_points or ["nothing: ready"])
    yield from _section("Guessed, left out or undecided", notes)
    for caption, head, rows in tables(facts, schema):
        yield from (caption, "-" * len(caption))
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        for row in (head, *rows):
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        yield ""
    yield from _section("To look at", remarks(facts))


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield from (title, "-" * len(title), *(f"* {line}" for line in lines), "")
