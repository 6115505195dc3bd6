"""Attacks a finished run and tests its promise of privacy; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/audit.py") from None

if __name__ == "__main__":
    program("audit")
