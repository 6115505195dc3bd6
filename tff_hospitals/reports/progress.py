"""What a run says while it trains: a bar on a terminal, plain lines elsewhere, nothing when it should be quiet.

>>> import io
>>> page = io.StringIO()
>>> with run_progress(2, stream=page, every_seconds=0.0) as display:
...     display.update(Progress(1, 2, loss=0.7, accuracy=0.55, epsilon=0.4, unit="record", bytes=4000))
...     display.update(Progress(2, 2, loss=0.6, accuracy=0.65, epsilon=0.5, unit="record", bytes=8000))
>>> print(page.getvalue().splitlines()[0].split(", ", 1)[1].rsplit(",", 1)[0])
loss 0.700, accuracy 55.0 %, epsilon so far 0.400 (record), 4.00 kB sent
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

from tff_hospitals.foundations.validation import counted
from tff_hospitals.reports import own_models
from tff_hospitals.reports.columns import row_from_json
from tff_hospitals.reports.rows import Row
from tff_hospitals.reports.wording import (
    NO_RECORDS,
    UNIT_SHORT,
    bytes_text,
    conversion_name,
    delta_text,
    epsilon_text,
    percent,
    score_text,
    score_words,
    short_interval,
    significant,
    some,
    target_text,
    with_unit,
    worst_hospital,
)
from tff_hospitals.training.metrics import METRICS
from tff_hospitals.training.results import Progress


def round_words(state: Progress) -> str:
    """Loss, accuracy, epsilon with its unit and bytes of a round, as far as they are known."""
    parts = []
    if state.loss is not None:
        parts.append(f"loss {significant(state.loss)}")
    if state.accuracy is not None and state.accuracy == state.accuracy:
        parts.append(f"accuracy {percent(state.accuracy)} %")
    if state.unit != "none":
        parts.append(f"epsilon so far {epsilon_text(state.epsilon)} ({state.unit})")
    parts.append(f"{bytes_text(float(state.bytes))} sent")
    return ", ".join(parts)


class Display:
    """A bar on a terminal, a line every few seconds elsewhere; use it through `run_progress` and `job_progress`."""

    def __init__(
        self,
        total: int,
        noun: str,
        shown: bool,
        stream: TextIO | None,
        every_seconds: float,
        clock: Callable[[], float],
    ):
        self._stream = sys.stderr if stream is None else stream
        self._total, self._noun, self._shown = total, noun, shown
        self._every, self._clock = every_seconds, clock
        self._bar: Any = None
        self._started = self._last = clock()
        self._first: int | None = None
        self._pending = ""
        self._terminal = bool(getattr(self._stream, "isatty", lambda: False)())

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, done: int, total: int, words: str) -> None:
        """Shows that `done` of `total` are finished; lines come at most every few seconds, the last one always."""
        if not self._shown:
            return
        if self._terminal:
            self._draw(done, total, words)
            return
        now = self._clock()
        self._pending = self._text(done, total, words, now - self._started)
        if done >= total or now - self._last >= self._every:
            self._flush(now)

    def _text(self, done: int, total: int, words: str, elapsed: float) -> str:
        if self._first is None:  # a resumed run starts with rounds that took no time
            self._first = done - 1
        speed = (done - self._first) / max(elapsed, 1e-9)
        return f"{self._noun} {done}/{total}, {words}, {speed:.3g} {self._noun}s/s"

    def _flush(self, now: float) -> None:
        self._stream.write(self._pending + "\n")
        self._stream.flush()
        self._pending, self._last = "", now

    def _draw(self, done: int, total: int, words: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=max(done - 1, 0),
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
                unit=f" {self._noun}s",
                bar_format=self._noun + " {n_fmt}/{total_fmt} {bar:10} {rate_noinv_fmt}{postfix}",
            )
        self._bar.total = total
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()  # the last state is always seen, however fast it came

    def close(self) -> None:
        """Writes what was held back and takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._pending:
            self._flush(self._clock())


class RunDisplay(Display):
    """The display of one run; `update` is the `on_round` of training."""

    def __enter__(self) -> RunDisplay:
        return self

    def update(self, state: Progress) -> None:
        """Shows a finished round."""
        self.show(state.round, state.rounds, round_words(state))


class JobDisplay(Display):
    """The display of a comparison: which run is being trained, and about how long the rest takes."""

    def __enter__(self) -> JobDisplay:
        return self

    def update(self, name: str, number: int, total: int) -> None:
        """Shows that run `number` of `total`, called `name`, is starting."""
        self.show(number - 1, total, name)

    def _text(self, done: int, total: int, words: str, elapsed: float) -> str:
        text = f"run {done + 1} of {total}: {words}"
        if done < 2 or elapsed <= 0.0:
            return text
        return f"{text} (about {significant((total - done) * elapsed / done, 2)} s to go)"


