"""Words for an ethics board, warnings, groups of records and the price of choosing the best run."""

import math

import numpy as np
import pytest

from tff_hospitals.accounting import (
    Ledger,
    MechanismEvent,
    adaptive_clip_problem,
    after_selection,
    delta_warning,
    draw_runs,
    epsilon_of,
    group_epsilon,
    guarantee,
    hospital_level_warning,
    largest_adaptive_noise,
    no_guarantee,
    noise_to_signal,
)
from tff_hospitals.accounting.statements import meaning
from tff_hospitals.foundations import validation

STEP = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
PLAIN = MechanismEvent("gaussian", noise_multiplier=10.0)


def ledger_of(event=STEP, count=1500, unit="record", adjacency="add_or_remove_one"):
    ledger = Ledger(1e-3, adjacency)
    ledger.record(unit, "cleveland", 15, event, count)
    ledger.record(unit, "va", 15, event, count // 2)
    return ledger


def test_a_guarantee_says_everything_that_gives_it_meaning():
    found = guarantee(ledger_of(), "record", noise_added_by="hospital")
    assert found.private
    assert found.worst_hospital == "cleveland"
    for words in (
        "one patient record",
        "against the server, the other hospitals and the public",
        "Not protected against: the staff of the hospital itself",
        "epsilon 0.993 for cleveland",
        "delta 0.001",
        "adding or removing one unit",
        "Renyi DP, improved conversion",
        "Poisson sampling",
        "right at most 73.0 %",
        "Mironov 2012",
    ):
        assert words in found.text, words
    assert found.short.startswith("one patient record at any hospital: epsilon 0.993 at delta 0.001")


@pytest.mark.parametrize(
    ("by", "against", "not_against"),
    [
        ("server", "the other hospitals and the public, who see the model", "the server, which sees"),
        ("shares", "the server, the other hospitals and the public", "a coalition of the server"),
    ],
)
def test_trust_follows_who_adds_the_noise(by, against, not_against):
    found = guarantee(ledger_of(PLAIN, 5, "hospital"), "hospital", noise_added_by=by, simulated_trust=True)
    assert f"against {against}" in found.text
    assert f"Not protected against: {not_against}" in found.text
    assert "only simulated" in found.text


def test_one_hospital_and_another_conversion():
    found = guarantee(ledger_of(), "record", noise_added_by="hospital", conversion="pld", hospital_id="va")
    assert found.epsilon == ledger_of().epsilon("record", "va", "pld")
    assert " for va at delta" in found.text
    assert "privacy loss distribution" in found.text


def test_no_guarantee_is_said_in_plain_words():
    for found in (
        guarantee(Ledger(1e-3), "record", noise_added_by="hospital"),
        guarantee(ledger_of(MechanismEvent("non_private"), 2), "record", noise_added_by="hospital"),
        no_guarantee("record"),
    ):
        assert not found.private
        assert found.text.startswith("There is no guarantee for any record")
        assert "no guarantee" in found.short
    assert (
        "cleveland released something without noise"
        in guarantee(ledger_of(MechanismEvent("non_private"), 2), "record", noise_added_by="hospital").text
    )


def test_caveats_come_where_they_apply():
    discrete = MechanismEvent("skellam", local_stddev=90.0, shares=4, l2_sensitivity=10.0, l1_sensitivity=30.0)
    assert "Mironov 2012" not in guarantee(ledger_of(discrete), "record", noise_added_by="shares").text
    stopped = guarantee(ledger_of(), "record", noise_added_by="hospital", stopped_by_data=True)
    assert "largest number of rounds that was allowed" in stopped.text
    replaced = guarantee(ledger_of(PLAIN, 5, adjacency="replace_one"), "record", noise_added_by="hospital")
    assert "which of two contents one such unit has" in replaced.text


@pytest.mark.parametrize(("epsilon", "share"), [(0.0, "50.0 %"), (math.log(3), "75.0 %"), (10.0, "99.9955 %")])
def test_meaning_by_hand(epsilon, share):
    """At even odds nobody is right more often than e^epsilon / (1 + e^epsilon): 1/2, 3/4, .999955."""
    assert f"at most {share}" in meaning(epsilon, 0.0)


def test_bad_party():
    with pytest.raises(validation.InvalidInput, match=r"noise_added_by='serve'.*'server'"):
        guarantee(ledger_of(), "record", noise_added_by="serve")


# --- cautions


def test_delta_below_one_over_records():
    assert delta_warning(1e-3, 30) is None
    assert delta_warning(1 / 30 - 1e-9, 30) is None
    problem = delta_warning(1 / 30, 30)
    assert "1 / 30 records" in problem.bound
    assert "take delta=" in problem.remedy


def test_adaptive_clipping_for_four_hospitals():
    assert largest_adaptive_noise(4) == 0.4
    assert adaptive_clip_problem(0.39, 4) is None
    problem = adaptive_clip_problem(1.0, 4)
    assert "< 0.4 = hospitals per round / 10" in str(problem)
    assert "at least 11 hospitals" in str(problem)
    assert adaptive_clip_problem(1.0, 11) is None


def test_noise_on_the_mean_against_its_signal():
    """Noise 1 on the sum of 4, 16 parameters: norm sqrt(16) / 4 of the clip norm."""
    assert noise_to_signal(1.0, 4, 16) == 1.0
    draws = np.random.default_rng(0).normal(size=(4000, 16)) / 4
    assert np.linalg.norm(draws, axis=1).mean() == pytest.approx(1.0, rel=0.03)


def test_words_for_few_hospitals():
    assert "25 % of the mean" in hospital_level_warning(4)
    assert hospital_level_warning(100, noise_multiplier=1.0, dimension=1000, epsilon=3.0) is None
    assert "1.2 times as large" in hospital_level_warning(100, noise_multiplier=4.0, dimension=900)
    assert "almost surely" in hospital_level_warning(100, epsilon=12.0)


# --- groups of records, and the best of many runs


def test_groups_without_sampling_divide_the_noise():
    half = MechanismEvent("gaussian", noise_multiplier=5.0)
    assert group_epsilon([(PLAIN, 3)], 1e-5, 2) == epsilon_of(half, 1e-5, count=3, conversion="pld")
    assert group_epsilon([(PLAIN, 3)], 1e-5, 1) == epsilon_of(PLAIN, 1e-5, count=3, conversion="pld")


def test_group_methods_agree_in_order():
    """Exact below lemma; for sampling the mixture lies between one record and the lemma."""
    exact = group_epsilon([(PLAIN, 3)], 1e-5, 3, method="gaussian")
    assert exact <= group_epsilon([(PLAIN, 3)], 1e-5, 3, method="lemma")
    sampled = [(STEP, 100)]
    one, mixture = epsilon_of(sampled, 1e-3, conversion="pld"), group_epsilon(sampled, 1e-3, 2, method="mixture")
    assert one < mixture <= group_epsilon(sampled, 1e-3, 2, method="lemma") * 1.001


def test_the_mixture_of_a_full_sample_is_the_gaussian():
    nearly_all = MechanismEvent("poisson_gaussian", noise_multiplier=10.0, sampling_probability=1 - 1e-9)
    exact = group_epsilon([(PLAIN, 2)], 1e-5, 2)
    assert group_epsilon([(nearly_all, 2)], 1e-5, 2, method="mixture") == pytest.approx(exact, rel=1e-3)


def test_a_group_needs_a_method_that_covers_it():
    with pytest.raises(validation.InvalidInput, match=r"method='gaussian': does not cover.*'mixture' or 'lemma'"):
        group_epsilon([(STEP, 10)], 1e-3, 2, method="gaussian")
    with pytest.raises(validation.InvalidInput, match="records_per_patient=0"):
        group_epsilon([(STEP, 10)], 1e-3, 0)


def test_choosing_the_best_run_costs_more_than_one_and_less_than_all():
    winner = ledger_of()
    chosen = after_selection(winner, mean_runs=10)
    one, ten = winner.epsilon("record", "cleveland"), epsilon_of(STEP, 1e-3, count=15000)
    assert one < chosen.epsilon("record", "cleveland") < ten
    assert chosen.steps("record", "va") == 750
    assert Ledger.from_json(chosen.to_json()) == chosen
    assert after_selection(winner, 20).epsilon("record", "va") > after_selection(winner, 10).epsilon("record", "va")
    assert chosen.conversions("record") == ("rdp", "rdp_classical", "pld")
    assert one < chosen.epsilon("record", "cleveland", "pld") < chosen.epsilon("record", "cleveland")


@pytest.mark.parametrize(("distribution", "least"), [("geometric", 1), ("logarithmic", 1), ("poisson", 0)])
def test_the_number_of_runs_has_the_stated_mean(distribution, least):
    generator = np.random.default_rng(7)
    draws = [draw_runs(generator, 8.0, distribution) for _ in range(20000)]
    assert np.mean(draws) == pytest.approx(8.0, rel=0.05)
    assert min(draws) == least


def test_bad_selection():
    with pytest.raises(validation.InvalidInput, match=r"mean_runs=0.5"):
        after_selection(ledger_of(), 0.5, "geo")
