"""Event files of a run, which TensorBoard shows: metrics, epsilon and bytes of every hospital by round.

    tensorboard --logdir=runs/private

They hold what `metrics.csv` holds, figures that no epsilon covers among them, so that those of a private run lie in
`inside/` and are never published. Each writing adds one file with the rounds since the last one: a viewer that looks
meanwhile finds them, and what stands is never written again. A run that is taken up again starts its files anew.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.training.evaluation import POOLED

FOLDER = "tensorboard"
SECONDS_BETWEEN = 5.0
"""A run that ends sooner writes its files once."""
MOST_HOSPITALS = 32
"""With more of them only what is measured on all records together is written: nobody reads so many lines."""
_NO_CURVES = ("round", "hospital", "unit", "delta", "records")


class EventFiles:
    """The event files of one run; each hospital is a "run" of TensorBoard's, so that their curves lie in one chart.

    Args:
      folder: where they go; None keeps nothing.
    """

    def __init__(self, folder: pathlib.Path | None):
        self._folder = folder
        self._rows = 0
        self._written = time.monotonic()

    def write(self, rows: Sequence[Mapping[str, Any]], seconds: Iterable[tuple[int, float]], *, last: bool) -> None:
        """Adds the rounds since the last writing, at the end of a run and some seconds apart before it.

        Args:
          rows: of `metrics.csv`, all so far.
          seconds: of each round, for the times at which they ended.
          last: whether the run ends.

        Raises:
          files.RecordError: the disk refuses.
        """
        now = time.monotonic()
        if self._folder is None or (not last and now - self._written < SECONDS_BETWEEN):
            return
        if self._rows == 0:
            for old in self._folder.glob("*/events.out.tfevents.*"):
                old.unlink()
        by_scope: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows[self._rows :]:
            by_scope.setdefault(row["hospital"], []).append(row)
        if len(by_scope) > MOST_HOSPITALS:
            by_scope = {POOLED: by_scope.get(POOLED, [])}
        ended = _times(seconds)
        for scope, new in by_scope.items():
            if new:
                _write(self._folder / scope, new, ended)
        self._rows, self._written = len(rows), now


def _times(seconds: Iterable[tuple[int, float]]) -> dict[int, float]:
    """When each round ended, the last one now."""
    ended, past = {}, 0.0
    for number, value in seconds:
        past += value
        ended[number] = past
    start = time.time() - past
    return {number: start + value for number, value in ended.items()}


def _write(folder: pathlib.Path, rows: Sequence[Mapping[str, Any]], ended: Mapping[int, float]) -> None:
    """One event file with a record for each row, whole or not at all."""
    import tensorflow as tf

    part = folder / ".part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(part)) as file:
            file.write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            for row in rows:
                shown = [
                    {"tag": name, "simple_value": value}
                    for name, value in row.items()
                    if name not in _NO_CURVES and isinstance(value, (int, float))
                ]
                number = int(row["round"])
                event = {"wall_time": ended.get(number, time.time()), "step": number, "summary": {"value": shown}}
                file.write(tf.compat.v1.Event(**event).SerializeToString())
        os.replace(part, folder / f"events.out.tfevents.{int(rows[0]['round']):010d}.rounds")
    except (OSError, tf.errors.OpError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise files.RecordError(
            f"could not write event files to {folder}: {error}. Remedy: free some space or choose another --run_dir, "
            "then start the same command again; the run resumes from its last checkpoint."
        ) from error
