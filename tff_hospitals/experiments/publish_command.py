"""Makes the part of a finished run that may leave the house: guarantee on top, no seed, nothing of inside/.

tff-hospitals publish runs/private public/private

A run whose noise follows from a seed is refused: train with --secure_noise what is to leave the house, or say
--research for runs on embedded public data.
"""

from __future__ import annotations

import pathlib

from absl import flags

FLAGS = flags.FLAGS
POSITIONAL = ("run_dir", "out")


def define_flags() -> None:
    """Flags of publishing one run."""
    flags.DEFINE_string("run_dir", None, "run directory of a finished run (required; or the first argument)")
    flags.DEFINE_string("out", None, "new folder for what may leave (required; or the second argument)")
    flags.DEFINE_bool("research", False, "publish seeded noise as research on embedded public data")


def run() -> None:
    """Publishes what the flags name."""
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.reports import publishing

    raise_if(
        Problem(f"--{name}", None, "must name a folder", "write tff-hospitals publish RUN_DIR OUT")
        for name in POSITIONAL
        if not FLAGS[name].value
    )
    written = publishing.publish(pathlib.Path(FLAGS.run_dir), pathlib.Path(FLAGS.out), research=FLAGS.research)
    print(f"may leave the house: {FLAGS.out} ({', '.join(path.name for path in written)})")
