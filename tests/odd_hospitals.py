"""Folders of hospitals that nobody prepared: what real exports look like, made up by a random number generator."""

from __future__ import annotations

import pathlib
import random
import re

from tff_hospitals.experiments import front_door

# What a person states from public knowledge; everything else is drafted.
STAY_BOUNDS = {"age": "[18, 110]", "crp": "[0, 600]", "sodium": "[100, 180]", "sbp": "[40, 300]"}
DIALYSIS_BOUNDS = {"month": "[1, 60]", "age": "[18, 110]", "hb": "[3, 20]", "ktv": "[0, 4]"}

_HEADERS = (
    ("age", "sex", "crp", "sodium", "sbp", "ward", "smoker", "died"),
    ("Age", "Sex", "CRP", "Sodium", "SBP", "Ward", "Smoker", "Died"),
    (" age ", "SEX", "crp (mg/l)", "sodium", "sbp (mmHg)", "ward", "smoker", "died"),
)
_YES_NO = (("no", "yes"), ("0", "1"), ("N", "Y"), ("False", "True"), ("nein", "ja"))
_SEX = (("f", "m"), ("F", "M"), ("female", "male"), ("w", "m"))
_MISSING = ("", "NA", "n/a", "unknown", ".", "k.A.")
_WARDS = ("Innere", "Chirurgie", "Gynäkologie")


def write_stays(folder: pathlib.Path, hospitals: int = 17, seed: int = 1) -> None:
    """One file per hospital about stays, each exported in another way."""
    draw = random.Random(seed)
    for number in range(hospitals):
        decimal, delimiter = ((".", ","), (",", ";"), (".", "\t"), (".", ";"))[number % 4]
        encoding = ("utf-8", "cp1252", "utf-8-sig", "utf-16")[number % 4]
        no_yes, sex, missing = _YES_NO[number % 5], _SEX[number % 4], _MISSING[number % 6]
        lines = [] if number % 7 else [f"sep={delimiter}"]
        lines.append(delimiter.join(("Patient-ID", *_HEADERS[number % 3], "Bemerkung", "Klinik")))
        for row in range(60 + 15 * (number % 6)):
            age, ill = draw.gauss(63, 14), draw.random() < 0.35
            crp = max(0.4, draw.gauss(90 if ill else 35, 30))
            cells = [
                f"{max(18, min(105, age)):.0f}",
                sex[draw.random() < 0.5],
                "<5" if crp < 5 else f"{crp:.1f}".replace(".", decimal),
                f"{draw.gauss(138, 4):.0f}",
                f"{draw.gauss(118 if ill else 132, 15):.0f}",
                draw.choice(_WARDS),
                no_yes[draw.random() < 0.25],
                no_yes[ill if draw.random() < 0.9 else not ill],
            ]
            for at in (2, 3, 4, 6):
                cells[at] = missing if draw.random() < 0.04 else cells[at]
            note = f'"note {draw.random()}{delimiter} and\nmore"'
            lines.append(delimiter.join([f"{number}-{row}", *cells, note, f"K{number}"]))
        end = "\r\n" if number % 2 else "\n"
        name = f"St. {'Müller' if number == 3 else 'Anna'} {number:02d}.csv"
        (folder / name).write_bytes((end.join(lines) + end).encode(encoding))


def write_dialysis(folder: pathlib.Path, centres: int = 67, seed: int = 2) -> None:
    """One file of all centres with a row for each patient and month until death or the end: a discrete-time hazard."""
    draw = random.Random(seed)
    lines = ["centre;pid;month;age;hb;ktv;access;death"]
    for centre in range(1, centres + 1):
        for patient in range(draw.randint(6, 16)):
            age, hb = max(19, min(99, draw.gauss(65, 12))), draw.gauss(11.2, 1.2)
            access = draw.choice(("AVF", "AVF", "graft", "catheter"))
            for month in range(1, draw.randint(2, 12)):
                dies = draw.random() < 0.04 + 0.05 * (access == "catheter") + 0.05 * (hb < 10.5)
                hb_cell = "" if draw.random() < 0.05 else f"{hb + draw.gauss(0, 0.4):.1f}".replace(".", ",")
                ktv = "-9" if draw.random() < 0.02 else f"{draw.gauss(1.4, 0.2):.2f}".replace(".", ",")
                spelled = access.upper() if draw.random() < 0.1 else access
                cells = (f"centre {centre:02d}", patient, month, f"{age:.0f}", hb_cell, ktv, spelled, int(dies))
                lines.append(";".join(map(str, cells)))
                if dies:
                    break
    (folder / "dialysis.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode("cp1252"))


def state_bounds(schema: pathlib.Path, bounds: dict[str, str], records_per_patient: int | None = None) -> None:
    """Does what a person does with a draft: states what is open and nothing else."""
    lines = []
    for line in schema.read_text().splitlines():
        name = re.match(r"  - \{name: \"?([^\",]+)", line)
        if name and "bounds: open" in line:
            line = line.replace("bounds: open", f"bounds: {bounds[name[1].split(' (')[0].casefold()]}")
        if line.startswith("records_per_patient: open") and records_per_patient is not None:
            line = f"records_per_patient: {records_per_patient}"
        lines.append(line)
    schema.write_text("\n".join(lines) + "\n")


def code_of(*arguments: str) -> int:
    """The exit code of a command that runs in this process."""
    try:
        front_door.main(argv=["tff-hospitals", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
