"""What a federation refuses: strangers, others' names, old messages, requests beyond what was approved, nonsense."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from federations import BASE, Members

from tff_hospitals.deployment import body, journal, wire
from tff_hospitals.deployment.envelope import REFUSALS, Envelope, Kind, seal, unseal
from tff_hospitals.deployment.federation import Federation
from tff_hospitals.deployment.keys import SigningKey
from tff_hospitals.deployment.loopback import Hub

pytestmark = pytest.mark.tensorflow
PRIVATE = BASE.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2, "clip_norm": 0.5})


@pytest.fixture(scope="module")
def members():
    made = Members(PRIVATE, test_mode=False)
    made.work_of = {name: made.work(name) for name in ("site_0", "site_1")}
    return made


@pytest.fixture
def site(members, tmp_path):
    return members.site("site_0", tmp_path, work=members.work_of["site_0"])


class Server:
    """Whoever holds the server's key, and may ask for anything."""

    def __init__(self, members, site):
        self.members, self.site, self.number = members, site, site._seen + 1

    def message(self, kind, number_of_round, content, key=None, **changes):
        self.number += 1
        one = self.members.agreement
        made = Envelope(kind, "server", one.identity_bytes, one.digest, number_of_round, self.number, 0, content)
        return seal(dataclasses.replace(made, **changes), key or self.members.server_key)

    def round(self, number_of_round=0, scale=0.0, **fields):
        link = self.site.work.wire
        weights = [np.full(shape, scale, np.float32) for shape in link.weights.shapes]
        sections = {
            "weights": body.tensors_to_bytes(weights),
            "parameters": link.parameters.pack(self.site.work.parts.blank_parameters()),
            "broadcast_key": wire.key_to_bytes(np.array([1, 2])),
            "upload_key": wire.key_to_bytes(np.array([3, 4])),
        }
        fields = {"cohort": list(self.members.dataset.ids), "form": "whole", **fields}
        return self.message(Kind.ROUND, number_of_round, body.pack(fields, sections))

    def ask(self, data):
        """(kind, body) of the answer, with the words that a refusal has in the journal alone; None without one."""
        answer = self.site.handle(data)
        if answer is None:
            return None
        one = self.members.agreement
        opened = unseal(answer, one.hospital_keys, one.identity_bytes, one.digest)
        content = body.unpack(opened.body)
        if opened.kind is Kind.REFUSAL:
            assert set(content.fields) == {"kind"}
            assert content.fields["kind"] in REFUSALS
            content = body.Body({**content.fields, "why": self.site.journal.entries[-1]["why"]}, {})
        return opened.kind, content


@pytest.fixture
def server(members, site):
    return Server(members, site)


def charges(site):
    return [entry for entry in site.journal.entries if entry["event"] == "charged"]


def why(answer):
    kind, content = answer
    assert kind is Kind.REFUSAL
    return content.fields["why"]


def test_an_approved_round_is_answered_and_charged_once_however_often_it_is_asked(server, site):
    kind, first = server.ask(server.round())
    assert kind is Kind.ANSWER
    assert len(charges(site)) == 1
    epsilon = site.ledger.epsilon
    assert 0 < epsilon < math.inf
    _, again = server.ask(server.round())
    assert again.sections == first.sections
    assert site.ledger.epsilon == epsilon
    assert "metrics" not in first.fields  # figures of training records have no event that covers them


def test_other_weights_in_a_round_have_other_noise_and_are_charged_again(server, site):
    _, first = server.ask(server.round())
    before = site.ledger.epsilon
    _, other = server.ask(server.round(scale=1e-30))
    assert len(charges(site)) == 2
    assert site.ledger.epsilon > before
    link = site.work.wire.contribution
    one, two = (link.unpack(found.sections["contribution"]) for found in (first, other))
    # The same weights but for 1e-30: what differs is the noise, and the batches.
    assert np.abs(one["delta"][0] - two["delta"][0]).max() > 1e-3


def test_a_round_with_many_contents_is_probing(server):
    answers = [server.ask(server.round(scale=scale / 10))[0] for scale in range(6)]
    assert answers == [Kind.ANSWER] * 4 + [Kind.REFUSAL] * 2


def test_nothing_beyond_the_budget_leaves(members, server, site, tmp_path):
    server.ask(server.round(0))
    first = site.ledger.epsilon
    poor = members.site("site_0", tmp_path / "poor", first * 1.0001, work=site.work)
    asking = Server(members, poor)
    assert asking.ask(asking.round(0))[0] is Kind.ANSWER
    assert "budget" in why(asking.ask(asking.round(1)))
    assert poor.ledger.epsilon == pytest.approx(first)
    # Started again, it counts what left it before, and refuses as it did.
    again = Server(members, members.site("site_0", tmp_path / "poor", first * 1.0001, work=site.work))
    assert again.site.ledger.epsilon == pytest.approx(first)
    assert "budget" in why(again.ask(again.round(1)))


