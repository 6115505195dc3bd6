"""Makes a test federation: keys, certificates and the agreement; see --help."""

import sys

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/make_federation.py") from None

if __name__ == "__main__":
    sys.argv.insert(1, "make")
    program("federation")
