"""Divides one table over simulated hospitals, and draws how unequal they are; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/make_partition.py") from None

if __name__ == "__main__":
    program("partition")
