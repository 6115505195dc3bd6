"""Plans of every private method: calibration, ledger, two units, refusals and warnings, before and after training."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import toy
from few_fast import few_fast

from tff_hospitals.accounting import Ledger, MechanismEvent, epsilon_of, tree_noise
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals.cohorts import Cohorts
from tff_hospitals.hospitals.secret import passing_secret
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.mechanisms import MECHANISMS
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.signal_to_noise import ratio

pytestmark = pytest.mark.tensorflow

BASE = Plan().replace(
    rounds=5,
    client={"local_steps": None, "local_epochs": 1, "batch_size": 4, "learning_rate": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)
PRIVATE = [name for name, method in METHODS.items() if method.private and not method.runs_on]
COUNTING = ("adaptive_clip", "adaptive_clip_zeroing")  # they need many hospitals
every_method = pytest.mark.parametrize("name", PRIVATE)


@pytest.fixture(scope="module")
def few():
    return toy.hospitals()


@pytest.fixture(scope="module")
def many():
    return toy.hospitals(sizes=(6,) * 40)


@pytest.fixture(scope="module")
def model(few):
    return build_model(BASE, few)


def hospitals_for(name, few, many):
    return many if name in COUNTING else few


def plan_of(name, target=8.0, **changes):
    return METHODS[name].plan(BASE, target).replace(**changes)


def names_of(problems):
    return [problem.name for problem in problems]


@every_method
def test_the_noise_keeps_the_target_and_a_hundredth_less_would_not(name, few, many):
    dataset = hospitals_for(name, few, many)
    plan = plan_of(name)
    assert review.problems(plan, dataset) == []
    for part in noise_plan.make(plan, dataset).parts:
        for hospital, multiplier in part.multipliers.items():
            steps = noise_plan.steps_per_round(plan, dataset.hospital(hospital).train.records)
            release = part.releases[hospital]
            events = [release.in_round(number, steps, len(part.multipliers)) for number in range(plan.rounds)]
            spent = epsilon_of(events, part.delta, adjacency=part.adjacency, conversion=part.conversion)
            assert spent <= 8.0 * (1 + 1e-9)
            assert spent > 8.0 * 0.97  # no noise is wasted
            assert multiplier > 0


# One of each way to account for a run: sampled records, a tree, shares, sums at the server, steps of the noise.
KINDS = ("dp_sgd", "dp_ftrl_local", "fixed_clip", "tree", "discrete_gaussian")


@pytest.mark.parametrize("name", few_fast(PRIVATE, KINDS, ("adaptive_clip", "blt", "local_dp", "dp_sgd_fixed_clip")))
def test_a_run_stays_below_its_target_and_the_ledger_counts_what_was_done(name, few, many, model):
    dataset = hospitals_for(name, few, many)
    plan = plan_of(name)
    run = train(plan, dataset, model=model)
    summary, ledger = run.summary, run.ledger
    assert 0 < summary["epsilon"] <= 8.0 * (1 + 1e-9)
    unit = mechanisms.of(plan.privacy).unit
    assert summary["unit"] == unit
    for hospital in dataset.ids:
        steps = noise_plan.steps_per_round(plan, dataset.hospital(hospital).train.records)
        if unit == "record":
            assert ledger.steps("record", hospital) == plan.rounds * steps
        elif plan.privacy.mechanism == "local_dp":
            assert ledger.steps("hospital", hospital) == plan.rounds
    if unit == "hospital" and plan.privacy.mechanism != "local_dp":
        assert ledger.steps("hospital") == plan.rounds
    if plan.privacy.outer != "none":
        assert summary["second_unit"] == "hospital"
        assert 0 < summary["second_epsilon"] <= 8.0 * (1 + 1e-9)
        assert ledger.steps("hospital") == plan.rounds
        assert ledger.units() == ("record", "hospital")
        assert any(text.startswith("two guarantees: beside the epsilon per record") for text in summary["warnings"])
        assert "Record level: Protected: one patient record" in summary["guarantee"]
        assert "Hospital level: Protected: the whole contribution of one hospital" in summary["guarantee"]
    else:
        assert summary["second_unit"] is None
        assert summary["second_epsilon"] is None
    assert "Protected:" in summary["guarantee"]
    assert "Trust:" in summary["guarantee"]
    simulated = mechanisms.of(plan.privacy).noise_by == "shares"
    assert any("secure sum is simulated" in warning for warning in summary["warnings"]) is simulated
    assert ("only simulated" in summary["guarantee"]) is simulated


def test_a_hospital_that_leaves_takes_its_share_of_noise_with_it(few):
    """Three shares were planned; a round of two holds less noise, and the ledger says so."""
    release = next(iter(noise_plan.make(plan_of("skellam"), few).releases.values()))
    three, two = (MechanismEvent(**{**release.in_round(0, 1, size)[0].to_json()}) for size in (3, 2))
    assert (three.shares, two.shares) == (3, 2)
    assert epsilon_of([(two, 1)], 1e-2) > epsilon_of([(three, 1)], 1e-2)


def test_a_tree_that_restarts_is_several_trees(few, model):
    plan = plan_of("tree", privacy={"restart_every": 2})
    run = train(plan, few, model=model)
    kept = [(event.steps, event.restart) for event, _ in run.ledger.events("hospital")]
    assert sorted(kept) == [(1, 2), (2, 0), (2, 1)]


@pytest.mark.parametrize("name", ["fixed_clip", "tree", "skellam", "local_dp"])
def test_hospitals_in_turn_pay_for_their_own_rounds(name, many, model):
    """40 hospitals, 10 a round: each takes part in every fourth of 8 rounds, and needs less noise for it."""
    plan = plan_of(name, rounds=8, cohort={"kind": "cyclic", "hospitals_per_round": 10})
    run = train(plan, many, model=model)
    rounds = [run.ledger.steps("hospital", one) for one in many.ids]
    assert rounds == ([8] * 40 if name == "tree" else [2] * 40)  # the tree counts its rounds and knows the period
    assert 7.5 < run.summary["epsilon"] <= 8.0 * (1 + 1e-9)
    everyone = noise_plan.make(plan.replace(cohort={"kind": "all", "hospitals_per_round": None}), many)
    assert noise_plan.make(plan, many).server_multiplier < everyone.server_multiplier
    if name == "tree":
        assert run.ledger.events("hospital")[0][0].period == 4


def test_records_come_back_in_the_same_place_of_every_pass(few):
    """What the tree's accounting assumes of the batches of DP-FTRL."""
    from tff_hospitals.training.round_inputs import RoundDrawer

    plan = plan_of("dp_ftrl_local", client={"local_epochs": None, "local_steps": 12})
    drawer = RoundDrawer(plan, few, noise_plan.make(plan, few))
    for hospital in drawer.draw(0).cohort:
        schedule = hospital.schedule
        period = math.ceil(schedule.records / 4)
        for record in range(schedule.records):
            seen = np.flatnonzero(((schedule.indices == record) & (schedule.mask > 0)).any(axis=1))
            assert len(seen) <= 1 or set(np.diff(seen)) == {period}
        assert noise_plan.make(plan, few).releases[hospital.hospital.hospital_id].event.period == period
    first, second = (drawer.draw(number).cohort[0].schedule.indices.tolist() for number in (0, 1))
    assert first != second


