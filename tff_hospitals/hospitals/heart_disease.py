"""The four-hospital UCI Heart Disease set, in two forms.

`heart_disease` is Fed-Heart-Disease as FLamby prepares it (Ogier du Terrail et al. 2022, arXiv:2210.04620): complete
rows without slope, ca and thal, its train and test rows, 13 columns in its order. `heart_disease_all_rows` keeps all
920 patients and all columns, with a column that says where a cell was empty.

Source: Janosi, Steinbrunn, Pfisterer and Detrano 1988, UCI Machine Learning Repository,
https://doi.org/10.24432/C52P4X; Detrano et al. 1989.

>>> heart_disease().records(train=True)
{'cleveland': 199, 'hungary': 172, 'switzerland': 30, 'va_long_beach': 85}
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib

import numpy as np

from tff_hospitals.foundations.validation import one_of, raise_if
from tff_hospitals.hospitals.assembly import table_fields
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.division import Division, Pool
from tff_hospitals.hospitals.encoding import encode
from tff_hospitals.hospitals.features import Feature, Target
from tff_hospitals.hospitals.locations import data_folder, read_checked
from tff_hospitals.hospitals.preprocessing import Scaling
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.secret import public_secret
from tff_hospitals.hospitals.tables import InvalidTable, Problems, Table

HOSPITALS = ("cleveland", "hungary", "switzerland", "va_long_beach")
PROVENANCE = (
    "UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1988, doi 10.24432/C52P4X): Cleveland Clinic; "
    "Hungarian Institute of Cardiology, Budapest; University Hospitals Zurich and Basel; V.A. Medical Center Long Beach"
)
LICENCE = "CC BY 4.0"

_TARGET = Target("num", "binary", positive=("1", "2", "3", "4"), negative=("0",))

# Public bounds: what an adult can have and these instruments can show, not what these patients had.
_FEATURES = {
    "age": Feature("age", low=18, high=100, unit="years"),
    "sex": Feature("sex", "binary", words="0 female, 1 male"),
    "cp": Feature("cp", "categorical", categories=("1", "2", "3", "4"), drop_first=True, words="type of chest pain"),
    "trestbps": Feature("trestbps", low=60, high=240, unit="mm Hg", words="resting blood pressure"),
    "chol": Feature("chol", low=0, high=600, unit="mg/dl", words="serum cholesterol"),
    "fbs": Feature("fbs", "binary", words="fasting blood sugar over 120 mg/dl"),
    "restecg": Feature(
        "restecg", "categorical", categories=("0", "1", "2"), drop_first=True, words="resting electrocardiogram"
    ),
    "thalach": Feature("thalach", low=60, high=220, unit="per minute", words="maximum heart rate reached"),
    "exang": Feature("exang", "binary", words="angina on exercise"),
    "oldpeak": Feature("oldpeak", low=-3, high=7, unit="mm", words="ST depression on exercise"),
    "slope": Feature(
        "slope", "categorical", categories=("1", "2", "3"), drop_first=True, words="slope of the ST segment"
    ),
    "ca": Feature("ca", low=0, high=3, words="major vessels coloured by fluoroscopy"),
    "thal": Feature("thal", "categorical", categories=("3", "6", "7"), drop_first=True, words="thallium scan"),
}

# What a textbook calls ordinary; the indicator column lets the model learn what the gap itself means.
_ORDINARY: dict[str, float | str] = {
    "trestbps": 120.0,
    "chol": 200.0,
    "fbs": "0",
    "restecg": "0",
    "thalach": 150.0,
    "exang": "0",
    "oldpeak": 0.0,
    "slope": "1",
    "ca": 0.0,
    "thal": "3",
}
_ZERO_IS_MISSING = ("trestbps", "chol")
_LEFT_OUT = ("slope", "ca", "thal")


def flamby_schema() -> Schema:
    """Ten columns that become 13, in FLamby's order; zeros in chol and trestbps are taken as values."""
    order = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak", "cp", "restecg")
    features = [_FEATURES[name] for name in order]
    return Schema(tuple(features), _TARGET, missing=("?",), outside_bounds="keep")


