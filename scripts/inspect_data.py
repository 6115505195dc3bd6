"""Drafts a schema from a folder of tables and says what each hospital's records are like; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/inspect_data.py") from None

if __name__ == "__main__":
    program("inspect")
