"""Fed-TCGA-BRCA: clinical records of 1,088 patients with breast cancer, from the files in which FLamby keeps them.

Not embedded: the records are the open tier of the Genomic Data Commons, whose terms (no attempt to identify anybody,
acknowledgement) bind everyone who takes them. FLamby's task is survival; here it is whether a patient died while
observed, which says less of patients that were observed for a short time.

Source: Ogier du Terrail et al. 2022, arXiv:2210.04620; Liu et al. 2018, doi 10.1016/j.cell.2018.02.052.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import pathlib

import numpy as np

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import one_of, raise_if, whole_number
from tff_hospitals.hospitals.assembly import table_fields
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division, Pool
from tff_hospitals.hospitals.encoding import encode
from tff_hospitals.hospitals.features import Feature, Target
from tff_hospitals.hospitals.preprocessing import Scaling
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.secret import secret_of
from tff_hospitals.hospitals.tables import InvalidTable, Problems, Table

REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")
HOSPITALS = ("region", "site")
_TABLE, _SPLIT = "brca.csv", ("train_test_split.csv", "dataset_creation_scripts/train_test_split.csv")
_AGE, _EVENT, _TIME, _PATIENT = "age_at_index", "E", "T", "pid"
_TERMS = "open tier of the Genomic Data Commons: no attempt to identify anybody, TCGA acknowledged"


def tcga_brca(
    division: Division | None = None,
    scaling: Scaling | None = None,
    folder: os.PathLike[str] | str | None = None,
    hospitals: str = "region",
    least: int = 20,
) -> HospitalDataset:
    """Whether a patient with breast cancer died while observed, 39 columns, by region or by hospital.

    Args:
      division: partition and seed; FLamby's test patients stay test records in every partition.
      scaling: default `fixed_bounds`.
      folder: of `brca.csv` and `train_test_split.csv`; default: an installed FLamby's.
      hospitals: "region" (FLamby's six) or "site" (the hospital that the patient's barcode names).
      least: with "site": hospitals with fewer patients are left out.

    Raises:
      RecordError: files are missing (says how to get them and under which terms).
      InvalidTable: cells that do not fit, each with its line.
    """
    raise_if([one_of("hospitals", hospitals, HOSPITALS), whole_number("least", least, low=2, remedy="give 2 or more")])
    place = _folder(folder)
    rows = _read(place / _TABLE)
    split = {line[_PATIENT]: line["fold2"] for line in _read(_split_path(place))}
    problems = Problems()
    by_hospital: dict[str, list[int]] = {}
    for number, line in enumerate(rows):
        side, _, region = split.get(line[_PATIENT], "").partition("_")
        if side not in ("train", "test") or region not in map(str, range(len(REGIONS))):
            bound, place_of = "must be in the split", f"line {number + 2}"
            problems.add(_TABLE, line[_PATIENT], bound, "take both files", column=_PATIENT, place=place_of)
            continue
        parts = line[_PATIENT].split("-")
        own = REGIONS[int(region)] if hospitals == "region" else parts[1] if len(parts) > 2 else line[_PATIENT]
        by_hospital.setdefault(own, []).append(number)
    if problems:
        raise InvalidTable(problems.list())
    order = REGIONS if hospitals == "region" else sorted(by_hospital)
    kept = [name for name in order if len(by_hospital.get(name, ())) >= (least if hospitals == "site" else 1)]
    columns = [name for name in rows[0] if name not in (_PATIENT, _EVENT, _TIME)]
    schema = _schema(columns)
    pools = [_pool(schema, rows, by_hospital[name], name, split, problems) for name in kept]
    if problems:
        raise InvalidTable(problems.list())
    fields = table_fields(
        pools,
        schema,
        division or Division(),
        scaling or Scaling("fixed_bounds"),
        secret=secret_of(place),
        given="FLamby's published test patients are kept",
    )
    left = len(by_hospital) - len(kept)
    words = f"; {left} hospitals with fewer than {least} patients are left out" if left else ""
    return HospitalDataset(
        name="tcga_brca",
        provenance=f"TCGA-BRCA, clinical records, as in FLamby (arXiv:2210.04620){words}",
        licence=_TERMS,
        warnings=("patients are observed for different times: who is not known to have died counts as alive",),
        **fields,
    )


def _folder(folder: os.PathLike[str] | str | None) -> pathlib.Path:
    found = importlib.util.find_spec("flamby") if folder is None else None
    places = [pathlib.Path(folder).expanduser()] if folder is not None else []
    if found is not None and found.submodule_search_locations:
        places += [pathlib.Path(one) / "datasets" / "fed_tcga_brca" for one in found.submodule_search_locations]
    for place in places:
        if (place / _TABLE).is_file():
            return place
    looked = " or ".join(map(str, places)) or "an installed FLamby, which is not here"
    raise RecordError(
        f"no {_TABLE} in {looked}. Remedy: take {_TABLE} and {_SPLIT[0]} from FLamby's repository "
        f"(flamby/datasets/fed_tcga_brca) and give --data_option=folder=FOLDER. Terms: {_TERMS}."
    )


def _split_path(place: pathlib.Path) -> pathlib.Path:
    path = next((place / name for name in _SPLIT if (place / name).is_file()), None)
    if path is None:
        raise RecordError(f"no {_SPLIT[0]} in {place}. Remedy: take it from FLamby's repository, beside {_TABLE}.")
    return path


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path} cannot be read: {error}. Remedy: take FLamby's file as it is.") from error
    needed = (_PATIENT, _EVENT, _AGE) if path.name == _TABLE else (_PATIENT, "fold2")
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise RecordError(f"{path} has no column {', '.join(missing)}. Remedy: take FLamby's file as it is.")
    return rows


def _schema(columns: list[str]) -> Schema:
    """Age between public bounds, everything else yes or no."""
    features = [
        Feature(name, low=18, high=100, unit="years") if name == _AGE else Feature(name, "binary") for name in columns
    ]
    return Schema(tuple(features), Target(_EVENT, positive=("1", "1.0"), negative=("0", "0.0")), outside_bounds="clip")


def _pool(
    schema: Schema, rows: list[dict[str, str]], chosen: list[int], name: str, split: dict[str, str], problems: Problems
) -> Pool:
    columns = {header: [rows[at][header] for at in chosen] for header in (*schema.columns_read,)}
    values, labels = encode(schema, Table(_TABLE, columns, [f"line {at + 2}" for at in chosen]), problems)
    patients = [rows[at][_PATIENT] for at in chosen]
    tested = [place for place, one in enumerate(patients) if split[one].startswith("test")]
    return Pool(name, values, labels, np.array(tested, int), [one.encode() for one in patients])
