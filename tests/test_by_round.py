"""Settings by round: shapes by hand, what is refused, runtimes that agree, and a ledger that follows every round."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import toy

from tff_hospitals.accounting import after_selection, epsilon_of
from tff_hospitals.audits.self_tests import cohorts
from tff_hospitals.audits.self_tests.findings import settle
from tff_hospitals.communication import forecast, parse_chain
from tff_hospitals.communication.bandwidth import Link, catching_up_by_round, catching_up_bytes
from tff_hospitals.communication.sizes import payload_bytes
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import Plan, chains, mechanisms, review, schedules
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes.aggregators.base import with_changes
from tff_hospitals.processes.composition import compose
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.releases import planned_ledger
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow

BASE = Plan().replace(
    rounds=4,
    client={"local_steps": 6, "batch_size": 4, "learning_rate": 0.1, "proximal_mu": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)
DP_SGD = BASE.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.5})
FIXED = BASE.replace(weighting="equal", privacy={"mechanism": "fixed_clip", "noise_multiplier": 1.5})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear:0.25", [1, 0.75, 0.5, 0.25]),
        ("cosine:0.5", [1, 0.875, 0.625, 0.5]),  # .5 + .5 * (1 + cos(pi t / 3)) / 2
        ("warmup:2", [0.5, 1, 1, 1]),
        ("step:2:0.1", [1, 1, 0.1, 0.1]),
        ("exponential:0.5", [1, 0.5, 0.25, 0.125]),
        ("inverse_sqrt", [1, 2**-0.5, 3**-0.5, 0.5]),
        ("list:1:2:0.5:4", [1, 2, 0.5, 4]),
        ("warmup:2*linear:0.25", [0.5, 0.75, 0.5, 0.25]),
    ],
)
def test_shapes_by_hand(shape, expected):
    np.testing.assert_allclose(schedules.table(shape, 4), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("plan", "text", "words"),
    [
        (BASE, "client_learning_rate=list:1:0.5", "shorter than the run: 2 factors for 4 rounds"),
        (BASE, "client_learning_rate=list:1:0.5", "give 4 factors, or --rounds=2"),
        (BASE, "client_learning_rate=hyperbolic", "inverse_sqrt"),
        (BASE, "client_learning_rate=linear:0", "must have positive numbers"),
        (BASE, "client_learning_rate=linear:a", "must have positive numbers"),
        (BASE, "client_learning_rate", "names no shape"),
        (BASE, "fame=linear:2", "client_learning_rate"),
        (BASE, "upload=linear:0.5", "the number of bits of its quantize:B"),
        (BASE, "modulus_bits=linear:0.5", "the ring of a secure sum"),
        (BASE, "upload_bits=linear:0.5", "which --upload (none) does not have"),
        (BASE.replace(upload="rotate,onebit"), "upload_bits=linear:2", "which --upload (rotate,onebit) does not have"),
        (BASE.replace(upload="quantize:8"), "broadcast_bits=linear:0.5", "which --broadcast (none) does not have"),
        (BASE.replace(upload="quantize:8"), "upload_bits=linear:4", "upload_bits (24 in some round)"),
        (BASE.replace(broadcast="rotate,eden:4"), "broadcast_bits=linear:2", "broadcast_bits (5 in some round)"),
        (
            BASE.replace(upload="quantize:4:nearest", error_feedback=True),
            "upload_bits=linear:0.25",
            "not so: quantize:1:nearest",
        ),
        (FIXED.replace(privacy={"secure_sum": True}), "upload_bits=linear:2", "whole numbers of one ring"),
        (FIXED.replace(privacy={"mechanism": "skellam"}), "upload_bits=linear:2", "whole numbers of one ring"),
        (BASE, "local_steps=linear:0.05", "local_steps (0 in some round)': must be >= 1"),
        (
            BASE.replace(client={"local_steps": None, "local_epochs": 2}),
            "local_epochs=step:1:0.1",
            "local_epochs (0 in some round)': must be >= 1",
        ),
        (
            BASE.replace(cohort={"kind": "fixed_size", "hospitals_per_round": 1}),
            "hospitals_per_round=list:1:1:0.5:1",
            "hospitals_per_round (0 in some round)': must be >= 1",
        ),
        (BASE.replace(upload="quantize:4"), "upload_bits=linear:0.1", "upload_bits (0 in some round)': must be >= 1"),
        (
            BASE.replace(broadcast="rotate,eden:2"),
            "broadcast_bits=linear:0.1",
            "broadcast_bits (0 in some round)': must",
        ),
        (BASE, "batch_size=linear:0.5", "sampling probability"),
        (BASE, "proximal_mu=linear:2,proximal_mu=linear:3", "comes twice"),
        (BASE.replace(client={"proximal_mu": 0.0}), "proximal_mu=linear:2", "is 0, whatever"),
        (
            BASE.replace(client={"learning_rate_schedule": "inverse_sqrt"}),
            "client_learning_rate=linear:2",
            "one of the",
        ),
        (BASE, "local_epochs=linear:2", "is not given in this plan"),
        (BASE, "clip_norm=linear:2", "belongs to no mechanism"),
        (FIXED, "outer_clip_norm=linear:2", "belongs to no mechanism"),
        (DP_SGD, "outer_clip_norm=linear:2", "belongs to no mechanism"),
        (DP_SGD.replace(privacy={"outer": "coordinate_median"}), "outer_clip_norm=linear:2", "belongs to no mechanism"),
        (DP_SGD.replace(privacy={"outer": "none"}), "outer_noise_multiplier=linear:2", "belongs to no mechanism"),
        (BASE.replace(privacy={"mechanism": "scaffold"}), "local_steps=linear:2", "whose corrections reckon"),
        (BASE, "hospitals_per_round=linear:2", "set --cohort=fixed_size"),
        (FIXED.replace(cohort={"kind": "cyclic", "hospitals_per_round": 2}), "noise_multiplier=linear:2", "cyclic"),
        (DP_SGD.replace(privacy={"clip_style": "adaptive"}), "clip_norm=linear:2", "adaptive clip norm"),
        (FIXED.replace(privacy={"zeroing": "quantile"}), "noise_multiplier=linear:2", "zeroing"),
        (DP_SGD, "noise_multiplier=list:1:1e-6:1:1*exponential:0.1", "beyond 1e-06"),
        (DP_SGD.replace(privacy={"selected_from": 4.0}), "noise_multiplier=linear:2", "selected_from"),
    ],
)
def test_what_cannot_change_by_round_is_refused_with_remedy(plan, text, words):
    found = [str(one) for one in review.problems(plan.replace(by_round=text))]
    assert any(words in one for one in found), found


def test_mechanisms_that_say_nothing_of_rounds_keep_one_clip_norm_and_one_noise():
    """A class derived from one that allows it must say so itself: TFF's twins compute with one value."""
    able = {name for name, one in mechanisms.MECHANISMS.items() if one.own_by_round}
    assert able == {"dp_sgd", "fixed_clip"}
    for name, one in mechanisms.MECHANISMS.items():
        if one.private and name not in able:
            plan = BASE.replace(by_round="clip_norm=linear:0.5", weighting="equal", privacy={"mechanism": name})
            assert any("by_round" in problem.name for problem in review.problems(plan)), name


