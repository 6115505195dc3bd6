"""Trains weights to start from, in one place; see --help."""

import importlib.util
import pathlib
import sys

if importlib.util.find_spec("tff_hospitals") is None:  # run from a checkout that is not installed
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tff_hospitals.experiments import pretrain_command

if __name__ == "__main__":
    pretrain_command.main()
