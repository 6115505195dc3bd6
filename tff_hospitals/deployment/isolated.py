"""Starts a program that sees one of several folders only: a small program of its own, standard library alone.

    python -I -S isolated.py --parent PID --own OWN --view VIEW --hide ALL... -- program arguments

In a mount namespace of its own, OWN appears at VIEW and every folder after --hide is empty. The program is killed when
its parent ends, whichever way. Where the system allows no namespace it is started all the same, and told so by
TFF_HOSPITALS_ISOLATED=0 in its environment.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter_namespace() -> None:
    """A mount namespace of its own.

    Raises:
      OSError: where the system refuses.
    """
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(_CLONE_NEWNS) != 0:  # allowed for root alone; others need a user namespace around it
        _checked(_LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    encoded = None if kind is None else kind.encode()
    _checked(_LIBC.mount(os.fsencode(source), os.fsencode(target), encoded, ctypes.c_ulong(flags), None))


def _checked(code: int) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """Isolates this process and becomes the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--own", required=True)
    parser.add_argument("--view", required=True)
    parser.add_argument("--hide", nargs="*", default=[])
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    place = given.own
    try:
        enter_namespace()
        _mount(given.own, given.view, None, _MS_BIND)
        for folder in given.hide:
            _mount("tmpfs", folder, "tmpfs", 0)
        place = given.view
        os.environ["TFF_HOSPITALS_ISOLATED"] = "1"
    except OSError:
        os.environ["TFF_HOSPITALS_ISOLATED"] = "0"
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != given.parent:
        sys.exit("the starter has ended")
    program = [one.replace("{folder}", place) for one in given.program if one != "--"]
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
