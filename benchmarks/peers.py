"""Seconds per round of other federated learning libraries on the same work as our compiled runtime.

    ./run benchmarks/peers.py --peers=fedjax,pfl,flower --json=FILE

The work: an MLP 784-200-10, 200 records per site, one epoch of shuffled batches of 20, SGD at rate 0.1, the mean of
all sites, float32; same records and same first weights. Each library has an environment of its own, which is made on
first use from the package index (`peers_environments.py`, which lists the versions). It is measured in turn with our
compiled runtime, and the training loss after five rounds must agree with ours: else it was not the same work.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import paired
import peers_environments
from absl import flags
from peers_environments import Unusable

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import Problem, one_of, raise_if

ROWS = pathlib.Path(__file__).resolve().parent / "peers_rows.py"
FOLDER = ROWS.parent.parent / ".peers"
# Relative. Other orders of the records move the loss by a standard deviation of 0.17 % with 10 sites, a rate of 0.09
# instead of 0.1 by 9 % with 10 sites and by 1.6 % with 100.
LOSS_TOLERANCE = 0.01
FLAGS = flags.FLAGS


class Row:
    """One library at work in its own process: `first_round_s` after its start, `loss` after five rounds."""

    def __init__(self, python: str, name: str, sites: int, **environment: str):
        self._name = name
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # as long as the row lives
        started = time.perf_counter()
        self.child = paired.Child([python, str(ROWS), name, str(sites)], self._log, **environment)
        try:
            self.child.wait()
            self.first_round_s = time.perf_counter() - started
            self.loss = float(self.child.wait())
        except (RuntimeError, ValueError) as error:
            failed = self.failed(error)
            self.close()
            raise failed from error

    def failed(self, error: Exception) -> Unusable:
        """What to tell the user when the process ended early."""
        self._log.seek(0)
        lines = [line.rstrip() for line in self._log if line.strip()]
        said = "\n".join(f"  | {line}" for line in lines[-4:])
        remedy = "see the lines above; if a package is broken, remove its environment and start again"
        return Unusable(f"{self._name}: the measurement failed: {error}\n{said}", remedy)

    def close(self) -> None:
        """Ends the process."""
        self.child.close()
        self._log.close()


def same_loss(ours: float, theirs: float) -> bool:
    """Whether two training losses are those of the same work."""
    return abs(theirs - ours) <= LOSS_TOLERANCE * abs(ours)


def measure(peer: str, python: str, sites: int, turns: int) -> dict[str, Any]:
    """Figures of a peer beside ours, for one number of sites.

    Raises:
      Unusable: one of the two processes failed.
    """
    rows: dict[str, Row] = {}
    try:
        rows["compiled"] = Row(sys.executable, "compiled", sites)
        rows[peer] = Row(python, peer, sites, PYTHONPATH="", PYTHONHOME="")
        try:
            seconds = paired.measure_in_turn({name: row.child for name, row in rows.items()}, turns)
        except (RuntimeError, OSError) as error:
            raise rows[peer].failed(error) from error
    finally:
        for row in rows.values():
            row.close()
    ours, theirs = rows["compiled"], rows[peer]
    return {
        f"{peer}_k{sites}_over_compiled": paired.ratio(seconds, peer, "compiled"),
        f"{peer}_k{sites}_s": statistics.median(seconds[peer]),
        f"{peer}_k{sites}_compiled_s": statistics.median(seconds["compiled"]),
        f"{peer}_k{sites}_first_round_s": theirs.first_round_s,
        f"{peer}_k{sites}_compiled_first_round_s": ours.first_round_s,
        f"{peer}_k{sites}_loss": theirs.loss,
        f"{peer}_k{sites}_compiled_loss": ours.loss,
        f"{peer}_k{sites}_same_loss": same_loss(ours.loss, theirs.loss),
    }


def table(figures: dict[str, Any], peers: Sequence[str], sites: Sequence[int]) -> str:
    """Markdown: a line per peer and number of sites that was measured, then the versions."""
    lines = [
        "| library | sites | s per round | compiled | ratio | start to first round, s | compiled | loss | compiled |",
        "|---" * 9 + "|",
    ]
    for peer in peers:
        for count in sites:
            key = f"{peer}_k{count}_"
            if f"{key}s" not in figures:
                continue
            cells = [f"{figures[f'{key}{name}']:.4g}" for name in ("s", "compiled_s", "over_compiled")]
            cells += [f"{figures[f'{key}{name}']:.1f}" for name in ("first_round_s", "compiled_first_round_s")]
            cells += [f"{figures[f'{key}{name}']:.4f}" for name in ("loss", "compiled_loss")]
            note = "" if figures[f"{key}same_loss"] else " (not the same work)"
            lines.append(f"| {peer} | {count} | " + " | ".join(cells) + f"{note} |")
    versions = [figures[f"{peer}_versions"] for peer in peers if f"{peer}_versions" in figures]
    return "\n".join([*lines, "", *versions])


def measure_all(
    peers: Sequence[str], sites: Sequence[int], folder: pathlib.Path, turns: int
) -> tuple[dict[str, Any], int]:
    """All figures, and 1 if something failed (what and its remedy are printed), else 0."""
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    code = 0
    for peer in peers:
        try:
            python = peers_environments.prepare(peer, folder)
            figures[f"{peer}_versions"] = peers_environments.main_versions(peer)
            for count in sites:
                found = measure(peer, str(python), count, turns)
                figures.update(found)
                if not found[f"{peer}_k{count}_same_loss"]:
                    theirs, ours = found[f"{peer}_k{count}_loss"], found[f"{peer}_k{count}_compiled_loss"]
                    raise Unusable(
                        f"{peer}: with {count} sites its training loss is {theirs:.4f}, ours {ours:.4f}; more than"
                        f" {LOSS_TOLERANCE:.0%} apart is not the same work",
                        "find the difference between its row and ours in peers_rows.py before its ratio is used",
                    )
        except Unusable as error:
            print(f"peers: {error}", file=sys.stderr, flush=True)
            code = 1
    figures["load_after"] = os.getloadavg()[0]
    return figures, code


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_list("peers", list(peers_environments.LIBRARIES), "libraries to measure")
    flags.DEFINE_list("sites", ["10", "100"], "numbers of sites")
    flags.DEFINE_integer("turns", 15, "measurements of each")
    flags.DEFINE_string(
        "environments",
        str(FOLDER),
        f"their folder; made on first use from the package index: {peers_environments.SIZES}",
    )
    flags.DEFINE_string("json", None, "file for the figures")


def chosen() -> tuple[list[str], list[int]]:
    """The libraries and the numbers of sites that the flags name, each once.

    Raises:
      InvalidInput: what makes no sense, all of it at once.
    """
    peers = list(dict.fromkeys(name.strip() for name in FLAGS.peers))
    sites = list(dict.fromkeys(command.numbers("sites", FLAGS.sites, int)))
    found = [one_of("--peers", name, peers_environments.LIBRARIES) for name in peers or [""]]
    if not sites or min(sites) < 2:  # Flower's FedAvg waits for two clients
        bound = "must be whole numbers of 2 or more"
        found.append(Problem("--sites", ",".join(FLAGS.sites), bound, "write --sites=10,100"))
    if FLAGS.turns < 1:
        found.append(Problem("--turns", FLAGS.turns, "must be >= 1", "measure once or more"))
    path = FLAGS.json
    if path and (not os.access(pathlib.Path(path).resolve().parent, os.W_OK) or os.path.isdir(path)):
        found.append(Problem("--json", path, "cannot be written", "name a file in a folder that exists"))
    raise_if(found)
    return peers, sites


def run() -> None:
    """Measures, prints and writes the figures; exits with 1 if something failed."""
    peers, sites = chosen()
    figures, code = measure_all(peers, sites, pathlib.Path(FLAGS.environments).resolve(), FLAGS.turns)
    if any(name.endswith("_over_compiled") for name in figures):
        print(table(figures, peers, sites))
    paired.write_json(FLAGS.json, figures)
    sys.exit(code)


if __name__ == "__main__":
    command.main()