def test_the_secure_sum_changes_nothing_but_the_last_digits(few, model, common_noise):
    for name in ("weighted_mean", "fixed_clip", "local_dp"):
        plan = METHODS[name].plan(BASE, 8.0)
        plain = train(plan, few, model=model)
        secure = train(plan.replace(privacy={"secure_sum": True}), few, model=model)
        for one, other in zip(plain.weights, secure.weights):
            np.testing.assert_allclose(one, other, atol=1e-4)
        assert any("simulated" in warning for warning in secure.summary["warnings"])
        assert not any("simulated" in warning for warning in plain.summary["warnings"])


def test_a_secure_sum_that_cuts_something_off_says_so(few, model):
    plan = METHODS["mean"].plan(BASE, None).replace(privacy={"secure_sum": True, "secure_sum_bound": 1e-3})
    warned = [text for text in train(plan, few, model=model).summary["warnings"] if "secure_sum_bound" in text]
    assert len(warned) == 1
    assert warned[0].startswith("round 1: 3 hospitals had a coordinate beyond secure_sum_bound=0.001")


@pytest.mark.parametrize("name", ["tree", "discrete_gaussian", "dp_sgd_adaptive", "dp_ftrl_local", "dp_sgd_fixed_clip"])
def test_a_run_that_dies_resumes_bit_equal(name, few, model, tmp_path):
    """The open nodes of a tree, the grid and both units are in the checkpoint."""
    plan = plan_of(name, checkpoint_every=2)
    whole = train(plan, few, model=model, run_dir=tmp_path / "whole")

    def die(progress):
        if progress.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, few, model=model, run_dir=tmp_path / "run", on_round=die)
    resumed = train(plan, few, model=model, run_dir=tmp_path / "run")
    for one, other in zip(whole.weights, resumed.weights):
        assert one.tolist() == other.tolist()
    for file in ("metrics.csv", "ledger.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_secure_noise_cannot_be_reproduced_and_says_so(few, model, tmp_path):
    plan = plan_of("dp_sgd", privacy={"secure_noise": True})
    first = train(plan, few, model=model, run_dir=tmp_path / "run")
    second = train(plan, few, model=model)
    assert any((one != other).any() for one, other in zip(first.weights, second.weights))
    assert first.summary["reproducible"] is False
    assert any("cannot be reproduced" in warning for warning in first.summary["warnings"])
    assert json.loads((tmp_path / "run" / "record.json").read_text())["reproducible"] is False
    assert "operating system" in first.summary["guarantee"]
    assert train(plan_of("dp_sgd"), few, model=model).summary["reproducible"] is True


def test_the_choice_of_a_winner_is_paid_for(few, model):
    alone = train(plan_of("dp_sgd", privacy={"target_epsilon": None, "noise_multiplier": 2.0}), few, model=model)
    chosen = train(
        plan_of("dp_sgd", privacy={"target_epsilon": None, "noise_multiplier": 2.0, "selected_from": 5.0}),
        few,
        model=model,
    )
    assert chosen.summary["epsilon"] > 1.3 * alone.summary["epsilon"]
    assert {event.kind for event, _ in chosen.ledger.events("record", "site_0")} == {"selection"}
    assert alone.summary["epsilon_pld"] < chosen.summary["epsilon_pld"] <= chosen.summary["epsilon"]
    calibrated = train(plan_of("dp_sgd", privacy={"selected_from": 5.0}), few, model=model)
    assert 7.5 < calibrated.summary["epsilon"] <= 8.0 * (1 + 1e-6)


def test_a_patient_with_several_records_is_told_their_epsilon(few, model):
    plan = plan_of("dp_sgd", target=1.0)
    single = train(plan, few, model=model)
    triple = train(plan.replace(privacy={"records_per_patient": 3}), few, model=model)
    assert single.summary["epsilon_per_patient"] == single.summary["epsilon"]
    assert triple.summary["epsilon"] == single.summary["epsilon"]
    assert triple.summary["epsilon_per_patient"] > 2 * single.summary["epsilon"]
    assert "A patient with up to 3 records" in triple.summary["guarantee"]
    # What the data set states holds without a word in the plan, and the plan may not say less.
    visits = dataclasses.replace(few, records_per_patient=3)
    stated = train(plan, visits, model=model).summary
    assert stated["epsilon_per_patient"] == triple.summary["epsilon_per_patient"]
    assert stated["records_per_patient"] == 3
    less = review.problems(plan.replace(privacy={"records_per_patient": 2}), visits)
    assert [str(problem) for problem in less] == [
        "records_per_patient=2: must be >= 3, what the data set's schema states. Remedy: drop it, or state a smaller "
        "bound in the schema."
    ]
    assert review.problems(plan.replace(privacy={"records_per_patient": 4}), visits) == []


def test_exact_statements_about_records_stay_inside_of_private_runs(few):
    told = dataclasses.replace(few, warnings=("may disappoint",), inside_warnings=("site_1 has one class only",))
    own = dataclasses.replace(told, secret=passing_secret())
    private, open_plan = plan_of("dp_sgd", target=1.0), BASE
    for plan, dataset, shown in ((private, told, True), (private, own, False), (open_plan, own, True)):
        words = review.warnings(plan, dataset)
        assert "may disappoint" in words
        assert ("site_1 has one class only" in words) == shown


def test_swamped_updates_are_warned_about_with_the_measured_ratio(few, model):
    # A model of few parameters: the norm of its noise varies so much that five rounds say little.
    swamped = train(plan_of("fixed_clip", target=0.1, rounds=20), few, model=model).summary["warnings"]
    assert any("signal-to-noise ratio (median over rounds) of the aggregated update below" in text for text in swamped)
    inside = train(plan_of("dp_sgd", target=0.02, rounds=20), few, model=model).summary["warnings"]
    (said,) = [text for text in inside if "noise swamps the update" in text]
    assert "site_2" in said
    quiet = plan_of("fixed_clip", privacy={"target_epsilon": None, "noise_multiplier": 0.05})
    assert not any("noise swamps" in text for text in train(quiet, few, model=model).summary["warnings"])


def test_the_measured_ratio_is_that_of_the_unnoised_update():
    generator = np.random.default_rng(0)
    signal = np.full(10_000, 0.03)  # norm 3
    noised = signal + generator.normal(0, 0.02, 10_000)  # noise of norm 2
    assert ratio(float(np.linalg.norm(noised)), 2.0) == pytest.approx(1.5, rel=0.05)
    assert ratio(1.0, 0.0) is None


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "changes", "problem", "said"),
    [
        ("dp_sgd", {"privacy": {"target_epsilon": 0.0}}, "target_epsilon", "> 0"),
        ("dp_sgd", {"privacy": {"target_epsilon": -1.0}}, "target_epsilon", "> 0"),
        ("fixed_clip", {"privacy": {"clip_norm": 0.0}}, "clip_norm", "> 0"),
        ("local_dp", {"privacy": {"clip_norm": math.inf}}, "clip_norm", "finite"),
        ("skellam", {"privacy": {"modulus_bits": 4}}, "modulus_bits", "overflows"),
        ("discrete_gaussian", {"privacy": {"modulus_bits": 31}}, "modulus_bits", "<= 30"),
        (
            "skellam",
            {"cohort": {"kind": "poisson", "sampling_probability": 0.5}},
            "cohort",
            "number must be known before the round",
        ),
        ("dp_ftrl_local", {"privacy": {"clip_style": "adaptive"}}, "clip_style", "one clip norm for all steps"),
        ("tree", {"privacy": {"restart_every": 0}}, "restart_every", ">= 1"),
        ("fixed_clip", {"privacy": {"restart_every": 3}}, "restart_every", "only used with aggregator=tree"),
        ("tree", {"privacy": {"zeroing": "fixed"}}, "zeroing", "only used with"),
        ("fixed_clip", {"privacy": {"zeroing": "fixed", "zeroing_norm": 0.0}}, "zeroing_norm", "> 0"),
        ("fixed_clip", {"privacy": {"zeroing": "quantil"}}, "zeroing", "must be one of"),
        ("fixed_clip", {"privacy": {"outer": "tree"}}, "outer", "only used with a record-level method"),
        (
            "dp_sgd",
            {"privacy": {"outer": "fixed_clip"}, "weighting": "equal"},
            "outer_noise_multiplier, outer_target_epsilon",
            "exactly one",
        ),
        ("dp_sgd_fixed_clip", {"privacy": {"outer_clip_norm": 0.0}}, "outer_clip_norm", "> 0"),
        ("dp_sgd_fixed_clip", {"weighting": "records"}, "weighting", "equal weights"),
        ("dp_sgd", {"privacy": {"conversion": "gaussian_exact"}}, "conversion", "without sampling"),
        ("skellam", {"privacy": {"conversion": "gaussian_exact"}}, "conversion", "selection or rounding"),
        ("dp_sgd", {"privacy": {"records_per_patient": 0}}, "records_per_patient", ">= 1"),
        ("dp_sgd", {"privacy": {"selected_from": 0.5}}, "selected_from", ">= 1"),
        (
            "dp_sgd",
            {"privacy": {"selected_from": 3.0}, "stopping": {"max_epsilon": 2.0}},
            "max_epsilon",
            "winner of a sweep",
        ),
        (
            "dp_sgd_adaptive",
            {"privacy": {"clipped_count_stddev": 0.1}},
            "noise_multiplier of site_0",
            "must stay below 0.2",
        ),
        ("weighted_mean", {"privacy": {"secure_sum": True, "secure_sum_bound": 0.0}}, "secure_sum_bound", "> 0"),
    ],
)
def test_bad_input_is_refused_with_value_bound_and_remedy(name, changes, problem, said, few):
    found = review.problems(plan_of(name).replace(**changes), few)
    (one,) = [item for item in found if item.name == problem]
    assert said in one.bound
    assert one.remedy


