"""From runs of one method with several seeds to one row.

One run is never a result: the smallest hospital of the embedded set has 16 test records, so one record moves it by six
points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.reports.columns import COLUMNS, row_from_json, row_of
from tff_hospitals.reports.rows import NAMED, Row
from tff_hospitals.training.signal_to_noise import SWAMPS, swamped_words


def aggregate_runs(results: Sequence[Mapping[str, Any] | Row]) -> Row:
    """One comparison row from the summaries of runs that differ in their seed only.

    Every column says how it is joined: figures are means over seeds; epsilon is the *largest* of the seeds and the
    noise the *smallest*, so that the row never promises more than every run kept. A run that ended early keeps its last
    point for the later rounds of the curve: that is the model which it would release. A run whose status is "failed" is
    left out and named in the warnings.

    Args:
      results: the `summary.json` objects of single runs, in the order of the seeds.

    Raises:
      InvalidInput: no runs, or runs of different methods, units or targets.
      RecordError: a summary that is not valid.
    """
    if not results:
        raise InvalidInput([Problem("results", [], "must hold at least one run", "give the summaries of the runs")])
    rows = [item if isinstance(item, Row) else row_from_json(item, f"run {k}") for k, item in enumerate(results)]
    for name in ("method", "unit", "target_epsilon"):
        values = {getattr(row, name) for row in rows}
        if len(values) > 1:
            shown = sorted(map(str, values))
            raise InvalidInput(
                [Problem(name, shown, "must be the same in all runs", "aggregate each method by itself")]
            )
    failed = [row for row in rows if row.get("status") == "failed"]
    used = [row for row in rows if row not in failed]
    found = {}
    for column in COLUMNS.values():
        source = COLUMNS[column.of or column.field]
        # Of runs that all failed only what they promised and spent is kept.
        members = used or (rows if column.field in NAMED else [])
        if column.over_seeds is not None:
            found[column.field] = column.join([source.value(row) for row in members])
    return row_of({**found, "warnings": _warnings(rows, used or rows, failed)})


def _warnings(rows: Sequence[Row], used: Sequence[Row], failed: Sequence[Row]) -> tuple[str, ...]:
    signal = COLUMNS["signal_to_noise"]
    medians = signal.join([signal.value(row) for row in used])
    # What seeds measured differs by seed; their medians are one statement.
    texts = [text for row in rows for text in row.warnings if not (medians and text.startswith(SWAMPS))]
    texts += swamped_words(medians, "rounds and seeds" if len(used) > 1 else "rounds")
    for row in failed:
        texts.append(
            f"the run with seed {row.extra.get('seed')} failed and is left out: "
            f"{row.stop_reason or 'no reason recorded'}"
        )
    counts = sorted({row.rounds for row in used if row.rounds is not None})
    if len(counts) > 1:
        texts.append(f"the seeds stopped after different numbers of rounds, {counts[0]} to {counts[-1]}")
    return tuple(dict.fromkeys(texts))
