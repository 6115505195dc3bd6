"""Shows a run while it trains: rounds, loss per hospital, epsilon spent of its budget, bytes, time left.

    tff-hospitals watch runs/private

Nothing is written, and the run is not disturbed. The view ends with the run, or with Ctrl-C.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import time

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS
POSITIONAL = ("run_dir",)


def define_flags() -> None:
    """Flags of the view."""
    flags.DEFINE_string("run_dir", None, "folder of a run or of a comparison (required)")
    flags.DEFINE_float("every", 2.0, "seconds between two looks")
    flags.DEFINE_bool("once", False, "look once and end")


def run() -> None:
    """Shows the run that the flags name until it ends."""
    from tff_hospitals.foundations.validation import in_range, raise_if
    from tff_hospitals.reports import watch

    command.need_run_dir()
    raise_if([in_range("every", FLAGS.every, low=0.1, remedy="give seconds between two looks")])
    terminal = sys.stdout.isatty()
    shown: list[str] = []
    while True:
        lines, finished = watch.view(pathlib.Path(FLAGS.run_dir), shutil.get_terminal_size((100, 40)).columns)
        if terminal:
            print("\x1b[H\x1b[2J" + "\n".join(lines), flush=True)
        elif lines != shown:
            print("\n".join(lines), flush=True)
        shown = lines
        if finished or FLAGS.once:
            return
        try:
            time.sleep(FLAGS.every)
        except KeyboardInterrupt:
            return
