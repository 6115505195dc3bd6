"""Asynchronous cohorts: the order of answers by hand, three steps of the server in plain numpy, what is charged, and
what is refused.
"""

from __future__ import annotations

import collections
import csv

import numpy as np
import pytest
import toy
from test_corrected import descend, run

from tff_hospitals.audits import loading
from tff_hospitals.audits.probe import Probe
from tff_hospitals.audits.self_tests import suite
from tff_hospitals.audits.self_tests.findings import Finding, NotTested, settle
from tff_hospitals.communication import parse_chain
from tff_hospitals.communication.sizes import payload_bytes
from tff_hospitals.deployment.agreement import deployment_problems
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.buffered_cohorts import Arrivals
from tff_hospitals.plan import Plan, review, speeds
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes.composition import compose
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow

DATA = toy.hospitals(sizes=(20, 13, 6))
SPEEDS = "site_0:1,site_1:2,site_2:5"
PLAN = Plan(rounds=5, weighting="equal", speeds=SPEEDS).replace(
    client={"local_steps": None, "local_epochs": 2, "batch_size": 4, "learning_rate": 0.3},
    cohort={"kind": "buffered", "hospitals_per_round": 2},
)
THRESHOLD = 0.2
DP_SGD = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2}


def steps(seconds, buffer, count):
    arrivals = Arrivals(seconds, buffer)
    found = [arrivals(number) for number in range(count)]
    return [(step.at, [(one.hospital, one.staleness, one.waits) for one in step.answers]) for step in found]


def test_the_order_of_answers_is_that_of_a_calculation_by_hand():
    """A takes 1 s, B 2 s, C 5 s, and two answers make a step. At 5 s A (on the model of 4 s) answers before C, which is
    still on the first model; at 6 s A, on the model of 5 s, answers before B, which is on that of 4 s.
    """
    assert steps({"A": 1, "B": 2, "C": 5}, 2, 4) == [
        (2.0, [("A", 0, True), ("B", 0, True)]),
        (4.0, [("A", 0, True), ("B", 0, True)]),
        (5.0, [("A", 0, True), ("C", 2, True)]),
        (6.0, [("A", 0, True), ("B", 1, True)]),
    ]


def test_a_second_answer_of_a_hospital_waits_for_the_next_step():
    """C and D step at 10.8 s while A trains on the model of 10 s; A answers at 11 s (one step old), begins again on the
    newest model, and has its next answer at 12 s: it may not fill the buffer, which B does at 20 s. So that answer is
    the first of the step after, and with C's on the model of 10 s it makes the step of 21 s.
    """
    assert steps({"A": 1, "B": 10, "C": 10.5, "D": 10.8}, 2, 4) == [
        (10.0, [("A", 0, True), ("B", 0, True)]),
        (10.8, [("C", 1, False), ("D", 1, True)]),
        (20.0, [("A", 1, False), ("B", 1, True)]),
        (21.0, [("A", 1, False), ("C", 2, True)]),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_nobody_counts_twice_in_a_step_or_trains_twice_on_a_model_or_faster_than_it_can(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 9))
    seconds = {f"site_{place}": float(np.exp(2 * generator.normal())) for place in range(count)}
    buffer = int(generator.integers(1, count + 1))
    arrivals, made, fetched = Arrivals(seconds, buffer), [0.0], dict.fromkeys(seconds, (0, 0.0))
    for number in range(120):
        step = arrivals(number)
        made.append(step.at)
        assert len({one.hospital for one in step.answers}) == len(step.answers) == buffer
        assert step.at >= made[-2]
        for one in step.answers:
            model, earliest = fetched[one.hospital]
            assert number - one.staleness == model  # the model that it fetched with its last answer
            assert step.at >= earliest + seconds[one.hospital] - 1e-9
            following = number + one.waits
            assert following > model
            fetched[one.hospital] = following, made[following]
    assert arrivals(7) == Arrivals(seconds, buffer)(7)


