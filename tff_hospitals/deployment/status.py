"""The state of a running federation, for `tff-hospitals watch` and for collectors of metrics.

    federation.json    who is there, who refused and why, what is asked now, messages that did not count
    federation.prom    the same numbers in the text format of Prometheus (a node exporter's textfile collector)

Both are written anew every few seconds, whole or not at all. They hold no figure of a record; but no epsilon covers who
takes part and how long its answers take, so that those of a private run lie in `inside/` and are never published.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import files
from tff_hospitals.training.published_fields import INSIDE, leaves

if TYPE_CHECKING:
    from tff_hospitals.deployment.federation import Federation
    from tff_hospitals.plan.plan import Plan

FILE_NAME, METRICS_NAME = "federation.json", "federation.prom"
_EVERY_SECONDS = 2.0


def place(run_dir: pathlib.Path, plan: Plan) -> pathlib.Path:
    """The folder of both files in that of a run.

    >>> from tff_hospitals.plan.plan import Plan
    >>> place(pathlib.Path("run"), Plan().replace(privacy={"mechanism": "dp_sgd"})).as_posix()
    'run/inside'
    """
    return run_dir if all(leaves(plan)(name, "round") for name in (FILE_NAME, METRICS_NAME)) else run_dir / INSIDE


@contextlib.contextmanager
def kept(federation: Federation, folder: pathlib.Path, every_seconds: float = _EVERY_SECONDS) -> Iterator[None]:
    """Writes the state of a federation while the block runs, and once more at its end.

    Args:
      federation: to look at.
      folder: for both files, `place` of the run.
      every_seconds: between two looks.
    """
    over = threading.Event()

    def write(ended: bool) -> None:
        found = state(federation, ended)
        with contextlib.suppress(OSError), files.without_waiting():  # a view may miss a look; training goes on
            folder.mkdir(parents=True, exist_ok=True)
            files.write_json(folder / FILE_NAME, found)
            files.write_text(folder / METRICS_NAME, prometheus(found))

    def look() -> None:
        while not over.wait(every_seconds):
            write(False)

    write(False)
    thread = threading.Thread(target=look, daemon=True, name="status")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        write(True)


def state(federation: Federation, ended: bool = False) -> dict[str, Any]:
    """What is known of a federation now, as plain JSON types."""
    there, transport = set(federation.transport.present()), federation.transport
    kind, number = federation.asking
    now = time.monotonic()
    hospitals = {}
    for name in federation.agreement.ids:
        heard = federation.heard.get(name)
        hospitals[name] = {
            "present": name in there,
            "arrivals": federation.arrivals.get(name, 0),
            "heard_seconds_ago": None if heard is None else round(now - heard, 1),
            "waited_for": name in federation.waiting,
            "refused": federation.refusals.get(name, ""),
        }
    return {
        "federation": federation.agreement.federation,
        "engine": transport.engine,
        "ended": ended,
        "written": time.time(),
        "asking": kind,
        "round": number + 1,
        "rounds": int(federation.agreement.plan["rounds"]),
        "rejected": federation.rejected,
        "dropped": transport.dropped,
        "hospitals": hospitals,
    }


def prometheus(found: Mapping[str, Any]) -> str:
    """Numbers of `state` in the text format of Prometheus.

    >>> one = {"present": True, "arrivals": 2, "heard_seconds_ago": None, "waited_for": False, "refused": ""}
    >>> numbers = {"round": 3, "rounds": 5, "rejected": 0, "dropped": 0, "ended": False}
    >>> print(prometheus({"federation": "f", "hospitals": {'no"rth': one}, **numbers}).splitlines()[-1])
    tff_hospitals_arrivals_total{federation="f",hospital="no\\"rth"} 2
    """
    labels = f'federation="{_escaped(found["federation"])}"'
    lines = []
    for name, kind, field in (
        ("round", "gauge", "round"),
        ("rounds", "gauge", "rounds"),
        ("ended", "gauge", "ended"),
        ("messages_rejected_total", "counter", "rejected"),
        ("messages_dropped_total", "counter", "dropped"),
    ):
        lines += [f"# TYPE tff_hospitals_{name} {kind}", f"tff_hospitals_{name}{{{labels}}} {int(found[field])}"]
    for name, kind, field in (("present", "gauge", "present"), ("arrivals_total", "counter", "arrivals")):
        lines.append(f"# TYPE tff_hospitals_{name} {kind}")
        for hospital, one in found["hospitals"].items():
            lines.append(f'tff_hospitals_{name}{{{labels},hospital="{_escaped(hospital)}"}} {int(one[field])}')
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