def test_adaptive_clipping_over_few_hospitals_names_the_largest_feasible_noise(few):
    (one,) = review.problems(plan_of("adaptive_clip"), few)
    assert "must stay below 0.3 " in one.bound  # 3 hospitals / 10
    assert one.value > 0.3
    (both,) = review.problems(plan_of("adaptive_clip_zeroing"), few)
    assert "must stay below 0.212132 " in both.bound


def test_a_count_that_takes_most_of_the_privacy_is_warned_about(many):
    plan = plan_of("adaptive_clip", privacy={"target_epsilon": None, "noise_multiplier": 3.8})  # the limit is 4
    (said,) = [text for text in review.warnings(plan, many) if "takes most of the privacy" in text]
    assert "updates get 3.2 times the noise" in said  # 1 / sqrt(1 - 0.95**2)
    easy = plan.replace(privacy={"clipped_count_stddev": 6.1})
    assert not any("takes most of the privacy" in text for text in review.warnings(easy, many))


def test_a_model_of_another_size_is_refused_where_the_sensitivity_depends_on_it(few):
    larger = build_model(BASE.replace(model={"name": "mlp"}), few)
    with pytest.raises(InvalidInput, match="sensitivity of rounded updates"):
        train(plan_of("skellam"), few, model=larger)


