"""The secure sum when somebody is lost, or asks for more than one sum; other faults: test_deployment_fault_table."""

from __future__ import annotations

import numpy as np
import pytest
from federations import BASE, Members, running, train_deployed

from tff_hospitals.deployment import secure_sum
from tff_hospitals.deployment.body import pack, unpack
from tff_hospitals.deployment.envelope import REFUSALS, Kind, Rejected
from tff_hospitals.deployment.keys import SigningKey

pytestmark = pytest.mark.tensorflow
PRIVATE = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2, "clip_norm": 0.5}


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
                for content in (bodies["site_0"], fewer):
                    assert (
                        original(kind, number, {"site_0": content}).missing["site_0"] == f"refused: {REFUSALS['sum']}"
                    )
                    asked.append(sites["site_0"].journal.entries[-1]["why"])
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
    with running(members, tmp_path) as (federation, sites):
        original = federation.ask

        def ask(kind, number, bodies, **more):
            if kind is Kind.UNMASK:
                fewer = pack({"survivors": ["site_0", "site_1", "site_2"]}, unpack(bodies["site_0"]).sections)
                assert original(kind, number, {"site_0": fewer}).missing["site_0"] == f"refused: {REFUSALS['sum']}"
                refused.append(sites["site_0"].journal.entries[-1]["why"])
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


def off_by(share, value):
    return ((int.from_bytes(share, "big") + value) % (2**521 - 1)).to_bytes(secure_sum.SHARE_BYTES, "big")


def test_who_helps_with_wrong_shares_is_named_and_costs_no_sum_where_one_more_helps():
    members, numbers, statements, sent, threshold = sum_of(4, 0)
    given = {name: members[name].unmask(sent) for name in sent}
    expected = np.sum([numbers[name] for name in sent], axis=0, dtype=np.uint32)

    def opened(lies, of=tuple(given)):
        named = []
        told = {name: {**given[name], **lies.get(name, {})} for name in of}
        return secure_sum.open_sum(sent, told, statements, b"s", threshold, named.append), named

    for liar in given:
        for owner in ("h1", "h3"):  # small lies, after which a secret still looks like one
            total, named = opened({liar: {owner: off_by(given[liar][owner], 3)}})
            assert named == [liar]
            assert total.tolist() == expected.tolist()
    # Shares that were wrong when they were given out, and nobody to spare.
    handed_out = {name: {"h3": off_by(given[name]["h3"], 7**place)} for place, name in enumerate(given, start=150)}
    with pytest.raises(Rejected, match="those that 'h3' gave out, or those of one of"):
        opened(handed_out)
    with pytest.raises(Rejected, match="do not fit together: those of one of 'h0', 'h1', 'h2'"):
        opened({"h1": {name: bytes(secure_sum.SHARE_BYTES) for name in given}}, ("h0", "h1", "h2"))


def test_a_run_goes_on_beside_a_hospital_that_helps_with_wrong_shares(tmp_path, monkeypatch):
    noise = {**PRIVATE, "mechanism": "discrete_gaussian", "noise_multiplier": 0.3}
    members, honest = Members(BASE.replace(privacy=noise, weighting="equal", rounds=2)), secure_sum.Member.unmask

    def unmask(self, survivors):
        shares = honest(self, survivors)
        return shares if self._name != "site_1" else dict.fromkeys(shares, bytes(secure_sum.SHARE_BYTES))

    monkeypatch.setattr(secure_sum.Member, "unmask", unmask)
    with running(members, tmp_path) as (federation, sites):
        run = train_deployed(members, federation)
        assert [len([one for one in site.journal.entries if one["event"] == "charged"]) for site in sites.values()] == [
            2
        ] * 4
    said = [text for text in run.summary["warnings"] if "fit to nobody else's" in text]
    assert [text.split(" helped")[0] for text in said] == ["round 1: site_1", "round 2: site_1"]


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
