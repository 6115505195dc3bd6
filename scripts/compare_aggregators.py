"""Compares ways of training together at the same privacy; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/compare_aggregators.py") from None

if __name__ == "__main__":
    program("compare")