def test_a_winner_with_noised_preprocessing_has_no_calibration(few):
    released = {"kind": "gaussian", "noise_multiplier": 5.0, "unit": "record", "count": 1}
    preprocessing = dataclasses.replace(few.preprocessing, events=(released,))
    noised = dataclasses.replace(few, preprocessing=preprocessing)
    (one,) = review.problems(plan_of("dp_sgd", privacy={"selected_from": 5.0}), noised)
    assert one.name == "selected_from"
    assert review.problems(plan_of("dp_sgd"), noised) == []


def test_an_overflowing_modulus_names_the_bits_that_suffice(few):
    plan = plan_of("skellam", privacy={"modulus_bits": 4})
    (one,) = review.problems(plan, few)
    bits = int(one.remedy.split("=")[1].split()[0])
    assert review.problems(plan.replace(privacy={"modulus_bits": bits}), few) == []
    assert names_of(review.problems(plan.replace(privacy={"modulus_bits": bits - 1}), few)) == ["modulus_bits"]


@every_method
def test_a_delta_that_gives_a_unit_away_is_warned_about(name, few, many):
    dataset = hospitals_for(name, few, many)
    plan = plan_of(name, privacy={"delta": 0.4})
    assert review.problems(plan, dataset) == []
    warned = [text for text in review.warnings(plan, dataset) if text.startswith("delta 0.4 is not below 1 / ")]
    assert warned
    assert "Remedy" in warned[0]


