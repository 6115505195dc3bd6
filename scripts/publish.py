"""Makes the folder of a finished run that may leave the house; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/publish.py") from None

if __name__ == "__main__":
    program("publish")
