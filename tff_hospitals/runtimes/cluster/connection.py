"""Reaching a Ray cluster, or starting one on this machine alone; nothing here waits without a limit.

Ray is an optional package. Its usage reports are switched off, no dashboard is started, and a cluster that is started
here listens on the loopback interface only.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import tempfile
import threading
from typing import Any

from tff_hospitals.foundations.validation import Failure, InvalidInput, Problem

TIME_LIMIT_SECONDS = 120.0
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


class ClusterError(Failure):
    """The cluster, or a hospital on it, failed; the message names round, hospitals, cause and remedy."""


def import_ray(*, local: bool) -> Any:
    """The ray module, with its reports about usage switched off.

    Args:
      local: for a cluster on this machine alone; its processes then listen on the loopback interface only.

    Raises:
      InvalidInput: when it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if local:  # Ray's own switch for machines without a network; read when ray is imported
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        remedy = (
            "pip install 'tff_hospitals[cluster]', or in a checkout "
            ".venv/bin/python -m pip install --no-deps --require-hashes -r requirements-cluster.lock"
        )
        raise InvalidInput(
            [Problem("runtime", "cluster", "needs the package ray, which is missing", remedy)]
        ) from error
    return ray


class Connection:
    """A connection to a cluster; `close` ends what was started here and nothing else.

    Args:
      address: `host:port` of a running cluster; None starts one on this machine.
      time_limit_seconds: after which a cluster that does not answer is given up.

    Raises:
      ClusterError: no answer within the limit.
      InvalidInput: ray is missing, or the address has no port.
    """

    def __init__(self, address: str | None = None, time_limit_seconds: float = TIME_LIMIT_SECONDS):
        self.address, self.limit = address, time_limit_seconds
        host = None if address is None else _host_and_port(address)
        self.ray = import_ray(local=address is None or (host is not None and host[0] in ("127.0.0.1", "localhost")))
        self._folder: str | None = None
        self._ours = not self.ray.is_initialized()
        if not self._ours:
            return
        if host is None:
            self._start()
        else:
            self._connect(host)

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray_")
        atexit.register(self.close)
        # In this thread, because what Ray starts ends with the thread that starts it; Ray has limits of its own here.
        try:
            self.ray.init(
                address="local",
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                _temp_dir=self._folder,
                **_QUIET,
            )
        except (RuntimeError, OSError, self.ray.exceptions.RayError) as error:
            raise self._no_answer(f"{type(error).__name__}: {error}") from error

    def _connect(self, host: tuple[str, int]) -> None:
        """Asks for a connection first: Ray itself retries a silent address for minutes."""
        try:
            socket.create_connection(host, timeout=self.limit).close()
        except OSError as error:
            raise self._no_answer(str(error)) from error
        failed: list[BaseException] = []

        def attempt() -> None:
            try:
                self.ray.init(address=self.address, **_QUIET)
            except BaseException as error:  # Ray also leaves by SystemExit
                failed.append(error)

        # Another thread, because ray.init has no limit that could be set.
        thread = threading.Thread(target=attempt, daemon=True, name="ray.init")
        thread.start()
        thread.join(self.limit)
        if thread.is_alive():
            raise self._no_answer("something listens there, but did not answer as Ray")
        if failed:
            raise self._no_answer(f"{type(failed[0]).__name__}: {failed[0]}") from failed[0]

    def _no_answer(self, cause: str) -> ClusterError:
        what = "a cluster on this machine" if self.address is None else f"--cluster_address={self.address}"
        return ClusterError(
            f"{what} did not answer within {self.limit:g} s ({cause.splitlines()[0][:200] if cause else 'silence'}). "
            "Remedy: check the address (host:port of `ray start --head`) and that Ray and Python have the same "
            "versions there; raise --cluster_time_limit_seconds, or leave --cluster_address out to use this machine."
        )

    @property
    def processors(self) -> int:
        """Processors of the machines that are alive."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What Ray raises when a task or a machine fails."""
        return (self.ray.exceptions.RayError,)

    def close(self) -> None:
        """Ends a cluster that was started here, or leaves the one that was joined."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        problem = Problem("cluster_address", address, "must be host:port", "write --cluster_address=10.0.0.5:6379")
        raise InvalidInput([problem])
    return host.strip("[]"), int(port)
