"""Reports: table, figures and HTML page, drawn from the files that a run left, without training anything again."""

from __future__ import annotations

from tff_hospitals.reports.rerender import write_report
from tff_hospitals.reports.summary import read_summary, write_summary
from tff_hospitals.reports.table import print_table, terminal_table

__all__ = ["print_table", "read_summary", "terminal_table", "write_report", "write_summary"]
