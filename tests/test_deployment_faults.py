"""What goes wrong between hospitals: each fault is survived, nothing counts twice, and accounts stay right."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from federations import BASE, Members, running, train_deployed
from test_deployment import flat

from tff_hospitals.deployment import certificates, founding, grpc_engine, secure_sum
from tff_hospitals.deployment.body import pack, unpack
from tff_hospitals.deployment.certificates import Authority
from tff_hospitals.deployment.envelope import Kind, Rejected
from tff_hospitals.deployment.keys import SigningKey
from tff_hospitals.deployment.loopback import Hub
from tff_hospitals.deployment.transport import DeploymentError, LineClosed
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
PRIVATE = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2, "clip_norm": 0.5}


class Bad:
    """A line on which answers go wrong: `fault(number of the answer, bytes)` gives what is sent instead."""

    def __init__(self, line, fault):
        self._line, self._fault, self._count = line, fault, 0

    def send(self, message):
        self._count += 1
        for one in self._fault(self._count, message):
            self._line.send(one)

    def receive(self, seconds):
        return self._line.receive(seconds)

    def close(self):
        self._line.close()


FAULTS = {
    "duplicate": lambda count, message: [message, message],
    "out of order and late": lambda count, message: [message[:40], message],
    "oversized": lambda count, message: [bytes(10_000_000), message],
    "cut": lambda count, message: [message[:-1], message],
}


@pytest.fixture(scope="module")
def members():
    return Members(BASE.replace(privacy=PRIVATE), deadline_seconds=60.0)


@pytest.fixture(scope="module")
def simulated(members):
    members.work("site_0")
    return train(members.plan, members.dataset, model=members.parts.model)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_comes_beside_an_answer_changes_nothing(members, simulated, fault, tmp_path):
    hub = Hub(members.work("site_0").wire.most_bytes)

    def dial(name):
        line = hub.dial(name)
        return Bad(line, FAULTS[fault]) if name == "site_1" else line

    with running(members, tmp_path, hub, dial=dial) as (federation, sites):
        run = train_deployed(members, federation)
    np.testing.assert_allclose(flat(run.weights), flat(simulated.weights), rtol=1e-5, atol=1e-6)
    assert federation.rejected + hub.dropped > 0
    assert run.ledger == simulated.ledger
    assert sites["site_1"].ledger.epsilon == pytest.approx(run.ledger.epsilon("record", "site_1", "rdp"))


def test_a_dead_hospital_is_left_out_and_one_that_comes_back_is_asked_again(members, tmp_path):
    hub = Hub(members.work("site_0").wire.most_bytes)
    lost = threading.Event()

    def fault(count, message):
        if count == 3 and not lost.is_set():  # after its first rounds: the line is cut instead of the answer
            lost.set()
            raise LineClosed("cut")
        return [message]

    def dial(name):
        return Bad(hub.dial(name), fault) if name == "site_2" else hub.dial(name)

    with running(members, tmp_path, hub, dial=dial) as (federation, sites):
        run = train_deployed(members, federation)
    assert lost.is_set()
    assert federation.arrivals["site_2"] == 2
    assert not [text for text in run.summary["warnings"] if "left out" in text]
    # It had charged the round that was cut: asked again, it sent the same bits, and charged nothing more.
    assert sites["site_2"].ledger.epsilon == pytest.approx(run.ledger.epsilon("record", "site_2", "rdp"))


def test_below_the_fewest_hospitals_a_round_is_repeated_and_then_given_up(members, tmp_path):
    few = Members(BASE.replace(privacy=PRIVATE), deadline_seconds=1.0, fewest_hospitals=4)
    few.parts = members.parts
    hub = Hub(few.work("site_0").wire.most_bytes)

    def dial(name):
        silent = Bad(hub.dial(name), lambda count, message: [message] if count == 1 else [])
        return silent if name == "site_3" else hub.dial(name)

    with running(few, tmp_path, hub, dial=dial) as (federation, sites):
        with pytest.raises(DeploymentError, match=r"round 1: fewer than 4 of 4 .* 3 attempts .*site_3 did not answer"):
            train_deployed(few, federation)
        charged = [entry for entry in sites["site_0"].journal.entries if entry["event"] == "charged"]
        assert len(charged) == 1  # three times asked, one release


def test_a_server_that_is_started_again_goes_on_and_nothing_is_charged_twice(members, simulated, tmp_path):
    plan = members.plan.replace(checkpoint_every=1)
    again = Members(plan, deadline_seconds=60.0)
    again.parts = members.parts

    class Killed(RuntimeError):
        pass

    def kill(progress):
        if progress.round == 2:
            raise Killed

    sites = {name: again.site(name, tmp_path) for name in again.dataset.ids}
    with running(again, tmp_path / "first", sites=sites) as (federation, _), pytest.raises(Killed):
        train_deployed(again, federation, tmp_path / "run", on_round=kill)
    sites = {name: again.site(name, tmp_path) for name in again.dataset.ids}
    with running(again, tmp_path / "second", sites=sites) as (federation, _):
        run = train_deployed(again, federation, tmp_path / "run")
    np.testing.assert_allclose(flat(run.weights), flat(simulated.weights), rtol=1e-5, atol=1e-6)
    for name, site in sites.items():
        assert site.ledger.epsilon == pytest.approx(run.ledger.epsilon("record", name, "rdp"))


# -- gRPC ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    founding.found(folder, members.plan, members.dataset)
    return folder


def place(folders, name):
    return founding.folder_of(folders, name)


def listening(folders, members, most_bytes=1_000_000):
    return grpc_engine.GrpcServer(place(folders, "server"), "127.0.0.1:0", members.dataset.ids, most_bytes)


def test_the_same_over_grpc_with_mutual_tls(members, simulated, folders, tmp_path):
    most = members.work("site_0").wire.most_bytes
    server = listening(folders, members, most)

    def dial(name):
        return grpc_engine.GrpcLine(place(folders, name), server.address, name, most, 20)

    with running(members, tmp_path, server, dial=dial) as (federation, _):
        run = train_deployed(members, federation)
    np.testing.assert_allclose(flat(run.weights), flat(simulated.weights), rtol=1e-5, atol=1e-6)
    assert run.summary["engine"] == "grpc"
    assert federation.rejected == 0


def test_a_stranger_with_the_authority_s_certificate_only_reaches_nothing(members, folders, tmp_path):
    server = listening(folders, members)
    stranger = tmp_path / "stranger"
    Authority("strangers").write_hospital(stranger, "site_0")
    (stranger / "ca.crt").write_bytes((place(folders, "site_0") / "ca.crt").read_bytes())
    try:
        with pytest.raises(LineClosed, match="could not be reached"):
            grpc_engine.GrpcLine(stranger, server.address, "site_0", 1000, 2)
        line = grpc_engine.GrpcLine(place(folders, "site_0"), server.address, "site_0", 1_000_000, 20)
        line.send(b"of the right one")
        assert server.collect(10) == ("site_0", b"of the right one")
        line.send(bytes(3_000_000))  # beyond the bound: gRPC ends the stream, the server lives
        end = time.monotonic() + 10
        while server.present() and time.monotonic() < end:
            time.sleep(0.05)
        assert server.present() == ()
        line.close()
        back = grpc_engine.GrpcLine(place(folders, "site_0"), server.address, "site_0", 1_000_000, 20)
        back.send(b"again")
        assert server.collect(10) == ("site_0", b"again")
        back.close()
    finally:
        server.close()


def test_what_cannot_listen_says_why(members, folders, tmp_path):
    server = listening(folders, members)
    try:
        with pytest.raises(InvalidInput, match="is it in use"):
            grpc_engine.GrpcServer(place(folders, "server"), server.address, ("a",), 1000)
    finally:
        server.close()
    with pytest.raises(InvalidInput, match="nothing runs there without TLS"):
        grpc_engine.GrpcServer(None, "0.0.0.0:0", ("a",), 1000)
    Authority("old", days=-0.001).write_server(tmp_path / "old", ["localhost"])
    with pytest.raises(InvalidInput, match=r"expired .* Remedy: have it renewed"):
        grpc_engine.GrpcServer(tmp_path / "old", "127.0.0.1:0", ("a",), 1000)
    assert certificates.problems(place(folders, "server") / "tls.crt") == []


# -- the secure sum ----------------------------------------------------------------


def test_a_hospital_opens_one_sum_of_a_round_and_none_with_too_little_noise(tmp_path):
    noise = {**PRIVATE, "mechanism": "discrete_gaussian", "noise_multiplier": 0.3}
    members = Members(BASE.replace(privacy=noise, weighting="equal"))
    asked = []
    with running(members, tmp_path) as (federation, sites):
        original = federation.ask

        def ask(kind, number, bodies, **more):
            answers = original(kind, number, bodies, **more)
            if kind is Kind.UNMASK:
                content = unpack(bodies["site_0"])
                fewer = pack({"survivors": ["site_0", "site_1", "site_2"]}, content.sections)
                asked.append(original(kind, number, {"site_0": bodies["site_0"]}).missing["site_0"])
                asked.append(original(kind, number, {"site_0": fewer}).missing["site_0"])
            return answers

        federation.ask = ask
        train_deployed(members, federation)
        opened = [entry for entry in sites["site_0"].journal.entries if entry["event"] == "unmasked"]
    assert len(opened) == members.plan.rounds
    assert all("opened already" in why for why in asked[::2])
    assert all("another sum of this round was opened already" in why for why in asked[1::2])


def test_a_round_whose_noise_would_be_too_little_is_not_opened(tmp_path):
    noise = {**PRIVATE, "mechanism": "discrete_gaussian", "noise_multiplier": 0.3}
    members = Members(BASE.replace(privacy=noise, weighting="equal"))
    refused = []
    with running(members, tmp_path) as (federation, _):
        original = federation.ask

        def ask(kind, number, bodies, **more):
            if kind is Kind.UNMASK:
                fewer = pack({"survivors": ["site_0", "site_1", "site_2"]}, unpack(bodies["site_0"]).sections)
                refused.append(original(kind, number, {"site_0": fewer}).missing["site_0"])
            return original(kind, number, bodies, **more)

        federation.ask = ask
        train_deployed(members, federation)
    assert len(refused) == members.plan.rounds
    assert all("the noise is planned for 4 hospitals, and 3 would be in the sum" in why for why in refused)


def sum_of(count, dropped, length=50, threshold=None):
    signing = {f"h{number}": SigningKey.generate() for number in range(count)}
    roster = {name: key.public for name, key in signing.items()}
    threshold = threshold or 2 * count // 3 + 1
    members = {name: secure_sum.Member(name, key, b"s", roster, threshold) for name, key in signing.items()}
    numbers = {
        name: np.random.default_rng(place).integers(0, 2**32, length, np.uint32) for place, name in enumerate(roster)
    }
    statements = {name: member.statement() for name, member in members.items()}
    boxes = {name: member.shares(statements) for name, member in members.items()}

    def masked(name):
        return members[name].masked(numbers[name], {o: found[name] for o, found in boxes.items() if o != name})

    sent = {name: masked(name) for name in list(members)[dropped:]}
    return members, numbers, statements, sent, threshold


@pytest.mark.parametrize(("count", "dropped"), [(3, 0), (4, 0), (4, 1), (10, 3)])
def test_a_secure_sum_is_exact_whoever_is_lost(count, dropped):
    members, numbers, statements, sent, threshold = sum_of(count, dropped)
    given = {name: members[name].unmask(sent) for name in sent}
    total = secure_sum.open_sum(sent, given, statements, b"s", threshold)
    expected = np.sum([numbers[name] for name in sent], axis=0, dtype=np.uint32)
    assert total.tolist() == expected.tolist()
    for name, words in sent.items():  # what the server saw of each looks like nothing
        assert np.mean(words == numbers[name]) < 0.1


def test_a_member_gives_no_second_share_and_helps_no_sum_of_too_few():
    members, _, _, sent, _ = sum_of(4, 0)
    one = members["h0"]
    with pytest.raises(Rejected, match="2 survivors"):
        one.unmask(["h0", "h1"])
    with pytest.raises(Rejected, match="not members"):
        one.unmask(["h1", "h2", "h3"])
    with pytest.raises(Rejected, match="not members"):
        one.unmask([*sent, "stranger"])
    first = one.unmask(["h0", "h1", "h2"])
    assert set(first) == {"h0", "h1", "h2", "h3"}
    with pytest.raises(Rejected, match="opened already"):
        one.unmask(sent)


def test_keys_that_somebody_else_signed_are_refused():
    signing = {name: SigningKey.generate() for name in ("a", "b", "c")}
    roster = {name: key.public for name, key in signing.items()}
    made = {name: secure_sum.Member(name, key, b"s", roster, 3) for name, key in signing.items()}
    statements = {name: member.statement() for name, member in made.items()}
    other = secure_sum.Member("b", SigningKey.generate(), b"s", roster, 3).statement()
    with pytest.raises(Rejected, match="not signed by 'b'"):
        made["a"].shares({**statements, "b": other})
    older = secure_sum.Member("b", signing["b"], b"another session", roster, 3).statement()
    with pytest.raises(Rejected, match="for this session"):
        made["a"].shares({**statements, "b": older})
    with pytest.raises(Rejected, match="not in the roster"):
        made["a"].shares({**statements, "stranger": other})
    boxes = {name: member.shares(statements) for name, member in made.items()}
    cut = bytearray(boxes["b"]["a"])
    cut[20] ^= 1
    with pytest.raises(Rejected, match="changed on the way"):
        made["a"].masked(np.zeros(3, np.uint32), {"b": bytes(cut), "c": boxes["c"]["a"]})
