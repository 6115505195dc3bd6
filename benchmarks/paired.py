"""Timing several programs against each other on a noisy machine.

Every program is a child process that warms up and then runs one measurement whenever it is told to. The parent tells
them in turn, A B C A B C ..., so that a slow moment of the machine meets all of them, and ratios are medians over the
turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

_MARK = "seconds: "


def say(answer: str) -> None:
    """The child's side: one answer to the parent, among whatever else the child prints."""
    print(f"{_MARK}{answer}", flush=True)


def serve(prepare: Callable[[], Callable[[], float]]) -> None:
    """The child's side: prepares, says so, and measures at every line of input until the input ends."""
    measure = prepare()
    say("ready")
    for _ in sys.stdin:
        say(repr(measure()))


class Child:
    """One program under measurement; what it writes to its error output goes to `log`, or nowhere."""

    def __init__(self, command: Sequence[str], log: IO[str] | None = None, **environment: str):
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if log is None else log,
            text=True,
            env={**os.environ, **environment},
        )

    def wait(self) -> str:
        """The child's next answer."""
        if self._process.stdout is None:
            raise RuntimeError("the child has no output")
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return line[len(_MARK) :].strip()
        raise RuntimeError(f"{' '.join(self._process.args)} ended with code {self._process.wait()}")  # type: ignore[arg-type]

    def measure(self) -> float:
        """Seconds of one measurement."""
        if self._process.stdin is None:
            raise RuntimeError("the child has no input")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self.wait())

    def peak_mib(self) -> float:
        """The largest resident memory of the child so far, MiB."""
        status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) / 1024

    def close(self) -> None:
        """Ends the child."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it ended before it read all
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def in_turn(commands: dict[str, Sequence[str]], turns: int) -> dict[str, list[float]]:
    """Seconds of every program in every turn; programs are started one after the other and measured in turn."""
    children: dict[str, Child] = {}
    try:
        for name, command in commands.items():
            children[name] = Child(command)
            children[name].wait()
        return measure_in_turn(children, turns)
    finally:
        for child in children.values():
            child.close()


def measure_in_turn(children: dict[str, Child], turns: int) -> dict[str, list[float]]:
    """Seconds of every child, which is ready, in every turn."""
    seconds: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(turns):
        for name, child in children.items():
            seconds[name].append(child.measure())
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over the turns of `over` divided by `under`."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under]))


def write_json(path: str | None, figures: dict[str, Any]) -> None:
    """Writes the figures where the caller asked for them."""
    if path:
        pathlib.Path(path).write_text(json.dumps(figures, indent=2) + "\n")
