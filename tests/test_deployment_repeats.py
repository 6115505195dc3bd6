"""The same asked twice, of workers that were started again or whose records changed; different things asked of each."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from federations import BASE, Members, running, train_deployed
from test_deployment_attacks import Server, charges
from test_deployment_lies import NOISE, asked_with, members_of, planned_parameters

from tff_hospitals.deployment import body, journal, secure_sum, wire
from tff_hospitals.deployment.agreement import deployment_problems
from tff_hospitals.deployment.envelope import Kind
from tff_hospitals.deployment.site_work import SiteWork
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.hospitals import DataSecret, Hospital, Part
from tff_hospitals.training.odometer import Odometer

pytestmark = pytest.mark.tensorflow
SECURE = {**NOISE, "secure_noise": True}


def sent(answer):
    kind, content = answer
    assert kind is Kind.ANSWER
    return content.section("contribution")


@pytest.mark.parametrize("mechanism", ["dp_sgd", "local_dp"])
def test_noise_that_nobody_can_draw_again_leaves_once_for_each_charge(mechanism, tmp_path):
    plan = BASE.replace(privacy={**SECURE, "mechanism": mechanism}, weighting="equal")
    members = Members(plan, test_mode=False)
    work = members.work("site_0", tmp_path / "beside the records")
    server = Server(members, members.site("site_0", tmp_path, work=work))
    planned = planned_parameters(work)

    def asked(scale=0.0):
        return sent(asked_with(server, planned, scale=scale))

    first = asked()
    assert [asked() for _ in range(3)] == [first] * 3
    once = server.site.ledger.epsilon
    assert len(charges(server.site)) == 1
    # Other content in between: what was drawn for the first one is gone, and new noise is another release.
    other = asked(1.0)
    assert asked() not in (first, other)
    assert len(charges(server.site)) == 3
    # So it is for a worker that was started again, which counts all of them.
    server = Server(members, members.site("site_0", tmp_path, work=work))
    assert asked() not in (first, other)
    assert len(charges(server.site)) == 4
    assert server.site.ledger.epsilon > 1.5 * once
    assert Odometer(work.secret).totals()[-1].epsilon == pytest.approx(server.site.ledger.epsilon)
    assert asked_with(server, planned, scale=2.0)[0] is Kind.REFUSAL


def test_shares_of_noise_that_nobody_can_draw_again_are_refused_before_anything_starts():
    plan = BASE.replace(privacy={**SECURE, "mechanism": "discrete_gaussian"}, weighting="equal")
    assert [one.name for one in deployment_problems(plan, 4)] == ["secure_noise"]
    for without in (plan.replace(privacy={"secure_noise": False}), plan.replace(privacy={"mechanism": "local_dp"})):
        assert deployment_problems(without, 4) == []


def test_records_that_were_mended_between_two_requests_do_not_carry_the_same_noise(tmp_path):
    members = members_of("local_dp")
    before = members.dataset.hospital("site_0")
    features = before.train.features.copy()
    features[0] = 3.0  # one record is another one
    after = Hospital("site_0", Part(features, before.train.labels), before.test)
    answers = []
    for hospital in (before, after, before):
        secret = DataSecret(bytes(32), False, tmp_path / "beside the records")
        work = SiteWork(members.agreement, hospital, secret, members.parts)
        members.parts = work.parts
        server = Server(members, members.site("site_0", tmp_path, work=work))
        link = work.wire.contribution
        delta = link.unpack(sent(asked_with(server, planned_parameters(work))))["delta"]
        answers.append(np.concatenate([np.ravel(one) for one in delta]))
    # Were the noise the same, the difference would be that of two clipped updates.
    assert np.linalg.norm(answers[1] - answers[0]) > 2 * NOISE["clip_norm"]
    assert np.array_equal(answers[0], answers[2])
    assert len(charges(server.site)) == 2


class Sum:
    """A server that goes through the four steps of a secure sum, and may ask everybody something else."""

    def __init__(self, members, folder):
        self.members = members
        self.servers = {name: Server(members, members.site(name, folder)) for name in members.dataset.ids}
        self.ids = list(self.servers)

    def ask(self, name, kind, fields, sections):
        kind, answer = self.servers[name].ask(self.servers[name].message(kind, 0, body.pack(fields, sections)))
        return answer if kind is Kind.ANSWER else None

    def open(self, weights_of, helpers=None):
        """The sum that the server computes; None where nobody helps."""
        one, session = self.members.agreement, b"s" * 16
        link = self.servers[self.ids[0]].site.work.wire
        context = b"|".join((one.identity_bytes, one.digest, b"0", session))
        own = {"session": session}
        said = {name: self.ask(name, Kind.KEYS, {}, own).section("statement") for name in self.ids}
        told = {**own, **{f"say:{name}": data for name, data in said.items()}}
        boxes = {name: self.ask(name, Kind.SHARES, {}, told) for name in self.ids}
        planned = planned_parameters(self.servers[self.ids[0]].site.work)
        parameters = link.parameters.pack(collections.OrderedDict((name, planned[name]) for name in planned))
        numbers, masked = {}, {}
        for name in self.ids:
            weights = body.tensors_to_bytes(weights_of(name))
            sections = {"weights": weights, "parameters": parameters, "broadcast_key": b"", "upload_key": b"", **own}
            sections |= {f"box:{o}": found.section(f"box:{name}") for o, found in boxes.items() if o != name}
            answer = self.ask(name, Kind.ROUND, {"cohort": self.ids, "form": "whole"}, sections)
            masked[name] = wire.unpack_words(answer.section("masked"), link.contribution.values, link.bits)
            numbers[name] = bytes.fromhex(answer.fields["asked"])
        given = {}
        for name in helpers or self.ids:
            answer = self.ask(name, Kind.UNMASK, {"survivors": self.ids}, own)
            if answer is not None:
                given[name] = {o: answer.section(f"share:{o}") for o in self.ids}
        asked = max(set(numbers.values()), key=list(numbers.values()).count)
        words = secure_sum.open_sum(masked, given, said, context, one.threshold, asked=asked)
        return link.contribution.from_words(words & np.uint32(2**link.bits - 1)), given


def test_no_sum_is_made_of_what_different_models_gave(tmp_path):
    plan = BASE.replace(privacy={"mechanism": "fixed_clip", **NOISE, "secure_sum": True}, weighting="equal")
    members = Members(plan, test_mode=False)
    shapes = members.work("site_0").wire.weights.shapes
    zero, far = ([np.full(shape, value, np.float32) for shape in shapes] for value in (0.0, 1e3))
    honest, given = Sum(members, tmp_path / "honest").open(lambda _: zero)
    assert len(given) == 4
    assert int(honest["count"]) == 4
    # Of one hospital the server wants to know the update: all others get a model after which theirs are known.
    wanted, _ = Sum(members, tmp_path / "lies").open(lambda name: zero if name == "site_1" else far)
    assert int(wanted["count"]) != 4
    spread = np.concatenate([np.ravel(leaf) for leaf in wanted["delta"]]) % 2**30 / 2**30
    assert 0.2 < spread.std() < 0.4  # as numbers that were drawn from the whole modulus


def test_a_sum_that_was_opened_once_is_not_opened_for_another_model_of_one_hospital(tmp_path):
    plan = BASE.replace(privacy={"mechanism": "fixed_clip", **NOISE, "secure_sum": True}, weighting="equal")
    lying = Sum(Members(plan, test_mode=False), tmp_path)
    shapes = lying.servers["site_0"].site.work.wire.weights.shapes
    zero, far = ([np.full(shape, value, np.float32) for shape in shapes] for value in (0.0, 1e3))
    first, _ = lying.open(lambda _: zero)
    second, given = lying.open(lambda name: far if name == "site_1" else zero)
    assert sorted(given) == ["site_0", "site_2", "site_3"]
    difference = np.concatenate([np.ravel(a - b) for a, b in zip(first["delta"], second["delta"])]).astype(np.int64)
    difference = np.abs((difference + 2**29) % 2**30 - 2**29)
    assert difference.max() > 2**28  # of one hospital two clipped updates differ by less


@pytest.mark.parametrize("broadcast", ["", "delta,quantize:8"])
def test_who_decoded_the_same_model_in_another_form_is_in_the_same_sum(broadcast, tmp_path):
    plan = BASE.replace(broadcast=broadcast, privacy={"mechanism": "fixed_clip", **NOISE, "secure_sum": True})
    members = Members(plan.replace(weighting="equal"))
    with running(members, tmp_path) as (federation, _):
        original = federation.ask

        def ask(kind, number, bodies, **more):
            if kind is Kind.ROUND and broadcast and number:
                bodies = {**bodies, "site_1": more["when_back"]["site_1"]}  # whole, as to one who was away
            return original(kind, number, bodies, **more)

        federation.ask = ask
        run = train_deployed(members, federation)
    assert not [text for text in run.summary["warnings"] if "site_" in text]


def test_a_hospital_that_was_sent_another_model_is_named(tmp_path):
    plan = BASE.replace(privacy={"mechanism": "fixed_clip", **NOISE, "secure_sum": True}, weighting="equal", rounds=1)
    members = Members(plan)
    with running(members, tmp_path) as (federation, sites):
        site, original = sites["site_2"], sites["site_2"]._packed

        def packed(work, session, asked):
            session.asked = bytes(32)
            return original(work, session, asked)

        site._packed = packed
        run = train_deployed(members, federation)
    said = "site_2 sent what cannot be used: it decoded another model than the one that was sent"
    assert any(said in text for text in run.summary["warnings"])


def test_a_key_that_is_another_one_gives_no_second_noise_for_what_was_charged(tmp_path):
    members = members_of("local_dp")
    hospital, folders = members.dataset.hospital("site_0"), (tmp_path / "here", tmp_path / "there")
    works = [
        SiteWork(members.agreement, hospital, DataSecret(bytes([place]) * 32, False, folder), members.parts)
        for place, folder in enumerate(folders)
    ]
    members.parts = works[0].parts

    def server(work, together=None):
        return Server(members, members.site("site_0", tmp_path, work=work, together=together))

    journal_of(members, tmp_path).append("approved")  # as a hospital's journal begins
    first = server(works[0])
    answer = sent(asked_with(first, planned_parameters(works[0])))
    assert sent(asked_with(server(works[0]), planned_parameters(works[0]))) == answer
    for together in (None, 8.0):
        with pytest.raises(RecordError, match=r"another one than when .* began.*Remedy: bring back the key"):
            server(works[1], together)


def journal_of(members, folder):
    return journal.Journal(folder / "site_0" / "journal.jsonl")


def test_an_odometer_that_was_removed_or_copied_back_is_noticed_by_the_journal(tmp_path):
    members = members_of("local_dp")
    work = members.work("site_0", tmp_path / "beside the records")
    path = Odometer(work.secret).file.path
    server = Server(members, members.site("site_0", tmp_path, work=work))
    copies = []
    for number in range(2):
        sent(asked_with(server, planned_parameters(work), number))
        copies.append(path.read_bytes())
    for content in (copies[0], b""):
        path.write_bytes(content)
        with pytest.raises(
            RecordError, match=r"holds 2 charges, and there are [01] of them in the odometer.*Remedy: restore"
        ):
            members.site("site_0", tmp_path, work=work)
    path.write_bytes(copies[1])
    members.site("site_0", tmp_path, work=work)
