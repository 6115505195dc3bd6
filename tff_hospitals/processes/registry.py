"""The halves of mechanisms that compute, by the mechanism's name.

>>> kinds = Registry("kind of sum")
>>> @kinds.register("plain")
... class Plain:
...     pass
>>> kinds["plain"] is Plain
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Part = TypeVar("Part")
Given = TypeVar("Given")


class Registry(Generic[Part]):
    """Parts by name; each is registered once, where it is written.

    Args:
      what: what the parts are, for messages.
    """

    def __init__(self, what: str):
        self._what = what
        self._parts: dict[str, Part] = {}

    def register(self, *names: str) -> Callable[[Given], Given]:
        """A decorator that makes a part known under one or more names.

        Raises:
          TypeError: when another part has the name.
        """

        def enter(part: Given) -> Given:
            for name in names:
                there = self._parts.get(name)
                if there is not None and _origin(there) != _origin(part):
                    raise TypeError(f"the {self._what} of {name!r} is {_origin(there)} already, not {_origin(part)}")
                self._parts[name] = part  # type: ignore[assignment]
            return part

        return enter

    def __getitem__(self, name: str) -> Part:
        """The part of that name.

        Raises:
          LookupError: when none is registered.
        """
        if name not in self._parts:
            raise LookupError(
                f"mechanism {name!r} has no {self._what}. Remedy: register it where the mechanism is registered."
            )
        return self._parts[name]

    def check(self, names: Iterable[str]) -> None:
        """Makes sure that every name has its part.

        Raises:
          TypeError: naming those that have none.
        """
        missing = [name for name in names if name not in self._parts]
        if missing:
            raise TypeError(f"no {self._what} is registered for {', '.join(missing)}")


def _origin(part: object) -> str:
    return f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', '')}"
