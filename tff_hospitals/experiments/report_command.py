"""Draws table, figures and page of a finished comparison or run again, from its files.

    tff-hospitals report runs/first
    tff-hospitals report runs/one runs/two runs/three --out=runs/together

Nothing is trained: everything comes from the files in the folders. What is written: plots/*.png, report.html and, for a
comparison, summary.csv. Several folders become one comparison in --out: runs that differ in their seed alone are one
row, and runs of different data are refused.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS
POSITIONAL = ("run_dir*",)


def define_flags() -> None:
    """Flags of a report."""
    flags.DEFINE_multi_string("run_dir", None, "folder of a comparison or a run (required)")
    flags.DEFINE_string("out", None, "folder for the report of several")
    flags.DEFINE_bool("table", True, "print the table of a comparison, the summary of a run")


def run() -> None:
    """Draws what the flags name."""
    command.need_run_dir()
    from tff_hospitals import reports
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.reports import contribution_page, progress, rerender
    from tff_hospitals.reports.run_files import read_run

    folder = pathlib.Path(FLAGS.run_dir[0])
    if FLAGS.out:
        folder = pathlib.Path(FLAGS.out)
        if folder.exists() and any(folder.iterdir()):
            raise_if([Problem("--out", FLAGS.out, "holds something already", "name a new folder")])
        from tff_hospitals.experiments.merged_runs import merged
        from tff_hospitals.reports.summary import write_summary

        write_summary(folder, merged(FLAGS.run_dir))
    elif len(FLAGS.run_dir) > 1:
        raise_if([Problem("--out", None, "must name a folder for the report of several", "add --out=runs/together")])
    paths = reports.write_report(folder)
    if rerender.holds_contributions(folder):
        print(contribution_page.text(contribution_page.read(folder)))
    elif FLAGS.table and rerender.is_comparison(folder):
        reports.print_table(reports.read_summary(folder), sys.stdout)
    elif FLAGS.table:
        print(progress.run_summary(read_run(folder).row))
    print(f"report: {paths[-1]} ({len(paths)} files written)")
