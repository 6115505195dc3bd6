"""What every command does around its work: flags and their help, quiet start, one-screen errors, exit codes.

Exit codes: 0 done; 1 training, a file or a promise that is audited failed; 2 the input was refused before any training;
3 nothing or too little of a promise could be tested; 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Sequence

from absl import flags
from absl import logging as _verbosity_is_its_flag  # noqa: F401

from tff_hospitals.foundations import extensions, quiet
from tff_hospitals.foundations.files import DataError
from tff_hospitals.foundations.validation import Failure, InvalidInput, Problem, raise_if

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
HELP = ("-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull", "-?", "--?")
FLAGS = flags.FLAGS
_LONGEST_ERROR, _WIDEST_LINE = 20, 1000  # lines, characters
_WANTED = {"int": ("a whole number", "3"), "float": ("a number", "0.5"), "bool": ("true or false", "true")}
_KINDS = {"comma separated list of strings": "a,b,..", "multi string": "string"}


def main() -> None:
    """Runs the program's own module as a command and ends the process with its exit code: for programs of one file."""
    sys.exit(run(sys.modules["__main__"], sys.argv))


def run(command: types.ModuleType, argv: Sequence[str]) -> int:
    """Parses flags and runs a command; errors that a user can mend are printed without a traceback.

    Args:
      command: a module with `define_flags()` and `run()`, whose docstring is its help. `run` imports TensorFlow itself,
        so that `--help` need not.
      argv: the command line, the program's name first.

    Returns:
      The exit code.
    """
    # Not absl's `app.run`: when TensorFlow is first imported inside it, its stack of eager contexts stays empty, and
    # Keras builds models from graph placeholders.
    others = set(FLAGS)
    FLAGS.set_default("verbosity", 0)
    try:
        command.define_flags()
        flags.DEFINE_multi_string(
            "extension",
            [],
            "package.module of your own that registers a mechanism, method, encoder, column or data set",
        )
        own = [name for name in FLAGS if name not in others]
        if any(one in HELP for one in argv[1:]):
            return _show(help_text(command.__doc__ or "", own))
        try:
            rest = FLAGS(list(argv))
        except flags.Error as error:
            return say(_of_flag(error), REFUSED)
        quiet.be_quiet(max(0, FLAGS.verbosity))
        quiet.one_thread_per_operation()
        quiet.load_faster()
        return _guarded(command.run, rest)
    finally:  # a process may run several commands, one after the other
        for name in set(FLAGS) - others:
            delattr(FLAGS, name)


def _of_flag(error: flags.Error) -> str:
    """What is wrong with a flag; a value of another kind in our words and not in Python's."""
    found = re.match(r"flag --(?P<name>\w+)=(?P<value>.*?): (invalid|could not|\('Non-bool)", str(error), re.DOTALL)
    kind = _WANTED.get(FLAGS[found["name"]].flag_type()) if found and found["name"] in FLAGS else None
    if found is None or kind is None:
        return f"{error} Remedy: see --help."
    words, example = kind
    return str(Problem(f"--{found['name']}", found["value"], f"must be {words}", f"write --{found['name']}={example}"))


def _guarded(main: Callable[[], None], rest: Sequence[str]) -> int:
    """Runs `main`; what a user can mend is said in a few lines and an exit code."""
    if len(rest) > 1:
        return say(f"{rest[1]!r} is not a flag: options start with --. Remedy: see --help.", REFUSED)
    try:
        extensions.load(FLAGS.extension)
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except (InvalidInput, DataError) as error:
        return say(str(error), REFUSED)
    except BrokenPipeError:  # whoever read our output has gone, as in `| head`
        return _without_reader(FAILED)
    except (Failure, OSError) as error:
        return say(str(error), FAILED)
    except MemoryError as error:
        return say(f"not enough memory ({error}). Remedy: take a smaller model or batch.", FAILED)
    except KeyboardInterrupt:
        return say("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)
    return 0


def help_text(about: str, names: Iterable[str]) -> str:
    """What --help prints: what the command does, and each of its flags with kind, words and default.

    Args:
      about: the command's docstring.
      names: its flags.
    """
    lines = [about.strip(), "", "flags:"]
    for name in names:
        flag = FLAGS[name]
        kind = _KINDS.get(flag.flag_type(), flag.flag_type())
        default = "" if flag.default in (None, [], "") else f" (default: {flag.default_as_str})"
        lines.append(f"  --[no]{name}" if flag.boolean else f"  --{name}={kind}")
        lines.append(textwrap.indent(textwrap.fill(" ".join(flag.help.split()) + default, 94), " " * 6))
    return "\n".join(lines)


def _show(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `--help | head`
        return _without_reader(0)
    return 0


def _without_reader(code: int) -> int:
    """Gives what is still unprinted nowhere to go, so that Python does not complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def say(text: str, code: int) -> int:
    """Prints an error in at most one screen; returns `code`."""
    lines = [line[:_WIDEST_LINE] for line in text.splitlines()] or ["no reason was given"]
    shown = lines[:_LONGEST_ERROR]
    shown += [f"... and {len(lines) - _LONGEST_ERROR} more"] if len(lines) > _LONGEST_ERROR else []
    print("\n".join(f"error: {line}" if i == 0 else f"       {line}" for i, line in enumerate(shown)), file=sys.stderr)
    return code


def need_run_dir() -> None:
    """Refuses a command line without --run_dir."""
    if not FLAGS.run_dir:
        raise_if([Problem("--run_dir", None, "must name a folder", "write --run_dir=runs/first")])


def numbers(name: str, texts: Sequence[str], kind: type) -> tuple:
    """Comma-separated numbers of a list flag.

    >>> numbers("seeds", ["42", "43"], int)
    (42, 43)
    """
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
    if program[-1].startswith("tff-hospitals"):
        name = program[-1]
    elif program[-1] == "__main__.py":
        name = "./run -m tff_hospitals"
    else:
        name = "./run " + "/".join(program[-2:] if program[-2:-1] == ["scripts"] else program[-1:])
    return " ".join([name, *(shlex.quote(argument) for argument in sys.argv[1:])])