def test_a_buffer_of_everybody_is_federated_averaging():
    assert all(
        at == 5.0 * (number + 1) and answers == [("A", 0, True), ("B", 0, True), ("C", 0, True)]
        for number, (at, answers) in enumerate(steps({"A": 1, "B": 2, "C": 5}, 3, 4))
    )


@pytest.mark.parametrize(("seconds", "buffer"), [({"a": 1.0}, 2), ({"a": 1.0}, 0), ({"a": 0.0, "b": 1.0}, 1)])
def test_a_buffer_that_cannot_fill_and_no_time_are_refused(seconds, buffer):
    with pytest.raises(InvalidInput, match="Remedy"):
        Arrivals(seconds, buffer)


def test_speeds_are_drawn_for_each_hospital_by_its_name():
    found = speeds.parse("lognormal:0.5:1").seconds([f"site_{place}" for place in range(400)], Streams.from_seed(1))
    logs = np.log(list(found.values())) - np.log(0.5)
    assert abs(logs.mean()) < 0.2
    assert logs.std() == pytest.approx(1.0, abs=0.15)
    assert speeds.parse("lognormal:0.5:1").seconds(["site_7"], Streams.from_seed(1)) == {"site_7": found["site_7"]}
    assert speeds.parse("lognormal:0.5:0").seconds(["site_7"], Streams.from_seed(1)) == {"site_7": 0.5}


@pytest.mark.parametrize(
    "text",
    ["constant", "constant:x", "constant:0", "constant:nan", "lognormal:1", "lognormal:1:-1", "lognormal:1:99"]
    + ["site_0:1", "site_0:1,site_0:2,site_1:1,site_2:1", "site_0:1,site_1:1,site_2:1,elsewhere:1", "site_0"],
)
def test_speeds_that_nobody_can_read_are_refused(text):
    found = review.problems(PLAN.replace(speeds=text), DATA)
    assert found
    assert all(one.remedy and "speeds" in one.name for one in found)


def test_a_late_update_is_encoded_as_it_is_and_multiplied_when_it_is_decoded():
    """The reference with both the other way round must differ, or the steps of the paper would not tell them apart."""
    plan = PLAN.replace(upload=f"threshold:{THRESHOLD}")
    path, drawn, _, _ = run(plan)
    moved = [
        (late, descend(path[number - one.staleness], one)[0] - path[number - one.staleness])
        for number, each in enumerate(drawn)
        for one in each.cohort
        if (late := (1 + one.staleness) ** -0.5) < 1
    ]
    assert any(np.abs(late * sent(x, plan.upload) - sent(late * x, plan.upload)).max() > 0.01 for late, x in moved)
    assert all(one.factor == 1.0 and one.late == plan.cohort.staleness_factor(one.staleness) for one in drawn[2].cohort)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"upload": "rotate,quantize:4"},
        {"upload": "topk:0.5,ternary:mean,entropy", "weighting": "records"},
        {"upload": "rotate,eden:2", "privacy": {**DP_SGD}},
        {"upload": "quantize:8", "poison": "sign_flip:site_0:2"},
    ],
)
def test_encoded_answers_are_the_same_on_both_runtimes_and_after_a_kill_and_counted_as_payloads(changes, tmp_path):
    plan = PLAN.replace(checkpoint_every=2, **changes)
    compiled, native = (train(plan, DATA, runtime=one, run_dir=tmp_path / one) for one in ("compiled", "native"))
    resumed = toy.killed_and_resumed(plan, DATA, tmp_path / "killed", after=3)
    for one, other, again in zip(compiled.weights, native.weights, resumed.weights):
        np.testing.assert_allclose(one, other, atol=2e-5)
        np.testing.assert_array_equal(one, again)
    tables = [list(csv.DictReader((tmp_path / one / "bytes.csv").open())) for one in ("compiled", "native", "killed")]
    assert [[row["bytes_up"] for row in table] for table in tables[1:]] == [[row["bytes_up"] for row in tables[0]]] * 2
    assert compiled.ledger == native.ledger == resumed.ledger
    if "entropy" not in plan.upload:
        low, high = payload_bytes(parse_chain(plan.upload), [np.shape(one) for one in compiled.weights])
        beside = compose(plan, DATA, build_model(plan, DATA)).side_bytes()[1]
        (size,) = {int(row["bytes_up"]) - beside for row in tables[0]}
        assert low <= size <= high


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"speeds": "site-0001:1,site-0002:2"}, "speeds"),
        ({"speeds": "site-0001:1,site-0002:2,site-0003:3,site-0004:1"}, "hospital of speeds"),
        ({"cohort": {"hospitals_per_round": 4}}, "hospitals_per_round"),
        ({"poison": "sign_flip:site-0004:2"}, "poison"),
        (
            {
                "cohort": {"kind": "fixed_size"},
                "speeds": "",
                "by_round": "hospitals_per_round=linear:3",
            },
            "by_round",
        ),
    ],
)
def test_what_names_or_counts_simulated_hospitals_is_refused_before_they_are_loaded(changes, name):
    """Their number is in the plan."""
    plan = PLAN.replace(data={"partition": "iid", "sites": 3}, speeds="site-0001:1,site-0002:2,site-0003:3")
    assert review.problems(plan) == []
    found = review.problems(plan.replace(**changes))
    assert any(name in one.name for one in found), found
    assert review.problems(PLAN.replace(speeds="anybody:1")) == []  # only their records tell who they are


