"""The engines that can carry messages between machines, by name."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from tff_hospitals.foundations.own_environment import Unusable
from tff_hospitals.foundations.validation import Failure, one_of, raise_if

if TYPE_CHECKING:
    from tff_hospitals.deployment.transport import Line, Transport

ENGINES = ("grpc", "flower")


@dataclasses.dataclass(frozen=True)
class Engine:
    """One of them, ready to be used.

    Attributes:
      name: of it.
      python: of Flower's environment; None for gRPC, which needs none.
    """

    name: str
    python: pathlib.Path | None = None

    def listen(self, folder: pathlib.Path | None, address: str, hospitals: tuple[str, ...], most: int) -> Transport:
        """The server's end: see `GrpcServer`, `FlowerServer`."""
        if self.python is None:
            from tff_hospitals.deployment.grpc_engine import GrpcServer

            return GrpcServer(folder, address, hospitals, most)
        from tff_hospitals.deployment.flower_engine import FlowerServer

        return FlowerServer(self.python, folder, address, hospitals, most)

    def dial(self, folder: pathlib.Path | None, address: str, hospital: str, most: int, seconds: float) -> Line:
        """A hospital's end: see `GrpcLine`, `FlowerLine`."""
        if self.python is None:
            from tff_hospitals.deployment.grpc_engine import GrpcLine

            return GrpcLine(folder, address, hospital, most, seconds)
        from tff_hospitals.deployment.flower_engine import FlowerLine

        return FlowerLine(self.python, folder, address, hospital, most, seconds)


def engine(name: str, environments: pathlib.Path | None = None) -> Engine:
    """An engine; Flower's environment is made if it is not there.

    Args:
      name: of it.
      environments: folder of Flower's environment; None: the usual one.

    Raises:
      InvalidInput: there is no such engine.
      Failure: Flower's environment cannot be made; it says what the installer said, and what to do.
    """
    raise_if([one_of("engine", name, ENGINES)])
    if name == "grpc":
        return Engine(name)
    from tff_hospitals.deployment import flower_environment

    try:
        return Engine(name, flower_environment.prepare(environments))
    except Unusable as error:
        raise Failure(f"{error}; or take --engine=grpc, which needs no other environment.") from error
