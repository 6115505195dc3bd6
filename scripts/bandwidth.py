"""Predicts bytes and transfer time of a run before anyone trains; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/bandwidth.py") from None

if __name__ == "__main__":
    program("bandwidth")