CASES = {
    "rates": BASE.replace(by_round="client_learning_rate=warmup:2*cosine,server_learning_rate=linear:0.5"),
    "proximal": BASE.replace(by_round="proximal_mu=list:1:5:0.5:2,local_steps=linear:0.5"),
    "adam": BASE.replace(
        by_round="server_learning_rate=exponential:0.5", server={"optimizer": "adam", "learning_rate": 0.1}
    ),
    "records": DP_SGD.replace(by_round="clip_norm=linear:0.5,noise_multiplier=linear:2,local_steps=step:2:0.5"),
    "hospitals": FIXED.replace(by_round="clip_norm=linear:0.5,noise_multiplier=list:1:2:1:3"),
    "secure": FIXED.replace(by_round="clip_norm=linear:0.5", privacy={"secure_sum": True}),
    "cohort": BASE.replace(
        by_round="hospitals_per_round=linear:2", cohort={"kind": "fixed_size", "hospitals_per_round": 1}
    ),
}
CASES["both"] = DP_SGD.replace(
    weighting="equal",
    privacy={"outer": "fixed_clip", "outer_noise_multiplier": 2.0},
    by_round="outer_noise_multiplier=list:1:2:0.5:3,noise_multiplier=linear:2,outer_clip_norm=list:1:0.2:2:0.5",
)
BITS = BASE.replace(
    broadcast="rotate,quantize:8",
    upload="rotate,quantize:8:nearest",
    error_feedback=True,
    by_round="upload_bits=list:1:1:0.25:0.5,broadcast_bits=step:2:0.5",
    checkpoint_every=1,
)
CASES["bits"] = BITS.replace(broadcast="delta,quantize:8")
QUICK = ("hospitals",)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in CASES])
def test_runtimes_agree_and_each_round_is_what_a_plan_without_schedule_would_do(name):
    plan, dataset = CASES[name], toy.hospitals()
    compiled, native = (train(plan, dataset, runtime=runtime) for runtime in ("compiled", "native"))
    for one, other in zip(compiled.weights, native.weights):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert compiled.ledger == native.ledger
    constant = train(plan.replace(by_round=""), dataset)
    assert not all(np.array_equal(one, other) for one, other in zip(compiled.weights, constant.weights))


