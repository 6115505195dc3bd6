"""Trains the comparison of README.md anew and draws its picture: docs/result.png.

./run -m docs.redraw
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile

from tff_hospitals.experiments import front_door

PICTURE = pathlib.Path(__file__).resolve().parent / "result.png"
METHODS = "pooled,local,weighted_mean,dp_sgd,dp_ftrl_local,fixed_clip,local_dp"


def main() -> None:
    """Compares, and keeps the figure of accuracy against epsilon."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--aggregators={METHODS}", "--target_epsilon=1,3,10,30", "--noprogress", f"--run_dir={folder}/run"]
        try:
            front_door.main("compare", ["compare", *flags])
        except SystemExit as ended:
            if ended.code:
                raise
        shutil.copyfile(pathlib.Path(folder) / "run" / "plots" / "accuracy_against_epsilon.png", PICTURE)
    print(f"picture: {PICTURE}", file=sys.stderr)


if __name__ == "__main__":
    main()
