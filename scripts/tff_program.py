"""Trains one plan as a federated program of TFF's; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/tff_program.py") from None

if __name__ == "__main__":
    program("program")
