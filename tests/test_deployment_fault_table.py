"""Each fault over each engine: the run goes on, nothing is lost, nothing counts twice, and every epsilon is right.

`benchmarks/deployment.py` counts the cells of this table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time

import numpy as np
import pytest
from fault_table import FAULTS, FAULTY, ROUND, SECURE_FAULTS, Case, Clock, Killed, until
from federations import BASE, Members
from test_deployment import flat
from test_deployment_engines import FLOWER, needs_flower

from tff_hospitals.deployment import federation
from tff_hospitals.deployment.body import Body, pack, unpack
from tff_hospitals.deployment.engines import Engine
from tff_hospitals.deployment.envelope import Kind, seal
from tff_hospitals.deployment.transport import DeploymentError
from tff_hospitals.deployment.worker import serve
from tff_hospitals.training.loop import train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow
PRIVATE = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2, "clip_norm": 0.5}
PLAN = BASE.replace(privacy=PRIVATE, evaluate_every=3, checkpoint_every=1)
SECURE = PLAN.replace(privacy={"secure_sum": True, "secure_sum_bound": 4.0})
ENGINES = ("loopback", "grpc", "flower")
OVER_FLOWER = ("nothing", "network cut", "all killed and restarted")


def cells(faults, fast=()):
    """Every fault over every engine; in the fast part those of some engines, and that nothing happens over gRPC.

    Over Flower, whose processes take seconds to begin, most are rare.
    """
    for name in faults:
        for engine in ENGINES:
            marks = [needs_flower] if engine == "flower" else []
            if engine not in fast and (name, engine) != ("nothing", "grpc"):
                marks.append(pytest.mark.rare if engine == "flower" and name not in OVER_FLOWER else pytest.mark.slow)
            yield pytest.param(name, engine, marks=marks, id=f"{name}-{engine}")


@contextlib.contextmanager
def shared(plan):
    """Members, the hospitals' programs, which all cases share, and the server's clock."""
    members, clock = Members(plan), Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "time", clock)
        yield members, {name: members.work(name) for name in members.dataset.ids}, clock


def simulations(members):
    """Runs of a simulation: with everybody, and without the faulty hospital's part of the round of the fault."""
    drawn, found = RoundDrawer.cohort, {}

    def without(self, number):
        return tuple(name for name in drawn(self, number) if (name, number) != (FAULTY, ROUND))

    with pytest.MonkeyPatch.context() as patch:
        for counts in (True, False):
            found[counts] = train(members.plan, members.dataset, model=members.parts.model)
            patch.setattr(RoundDrawer, "cohort", without)
    return found


@pytest.fixture(scope="module")
def first():
    with shared(PLAN) as made:
        yield made


@pytest.fixture(scope="module")
def simulated(first):
    return simulations(first[0])


@pytest.fixture(scope="module")
def secure():
    with shared(SECURE) as made:
        yield made


@pytest.fixture(scope="module")
def simulated_securely(secure):
    return simulations(secure[0])


def engine_of(name):
    return name if name == "loopback" else Engine(name, FLOWER if name == "flower" else None)


def check_weights_and_words(case, run, simulated):
    """Every part that counts is in the sum, and once: with one more or less, or one twice, there were other weights."""
    assert case.happened == case.gone
    wanted, fault = simulated[case.fault.counts], case.fault
    np.testing.assert_allclose(flat(run.weights), flat(wanted.weights), rtol=1e-5, atol=1e-6)
    assert np.abs(flat(simulated[True].weights) - flat(simulated[False].weights)).max() > 1e-3
    said = [text for text in run.summary["warnings"] if text.startswith(f"round {ROUND + 1}: {FAULTY}")]
    assert [text for text in said if fault.words in text] if fault.words else said == []
    assert bool(case.federation.rejected + case.transport.dropped) >= fault.rejects


@pytest.mark.parametrize(("name", "engine"), cells(FAULTS, fast=("loopback",)))
def test_a_fault_is_survived_and_nothing_is_lost_or_counted_twice(name, engine, first, simulated, tmp_path):
    case, members = Case(FAULTS[name], engine_of(engine), tmp_path, *first), first[0]
    run_dir = tmp_path / "run"

    def kill(progress):
        if progress.round == ROUND + 1:
            case.kill()
            raise Killed

    if name == "all killed and restarted":
        with case.workers(), pytest.raises(Killed):
            case.serve(run_dir, on_round=kill)
        case.start()
    with case.workers():
        if name == "server killed and restarted":
            with pytest.raises(Killed):
                case.serve(run_dir, on_round=kill)
            case.restart()
        if name == "too few hospitals":
            with pytest.raises(DeploymentError, match=r"round 2: fewer than 3 of 4 .* 3 attempts .*site_3 .*Remedy"):
                case.serve(run_dir)
            case.kill()
            case.over.set()
            case.restart()
        run = case.serve(run_dir)
    check_weights_and_words(case, run, simulated)
    # The server counts what a hospital may have spent, and each hospital has charged that, once.
    assert run.ledger == simulated[True].ledger
    for hospital, site in case.sites.items():
        charged = [entry["round"] for entry in site.journal.entries if entry["event"] == "charged"]
        assert charged == list(range(members.plan.rounds))
        assert site.ledger.epsilon == pytest.approx(run.ledger.epsilon("record", hospital, "rdp"), rel=1e-9)