def test_bits_by_round_are_counted_by_round_and_a_resumed_run_has_the_same_bits(tmp_path):
    """Payloads of each round are as long as its chain says, and the weights go on from what each chain decoded."""
    dataset = toy.hospitals()
    first, after = train(BITS, dataset), toy.killed_and_resumed(BITS, dataset, tmp_path / "run", 2)
    assert all(np.array_equal(one, other) for one, other in zip(first.weights, after.weights))
    rows = (tmp_path / "run" / "bytes.csv").read_text(encoding="utf-8").splitlines()
    table = [dict(zip(rows[0].split(","), row.split(","))) for row in rows[1:]]
    shapes = [np.shape(one) for one in first.weights]
    up = {row["round"]: int(row["bytes_up"]) for row in table}
    down = {row["round"]: int(row["bytes_down"]) for row in table}
    sizes_of = [payload_bytes(parse_chain(f"rotate,quantize:{bits}:nearest"), shapes).high for bits in (8, 8, 2, 4)]
    beside = up["1"] - sizes_of[0]
    assert [up[str(number)] - beside for number in (1, 2, 3, 4)] == sizes_of
    broadcasts = [payload_bytes(parse_chain(f"rotate,quantize:{bits}"), shapes).high for bits in (8, 4, 4)]
    assert [down[str(number)] - down["2"] for number in (2, 3, 4)] == [one - broadcasts[0] for one in broadcasts]


def test_an_audit_expects_the_cohort_of_every_round():
    """Hospitals by round are what the plan says; an audit that counts on one number of them would accuse it."""
    plan, dataset = CASES["cohort"], toy.hospitals()
    draws = RoundDrawer(plan, dataset, noise_plan.make(plan, dataset))
    run = types.SimpleNamespace(plan=plan, dataset=dataset, rounds=4)
    (found,) = settle(cohorts.check(run, draws))
    assert found.passed
    constant = types.SimpleNamespace(plan=plan.replace(by_round=""), dataset=dataset, rounds=4)
    (found,) = settle(cohorts.check(constant, draws))
    assert not found.passed


def test_each_of_two_mechanisms_follows_the_factors_of_its_own_settings():
    """An audit looks at each mechanism in a plan of its own: which factors a plan of both hands to which, this says."""
    plan, dataset = CASES["both"].replace(by_round=CASES["both"].by_round + ",clip_norm=list:1:4:1:1"), toy.hospitals()
    composed = compose(plan, dataset, build_model(plan, dataset))
    state = composed.aggregator.initial_state(np.array([1, 2], np.int64), 2.0)
    for number, (noise, outer, inner) in enumerate([(1, 1, 1), (2, 0.2, 4), (0.5, 2, 1), (3, 0.5, 1)]):
        now = with_changes(state, round=np.int32(number))
        assert float(composed.aggregator.parameters(now)["clip_norm"]) == pytest.approx(outer)
        _, _, measured = composed.aggregator.finish(
            now, composed.zero_contribution(), composed.aggregator.server_noise(now)
        )
        parameters = composed.client_work.scalars  # of nobody's sum, which is divided by 1
        assert float(measured["noise_norm"]) == pytest.approx(2.0 * noise * outer * parameters**0.5)
        settings = composed.client_work.settings_at(np.int32(number), composed.client_work.settings())
        assert float(settings["clip_norm"]) == pytest.approx(0.5 * inner)


