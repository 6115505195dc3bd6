"""Trains the comparison of README.md anew and draws its picture: docs/result.png.

./run -m docs.redraw
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence

from tff_hospitals.experiments import front_door

PICTURE = pathlib.Path(__file__).resolve().parent / "result.png"
METHODS = "pooled,local,weighted_mean,dp_sgd,dp_ftrl_local,fixed_clip,local_dp"


def main(more: Sequence[str] = (), picture: pathlib.Path = PICTURE) -> None:
    """Compares, and keeps the figure of accuracy against epsilon.

    Args:
      more: flags of the comparison that take the place of those here, such as fewer seeds.
      picture: where the figure goes.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            f"--aggregators={METHODS}",
            "--target_epsilon=1,3,10,30",
            "--noprogress",
            f"--run_dir={folder}/run",
            *more,
        ]
        try:
            front_door.main("compare", ["compare", *flags])
        except SystemExit as ended:
            if ended.code:
                raise
        shutil.copyfile(pathlib.Path(folder) / "run" / "plots" / "accuracy_against_epsilon.png", picture)
    print(f"picture: {picture}", file=sys.stderr)


if __name__ == "__main__":
    main()
