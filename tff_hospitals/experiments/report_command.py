"""Draws table, figures and page of a finished comparison or run again, from its files.

    tff-hospitals report --run_dir=runs/first

Nothing is trained: everything comes from the files in --run_dir. What is written: plots/*.png, report.html and, for a
comparison, summary.csv.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of a report."""
    flags.DEFINE_string("run_dir", None, "folder of a comparison or a run (required)")
    flags.DEFINE_bool("table", True, "print the table of a comparison, the summary of a run")


def run() -> None:
    """Draws what the flags name."""
    command.need_run_dir()
    from tff_hospitals import reports
    from tff_hospitals.reports import progress, rerender
    from tff_hospitals.reports.run_files import read_run

    folder = pathlib.Path(FLAGS.run_dir)
    paths = reports.write_report(folder)
    if FLAGS.table and rerender.is_comparison(folder):
        reports.print_table(reports.read_summary(folder), sys.stdout)
    elif FLAGS.table:
        print(progress.run_summary(read_run(folder).row))
    print(f"report: {paths[-1]} ({len(paths)} files written)")