def test_every_mechanism_says_who_adds_the_noise():
    for mechanism in MECHANISMS.values():
        assert mechanism.words
        assert mechanism.noise_by in ("nobody", "hospital", "server", "shares")


def test_tree_variance_beats_independent_noise_on_prefixes():
    """The point of a tree: the noise of a long prefix grows with its logarithm."""
    assert tree_noise.prefix_variance(1023) < 10 * tree_noise.variance_of_level(9) + 1
    assert tree_noise.prefix_variance(1024) < 0.6


# ---------------------------------------------------------------------------------------- cohorts whose size varies

COHORTS = {
    "all": {},
    "fixed size": {"kind": "fixed_size", "hospitals_per_round": 7},
    "cyclic, last group smaller": {"kind": "cyclic", "hospitals_per_round": 16},
    "poisson": {"kind": "poisson", "sampling_probability": 0.4},
}


@every_method
@pytest.mark.parametrize("cohort", COHORTS)
def test_a_target_is_kept_by_every_unit_whatever_cohorts_are_drawn(name, cohort, many):
    """What the ledger would hold after rounds with the cohorts that are really drawn, of 40 hospitals."""
    plan = plan_of(name, target=2.0, rounds=9, cohort=COHORTS[cohort])
    problems = review.problems(plan, many)
    if problems:  # refused is kept as well; nothing else may be refused
        assert names_of(problems) in (["cohort"], ["noise_multiplier"])
        assert cohort == "poisson" or name in COUNTING
        return
    drawn = Cohorts(many.ids, plan.cohort.kind, plan.cohort.hospitals_per_round, plan.cohort.sampling_probability)
    cohorts = [drawn(Streams.from_seed(5), number) for number in range(plan.rounds)]
    for part in noise_plan.make(plan, many).parts:
        ledger = Ledger(part.delta, part.adjacency)
        for number, ids in enumerate(cohorts):
            shared = next(iter(part.releases.values())).shared
            for one in (None,) if shared else ids:
                release = part.releases[one or many.ids[0]]
                steps = noise_plan.steps_per_round(plan, many.hospital(one or many.ids[0]).train.records)
                event, count = release.in_round(number, steps, len(ids))
                ledger.record(part.unit, one, number + 1, event, count)
        assert 0 < ledger.worst_epsilon(part.unit, part.conversion)[0] <= 2.0 * (1 + 1e-9)