@pytest.mark.parametrize("name", ["local_steps", "local_epochs"])
def test_rounds_of_a_call_fit_into_memory_at_their_longest(name):
    """As many as of a plan that has the longest round always."""
    one = BASE.replace(client={"local_steps": None, "local_epochs": None, name: 2})
    longer, longest = one.replace(by_round=f"{name}=linear:50"), one.replace(client={name: 100})
    dataset = toy.hospitals()
    found = [
        RoundDrawer(plan, dataset, noise_plan.make(plan, dataset)).rounds_within(50_000, 64)
        for plan in (one, longer, longest)
    ]
    assert found[0] > found[1] == found[2]


def test_a_forecast_adds_up_rounds_of_different_bits():
    shapes, link = [(40, 10), (10,)], Link(10, 50, 20)
    chains = [parse_chain(f"quantize:{bits}") for bits in (8, 4, 4)]
    found = forecast.forecast(shapes, parse_chain("none"), chains, [link], hospitals=2, rounds=3)
    alone = [forecast.forecast(shapes, parse_chain("none"), one, [link], hospitals=2, rounds=1) for one in chains]
    for figure in ("run_bytes", "run_seconds"):
        assert found["encoded"][figure] == pytest.approx(sum(one["encoded"][figure] for one in alone))
    assert [(one["chain"], one["rounds"]) for one in found["up"]["by_round"]] == [("quantize:8", 1), ("quantize:4", 2)]
    for fraction in (1.0, 0.3):
        assert catching_up_by_round([7.0] * 20, 50.0, fraction) == pytest.approx(
            catching_up_bytes(7.0, 50.0, fraction, 20)
        )


def test_a_way_without_encoders_is_forecast_as_it_is_trained():
    """Float32 has no header: what a forecast adds up is what the payloads of the run add up to."""
    plan = BASE.replace(upload="rotate,quantize:5", by_round="upload_bits=exponential:0.8", evaluate_every=4)
    run = train(plan, toy.hospitals())
    ups = chains.of_rounds(parse_chain(plan.upload), "upload", plan.by_round, plan.rounds)
    shapes = [np.shape(one) for one in run.weights]
    found = forecast.forecast(shapes, parse_chain(""), ups, [Link(10, 50, 20)], hospitals=3, rounds=plan.rounds)
    composed = compose(plan, toy.hospitals(), build_model(plan, toy.hospitals()))
    sent = run.summary["bytes_up"] + run.summary["bytes_down"] - 3 * plan.rounds * sum(composed.side_bytes())
    assert found["encoded"]["run_bytes"] == pytest.approx(sent, rel=1e-12)
    assert found["down"]["bytes"] == found["dense_bytes"] == found["down"]["bytes_at_most"]


def test_the_ledger_has_the_noise_and_the_steps_of_every_round():
    plan, dataset = CASES["records"], toy.hospitals()
    noise = noise_plan.make(plan, dataset)
    drawer, name = RoundDrawer(plan, dataset, noise, Streams.from_seed(1)), dataset.ids[0]
    for number, (multiplier, steps) in enumerate([(1.5, 6), (2.0, 6), (2.5, 3), (3.0, 3)]):
        (one,) = (h for h in drawer.draw(number).cohort if h.hospital.hospital_id == name)
        event, count = noise.releases[name].in_round(number, one.schedule.steps, 3)
        assert (one.noise_multiplier, one.schedule.steps) == (pytest.approx(multiplier), steps)
        assert (event.noise_multiplier, count) == (pytest.approx(multiplier), steps)
    whole = noise.releases[name].whole_run(4, 6)
    assert sum(count for _, count in whole) == 6 + 6 + 3 + 3


