"""Attacks a finished run and tests its promise of privacy; see --help."""

import importlib.util
import pathlib
import sys

if importlib.util.find_spec("tff_hospitals") is None:  # run from a checkout that is not installed
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tff_hospitals.experiments import audit_command

if __name__ == "__main__":
    audit_command.main()