def test_more_rounds_than_were_approved_are_refused(server, site):
    assert "beyond the 3 rounds" in why(server.ask(server.round(3)))
    assert charges(site) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"agreement": bytes(32)},
        {"federation": bytes(16)},
        {"sender": "site_1"},
        {"sender": "nobody"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_server_did_not_sign_for_this_agreement_gets_no_answer(server, site, changes):
    data = server.message(Kind.ROUND, 0, body.pack({}), **changes)
    assert server.ask(data) is None
    assert site.journal.entries[-1]["event"] == "rejected"
    assert charges(site) == []


def test_a_stranger_with_a_key_of_his_own_gets_no_answer(server, site):
    assert server.ask(server.message(Kind.ROUND, 0, body.pack({}), key=SigningKey.generate())) is None
    assert charges(site) == []


def test_a_replayed_request_gets_no_answer_not_even_of_a_worker_that_was_started_again(members, server, site, tmp_path):
    data = server.round()
    assert server.ask(data)[0] is Kind.ANSWER
    assert server.ask(data) is None
    again = Server(members, members.site("site_0", tmp_path, work=site.work))
    assert again.ask(data) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.message(Kind.ROUND, 0, body.pack({"cohort": ["site_0"], "form": "whole"})), "weights"),
        (lambda s: s.round(cohort=["site_1"]), "cohort"),
        (lambda s: s.round(cohort=["site_0", "stranger"]), "cohort"),
        (lambda s: s.round(cohort="site_0"), "cohort"),
        (lambda s: s.round(scale=np.nan), "not finite"),
        (lambda s: s.round(scale=np.inf), "not finite"),
        (lambda s: s.message(Kind.HELLO, 0, body.pack({})), "does not send"),
        (lambda s: s.message(Kind.ROUND, 0, b"\x80\x04code of somebody"), ""),
        (lambda s: s.message(Kind.KEYS, 0, body.pack({}, {"session": bytes(16)})), "no secure sum"),
        (lambda s: s.message(Kind.EVALUATE, 9, body.pack({}, {"weights": b""})), "beyond the rounds"),
    ],
)
def test_a_request_that_is_not_whole_is_refused_with_its_reason(server, site, change, words):
    assert words in why(server.ask(change(server)))
    assert charges(site) == []
    assert site.journal.entries[-1]["event"] == "refused"


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_messages_change_nothing_at_a_hospital(members, server, site, count):
    good, chance = server.round(), random.Random(3)
    for number in range(count):
        data = bytearray(good if number % 2 else chance.randbytes(chance.randrange(300)))
        for _ in range(chance.randrange(1, 4)):
            if data:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            data = data[: chance.randrange(len(data) + 1)]
        if bytes(data) != good:
            assert site.handle(bytes(data)) is None
    assert charges(site) == []
    assert len(site.journal.entries) <= 1000
    assert journal.problems(site.journal.path) == []
    assert server.ask(good)[0] is Kind.ANSWER


def test_a_signed_body_of_anything_is_refused_and_charges_nothing(server, site):
    chance = random.Random(4)
    whole = unseal(server.round(), {"server": server.members.server_key.public}, *_names(server)).body
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(min(200, len(content)))] ^= 1 << chance.randrange(8)
        if bytes(content[:200]) == whole[:200]:
            continue
        answer = server.ask(server.message(Kind.ROUND, 7, bytes(content)))
        assert answer[0] is Kind.REFUSAL
    assert charges(site) == []


def _names(server):
    return server.members.agreement.identity_bytes, server.members.agreement.digest


# -- the server's side ----------------------------------------------------------------


@pytest.fixture
def listening(members, tmp_path):
    hub = Hub(10_000)
    federation = members.federation(hub, tmp_path)
    for name in members.dataset.ids:
        hub.dial(name)
    return hub, federation


def hospital_message(members, kind, sender, answers=0, number=1, key=None, content=None, **changes):
    one = members.agreement
    content = body.pack({"process": ""}) if content is None else content
    made = Envelope(kind, sender, one.identity_bytes, one.digest, 0, number, answers, content)
    return seal(dataclasses.replace(made, **changes), key or members.keys[sender])