@pytest.mark.parametrize(("name", "engine"), cells(SECURE_FAULTS))
def test_a_fault_is_survived_under_the_secure_sum(name, engine, secure, simulated_securely, tmp_path):
    case = Case(SECURE_FAULTS[name], engine_of(engine), tmp_path, *secure)
    with case.workers():
        run = case.serve(None)
    check_weights_and_words(case, run, simulated_securely)


def test_of_two_workers_of_one_hospital_the_later_one_stays_and_the_other_is_told(first, simulated, tmp_path):
    case = Case(FAULTS["nothing"], "loopback", tmp_path, *first)
    case.gone, (older, twin) = set(), (case.sites[FAULTY], case.another(FAULTY))
    stop = threading.Event()
    serving = threading.Thread(target=serve, args=(twin, lambda: case.dial(FAULTY)), kwargs={"stop": stop}, daemon=True)

    def heard():
        case.federation._take(time.monotonic() + 0.1 + case.clock.ahead, {}, {})
        return older.ended

    def begin(progress):
        if progress.round == 1:
            serving.start()
            until(heard)

    with case.workers():
        run = case.serve(None, on_round=begin)
        stop.set()
        serving.join(20)
    assert not serving.is_alive()
    np.testing.assert_allclose(flat(run.weights), flat(simulated[True].weights), rtol=1e-5, atol=1e-6)
    assert "two workers of this hospital run at once" in older.why
    assert older.journal.entries[-1]["event"] == "end"
    assert not twin.ended
    assert [entry["round"] for entry in twin.journal.entries if entry["event"] == "charged"] == [1, 2]


def test_what_breaks_at_the_server_is_told_as_it_is(first, tmp_path):
    """And not that it has no records, with which it looks for a layer that fails."""
    case = Case(FAULTS["nothing"], "loopback", tmp_path, *first)

    def broken(progress):
        case.federation.ask = None

    with case.workers(), pytest.raises(TypeError, match="NoneType"):
        case.serve(None, on_round=broken)


LIARS = ("site_1", FAULTY)  # of themselves; the second one of each round, too
LIES = [
    {"seconds": "long"},
    {"seconds": [1.0]},
    {"seconds": 10**400},
    {"seconds": -1.0},
    {"seconds": True},
    {"metrics": [0.0, 1.0]},
    {"metrics": ["a", None, None, None]},
    {"metrics": [10**400, 0, 0, 0]},
    {"metrics": {"loss": 0.1}},
]
ODD_METRICS = [{}, {"loss": 10**400}, {"loss": "low"}, {"\x1b[2J\ud800": 1.0}, [0.1], None]


def test_a_hospital_that_tells_nonsense_of_itself_ends_no_run(first, tmp_path):
    """Whole and signed, with the right update: what is told beside it is not believed either."""
    lies, odd = list(LIES), list(ODD_METRICS)

    class Liar:
        def __init__(self, case, line):
            self._case, self._line = case, line

        def send(self, message):
            sent = self._case.opened(message)
            content = unpack(sent.body)
            if sent.kind is Kind.ANSWER and sent.round < PLAN.rounds and sent.sender == FAULTY:
                content = Body({**content.fields, **lies.pop()}, content.sections)
            elif sent.kind is Kind.ANSWER and sent.round == PLAN.rounds:
                content = Body({**content.fields, "metrics": odd.pop()}, content.sections)
            key = self._case.members.keys[sent.sender]
            self._line.send(seal(dataclasses.replace(sent, body=pack(content.fields, content.sections)), key))

        def receive(self, seconds):
            return self._line.receive(seconds)

        def close(self):
            self._line.close()

    for number in range(3):
        case = Case(FAULTS["nothing"], "loopback", tmp_path / str(number), *first)
        case.gone, dial = set(), case.dial
        case.dial = lambda name, one=case, dial=dial: Liar(one, dial(name)) if name in LIARS else dial(name)
        with case.workers():
            run = case.serve(None)
        assert len([text for text in run.summary["warnings"] if FAULTY in text and "left out" in text]) == 3
        assert 0 <= run.summary["overhead_seconds_per_round"] < 10
        assert np.isfinite(flat(run.weights)).all()
        assert all(text.isprintable() for text in run.summary["warnings"])
    assert not lies + odd
