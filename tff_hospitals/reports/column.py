"""What a column of a comparison is: how it is read, joined over seeds, written and shown."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

from tff_hospitals.reports import wording
from tff_hospitals.reports.fields import FieldReader
from tff_hospitals.reports.rows import Row
from tff_hospitals.training.metrics import METRICS, Metric

Reader = Callable[[FieldReader, str], Any]
SortValue = Union[float, str, None]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a column may need to know of the table that it stands in.

    Attributes:
      rows: of the table.
      html: whether it is that of a page; else it is printed.
      delta: of the comparison, where no row has one.
      splits: of the records; every row has so many runs of each seed.
    """

    rows: Sequence[Row]
    html: bool = False
    delta: float | None = None
    splits: int = 1

    @functools.cached_property
    def deltas(self) -> list[float | None]:
        """The different deltas of the rows with a guarantee; the comparison's without such rows."""
        return list(dict.fromkeys(row.delta for row in self.rows if row.private)) or [self.delta]

    @functools.cached_property
    def byte_scale(self) -> tuple[float, str]:
        """Divisor and unit of bytes."""
        return wording.byte_scale(self.rows)

    @functools.cached_property
    def spread_width(self) -> int:
        """Letters of the widest standard deviation."""
        scores = [(row.metric, row.score) for row in self.rows if row.score.sd is not None]
        texts = (wording.spread_text(metric, score.mean, score.sd) for metric, score in scores)
        return max(map(len, texts), default=0)

    @property
    def metric(self) -> Metric:
        """The headline metric."""
        return self.rows[0].metric if self.rows else METRICS["accuracy"]

    @functools.cached_property
    def has_intervals(self) -> bool:
        """Whether intervals over patients were recorded."""
        return any(row.score.low is not None for row in self.rows)

    @property
    def score_sentence(self) -> str:
        """What the headline figures are, and what surrounds them."""
        seeds = max((row.score.seeds for row in self.rows), default=0) // self.splits
        label = wording.metric_title(self.metric)
        if self.has_intervals:
            over = f"over {seeds} seeds" if seeds > 1 else "one seed"
            over += f" on each of {self.splits} splits" if self.splits > 1 else ""
            where = (" ± standard deviation" if seeds > 1 else ",") if self.html else ", in brackets"
            over += f"{where} with the 95 % interval over {wording.interval_words(self.splits, seeds)}"
        else:
            over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread is known"
        return f"{label}: mean over the hospitals' own test sets, {over}."

    def hospital_title(self, collapsed: bool) -> str:
        """What stands over the figures of the hospitals."""
        where = "of the hospitals" if collapsed else "at each hospital"
        return f"{wording.with_unit(self.metric, self.metric.label)} {where}"


def is_empty(value: Any) -> bool:
    """Whether nothing was measured: None, no text, or a collection of nothing."""
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    return all(map(is_empty, value)) if isinstance(value, (tuple, list)) else value is None or value == ""


def always(_: Shown) -> bool:
    """Shown in every table."""
    return True


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      field: its name in `summary.json`.
      read: reads and checks it; None for a column that is derived from others.
      over_seeds: from the values of the runs to the value of the row; None: `seeds.aggregate_runs` knows.
      derive: the value of a column that is not in `summary.json`.
      of: the field of a single run that is joined over seeds; "" is the column's own.
      optional: left out of files where there is no value.
      csv: whether it stands in `summary.csv`; a text is the prefix of one column for each hospital.
      head: heads of the table, "|" between the two lines of the printed one; "" is not shown.
      text: what a cell says; None: three significant digits.
      sort: what a page sorts by; None: the value.
      shown: in which tables; None: where a row has a value.
      words: whether texts stand at the left.
      before_hospitals: on which side of the hospitals' own figures.
      printed: whether the printed table, which is narrow, has it too.
    """

    field: str
    read: Reader | None = None
    over_seeds: Callable[[Sequence[Any]], Any] | None = None
    derive: Callable[[Row], Any] | None = None
    of: str = ""
    optional: bool = False
    csv: bool | str = False
    head: str | Callable[[Shown], str] = ""
    text: Callable[[Row, Shown], str] | None = None
    sort: Callable[[Row], SortValue] | None = None
    shown: Callable[[Shown], bool] | None = None
    words: bool = False
    before_hospitals: bool = False
    printed: bool = True

    @functools.cached_property
    def missing(self) -> Any:
        """What the column reads as where a file has no such field."""
        return None if self.read is None else self.read(FieldReader({}, "", []), self.field)

    def value(self, row: Row) -> Any:
        """The value of a row."""
        return row.get(self.field, self.missing) if self.derive is None else self.derive(row)

    def has_value(self, row: Row) -> bool:
        """Whether there is something to show or to write."""
        return not is_empty(self.value(row))

    def join(self, values: Sequence[Any]) -> Any:
        """The value of several runs together."""
        return None if self.over_seeds is None else self.over_seeds(values)

    def in_table(self, shown: Shown) -> bool:
        """Whether a table has this column."""
        if not self.head or not (self.printed or shown.html):
            return False
        return any(map(self.has_value, shown.rows)) if self.shown is None else self.shown(shown)

    def heads(self, shown: Shown) -> tuple[str, str]:
        """The upper and the lower line of the head."""
        upper, _, lower = (self.head if isinstance(self.head, str) else self.head(shown)).rpartition("|")
        return upper, lower

    def text_of(self, row: Row, shown: Shown) -> str:
        """What the cell of a row says."""
        return wording.significant(self.value(row)) if self.text is None else self.text(row, shown)

    def sort_value(self, row: Row) -> SortValue:
        """What a page sorts the rows by."""
        value: SortValue = self.value(row) if self.sort is None else self.sort(row)
        return value


def number(low: float | None = None, high: float | None = None) -> Reader:
    """A number within bounds, or None."""
    return lambda fields, name: fields.number(name, low=low, high=high)


def text(required: bool = False, known: Sequence[str] = ()) -> Reader:
    """A text, "" where there is none."""
    return lambda fields, name: fields.text(name, required=required, known=known)