def run_progress(
    rounds: int,
    *,
    shown: bool = True,
    stream: TextIO | None = None,
    every_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> RunDisplay:
    """A context manager whose `update(state)` shows round, loss, accuracy, epsilon and bytes so far, rounds per second.

    Args:
      rounds: rounds planned.
      shown: False prints nothing at all.
      stream: where to; standard error by default.
      every_seconds: the least time between two lines when the stream is not a terminal.
      clock: seconds from any start.
    """
    return RunDisplay(rounds, "round", shown, stream, every_seconds, clock)


def job_progress(
    *,
    shown: bool = True,
    stream: TextIO | None = None,
    every_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> JobDisplay:
    """A context manager whose `update(name, done, total)` shows which of several runs is being trained."""
    return JobDisplay(0, "run", shown, stream, every_seconds, clock)


class TrialDisplay(Display):
    """The display of a search: how many of its trials are done."""

    def __enter__(self) -> TrialDisplay:
        return self

    def update(self, done: int, total: int) -> None:
        """Shows a finished trial."""
        self.show(done, total, f"{total - done} to go")


def trial_progress(
    *,
    shown: bool = True,
    stream: TextIO | None = None,
    every_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> TrialDisplay:
    """A context manager whose `update(done, total)` shows the trials of a search."""
    return TrialDisplay(0, "trial", shown, stream, every_seconds, clock)


def _ends(row: Row) -> str:
    """The ends of the headline's interval."""
    return short_interval(row.metric, row.score.interval).strip("()").replace("–", " to ")


def run_summary(summary: Mapping[str, Any] | Row) -> str:
    """The block that a run prints at its end, with intervals over test patients where the summary has them.

    Args:
      summary: the run's `summary.json`.

    >>> print(
    ...     run_summary(
    ...         {
    ...             "method": "dp_sgd",
    ...             "unit": "record",
    ...             "epsilon": 4.98,
    ...             "target_epsilon": 5,
    ...             "delta": 1e-3,
    ...             "worst_hospital": "va",
    ...             "accuracy_mean": 0.731,
    ...             "accuracy_per_hospital": {"va": 0.7, "cleveland": 0.762},
    ...             "bytes_up": 3e6,
    ...             "bytes_down": 4e6,
    ...             "rounds": 15,
    ...             "seconds_per_round": 0.04,
    ...             "stop_reason": "round limit",
    ...         }
    ...     )
    ... )
    dp_sgd: 15 rounds, stopped: round limit
      accuracy     73.1 % (mean of the hospitals)
                   va 70.0, cleveland 76.2
      epsilon      4.98 at delta 1e-3, record level, worst hospital va (target 5)
      sent         3.00 MB up, 4.00 MB down, all hospitals
      speed        0.040 s per round
    """
    row = summary if isinstance(summary, Row) else row_from_json(summary, "summary")
    lines = [f"{row.name}: {counted(row.rounds or 0, 'round')}, stopped: {row.stop_reason or 'not recorded'}"]
    metric, score = row.metric, row.score
    if score.mean is not None:
        together = score_text(metric, score.pooled_mean)
        pooled = f", {with_unit(metric, together)} on all test records" if score.pooled_mean is not None else ""
        own = with_unit(metric, score_text(metric, score.mean))
        over = "" if score.low is None or score.high is None else f"; 95 % interval over test patients {_ends(row)}"
        lines.append(_line(metric.label, f"{own} (mean of the hospitals{over}){pooled}"))
    elif row.untested:
        lines.append(_line(metric.label, NO_RECORDS))
    known = [(key, value) for key, value in score.per_hospital.items() if value is not None]
    untested = f"; {NO_RECORDS}: {some(row.untested)}" if known and row.untested else ""
    if 0 < len(known) <= 8:
        lines.append(_line("", ", ".join(f"{key} {score_text(metric, value)}" for key, value in known) + untested))
    elif known:
        (low, low_at), (high, high_at) = min((v, k) for k, v in known), max((v, k) for k, v in known)
        ends = (f"lowest {score_text(metric, low)} at {low_at}", f"highest {score_text(metric, high)} at {high_at}")
        lines.append(_line("", ", ".join(ends) + untested))
    others = [other for name, other in METRICS.items() if name not in (row.headline, "loss")]
    measured = [(other, row.figures(other.name).mean) for other in others]
    words = [score_words(other, value) for other, value in measured if value is not None]
    if words:
        lines.append(_line("", ", ".join(words)))
    if own_models.words(row):
        lines.append(_line("own models", own_models.words(row)))
    if row.private:
        asked = f" (target {target_text(row.target_epsilon)})" if row.target_epsilon is not None else ""
        worst = f", worst hospital {worst_hospital(row)}" if worst_hospital(row) else ""
        how = f" by {conversion_name(row.conversion)}" if row.conversion else ""
        text = (
            f"{epsilon_text(row.epsilon)} at delta {delta_text(row.delta)}{how}, {UNIT_SHORT[row.unit]}{worst}{asked}"
        )
        lines.append(_line("epsilon", text))
        if row.conversion not in ("", "rdp"):
            lines.append(_line("", f"{epsilon_text(row.get('epsilon_rdp'))} by RDP, the same ledger"))
        elif row.epsilon_pld is not None:
            lines.append(_line("", f"{epsilon_text(row.epsilon_pld)} by PLD, the same ledger composed more tightly"))
    else:
        lines.append(_line("epsilon", "none: this method gives no formal guarantee"))
    lines.append(_line("sent", f"{bytes_text(row.bytes_up)} up, {bytes_text(row.bytes_down)} down, all hospitals"))
    if row.seconds_per_round is not None:
        lines.append(_line("speed", f"{significant(row.seconds_per_round, 2)} s per round"))
    lines += [_line("warning", text) for text in dict.fromkeys(row.warnings)]
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return textwrap.fill(text, 118, initial_indent=f"  {name:<12} ", subsequent_indent=" " * 15)