def drawer(plan, data=DATA):
    return RoundDrawer(plan, data, noise_plan.make(plan, data))


def test_a_round_lasts_as_long_as_its_slowest_hospital_where_all_begin_together():
    """Two epochs of batches of four are 10, 8 and 4 steps."""
    draws = drawer(PLAN)
    together = drawer(PLAN.replace(cohort={"kind": "all", "hospitals_per_round": None}))
    some = drawer(PLAN.replace(cohort={"kind": "fixed_size"}))
    slowest = {"site_0": 10.0, "site_1": 16.0, "site_2": 20.0}
    assert [together.draw(number).seconds for number in range(2)] == [20.0, 20.0]
    for number in range(4):
        one = some.draw(number)
        assert one.seconds == max(slowest[each.hospital.hospital_id] for each in one.cohort)
    assert [draws.draw(number).seconds for number in range(3)] == [16.0, 10.0, 10.0]  # at 16, 26 and 36 s
    assert drawer(Plan()).draw(0).seconds is None


def sent(update, upload):
    """What the server decodes of threshold:T, which sends what is as large: the age of an update must not change it."""
    return update if not upload else np.where(np.abs(update) >= float(upload.partition(":")[2]), update, 0.0)


def fedbuff(x, drawn, plan):
    """Algorithm 1 with staleness: w <- w + mean of (1 + tau)**-.5 * (y_i - x_i), x_i the model that i fetched."""
    models = [x]
    for number, each in enumerate(drawn):
        moved = []
        for one in each.cohort:
            start = models[number - one.staleness]
            end, _ = descend(start, one)
            moved.append((1 + one.staleness) ** -plan.cohort.staleness_exponent * sent(end - start, plan.upload))
        weights = [1.0 if plan.weighting == "equal" else one.hospital.train.records for one in each.cohort]
        models.append(models[-1] + np.average(moved, axis=0, weights=weights))
        yield models[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upload": f"threshold:{THRESHOLD}"},
        pytest.param({"weighting": "records", "cohort": {"staleness_exponent": 2.0}}, marks=pytest.mark.slow),
    ],
)
def test_every_step_is_that_of_the_paper(changes):
    plan = PLAN.replace(**changes)
    path, drawn, state, _ = run(plan)
    assert [[one.staleness for one in each.cohort] for each in drawn] == [[0, 0], [0, 1], [0, 1], [0, 2], [0, 2]]
    np.testing.assert_allclose(path[1:], list(fedbuff(path[0], drawn, plan)), rtol=2e-4, atol=2e-5)
    *_, fresh = fedbuff(path[0], drawn, plan.replace(cohort={"staleness_exponent": 0.0}))
    assert np.abs(path[-1] - fresh).max() > 1e-3  # old updates did count less
    last = {one.hospital.hospital_id: (number, one) for number, each in enumerate(drawn) for one in each.cohort}
    for name, (number, one) in last.items():  # what each hospital trains on now
        np.testing.assert_array_equal(state.hospitals[name], np.float32(path[number + one.waits]))


