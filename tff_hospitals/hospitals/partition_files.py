"""One file of records to a folder with a file for each simulated hospital, cells as they were.

| kind | which records a site gets | needs |
|---|---|---|
| `iid`, `dirichlet`, `quantity_skew`, `missing_classes` | see `partitions` | `label` |
| `feature_skew` | as `dirichlet`, with tenths of a column's range of ranks in the place of labels | `column` |
| `by_column` | those with one value of a column | `column` |

>>> source = Source(["x", "y"], [["1", "2", "3", "4"], ["a", "b", "a", "b"]])
>>> made = divide(source, "by_column", column="y")
>>> made.ids, [rows.tolist() for rows in made.rows]
(('a', 'b'), [[0, 2], [1, 3]])
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput, Problem, one_of, raise_if
from tff_hospitals.hospitals.checks import id_problem
from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.inspection.hints import numbers_of
from tff_hospitals.hospitals.partitions import PARTITIONS, Partition, partition
from tff_hospitals.hospitals.table_files import read_sheet
from tff_hospitals.hospitals.tables import Problems

KINDS = (*PARTITIONS, "feature_skew", "by_column")
_OF_COLUMN = ("feature_skew", "by_column")
_BY_CLASS = ("dirichlet", "missing_classes")
MOST_CLASSES = 100
_TENTHS = 10


@dataclasses.dataclass(frozen=True)
class Source:
    """Records before they are divided.

    Attributes:
      header: names of the columns.
      columns: the cells of each.
    """

    header: list[str]
    columns: list[list[str]]

    @property
    def records(self) -> int:
        """How many there are."""
        return len(self.columns[0]) if self.columns else 0

    def cells(self, flag: str, name: str | None) -> list[str]:
        """The cells of a column.

        Raises:
          InvalidInput: no name, or one that no column has.
        """
        if name is None:
            raise InvalidInput([Problem(flag, None, "must name a column", f"write {flag}={self.header[-1]}")])
        raise_if([one_of(flag, name, self.header)])
        return self.columns[self.header.index(name)]


def read_source(path: pathlib.Path, delimiter: str = ",") -> Source:
    """Records of a table (CSV, Parquet, Excel), or of an npz file with `features` [records, ...] and `labels`.

    Raises:
      InvalidInput: no such file, a file that nobody can read, no records.
    """
    if not path.is_file():
        raise InvalidInput([Problem("source", str(path), "must be a file", "name a CSV, Parquet, Excel or npz file")])
    if path.suffix.lower() == ".npz":
        return _read_arrays(path)
    problems = Problems()
    sheet = read_sheet(path, FileFormat(delimiter=delimiter), problems)
    raise_if(problems.list())
    if sheet is None or not sheet.places:
        raise InvalidInput([Problem("source", path.name, "holds no records", "give a table with a header and rows")])
    return Source(sheet.header, [sheet.column(place) for place in range(len(sheet.header))])


def _read_arrays(path: pathlib.Path) -> Source:
    remedy = "write it by numpy.savez(file, features=..., labels=...)"
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput([Problem("source", path.name, f"cannot be read ({error})", remedy)]) from None
    if not {"features", "labels"} <= set(arrays):
        bound = f"must hold the arrays features and labels, and holds {', '.join(arrays) or 'none'}"
        raise InvalidInput([Problem("source", path.name, bound, remedy)])
    features, labels = arrays["features"], arrays["labels"]
    if labels.ndim != 1 or features.ndim < 2 or len(features) != len(labels) or not len(labels):
        bound = f"must hold features [records, ...] and labels [records]: shapes {features.shape} and {labels.shape}"
        raise InvalidInput([Problem("source", path.name, bound, remedy)])
    flat = features.reshape(len(features), -1)
    header = [f"x{number}" for number in range(1, flat.shape[1] + 1)]
    return Source([*header, "label"], [*(list(map(str, column)) for column in flat.T), list(map(str, labels))])


def divide(
    source: Source,
    kind: str,
    *,
    sites: int = 10,
    label: str | None = None,
    column: str | None = None,
    seed: int = 0,
    min_records: int = 1,
    **options: Any,
) -> Partition:
    """Which records go where.

    Args:
      source: the records.
      kind: one of `KINDS`.
      sites: how many, where the kind does not say it.
      label: column of the classes.
      column: that `feature_skew` and `by_column` go by.
      seed: of all draws.
      min_records: refuse what leaves a site with fewer.
      **options: of the partition, such as alpha.

    Raises:
      InvalidInput: unknown names, classes that are too many, sites that would be empty or too small.
    """
    raise_if([one_of("partition", kind, KINDS)])
    if kind == "by_column":
        return _by_column(source.cells("--column", column), str(column), min_records, options)
    streams = Streams.from_seed(seed)
    if kind == "feature_skew":
        ranks = np.argsort(np.argsort(_numbers(source, column), kind="stable"), kind="stable")
        made = partition(
            "dirichlet",
            ranks * _TENTHS // source.records,
            sites=sites,
            streams=streams,
            min_records=min_records,
            **options,
        )
        return dataclasses.replace(made, words=f"{made.words}, tenths of {column} in the place of labels")
    labels = np.zeros(source.records, np.int64)
    if kind in _BY_CLASS:
        names, labels = np.unique(source.cells("--label", label), return_inverse=True)
        if len(names) > MOST_CLASSES:
            bound = f"has {len(names)} different values, and {kind} takes at most {MOST_CLASSES} classes"
            remedy = "name a column of classes, or take iid, quantity_skew or feature_skew"
            raise InvalidInput([Problem("--label", label, bound, remedy)])
    return partition(kind, labels, sites=sites, streams=streams, min_records=min_records, **options)


def _by_column(cells: Sequence[str], column: str, min_records: int, options: dict[str, Any]) -> Partition:
    names, places = np.unique(cells, return_inverse=True)
    found = [Problem("by_column option", name, "is not used: values decide alone", "drop it") for name in options]
    found += [problem for name in names if (problem := id_problem(f"value of {column}", str(name))) is not None]
    rows = tuple(np.flatnonzero(places == number) for number in range(len(names)))
    small = [str(name) for name, site in zip(names, rows) if len(site) < min_records]
    if small:
        bound = f"must leave every site {min_records} or more records: not {', '.join(small[:4])}"
        found.append(Problem("partition", "by_column", bound, "give a smaller --min_records, or another column"))
    raise_if(found[:_TENTHS])
    return Partition(tuple(map(str, names)), rows, f"by the {len(names)} values of {column}")


def _numbers(source: Source, column: str | None) -> np.ndarray:
    values = numbers_of(source.cells("--column", column))
    if not np.isfinite(values).any():
        bound = "holds no numbers, by which feature_skew orders the records"
        raise InvalidInput([Problem("--column", column, bound, "name a numeric column, or take by_column")])
    return np.where(np.isfinite(values), values, np.nanmedian(values[np.isfinite(values)]))  # a gap is like the middle


def write_folder(folder: pathlib.Path, source: Source, made: Partition) -> list[pathlib.Path]:
    """Writes `SITE.csv` for every site into a new folder.

    Raises:
      InvalidInput: a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput([Problem("--out", str(folder), "must be a new or empty folder", "name another one")])
    written = []
    for site, rows in zip(made.ids, made.rows):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(source.header)
        writer.writerows([column[row] for column in source.columns] for row in rows)
        written.append(folder / f"{site}.csv")
        files.write_text(written[-1], text.getvalue())
    return written
