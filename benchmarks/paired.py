"""Timing several programs against each other on a noisy machine.

Every program is a child process that warms up and then runs one measurement whenever it is told to. The parent tells
them in turn, A B C A B C ..., so that a slow moment of the machine meets all of them, and ratios are medians over the
turns.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

_MARK = "seconds: "


def serve(prepare: Callable[[], Callable[[], float]]) -> None:
    """The child's side: prepares, says so, and measures at every line of input until the input ends."""
    measure = prepare()
    print(f"{_MARK}ready", flush=True)
    for _ in sys.stdin:
        print(f"{_MARK}{measure()!r}", flush=True)


class Child:
    """One program under measurement."""

    def __init__(self, command: Sequence[str], **environment: str):
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
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

    def close(self) -> None:
        """Ends the child."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)


def in_turn(commands: dict[str, Sequence[str]], turns: int) -> dict[str, list[float]]:
    """Seconds of every program in every turn; programs are started one after the other and measured in turn."""
    children: dict[str, Child] = {}
    try:
        for name, command in commands.items():
            children[name] = Child(command)
            children[name].wait()
        return _measure(children, turns)
    finally:
        for child in children.values():
            child.close()


def _measure(children: dict[str, Child], turns: int) -> dict[str, list[float]]:
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