def test_a_resumed_run_has_the_same_bits_and_the_files_tell_time_and_age(tmp_path):
    plan = PLAN.replace(checkpoint_every=2, rounds=6)
    at_once = train(plan, DATA, run_dir=tmp_path / "once")
    resumed = toy.killed_and_resumed(plan, DATA, tmp_path / "killed", after=3)
    for one, other in zip(at_once.weights, resumed.weights):
        np.testing.assert_array_equal(one, other)
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in ("once", "killed")]
    assert texts[0] == texts[1]
    rows = [row for row in csv.DictReader(texts[0].splitlines()) if row["hospital"] == "pooled"]
    draws = drawer(plan)
    ends = np.cumsum([draws.draw(number).seconds for number in range(6)])
    assert [float(row["simulated_seconds"]) for row in rows] == pytest.approx(list(ends))
    summary = at_once.summary
    assert summary["simulated_seconds"] == pytest.approx(ends[-1])
    reached = [float(row["accuracy"]) >= summary["target_accuracy"] for row in rows]
    assert summary["time_to_accuracy"] == pytest.approx(ends[reached.index(True)])
    answers = sum(len(draws.cohort(number)) for number in range(6))
    per_answer = train(PLAN.replace(rounds=1), DATA).summary["bytes_down"] / 2
    assert summary["bytes_down"] == answers * per_answer  # every answer paid for the model that it was made from


def test_a_target_that_was_never_reached_has_no_time():
    summary = train(PLAN.replace(rounds=1, target_accuracy=1.0), DATA).summary
    assert summary["target_accuracy"] == 1.0
    assert summary["time_to_accuracy"] is None


def test_the_ledger_counts_every_answer_and_no_hospital_can_give_more():
    """Fast hospitals answer in more rounds than slow ones; what is charged are the steps of these answers alone."""
    plan = PLAN.replace(privacy={"mechanism": "dp_sgd", "target_epsilon": 3.0, "delta": 1e-2}, rounds=7)
    one = train(plan, DATA)
    answers = collections.Counter()
    draws = drawer(plan)
    for number in range(plan.rounds):
        cohort = [each.hospital.hospital_id for each in draws.draw(number).cohort]
        assert len(set(cohort)) == len(cohort) == 2
        answers.update(cohort)
    per_answer = {"site_0": 10, "site_1": 8, "site_2": 4}
    taken = {name: one.ledger.steps("record", name) for name in DATA.ids}
    assert taken == {name: answers[name] * count for name, count in per_answer.items()}
    assert len(set(answers.values())) > 1
    assert max(one.summary["epsilon_per_hospital"].values()) <= 3.0


REFUSED = [
    ({"cohort": {"hospitals_per_round": 4}}, "hospitals_per_round", "all hospitals"),
    ({"cohort": {"hospitals_per_round": None}}, "hospitals_per_round", "give"),
    ({"speeds": ""}, "speeds", "--speeds="),
    *(
        ({"privacy": {"mechanism": name, "noise_multiplier": 0.2}}, "cohort", "--cohort=all")
        for name in ("fixed_clip", "adaptive_clip", "tree", "banded_mf", "local_dp", "skellam", "tff_tree_adaptive")
    ),
    ({"privacy": {**DP_SGD, "outer": "fixed_clip", "outer_noise_multiplier": 1.0}}, "cohort", "--cohort=all"),
    *(
        ({"privacy": {"mechanism": name}}, "cohort", "weighted_mean")
        for name in ("scaffold", "mime_lite", "q_fedavg", "fednova", "agnostic", "tff_robust")
    ),
    ({"privacy": {"secure_sum": True}}, "secure_sum", "drop --secure_sum"),
    ({"upload": "topk:0.5", "error_feedback": True}, "error_feedback", "drop --error_feedback"),
    ({"broadcast": "quantize:8"}, "broadcast", "drop --broadcast"),
    ({"skip_below": 0.1}, "skip_below", "drop --skip_below"),
    ({"model": {"local_layers": "output"}}, "local_layers", "drop --local_layers"),
    ({"privacy": DP_SGD, "stopping": {"max_epsilon": 1.0}}, "max_epsilon", "--target_epsilon"),
    ({"by_round": "client_learning_rate=linear:0.5"}, "by_round", "--by_round"),
    ({"privacy": DP_SGD, "by_round": "noise_multiplier=linear:0.5"}, "by_round", "--by_round"),
    ({"client": {"learning_rate_schedule": "inverse_sqrt"}}, "client_learning_rate_schedule", "constant"),
]


