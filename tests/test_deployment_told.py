"""What a refusal tells, and what messages without end leave behind: at the server, at a hospital, in their logs."""

from __future__ import annotations

import datetime

import pytest
from test_deployment_attacks import (
    PRIVATE,
    Members,
    Server,
    _federation_names,
    body,
    hospital_message,
    inbox,
    journal,
    unseal,
    why,
)

from tff_hospitals.deployment import agreement
from tff_hospitals.deployment import federation as server_side
from tff_hospitals.deployment.envelope import REFUSALS, Kind
from tff_hospitals.deployment.loopback import Hub

pytestmark = pytest.mark.tensorflow
UTC = datetime.timezone.utc


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    members = Members(PRIVATE, test_mode=False)
    return members, members.work("site_0", tmp_path_factory.mktemp("kept"))


@pytest.mark.parametrize("limits", [{"budget": 2.5}, {"together": 2.5}], ids=["budget", "together"])
def test_a_server_learns_that_there_is_a_limit_and_not_which(private, tmp_path, limits):
    members, _ = private
    work = members.work("site_0", tmp_path / "beside the records")
    server = Server(members, members.site("site_0", tmp_path, work=work, **limits))
    data = [server.site.handle(server.round(number)) for number in range(3)]
    words = server.site.journal.entries[-1]["why"]
    assert "epsilon" in words
    opened = unseal(data[-1], members.agreement.hospital_keys, *_federation_names(members))
    assert opened.kind is Kind.REFUSAL
    assert body.unpack(opened.body).fields == {"kind": "limit"}
    assert b"2.5" not in opened.body


def test_a_server_believes_no_words_of_a_refusal(private, tmp_path):
    members, _ = private
    hub = Hub(10_000)
    federation, original = members.federation(hub, tmp_path), hub.send
    hub.dial("site_0")

    def send(hospital, message):
        original(hospital, message)
        (asked,) = (
            unseal(one, {"server": members.server_key.public}, *_federation_names(members)) for one in inbox(hub)
        )
        content = body.pack({"why": "\x1b[2J all is well", "kind": said.pop()})
        hub.arrive(
            hospital, hospital_message(members, Kind.REFUSAL, hospital, asked.number, asked.number, None, content)
        )
        return True

    hub.send, said = send, [["limit"], "limit"]
    for words in (REFUSALS["limit"], "for a reason that is not known here"):
        answers = federation.ask(Kind.ROUND, 0, {"site_0": body.pack({})}, seconds=5.0)
        assert answers.missing == {"site_0": f"refused: {words}"}


def test_who_presents_itself_without_end_fills_no_log_and_keeps_the_server_no_busier(private, tmp_path, monkeypatch):
    members, _ = private
    hub, federation, sent = Hub(10_000), None, []
    for _ in range(2):  # the server is started again
        federation = members.federation(hub, tmp_path)
        hub.dial("site_0")
        for number in range(1, 1001):
            content = body.pack({"process": "", "worker": str(number)})
            hub.arrive("site_0", hospital_message(members, Kind.HELLO, "site_0", number=number, content=content))
            hub.arrive("site_0", b"nonsense")
            federation._take(0.0, {}, {})
            federation._take(0.0, {}, {})
    assert (federation.arrivals["site_0"], federation.rejected) == (1000, 1000)
    lines = [entry["event"] for entry in journal.Journal(tmp_path / "server.jsonl").entries]
    assert [lines.count(one) for one in ("present", "rejected")] == [server_side._MOST_LINES] * 2
    # Another hospital's lines are its own.
    hub.arrive("site_1", b"nonsense")
    federation._take(0.0, {}, {})
    assert federation.journal.entries[-1]["hospital"] == "site_1"
    # While a round is asked, each return brings the model once more: so often, and no oftener.
    monkeypatch.setattr(hub, "send", lambda hospital, message: sent.append(len(message)))
    for number in range(1001, 1041):
        hub.arrive("site_0", hospital_message(members, Kind.HELLO, "site_0", number=number))
    federation.ask(Kind.ROUND, 0, {"site_0": body.pack({}, {"weights": bytes(5000)})}, seconds=0.5)
    assert sum(size > 5000 for size in sent) == 1 + server_side._MOST_RETURNS


def test_a_worker_that_is_started_again_and_again_keeps_a_journal_of_the_same_size(private, tmp_path):
    members, work = private
    for _ in range(2):
        site = members.site("site_0", tmp_path, work=work)
        for _ in range(1100):
            assert site.handle(b"nonsense") is None
    assert len(site.journal.entries) == journal.JOURNALLED_REJECTIONS
    server = Server(members, site)
    assert "weights" in why(
        server.ask(server.message(Kind.ROUND, 0, body.pack({"cohort": ["site_0"], "form": "whole"})))
    )


def test_an_agreement_that_is_over_stays_over_when_the_clock_goes_back(private, tmp_path, monkeypatch):
    members, work = private
    server, now = Server(members, members.site("site_0", tmp_path, work=work)), [datetime.datetime.now(UTC)]
    monkeypatch.setattr(agreement, "_now", lambda: now[0])

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return now[0]

    monkeypatch.setattr(journal.datetime, "datetime", Clock)
    assert server.ask(server.round(0))[0] is Kind.ANSWER
    for days in (91, 0):
        now[0] = datetime.datetime.now(UTC) + datetime.timedelta(days=days)
        answer = server.ask(server.round(1))
        assert (answer[1].fields["kind"], why(answer)) == ("over", "the agreement is over")
    again = Server(members, members.site("site_0", tmp_path, work=work))
    assert why(again.ask(again.round(1))) == "the agreement is over"
