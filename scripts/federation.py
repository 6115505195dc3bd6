"""Runs a federation: all of it on this machine, or its server alone; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/federation.py") from None

if __name__ == "__main__":
    program("federation")
