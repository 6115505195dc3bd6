"""What the Python interface returns: a comparison and an audit that print, become data frames, figures and pages."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.audits.sentences import sentences
from tff_hospitals.foundations import files
from tff_hospitals.reports import figures, write_report, write_summary
from tff_hospitals.reports.html import table_html
from tff_hospitals.reports.summary import Summary, read_summary, summary_table
from tff_hospitals.reports.table import terminal_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Compared:
    """A comparison: prints as its table, and shows it in a notebook.

    Figures are functions of `tff_hospitals.figures`, such as `figures.accuracy_against_epsilon(found)`.

    Args:
      summary: the comparison as reports read it.
      directory: where its runs are.
      failures: methods that failed or diverged, with the reason.
      kept: the folder, if it goes with this object.
    """

    def __init__(
        self,
        summary: Summary,
        directory: pathlib.Path,
        failures: tuple[str, ...] = (),
        kept: tempfile.TemporaryDirectory[str] | None = None,
    ):
        self.summary, self.directory, self.failures, self._kept = summary, directory, failures, kept

    @classmethod
    def read(cls, directory: os.PathLike[str] | str) -> Compared:
        """The comparison that lies in a folder.

        Raises:
          records.RecordError: there is none, or it is damaged.
        """
        return cls(read_summary(directory), pathlib.Path(directory))

    def __repr__(self) -> str:
        return terminal_table(self.summary)

    def _repr_html_(self) -> str:
        return table_html(self.summary)

    def to_frame(self) -> pandas.DataFrame:
        """The rows of the table as a data frame, with the columns of `summary.csv` (accuracy from 0 to 1, bytes)."""
        import pandas

        columns, rows = summary_table(self.summary)
        return pandas.DataFrame(rows, columns=columns)

    def report(self, directory: os.PathLike[str] | str | None = None) -> pathlib.Path:
        """Writes `report.html`, `plots/`, `summary.json` and `summary.csv`.

        Args:
          directory: a new or empty folder; None: that of the comparison.

        Returns:
          The page.

        Raises:
          records.RecordError: the folder holds something else, or cannot be written.
        """
        folder = self.directory if directory is None else pathlib.Path(directory)
        if folder.resolve() != self.directory.resolve():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise files.RecordError(f"{folder} holds something already. Remedy: name a new folder.")
            write_summary(folder, self.summary)
        return write_report(folder)[-1]


class Audited:
    """An audit of a run: prints what it found.

    Args:
      result: the content of `audit.json`.
    """

    def __init__(self, result: Mapping[str, Any]):
        self.result = result

    def __repr__(self) -> str:
        return "\n".join(sentences(dict(self.result)))

    @property
    def verdict(self) -> str:
        """Whether the promise holds, in words; empty where it was not tested."""
        return str((self.result.get("promise") or {}).get("words", ""))

    @property
    def passed(self) -> bool | None:
        """Whether the promise was tested and holds; None where there is none or too little of it could be tested."""
        tested = self.result.get("promise")
        if tested is None or not tested["units"]:
            return None
        return {0: True, 1: False}.get(tested["exit_code"])

    def to_frame(self) -> pandas.DataFrame:
        """A row for each attack, bound and kind of self-test.

        Returns:
          A `pandas.DataFrame` with columns part, name, measure, value, and low and high of its interval, if any.
        """
        import pandas

        columns = ["part", "name", "measure", "value", "low", "high"]
        return pandas.DataFrame(_rows(self.result), columns=columns)

    def figures(self) -> dict[str, Figure]:
        """Its figures by name."""
        return figures.of_audit(self.result)


def _rows(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for name, attack in (result.get("membership") or {}).get("attacks", {}).items():
        outcome = attack["groups"].get("all")
        if outcome is not None:
            ends = outcome["auc_interval"]
            rows.append(("membership", name, "auc", outcome["auc"], ends["low"], ends["high"]))
    for one in result.get("attribute") or ():
        name, ends = f"{one['attribute']} at {one['hospital']} from the {one['from']}", one["interval"]
        rows.append(("attribute", name, "gain", one["gain"], ends["low"], ends["high"]))
    rebuilt = result.get("reconstruction") or {}
    for one in [rebuilt, *rebuilt.get("others", ())] if rebuilt else ():
        measure = "error" if "error" in one else "share_recovered"
        rows.append(("reconstruction", one["attack"], measure, one[measure], None, None))
    for one in result.get("updates") or ():
        name = f"round {one['round']} of {one['hospital']}"
        rows.append(("updates", name, "share_recovered", one["share_recovered"], None, None))
    promise = result.get("promise") or {}
    for one in promise.get("bounds", ()):
        name = one["method"] if one["hospital"] is None else f"{one['method']} at {one['hospital']}"
        rows.append(("promise", name, f"{one['unit']} epsilon proved", one["lower_bound"], None, None))
    kinds: dict[str, list[bool]] = {}
    for one in promise.get("self_tests", ()):
        kinds.setdefault(one["name"].partition(":")[0], []).append(bool(one["passed"]))
    for name, passed in kinds.items():
        rows.append(("promise", name, "share of self-tests passed", sum(passed) / len(passed), None, None))
    return rows
