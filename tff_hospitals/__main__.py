"""`python -m tff_hospitals COMMAND`: see `experiments.front_door`."""

from __future__ import annotations

from tff_hospitals.experiments.front_door import program

if __name__ == "__main__":
    program()