@pytest.mark.parametrize(("changes", "name", "remedy"), REFUSED)
def test_what_does_not_go_together_is_refused_with_remedy(changes, name, remedy):
    found = review.problems(PLAN.replace(**changes), DATA)
    assert any(one.name == name and remedy in one.remedy for one in found), found


def test_what_goes_together_is_not_refused():
    for changes in (
        {"by_round": "server_learning_rate=linear:0.5"},
        {"privacy": DP_SGD},
        {"privacy": {**DP_SGD, "outer": "coordinate_median"}},
        {"privacy": {"mechanism": "coordinate_median"}, "cohort": {"hospitals_per_round": 3}},
        {"poison": "sign_flip:site_0:2"},
        {"upload": "rotate,quantize:4", "privacy": DP_SGD},
    ):
        assert review.problems(PLAN.replace(**changes), DATA) == []


def test_audits_and_real_hospitals_are_refused_where_they_would_read_it_wrongly(tmp_path):
    with pytest.raises(InvalidInput, match="store_updates"):
        train(PLAN, DATA, run_dir=tmp_path, store_updates=1)
    assert any(one.name == "speeds" for one in deployment_problems(PLAN, 3))


def test_the_row_of_a_comparison_is_this_one():
    plan = METHODS["fedbuff"].plan(Plan(), None)
    assert plan.cohort.asynchronous
    assert plan.cohort.staleness_factor(3) == 0.5
    assert review.problems(plan, DATA) == []


@pytest.mark.parametrize(
    "changes", [{}, {"cohort": {"kind": "all", "hospitals_per_round": None}, "privacy": {"mechanism": "fednova"}}]
)
def test_an_audit_sees_an_update_at_its_full_size(changes):
    """A hospital that is probed alone is not late, and takes as many steps as everybody."""
    plan = PLAN.replace(**changes)
    model = build_model(plan, DATA)
    weights, frozen = model.initial_weights(np.array([3, 4], np.int64))
    part = DATA.hospitals[0].train
    seen = Probe(plan, DATA, model, weights, frozen)(part.features[:3], part.labels[:3])
    plain = PLAN.in_step()
    expected = Probe(plain, DATA, model, weights, frozen)(part.features[:3], part.labels[:3])
    for one, other in zip(seen.update, expected.update):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.slow
def test_an_audit_holds_the_noise_against_the_ledger_and_skips_who_never_answered():
    """The third hospital is so slow that it answers in no step, though with other seeds' speeds it would."""
    privacy = {"mechanism": "dp_sgd", "target_epsilon": 4.0, "delta": 1e-2}
    plan = PLAN.replace(rounds=3, privacy=privacy, speeds="lognormal:1:3", seed=5)
    answered = {name for number in range(3) for name in drawer(plan).cohort(number)}
    assert len(answered) == 2
    found = suite.all_findings(loading.in_memory(train(plan, DATA), DATA))
    tests = settle([one for one in found if isinstance(one, Finding)])
    assert [one for one in tests if not one.passed] == []
    assert {one.hospital for one in tests if one.name == "loudness: noise on records"} == {None, *answered}
    skipped = [one.hospital for one in found if isinstance(one, NotTested) and one.name == "noise on records"]
    assert skipped == [name for name in DATA.ids if name not in answered]