@pytest.mark.parametrize("plan", [DP_SGD, FIXED], ids=["records", "hospitals"])
def test_calibration_keeps_the_target_with_the_schedule_as_factor(plan):
    dataset = toy.hospitals()
    wanted = plan.replace(
        by_round="noise_multiplier=linear:3", privacy={"noise_multiplier": None, "target_epsilon": 3.0}
    )
    assert review.problems(wanted, dataset) == []
    noise = noise_plan.make(wanted, dataset)
    for name, release in noise.releases.items():
        events = release.whole_run(4, 6)
        reached = epsilon_of(events, noise.delta, adjacency=noise.adjacency, conversion=noise.conversion)
        assert 2.97 < reached <= 3.0
        flat = noise_plan.make(wanted.replace(by_round=""), dataset).multipliers[name]
        assert flat / 3 < noise.multipliers[name] < flat  # less noise at first, more at last
    impossible = wanted.replace(by_round="noise_multiplier=list:1:1e-6:1:1e6", privacy={"target_epsilon": 1e-3})
    with pytest.raises(InvalidInput, match="out of reach"):
        noise_plan.make(impossible, dataset)


@pytest.mark.parametrize("selected_from", [1.0, 4.0])
@pytest.mark.parametrize("clip_style", ["flat", "adaptive"])
def test_steps_by_round_keep_the_target_with_noised_counts_and_with_a_choice_among_runs(clip_style, selected_from):
    dataset, ids = toy.hospitals(), toy.hospitals().ids
    privacy = {"noise_multiplier": None, "target_epsilon": 3.0, "clip_style": clip_style}
    plan = DP_SGD.replace(by_round="local_steps=linear:0.3", privacy={**privacy, "selected_from": selected_from})
    assert review.problems(plan, dataset) == []
    noise = noise_plan.make(plan, dataset)
    ledger = planned_ledger(plan, dataset, noise, lambda number: ids)
    if selected_from > 1:
        ledger = after_selection(ledger, selected_from)
    assert 2.97 < ledger.epsilon("record", None, noise.conversion) <= 3.0


def test_a_clip_norm_by_round_holds_every_record_of_that_round(tmp_path):
    """Without noise, one step with one record moves the model by rate * clip norm of that round at most."""
    plan = FIXED.replace(
        rounds=3, by_round="clip_norm=list:1:0.01:1", privacy={"noise_multiplier": 0.0}, evaluate_every=1
    )
    norms = []
    previous = None
    for rounds in (1, 2, 3):
        cut = plan.replace(rounds=rounds)
        run = train(cut, toy.hospitals())
        flat = np.concatenate([weight.ravel() for weight in run.weights])
        if previous is not None:
            norms.append(float(np.linalg.norm(flat - previous)))
        previous = flat
    assert norms[0] <= 0.5 * 0.01 * 1.001
    assert norms[1] > 0.05
    extended = dataclasses.replace(plan, rounds=4, by_round="clip_norm=list:1:0.01:1:1:1")
    train(extended, toy.hospitals(), run_dir=tmp_path / "run")
    with pytest.raises(InvalidInput, match="changes settings by round"):
        train(dataclasses.replace(extended, rounds=5), toy.hospitals(), run_dir=tmp_path / "run")


def test_the_warning_of_few_hospitals_tells_the_noise_of_every_round():
    plan = FIXED.replace(
        cohort={"kind": "fixed_size", "hospitals_per_round": 2},
        by_round="noise_multiplier=list:1:2:1:1,hospitals_per_round=list:1:1.5:1:0.5",
    )
    (said,) = (one for one in review.warnings(plan, toy.hospitals()) if "hospital-level noise" in one)
    assert "0.75 to 1.5 clip norms in every coordinate of the mean of 1 to 3 hospitals" in said
    (constant,) = (one for one in review.warnings(FIXED, toy.hospitals()) if "hospital-level noise" in one)
    assert "0.5 clip norms in every coordinate of the mean of 3 hospitals" in constant
