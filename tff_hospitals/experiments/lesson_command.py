"""Runs a lesson of federated learning anew: figures, a page, and questions with answers.

tff-hospitals lesson missing_class --run_dir=lessons/missing_class
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS
POSITIONAL = ("name",)


def define_flags() -> None:
    """Flags of a lesson."""
    flags.DEFINE_string("name", None, "of the lesson; without it all names are listed")
    flags.DEFINE_list("seeds", ["1", "2", "3", "4", "5"], "seeds; figures are means over them")
    flags.DEFINE_string("run_dir", None, "folder for everything that is left behind (required)")
    flags.DEFINE_bool("progress", True, "show progress")


def run() -> None:
    """Runs the lesson that the flags name."""
    from tff_hospitals.experiments.lessons import LESSONS, write
    from tff_hospitals.foundations.validation import Problem, one_of, raise_if

    command.need_run_dir()
    names = ", ".join(LESSONS)
    if FLAGS.name is None:
        raise_if([Problem("name", None, "must be given", f"take one of {names}")])
    raise_if([one_of("lesson", FLAGS.name, LESSONS)])
    seeds = command.numbers("seeds", FLAGS.seeds, int)
    lesson, folder = LESSONS[FLAGS.name], pathlib.Path(FLAGS.run_dir)

    def on_step(words: str) -> None:
        if FLAGS.progress:
            print(words, file=sys.stderr)

    told = lesson.run(seeds, on_step)
    write(lesson, told, seeds, folder)
    print("\n".join(told.paragraphs))
    print(f"results: {folder} (lesson.json, lesson.html, page.md, plots)")
