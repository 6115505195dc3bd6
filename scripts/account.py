"""Tells the epsilon of DP-SGD, or the noise for a target epsilon, without TensorFlow; see --help."""

try:
    from tff_hospitals.experiments.front_door import program
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Remedy: start it as ./run scripts/account.py") from None

if __name__ == "__main__":
    program("account")
