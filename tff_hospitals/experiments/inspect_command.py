"""Drafts a schema from tables, and says what each hospital's records are like; the answer stays inside.

    tff-hospitals inspect FOLDER --target=died

FOLDER holds one file per hospital, or is one file with a column that names the hospital. Where it has no schema yet,
schema.yaml is drafted; bounds are left open: state them from public knowledge, then run the command again. Where there
is one, it is kept, and what is still open is said. FOLDER/inside/readiness.html and .txt hold exact figures of
patients: they are for people at the hospitals and are never published.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from tff_hospitals.hospitals.schema import Schema

FLAGS = flags.FLAGS
POSITIONAL = ("folder",)
_ROLES = {
    "target": "the column to predict; default: guessed by its name",
    "hospital_column": "the column that names the hospital; default: guessed where one file holds all",
    "patient_column": "the column that names the patient, where a patient may have several records",
    "id_column": "the column that names the record; it is no feature",
    "split_column": "the column that says train or test",
}
_NOTES_SHOWN = 12


def define_flags() -> None:
    """Flags of one inspection."""
    flags.DEFINE_string(
        "folder", None, "folder with one file per hospital, or one file (required; or the first argument)"
    )
    for role, words in _ROLES.items():
        flags.DEFINE_string(role, None, words)
    flags.DEFINE_list("drop", [], "columns that are to be no features")
    flags.DEFINE_multi_string(
        "sheet", [], "sheet of the Excel files that have several: NAME, or FILE=NAME of a single file"
    )
    flags.DEFINE_bool("redraft", False, "draft again, as schema.draft.yaml, beside the schema that is there")
    flags.DEFINE_string("out", None, "folder for the page; default: inside/ in FOLDER (beside the file)")


def run() -> None:
    """Inspects what the flags name."""
    from tff_hospitals.foundations.validation import Failure, Problem, raise_if
    from tff_hospitals.hospitals.inspection.readiness import readiness
    from tff_hospitals.hospitals.own_data import schema_file
    from tff_hospitals.reports.readiness_page import remarks, write_pages

    if not FLAGS.folder:
        raise_if([Problem("--folder", None, "must name your tables", "write tff-hospitals inspect FOLDER")])
    place = pathlib.Path(FLAGS.folder)
    if "\0" in FLAGS.folder or not place.exists():
        raise Failure(
            f"{FLAGS.folder!r} does not exist. Remedy: give a folder with one file per hospital, or one file."
        )
    there = schema_file(place)
    stated = [role for role in (*_ROLES, "drop", "sheet") if FLAGS[role].value]
    if there is not None and not FLAGS.redraft:
        remedy = f"add --redraft (it is written beside {there.name}), or change {there.name}"
        raise_if(
            Problem(f"--{one}", FLAGS[one].value, "is for a draft, and a schema is there", remedy) for one in stated
        )
    schema, notes, path = _schema(place, there)
    facts = readiness(place, schema)
    folder = pathlib.Path(FLAGS.out) if FLAGS.out else (place if place.is_dir() else place.parent) / "inside"
    pages = write_pages(facts, schema, notes, folder, place.name)
    _print_list(notes)
    print(f"schema: {path}")
    print(f"what the records are like: {' and '.join(map(str, pages))} (exact figures of patients: they stay inside)")
    if facts.open_points:
        count = len(facts.open_points)
        print(f"{count} point{'s' * (count > 1)} to settle before training:")
        _print_list(facts.open_points)
    found = remarks(facts)
    if found:
        print("to look at:")
        _print_list(found)
    if not facts.open_points:
        print(f"ready: tff-hospitals compare --dataset={FLAGS.folder} --run_dir=runs/first")


def _print_list(sentences: Sequence[str]) -> None:
    for sentence in sentences[:_NOTES_SHOWN]:
        print(f"  {sentence}")
    if len(sentences) > _NOTES_SHOWN:
        print(f"  and {len(sentences) - _NOTES_SHOWN} more, which the page lists")


def _schema(place: pathlib.Path, there: pathlib.Path | None) -> tuple[Schema, list[str], pathlib.Path]:
    """The schema that is there, or a new draft; notes about it; and where it lies."""
    from tff_hospitals.foundations.files import write_bytes
    from tff_hospitals.hospitals.inspection.draft import draft
    from tff_hospitals.hospitals.inspection.roles import Roles
    from tff_hospitals.hospitals.schema_files import read_schema

    if there is not None and not FLAGS.redraft:
        return read_schema(there, whole=False), [], there
    roles = Roles(**{role: FLAGS[role].value or None for role in _ROLES}, drop=tuple(FLAGS.drop or ()))
    drafted = draft(place, roles, _sheets(FLAGS.sheet))
    folder = place if place.is_dir() else place.parent
    path = folder / ("schema.yaml" if there is None else "schema.draft.yaml")
    write_bytes(path, drafted.text.encode(), mode=0o600)
    return read_schema(path, whole=False), list(drafted.notes), path


def _sheets(stated: Sequence[str]) -> dict[str, str]:
    """By file its sheet; under "" that of all files of which nothing else is said."""
    found = {}
    for entry in stated:
        file, mark, sheet = entry.partition("=")
        found.update({file: sheet} if mark else {"": entry})
    return found
