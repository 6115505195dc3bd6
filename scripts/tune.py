"""Searches for settings of one method on records held out of training; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/tune.py") from None

if __name__ == "__main__":
    program("tune")
