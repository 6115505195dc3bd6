"""Tells what each hospital adds, and how unlike hospitals are; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/contribution.py") from None

if __name__ == "__main__":
    program("contribution")
