"""Divides one table (or npz file) over simulated hospitals, and draws how unequal they are.

    tff-hospitals partition patients.csv --label=died --partition=dirichlet --sites=8 --option=alpha=0.3 --out=clinics
    tff-hospitals inspect clinics

Writes a CSV file for each site, cells as they were, and plots/partition.png. A site that would be empty is refused.
"""

from __future__ import annotations

import collections
import pathlib

from absl import flags

from tff_hospitals.experiments import flag_groups

FLAGS = flags.FLAGS
POSITIONAL = ("source",)


def define_flags() -> None:
    """What is divided, how, and where to."""
    flags.DEFINE_string("source", None, "CSV, Parquet or Excel table, or npz file with features and labels (required)")
    flags.DEFINE_string("out", None, "new folder for one file of each site (required)")
    flags.DEFINE_string(
        "partition", "dirichlet", "iid, dirichlet, quantity_skew, missing_classes, feature_skew or by_column"
    )
    flags.DEFINE_integer("sites", 10, "how many; by_column has one for each value")
    flags.DEFINE_string("label", None, "column of the classes; of an npz file: label")
    flags.DEFINE_string("column", None, "column that feature_skew and by_column go by")
    flags.DEFINE_multi_string("option", [], "name=value, an option of the partition, such as alpha=0.3")
    flags.DEFINE_integer("min_records", 1, "refuse a partition that leaves a site with fewer")
    flags.DEFINE_integer("seed", 0, "of all draws")
    flags.DEFINE_string("delimiter", ",", "between the cells of a CSV file")


def run() -> None:
    """Divides and draws."""
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.hospitals import partition_files
    from tff_hospitals.reports.plot_partition import partition_picture
    from tff_hospitals.reports.plots import write_plots

    missing = [name for name in ("source", "out") if not FLAGS[name].value]
    raise_if([Problem(f"--{name}", None, "must be given", f"write --{name}=PATH") for name in missing])
    path, folder = pathlib.Path(FLAGS.source), pathlib.Path(FLAGS.out)
    source = partition_files.read_source(path, FLAGS.delimiter)
    label = FLAGS.label or ("label" if path.suffix.lower() == ".npz" else None)
    made = partition_files.divide(
        source,
        FLAGS.partition,
        sites=FLAGS.sites,
        label=label,
        column=FLAGS.column,
        seed=FLAGS.seed,
        min_records=FLAGS.min_records,
        **flag_groups.parse_settings("option", FLAGS.option),
    )
    cells = [""] * source.records if label is None else source.cells("--label", label)
    counts = {site: collections.Counter(cells[row] for row in rows) for site, rows in zip(made.ids, made.rows)}
    if len(set(cells)) > partition_files.MOST_CLASSES:  # a number: sizes alone are drawn
        counts = {site: collections.Counter({"": len(rows)}) for site, rows in zip(made.ids, made.rows)}
    partition_files.write_folder(folder, source, made)
    (plot,) = write_plots(folder, [partition_picture(path.name, made.words, counts)])
    sizes = sorted(len(rows) for rows in made.rows)
    print(f"{made.words}: {len(made.ids)} sites of {sizes[0]} to {sizes[-1]} records")
    print(f"results: {folder} (one CSV file for each site, {plot.relative_to(folder)})")