def test_the_noise_of_the_last_group_suffices_and_the_sum_of_a_whole_one_fits(many):
    """40 hospitals in groups of 16: the last one has 8. Its shares alone must hold the noise."""
    changes = {"rounds": 3, "cohort": {"kind": "cyclic", "hospitals_per_round": 16}}
    uneven = noise_plan.make(plan_of("skellam", target=1.0, **changes), many)
    even = plan_of("skellam", target=1.0, rounds=3, cohort={"kind": "cyclic", "hospitals_per_round": 8})
    event = next(iter(uneven.releases.values())).event
    assert event.shares == 8
    assert epsilon_of([(event, 1)], uneven.delta) <= 1.0
    assert uneven.server_multiplier == pytest.approx(noise_plan.make(even, many).server_multiplier, rel=1e-2)


def test_budgets_by_which_hospitals_leave_do_not_go_with_a_calibrated_target_in_shares(many):
    cyclic = {"kind": "cyclic", "hospitals_per_round": 8}
    plan = plan_of("skellam", cohort=cyclic, stopping={"max_epsilon": 4.0})
    (problem,) = review.problems(plan, many)
    assert problem.name == "max_epsilon"
    assert "each takes its share of the noise with it" in problem.bound
    assert review.problems(plan.replace(cohort={"kind": "all", "hospitals_per_round": None}), many) == []
    given = plan.replace(privacy={"target_epsilon": None, "noise_multiplier": 1.0})
    assert review.problems(given, many) == []
    inside = plan_of("dp_sgd", weighting="equal", stopping={"max_epsilon": 4.0})
    both = inside.replace(privacy={"outer": "skellam", "outer_target_epsilon": 2.0})
    (problem,) = review.problems(both, many)
    assert "exceed outer_target_epsilon=2" in problem.bound


@every_method
def test_every_release_is_accounted_for_when_one_unit_is_blanked_out(name, few, many):
    """The number of units is public: steps, sampling probability and divisors follow from it."""
    dataset = hospitals_for(name, few, many)
    for part in noise_plan.make(plan_of(name), dataset).parts:
        assert part.adjacency == "replace_special"
        for release in part.releases.values():
            event, count = release.in_round(0, 3, len(dataset.ids))
            assert "replace_special" in event.adjacencies
            if "add_or_remove_one" in event.adjacencies:  # and for those it has the same figures
                other = epsilon_of([(event, count)], 1e-2, adjacency="add_or_remove_one")
                assert epsilon_of([(event, count)], 1e-2) == other
