"""A hospital's side of a federation: read and approve the agreement, run the worker, check the journal.

    tff-hospitals hospital --folder=hospital --approve=agreement.json --budget=4
    tff-hospitals hospital --folder=hospital --data=tables --approve=agreement.json --max_total_epsilon=8
    tff-hospitals hospital --folder=hospital --data=tables --server=federation.example:8443
    tff-hospitals hospital --folder=hospital --verify_log

--approve shows in words what would be done, and asks before the agreement's digest is signed. The worker runs that
agreement and nothing else, charges what leaves before it leaves, and refuses what is beyond the budget. A file named
`pause` in the folder makes it wait; Ctrl-C makes it leave.
"""

from __future__ import annotations

import math
import os
import pathlib
import signal
import sys
import threading
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import federation_making

if TYPE_CHECKING:
    from tff_hospitals.deployment.agreement import Agreement
    from tff_hospitals.deployment.transport import Line
    from tff_hospitals.foundations.validation import Problem
    from tff_hospitals.hospitals import HospitalDataset

FLAGS = flags.FLAGS
_DIAL_SECONDS = 10.0
RED, PLAIN = "\033[31m", "\033[0m"


def define_flags() -> None:
    """Flags of one hospital."""
    flags.DEFINE_string("folder", ".", "this hospital's folder: keys, certificates, approval, journal")
    flags.DEFINE_string("data", None, "this hospital's own tables, or a folder with records.npz")
    flags.DEFINE_string("hospital", None, "this hospital's id, where its key does not say it")
    flags.DEFINE_string("approve", None, "agreement to read and to approve")
    flags.DEFINE_float("budget", None, "the largest epsilon that may be spent here under this agreement")
    flags.DEFINE_float(
        "max_total_epsilon", None, "the largest epsilon of everything that is ever released about --data together"
    )
    flags.DEFINE_bool("yes", False, "approve without being asked")
    flags.DEFINE_string("server", None, "host:port of the server: run the worker")
    flags.DEFINE_float("give_up_seconds", 3600.0, "end after so long without a connection")
    flags.DEFINE_bool("insecure", False, "without TLS, on the loopback interface only: for trying out")
    federation_making.define_engine_flags()
    flags.DEFINE_bool("verify_log", False, "check that the journal is whole, and show it")


def run() -> None:
    """Does what the flags name, in the order check, approve, work."""
    from tff_hospitals.foundations.validation import Problem, raise_if

    folder = pathlib.Path(FLAGS.folder)
    if not (FLAGS.verify_log or FLAGS.approve or FLAGS.server):
        remedy = "give --approve=AGREEMENT, --server=host:port or --verify_log"
        raise_if([Problem("hospital", "nothing", "was asked for", remedy)])
    if FLAGS.budget is not None and not FLAGS.approve:
        raise_if([Problem("--budget", FLAGS.budget, "is only used with --approve", "approve the agreement with it")])
    if FLAGS.max_total_epsilon is not None and not (FLAGS.approve and FLAGS.data):
        remedy = "approve the agreement with it, and name the records that it is about: --data"
        raise_if([Problem("--max_total_epsilon", FLAGS.max_total_epsilon, "needs --approve and --data", remedy)])
    if FLAGS.verify_log:
        _verify(folder)
    if FLAGS.approve:
        _approve(folder)
    if FLAGS.server:
        _work(folder)


def _verify(folder: pathlib.Path) -> None:
    from tff_hospitals.deployment import journal
    from tff_hospitals.foundations.files import RecordError

    paths = sorted(folder.glob(f"*/{journal.FILE_NAME}"))
    if not paths:
        raise RecordError(f"{folder} holds no journal. Remedy: name the --folder of a hospital that approved a plan.")
    for path in paths:
        found = journal.problems(path)
        if found:
            said = "; ".join(found[:5])
            raise RecordError(f"{path}: {said}. Remedy: restore it from a backup, and ask who changed it.")
    for path in paths:
        kept = journal.Journal(path)
        for entry in kept.entries:
            words = [f"{name} {value}" for name, value in entry.items() if name not in ("event", "time", "before")]
            print(f"{entry['time']}  {entry['event']:<9} {journal.printable(', '.join(words))[:160]}")
        whole = f"{len(kept.entries)} entries, whole; hash of the last one {kept.head[:32]}"
        print(f"federation {path.parent.name[:16]}: {whole}")


def _own(folder: pathlib.Path, agreement: Agreement) -> str:
    """This hospital's id: that of its key in the roster."""
    from tff_hospitals.deployment.founding import SIGNING_KEY
    from tff_hospitals.deployment.keys import SigningKey
    from tff_hospitals.foundations.validation import Problem, raise_if

    public = SigningKey.read(folder / SIGNING_KEY).public
    named = [name for name, key in agreement.hospital_keys.items() if key == public]
    if not named:
        remedy = "have the roster mended, or take the key that was given in"
        raise_if([Problem("signing key", public[:8] + "..", "is not in the agreement's roster", remedy)])
    if FLAGS.hospital not in (None, named[0]):
        bound = f"is another than {named[0]!r}, to whom this key belongs"
        raise_if([Problem("--hospital", FLAGS.hospital, bound, "drop it, or take that hospital's folder")])
    return named[0]


