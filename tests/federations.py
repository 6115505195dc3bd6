"""Federations in this process for tests: toy hospitals, their keys, and workers in threads over an engine."""

from __future__ import annotations

import contextlib
import math
import threading

import toy

from tff_hospitals.deployment.agreement import Agreement
from tff_hospitals.deployment.approval import Limits
from tff_hospitals.deployment.federation import Federation
from tff_hospitals.deployment.journal import Journal
from tff_hospitals.deployment.keys import SigningKey
from tff_hospitals.deployment.loopback import Hub
from tff_hospitals.deployment.site import Site
from tff_hospitals.deployment.site_memory import SiteMemory
from tff_hospitals.deployment.site_work import SiteWork
from tff_hospitals.deployment.worker import serve
from tff_hospitals.hospitals import DataSecret
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

BASE = Plan(rounds=3, evaluate_every=1, seed=7).replace(
    data={"name": "toy"},
    client={"local_steps": 3, "batch_size": 5, "learning_rate": 0.1},
    model={"name": "logistic_regression"},
)


class Members:
    """Keys and agreement of toy hospitals.

    Args:
      plan: to be run.
      dataset: default the toy hospitals.
      test_mode: whether all noise follows from the data set's own key.
      settings: of the agreement.
    """

    def __init__(self, plan=BASE, dataset=None, test_mode=True, **settings):
        self.plan, self.dataset = plan, dataset or toy.hospitals((20, 13, 7, 11))
        self.server_key = SigningKey.generate()
        self.keys = {name: SigningKey.generate() for name in self.dataset.ids}
        public = {name: key.public for name, key in self.keys.items()}
        test_key = self.dataset.secret.key if test_mode else b""
        self.parts = None
        settings = {"deadline_seconds": 300.0, **settings}
        self.agreement = Agreement.make(
            "toy", plan, self.dataset, self.server_key.public, public, test_key=test_key, **settings
        )

    def work(self, name, kept=None):
        secret = DataSecret(name.encode().ljust(32, b"."), False, kept)
        made = SiteWork(self.agreement, self.dataset.hospital(name), secret, self.parts)
        self.parts = made.parts  # composed and compiled once for all of them
        return made

    def site(self, name, folder, budget=math.inf, work=None, together=None):
        journal = Journal(folder / name / "journal.jsonl")
        limits = Limits(budget, together)
        return Site(work or self.work(name), self.keys[name], journal, SiteMemory(folder / name), limits)

    def federation(self, transport, folder):
        return Federation(self.agreement, self.server_key, transport, Journal(folder / "server.jsonl"))


@contextlib.contextmanager
def running(members, folder, hub=None, sites=None, dial=None):
    """A federation whose hospitals answer in threads of their own."""
    sites = sites or {name: members.site(name, folder) for name in members.dataset.ids}
    hub = hub or Hub(next(iter(sites.values())).work.wire.most_bytes)
    federation = members.federation(hub, folder)
    federation.process = next(iter(sites.values())).work.parts.signature
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=serve, args=(site, (lambda one=name: (dial or hub.dial)(one))), kwargs={"stop": stop}, daemon=True
        )
        for name, site in sites.items()
    ]
    for thread in threads:
        thread.start()
    try:
        federation.wait_for(members.dataset.ids, 20, len(sites))
        yield federation, sites
    finally:
        federation.close()
        stop.set()
        for thread in threads:
            thread.join(10)


def train_deployed(members, federation, run_dir=None, **more):
    """The agreement's plan over a federation."""
    secret = DataSecret(b"server".ljust(32, b"."), False, None)
    from tff_hospitals.deployment.agreement import no_records

    dataset = members.agreement.dataset(secret, no_records)
    return train(
        members.agreement.the_plan(),
        dataset,
        run_dir=run_dir,
        model=members.parts.model,
        runtime="deployed",
        runtime_options={"federation": federation},
        **more,
    )
