"""A server that lies about noise, about who takes part, about what it asked before; journals that were copied back."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from federations import BASE, Members
from test_deployment_attacks import PRIVATE, Server, charges, why

from tff_hospitals.deployment import approval, body
from tff_hospitals.deployment.envelope import Kind
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.training.odometer import Odometer

pytestmark = pytest.mark.tensorflow
NOISE = {"noise_multiplier": 5.0, "delta": 1e-2, "clip_norm": 0.5}


def members_of(mechanism, **changes):
    return Members(
        BASE.replace(privacy={**NOISE, "mechanism": mechanism}, weighting="equal", **changes), test_mode=False
    )


def planned_parameters(work):
    """What an honest server would send."""
    aggregator = work.parts.aggregator
    return aggregator.parameters(aggregator.initial_state(np.array([5, 6]), work.noise.server_multiplier))


def asked_with(server, parameters, number=0, scale=0.0):
    link = server.site.work.wire
    blank = server.site.work.parts.blank_parameters()
    typed = collections.OrderedDict(
        (name, np.asarray(parameters[name], value.dtype.as_numpy_dtype)) for name, value in blank.items()
    )
    sections = {
        "weights": body.tensors_to_bytes([np.full(shape, scale, np.float32) for shape in link.weights.shapes]),
        "parameters": link.parameters.pack(typed),
        **{"broadcast_key": b"", "upload_key": b""},
    }
    fields = {"cohort": list(server.members.dataset.ids), "form": "whole"}
    return server.ask(server.message(Kind.ROUND, number, body.pack(fields, sections)))


def test_noise_and_norms_of_a_plan_are_not_the_servers_to_choose(tmp_path):
    members = members_of("local_dp")
    server = Server(members, members.site("site_0", tmp_path))
    planned = planned_parameters(server.site.work)
    lies = {"noise_multiplier": 0.0, "clip_norm": 1e6}
    for name, value in lies.items():
        assert f"{name} is {value}, and the approved plan has" in why(asked_with(server, {**planned, name: value}))
    assert charges(server.site) == []
    # Last digits may differ from machine to machine: the hospital's noise is by its own.
    close = {**planned, "noise_multiplier": planned["noise_multiplier"] * np.float32(1 + 1e-6)}
    assert asked_with(server, close)[0] is Kind.ANSWER


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam", "fixed_clip", "tree", "adaptive_clip"])
def test_of_every_mechanism_a_hospital_takes_only_what_the_server_alone_can_know(mechanism):
    changes = {"clipped_count_stddev": 5.0} if mechanism == "adaptive_clip" else {}
    plan = BASE.replace(privacy={**NOISE, "mechanism": mechanism, **changes}, weighting="equal")
    work = Members(plan, test_mode=False).work("site_0")
    planned = planned_parameters(work)
    free = set(work.parts.aggregator.told)
    assert free <= {"key", "clip_norm"}
    assert ("clip_norm" in free) == (mechanism == "adaptive_clip")
    assert set(work.parameters_of_plan(planned)) == set(planned)
    for name, value in planned.items():
        other = collections.OrderedDict({**planned, name: np.asarray(value + 1)})
        if name in free:
            assert np.array_equal(work.parameters_of_plan(other)[name], value + 1)
        else:
            with pytest.raises(ValueError, match=f"{name} is .* the approved plan has"):
                work.parameters_of_plan(other)


def test_a_sum_is_opened_of_as_many_as_it_was_charged_for(tmp_path):
    members = members_of("discrete_gaussian", cohort={"kind": "fixed_size", "hospitals_per_round": 3})
    site = members.site("site_0", tmp_path)
    # Noise for three of four: what is approved is not what four shares would cost.
    three = site.work.noise.parts[0].releases["site_0"].in_round(0, 3, 3)[0]
    assert three.shares == 3
    planned = approval.planned_epsilon(members.agreement, "site_0", members.dataset, rounds=1)
    site.ledger.charge(0, list(members.dataset.ids)[:3], "a")
    assert planned == pytest.approx(site.ledger.epsilon)
    site._check_whole(3)
    for hospitals, charged in ((2, 0), (3, 4)):
        with pytest.raises(ValueError, match=f"{hospitals} would be in the sum"):
            site._check_whole(hospitals, charged)


def test_no_guarantee_rests_on_a_secret_that_every_request_tells():
    cohort = {"kind": "poisson", "sampling_probability": 0.5}
    with pytest.raises(InvalidInput, match="nobody knows who takes part, and every request names them"):
        members_of("fixed_clip", cohort=cohort)
    Members(PRIVATE.replace(cohort=cohort), test_mode=False)  # whose guarantee rests on batches alone


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    members, kept = Members(PRIVATE, test_mode=False), tmp_path_factory.mktemp("kept")
    return members, members.work("site_0", kept)


def evaluated(server, scale):
    link = server.site.work.wire
    content = body.tensors_to_bytes([np.full(shape, scale, np.float32) for shape in link.weights.shapes])
    return server.ask(server.message(Kind.EVALUATE, 0, body.pack({}, {"weights": content})))[0] is Kind.ANSWER


def test_models_that_were_evaluated_are_counted_by_a_worker_that_was_started_again(private, tmp_path):
    members, work = private
    first = Server(members, members.site("site_0", tmp_path, work=work))
    assert [evaluated(first, scale) for scale in range(3)] == [True] * 3
    again = Server(members, members.site("site_0", tmp_path, work=work))
    # The loss of the largest model is no number: the worker says so, and goes on.
    assert [evaluated(again, scale) for scale in (0, 1e38, 4, 5)] == [True, True, False, False]


def test_more_requests_than_a_run_needs_fill_no_disk(private, tmp_path):
    members, work = private
    site = members.site("site_0", tmp_path, work=work)
    server, site._most_taken = Server(members, site), 20
    assert [evaluated(server, scale % 4) for scale in range(20)] == [True] * 20
    size = len(site.journal.entries)
    for _ in range(1100):
        assert server.ask(server.message(Kind.EVALUATE, 0, b"")) is None
    assert len(site.journal.entries) == size + 1000
    assert "more than 20 requests" in site.journal.entries[-1]["why"]


def test_a_journal_that_was_copied_back_is_noticed_by_what_was_charged_to_the_records(tmp_path):
    members, kept = Members(PRIVATE, test_mode=False), tmp_path / "beside the records"
    work = members.work("site_0", kept)

    def site(**limits):
        return members.site("site_0", tmp_path, work=work, **limits)

    server, copies = Server(members, site()), []
    for number in range(3):
        assert server.ask(server.round(number))[0] is Kind.ANSWER
        copies.append(server.site.journal.path.read_bytes())
    spent, path = server.site.ledger.epsilon, server.site.journal.path
    path.write_bytes(copies[0])
    with pytest.raises(RecordError, match=r"holds 1 charges, and 3 were made.*Remedy: restore"):
        site()
    path.write_bytes(copies[1])  # as a crash between the two files leaves it: the last charge is entered once more
    again = Server(members, site())
    assert again.site.ledger.epsilon == spent
    assert len(charges(again.site)) == len(charges(site())) == 3
    assert again.ask(again.round(2))[0] is Kind.ANSWER
    assert again.site.ledger.epsilon == spent
    assert [total.epsilon for total in Odometer(work.secret).totals()] == [pytest.approx(spent)]
    path.unlink()
    with pytest.raises(RecordError, match="in a journal that is gone"):
        site(budget=2 * spent)