def _approve(folder: pathlib.Path) -> None:
    from tff_hospitals.deployment import approval
    from tff_hospitals.deployment.agreement import FILE_NAME, Agreement, no_records
    from tff_hospitals.deployment.founding import SIGNING_KEY
    from tff_hospitals.deployment.journal import journal_of
    from tff_hospitals.deployment.keys import SigningKey
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.hospitals import DataSecret

    agreement = Agreement.read(FLAGS.approve)
    own = _own(folder, agreement)
    dataset = agreement.dataset(DataSecret(bytes(32), True, None), no_records)
    print(approval.in_words(agreement, own, dataset))
    raise_if([*approval.problems(agreement, own, dataset, FLAGS.budget), *_together(agreement, own, dataset)])
    print(f"Budget: {'none' if FLAGS.budget is None else f'epsilon {FLAGS.budget:g}'}")
    if not FLAGS.yes:
        print(f"Approve agreement {agreement.digest.hex()[:16]} for {own}? Type yes: ", end="", flush=True)
        if sys.stdin.readline().strip() != "yes":
            raise_if([Problem("approval", "no", "nothing was approved or changed", "ask the federation")])
    approval.approve(
        folder, agreement, own, SigningKey.read(folder / SIGNING_KEY), FLAGS.budget, FLAGS.max_total_epsilon
    )
    agreement.write(folder / FILE_NAME)
    digest = agreement.digest.hex()
    limits = {"budget": FLAGS.budget, "together": FLAGS.max_total_epsilon}
    journal_of(folder, agreement).append("approved", hospital=own, agreement=digest, **limits)
    print(f"approved: {folder / approval.FILE_NAME}")


def _together(agreement: Agreement, own: str, dataset: HospitalDataset) -> list[Problem]:
    """Says what was released about these records before; why no more of it may be."""
    if not FLAGS.data:
        return []
    from tff_hospitals.deployment import approval, site_data
    from tff_hospitals.training.odometer import Odometer

    _, secret = site_data.read(FLAGS.data, own, agreement)
    odometer = Odometer(secret)
    for total in odometer.totals():
        print(
            f"Released about these records before, in {total.runs} runs: epsilon {total.epsilon:.4g} per {total.unit}"
        )
    limit = FLAGS.max_total_epsilon
    return [] if limit is None else odometer.problems(limit, approval.first_charge(agreement, own, dataset))


def _work(folder: pathlib.Path) -> None:
    from tff_hospitals.deployment import approval, site_data
    from tff_hospitals.deployment.agreement import FILE_NAME, Agreement
    from tff_hospitals.deployment.founding import SIGNING_KEY
    from tff_hospitals.deployment.journal import journal_of, printable
    from tff_hospitals.deployment.keys import SigningKey
    from tff_hospitals.deployment.transport import DeploymentError
    from tff_hospitals.foundations.validation import Problem, raise_if

    if not FLAGS.data:
        raise_if([Problem("--data", None, "must name this hospital's records", "write --data=FOLDER")])
    agreement, key = Agreement.read(folder / FILE_NAME), SigningKey.read(folder / SIGNING_KEY)
    own = _own(folder, agreement)
    limits = approval.read_limits(folder, agreement, own, key)
    if FLAGS.insecure:
        print(f"{RED}WITHOUT TLS: for trying out on this machine alone{PLAIN}", file=sys.stderr)
    hospital, secret = site_data.read(FLAGS.data, own, agreement)
    from tff_hospitals.deployment.site import Site
    from tff_hospitals.deployment.site_memory import SiteMemory
    from tff_hospitals.deployment.site_work import SiteWork
    from tff_hospitals.deployment.worker import serve

    state = folder / agreement.identity
    work = SiteWork(agreement, hospital, secret)
    site = Site(work, key, journal_of(folder, agreement), SiteMemory(state), limits)
    engine, stop = federation_making.engine(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tls = None if FLAGS.insecure else folder
    print(
        f"{own}: agreement {agreement.digest.hex()[:16]}, budget {_said(limits.budget)}, server {FLAGS.server}",
        flush=True,
    )

    def dial() -> Line:
        return engine.dial(tls, FLAGS.server, own, work.wire.most_bytes, _DIAL_SECONDS)

    serve(
        site,
        dial,
        give_up_seconds=FLAGS.give_up_seconds,
        stop=stop,
        paused=lambda: os.path.exists(folder / "pause"),
    )
    left = "the run is over" if site.ended and not site.why else "left"
    print(f"{own}: {left}; epsilon so far {_said(site.ledger.epsilon)}; journal {site.journal.head[:32]}", flush=True)
    if site.why:
        raise DeploymentError(f"{own} was sent away: {printable(site.why)}.")


def _said(epsilon: float) -> str:
    return f"{epsilon:.4g}" if math.isfinite(epsilon) else "without a limit"