def test_a_hospital_cannot_answer_as_another(members, listening):
    hub, federation = listening
    said = {}

    def outstanding(name):
        data = hub._lines[name].inbox.get_nowait()
        return unseal(data, {"server": members.server_key.public}, *_federation_names(members)).number

    original = hub.send

    def send(hospital, message):
        original(hospital, message)
        number = outstanding(hospital)
        if hospital == "site_0":
            mine = body.pack({"who": "site_1"})
            # On its own connection in the name of another, and with its own key in another's name.
            hub.arrive("site_1", hospital_message(members, Kind.ANSWER, "site_1", number, 5, content=mine))
            hub.arrive("site_0", hospital_message(members, Kind.ANSWER, "site_1", number, 6, content=mine))
            key = members.keys["site_1"]
            hub.arrive("site_0", hospital_message(members, Kind.ANSWER, "site_0", number, 7, key=key, content=mine))
            right = hospital_message(members, Kind.ANSWER, "site_0", number, 8, content=body.pack({"who": "site_0"}))
            hub.arrive("site_0", right)
            hub.arrive("site_0", right)  # twice
            late = hospital_message(members, Kind.ANSWER, "site_0", number, 9, content=mine)
            hub.arrive("site_0", late)  # a second answer to the same request
            said["other"] = hospital_message(
                members, Kind.ANSWER, "site_2", number, 3, content=mine, federation=bytes(16)
            )
            hub.arrive("site_2", said["other"])
        return True

    hub.send = send
    answers = federation.ask(Kind.ROUND, 0, dict.fromkeys(("site_0", "site_2"), body.pack({})), seconds=0.5)
    assert {name: found.fields["who"] for name, found in answers.bodies.items()} == {"site_0": "site_0"}
    assert answers.missing == {"site_2": "did not answer in time"}
    assert federation.rejected == 6


def _federation_names(members):
    return members.agreement.identity_bytes, members.agreement.digest


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_messages_change_nothing_at_the_server(members, listening, count):
    hub, federation = listening
    chance = random.Random(5)
    good = hospital_message(members, Kind.HELLO, "site_0", number=1)
    for number in range(count):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        hub.arrive("site_0", bytes(data))
        if number % 20 == 19:
            while not hub._arrived._queue.empty():
                federation._take(0.0, {}, {})
    hub.arrive("site_0", bytes(20_000))  # larger than the bound: dropped by the engine
    while not hub._arrived._queue.empty():
        federation._take(0.0, {}, {})
    assert hub.dropped == 1
    assert federation.arrivals == {}
    assert federation.rejected == count
    assert len(federation.journal.entries) <= 1000
    hub.arrive("site_0", good)
    federation._take(0.0, {}, {})
    assert federation.arrivals == {"site_0": 1}


@pytest.mark.parametrize(("numbers", "seen", "words"), [((5, 4), 0, "the clock went back"), ((5,), 2**62, "of this")])
def test_clocks_that_went_back_are_told_on_the_side_that_can_set_them(members, listening, numbers, seen, words):
    hub, federation = listening
    for number in numbers:  # of two workers, one after the other
        said = body.pack({"process": "", "worker": str(number), "seen": seen})
        hub.arrive("site_0", hospital_message(members, Kind.HELLO, "site_0", number=number, content=said))
    with pytest.raises(Exception, match=rf"site_0 said: .*{words}.*Remedy: set"):
        federation.wait_for(members.dataset.ids, 0.2, 2)
    told = [unseal(data, {"server": members.server_key.public}, *_federation_names(members)) for data in inbox(hub)]
    assert [body.unpack(one.body).fields["worker"] for one in told] == [str(number) for number in numbers[1:]]
    assert {one.kind for one in told} <= {Kind.END}


def test_who_has_seen_the_very_last_message_may_come_back(members, listening):
    hub, federation = listening
    federation.tell(Kind.ROUND, 0, {"site_0": body.pack({})})
    (last,) = (unseal(data, {"server": members.server_key.public}, *_federation_names(members)) for data in inbox(hub))
    said = body.pack({"process": "", "worker": "1", "seen": last.number})
    hub.arrive("site_0", hospital_message(members, Kind.HELLO, "site_0", content=said))
    federation.wait_for(["site_0"], 5.0, 1)


def inbox(hub):
    lines = hub._lines["site_0"].inbox
    while not lines.empty():
        yield lines.get_nowait()


def test_only_the_worker_that_is_meant_is_sent_away(server, site):
    for worker, ended in (("another", False), (site.worker, True)):
        why = "two workers"
        assert site.handle(server.message(Kind.END, 0, body.pack({"worker": worker, "why": why}))) is None
        assert (site.ended, site.why) == ((True, why) if ended else (False, ""))


def test_a_process_composed_otherwise_is_told_the_remedy(members, listening):
    hub, federation = listening
    federation.process = "another"
    hub.arrive("site_0", hospital_message(members, Kind.HELLO, "site_0", content=body.pack({"process": "old"})))
    with pytest.raises(Exception, match=r"site_0 said: .*install the same version"):
        federation.wait_for(["site_0"], 0.2, 1)


def test_the_server_needs_the_key_of_the_agreement(members, tmp_path):
    with pytest.raises(ValueError, match="is not the server's"):
        Federation(members.agreement, SigningKey.generate(), Hub(10), journal.Journal(tmp_path / "j"))