def all_rows_schema(impute: str = "constants") -> Schema:
    """All 13 columns with a rule for empty cells; `impute` is "constants" (private) or "median" (not private)."""
    features = []
    for name, feature in _FEATURES.items():
        if name in _ORDINARY:
            rule = "median" if impute == "median" and feature.kind == "numeric" else _ORDINARY[name]
            feature = dataclasses.replace(feature, impute=rule)
        if name in _ZERO_IS_MISSING:
            feature = dataclasses.replace(feature, missing_values=("0",), low=60.0 if name == "trestbps" else 100.0)
        features.append(feature)
    return Schema(tuple(features), _TARGET, missing=("?",), outside_bounds="clip")


def heart_disease(
    division: Division | None = None, scaling: Scaling | None = None, folder: pathlib.Path | None = None
) -> HospitalDataset:
    """Fed-Heart-Disease exactly as FLamby prepares it: 740 complete rows, 13 columns, its test rows.

    Args:
      division: partition and seed; FLamby's test rows stay test records in every partition.
      scaling: default `per_hospital`, as FLamby for federated and local training; `pooled` is its pooled training.
      folder: of the tables; default: the embedded ones.

    Raises:
      RecordError: a table is missing or is not the published one.
    """
    place = folder or data_folder() / "heart_disease"
    schema = flamby_schema()
    tested: dict[str, list[int]] = {name: [] for name in HOSPITALS}
    for line in csv.DictReader(read_checked(place, "flamby_test_rows.csv").splitlines()):
        tested[line["hospital"]].append(int(line["row"]))
    pools = []
    for table in _tables(place):
        read = [cells for name, cells in table.columns.items() if name not in _LEFT_OUT]
        complete = [row for row in range(table.records) if all(cells[row] != "?" for cells in read)]
        pool = _pool(schema, table.take(complete))
        pools.append(dataclasses.replace(pool, tested=np.array(tested[pool.hospital_id])))
    words = f"{PROVENANCE}; complete rows, columns and split of FLamby's Fed-Heart-Disease (arXiv:2210.04620)"
    fields = table_fields(
        pools,
        schema,
        division or Division(),
        scaling or Scaling("per_hospital"),
        secret=public_secret("heart_disease"),
        given="FLamby's published test rows are kept",
    )
    return HospitalDataset(name="heart_disease", provenance=words, licence=LICENCE, **fields)


def heart_disease_all_rows(
    division: Division | None = None,
    scaling: Scaling | None = None,
    folder: pathlib.Path | None = None,
    impute: str = "constants",
) -> HospitalDataset:
    """All 920 patients and all 13 columns; empty cells (and zeros in chol and trestbps) filled and marked.

    Args:
      division: partition, seed and test fraction.
      scaling: default `fixed_bounds`: private, as the filling is.
      folder: of the tables; default: the embedded ones.
      impute: "constants" (public, the default) or "median" of the hospital's training records (not private).

    Raises:
      RecordError: a table is missing or is not the published one.
    """
    raise_if([one_of("impute", impute, ("constants", "median"))])
    schema = all_rows_schema(impute)
    pools = [_pool(schema, table) for table in _tables(folder or data_folder() / "heart_disease")]
    fields = table_fields(
        pools,
        schema,
        division or Division(),
        scaling or Scaling("fixed_bounds"),
        secret=public_secret("heart_disease"),  # the same patients
    )
    return HospitalDataset(
        name="heart_disease_all_rows",
        provenance=f"{PROVENANCE}; all rows, zeros in chol and trestbps taken as missing",
        licence=LICENCE,
        warnings=("which cells are empty differs so much between these hospitals that it tells them apart",),
        **fields,
    )


def _tables(folder: pathlib.Path) -> list[Table]:
    tables = []
    for name in HOSPITALS:
        rows = list(csv.reader(read_checked(folder, f"{name}.csv").splitlines()))
        columns = {header: [row[at] for row in rows[1:]] for at, header in enumerate(rows[0])}
        tables.append(Table(f"{name}.csv", columns, [f"line {line}" for line in range(2, len(rows) + 1)]))
    return tables


def _pool(schema: Schema, table: Table) -> Pool:
    problems = Problems()
    values, labels = encode(schema, table, problems)
    if problems:  # cannot happen with tables of the right checksum; a schema that was edited would show here
        raise InvalidTable(problems.list())
    return Pool(table.file.rsplit(".", 1)[0], values, labels)
