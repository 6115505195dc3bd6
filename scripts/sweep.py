"""Trains a grid of settings, every point with every seed; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/sweep.py") from None

if __name__ == "__main__":
    program("sweep")
