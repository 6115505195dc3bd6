"""Draws the report of a finished comparison or run again, from its files; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/report.py") from None

if __name__ == "__main__":
    program("report")
