"""What every script does around its work: quiet start, one-screen errors, exit codes.

Exit codes: 0 done; 1 training or a file failed; 2 the input was refused before any training; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from tff_hospitals.foundations import quiet
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


def run(main: Callable[[], None], argv: Sequence[str] | None = None) -> None:
    """Parses flags and runs `main`; errors that a user can mend are printed without a traceback.

    Args:
      main: the work; imports TensorFlow itself, so that `--help` need not.
      argv: the command line; default the process's.
    """
    flags.FLAGS.set_default("verbosity", 0)
    app.define_help_flags()
    show_in_help()
    # Not `app.run`: when TensorFlow is first imported inside it, its stack of eager contexts stays empty, and Keras
    # builds models from graph placeholders.
    given = list(sys.argv if argv is None else argv)
    try:
        rest = app.parse_flags_with_usage(given)
    except BrokenPipeError:  # `--help | head`
        sys.stdout = None
        sys.exit(0)
    except SystemExit:  # absl ends both with 1; asking for help is no failure, and a wrong flag is refused input
        sys.exit(0 if any(one.startswith(("--help", "-help", "-h")) for one in given[1:]) else REFUSED)
    quiet.be_quiet(max(0, flags.FLAGS.verbosity))
    quiet.one_thread_per_operation()
    sys.exit(_guarded(main, rest))


def _guarded(main: Callable[[], None], rest: Sequence[str]) -> int:
    """Runs `main`; what a user can mend is said in a few lines and an exit code."""
    if len(rest) > 1:
        return _say(f"{rest[1]!r} is not a flag: options start with --. Remedy: see --help.", REFUSED)
    try:
        main()
    except InvalidInput as error:
        return _say(str(error), REFUSED)
    except RecordError as error:
        return _say(str(error), FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingError", "WorkerError", "ClusterError", "CertificateError"):
            raise
        return _say(str(error), FAILED)
    return 0


def show_in_help() -> None:
    """Lists this package's flags under --help of whatever script runs; absl shows those of the main module alone."""
    known = flags.FLAGS.flags_by_module_dict()
    for module, found in known.items():
        if module.startswith("tff_hospitals"):
            for flag in found:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _say(text: str, code: int) -> int:
    lines = text.splitlines()
    shown = lines[:20] + ([f"... and {len(lines) - 20} more"] if len(lines) > 20 else [])
    print("\n".join(f"error: {line}" if i == 0 else f"       {line}" for i, line in enumerate(shown)), file=sys.stderr)
    return code


def numbers(name: str, texts: Sequence[str], kind: type) -> tuple:
    """Comma-separated numbers of a list flag.

    >>> numbers("seeds", ["42", "43"], int)
    (42, 43)
    """
    from tff_hospitals.foundations.validation import Problem

    found, problems = [], []
    for text in texts:
        try:
            found.append(kind(text))
        except ValueError:
            problems.append(Problem(f"--{name}", text, f"must be numbers ({kind.__name__})", f"write --{name}=1,2"))
    if problems:
        raise InvalidInput(problems)
    return tuple(found)


def command_line() -> str:
    """How this process was started, with paths cut to the script's own name."""
    import shlex

    program = sys.argv[0].replace("\\", "/").split("/")
    name = "/".join(program[-2:]) if len(program) > 1 and program[-2] == "scripts" else program[-1]
    return "./run " + " ".join([name, *(shlex.quote(argument) for argument in sys.argv[1:])])
