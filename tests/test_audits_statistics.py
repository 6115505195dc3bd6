"""Statistics of attacks, bounds from canaries, picture measures: checked by hand or by repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tff_hospitals.audits import labels, membership, picture, statistics, threat_models
from tff_hospitals.audits.bounds import guesses
from tff_hospitals.foundations.validation import InvalidInput


def test_every_attack_names_a_known_threat_model_and_every_defence_what_it_stops():
    known = set(threat_models.THREAT_MODELS)
    assert known == {"curious_server", "sum_server", "other_hospital", "outsider", "malicious_server"}
    assert {attack.assumes for attack in threat_models.ATTACKS.values()} <= known
    for defence in threat_models.DEFENCES.values():
        assert set(defence.stops) | set(defence.hampers) <= known
    assert "hospital_noise" not in threat_models.defences_against("curious_server")
    assert threat_models.defences_against("malicious_server") == ("dp_sgd",)
    with pytest.raises(InvalidInput, match="did you mean 'curious_server'"):
        threat_models.defences_against("curius_server")


# ---------------------------------------------------------------------------------------------------------- intervals


def test_exact_intervals_of_shares():
    assert statistics.clopper_pearson(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert statistics.clopper_pearson(10, 10).low == pytest.approx(0.025 ** (1 / 10))
    whole = stats.binomtest(7, 20).proportion_ci(0.9, "exact")
    found = statistics.clopper_pearson(7, 20, 0.9)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high))


@pytest.mark.parametrize(("members", "others"), [(199, 104), (30, 16)])
def test_chance_is_covered_in_95_percent_of_repetitions(members, others):
    """An attack on a model that never saw the records: members and others are alike."""
    generator, repetitions = np.random.default_rng(0), 600
    area, advantage, rate, p_small = 0, 0, 0, 0
    for _ in range(repetitions):
        inside, outside = generator.normal(size=members), generator.normal(size=others)
        outcome = statistics.evaluate(inside, outside, fprs=(0.1,))
        area += outcome.auc_interval.covers(0.5)
        advantage += outcome.advantage_interval.covers(0.0)
        one = outcome.tprs[0]
        rate += one.tpr_interval.low <= one.fpr_interval.high
        p_small += one.p_value <= 0.05
    # 600 repetitions: a true 95 % shows between 92.7 % and 97.3 % (2.6 standard errors).
    assert 0.927 <= area / repetitions <= 0.975
    assert advantage / repetitions >= 0.95
    assert rate / repetitions >= 0.95
    assert p_small / repetitions <= 0.07


def test_a_real_difference_is_covered_too_and_told_from_chance():
    generator = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / math.sqrt(2))  # P(N(1, 1) > N(0, 1))
    covered, beyond = 0, 0
    for _ in range(300):
        outcome = statistics.evaluate(generator.normal(1, 1, 100), generator.normal(0, 1, 60), fprs=(0.05,))
        covered += outcome.auc_interval.covers(truth)
        beyond += outcome.tprs[0].p_value < 0.05
    assert 0.90 <= covered / 300 <= 1.0
    assert beyond / 300 > 0.6


def test_perfect_and_reversed_attacks():
    low, high = np.arange(5.0), np.arange(10.0, 15.0)
    perfect = statistics.evaluate(high, low, fprs=(0.2,))
    assert (perfect.auc, perfect.advantage, perfect.tprs[0].tpr) == (1.0, 1.0, 1.0)
    assert perfect.auc_interval.high == 1.0
    assert 0.5 < perfect.auc_interval.low < 1.0
    # 5 members before the second non-member: of the first 6 records at most one is a non-member.
    assert perfect.tprs[0].p_value == pytest.approx(stats.hypergeom.cdf(1, 10, 5, 6))
    reversed_ = statistics.evaluate(low, high, fprs=())
    assert (reversed_.auc, reversed_.advantage) == (0.0, 0.0)
    ties = statistics.evaluate(np.ones(4), np.ones(3), fprs=())
    assert (ties.auc, ties.advantage) == (0.5, 0.0)
    assert perfect.to_json()["roc"][0] == (0.0, 0.0)
    assert perfect.to_json()["roc"][-1] == (1.0, 1.0)


def test_too_few_records_for_a_rate_name_the_smallest_that_they_support():
    scores = np.arange(50.0)
    with pytest.raises(
        InvalidInput, match=r"fpr=0\.001: 50 records .* support no rate below 0\.02.*0\.02 or more.*1000"
    ):
        statistics.tpr_at_fpr(scores, scores, 0.001)
    outcome = statistics.evaluate(scores, scores, fprs=(0.02, 0.001))
    assert [one.asked_fpr for one in outcome.tprs] == [0.02]
    assert outcome.unsupported == (0.001,)
    assert outcome.to_json()["smallest_fpr"] == 0.02


def test_bad_scores_are_refused():
    with pytest.raises(InvalidInput, match="members=0"):
        statistics.evaluate(np.zeros(0), np.zeros(3))
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        statistics.evaluate(np.array([np.nan]), np.zeros(3))
    with pytest.raises(InvalidInput, match="confidence"):
        statistics.evaluate(np.zeros(2), np.zeros(3), confidence=1.0)


# --------------------------------------------------------------------------------------------------------- membership


def test_scores_of_the_three_attacks_on_records_that_are_learnt_by_heart():
    """Each record's loss is 0.1 where it was trained on and its own difficulty elsewhere."""
    generator = np.random.default_rng(2)
    records, models = 300, 32
    difficulty = generator.uniform(0.2, 3.0, records)
    included = generator.random((models + 1, records)) < 0.5
    noise = np.exp(0.1 * generator.normal(size=included.shape))
    losses = np.where(included, 0.85 * difficulty, difficulty) * noise
    shadows = membership.Shadows(losses[1:], included[1:])
    areas = [
        statistics.area_under_roc(score[included[0]], score[~included[0]])
        for score in (
            membership.loss_threshold(losses[0]),
            membership.calibrated(losses[0], shadows),
            membership.lira(losses[0], shadows),
        )
    ]
    assert areas[0] < 0.62  # difficulty drowns membership
    assert areas[1] > 0.75
    assert areas[2] > 0.75
    hard = membership.outliers(shadows.mean_out(), 0.1)
    assert hard.sum() == 30
    assert difficulty[hard].min() > np.quantile(difficulty, 0.85)


def test_groups_without_both_kinds_are_left_out():
    groups = {"all": np.ones(6, bool), "one": np.arange(6) < 2}
    found = membership.by_group(np.arange(6.0), np.arange(6) < 3, groups, fprs=())
    assert list(found) == ["all"]


# ----------------------------------------------------------------------------------------------------------- canaries


def test_a_hundred_right_guesses_certify_3_493():
    bound = guesses.one_run_lower_bound(canaries=100, guesses=100, correct=100, delta=0.0)
    assert bound == pytest.approx(3.493, abs=5e-4)
    assert bound == pytest.approx(math.log(0.05**0.01 / (1 - 0.05**0.01)), abs=1e-6)  # q**100 = 0.05
    with_delta = guesses.one_run_lower_bound(canaries=100, guesses=100, correct=100, delta=1e-3)
    assert 0 < with_delta < bound


def test_the_bound_of_one_run_holds_for_randomised_response():
    """Randomised response with known epsilon: the bound exceeds it in at most 5 % of audits, and comes near it."""
    generator, epsilon, size = np.random.default_rng(3), 1.0, 400
    right = 1 / (1 + math.exp(-epsilon))
    bounds = []
    for _ in range(100):
        coins = generator.random(size) < 0.5
        answers = np.where(generator.random(size) < right, coins, ~coins)
        scores = answers + 1e-6 * generator.normal(size=size)
        bounds.append(guesses.guess_and_bound(scores, coins, delta=0.0).lower_bound)
    assert np.mean(np.array(bounds) > epsilon) <= 0.08  # 100 audits
    assert np.median(bounds) > 0.6


def test_counts_of_guesses_must_fit():
    with pytest.raises(InvalidInput, match="correct"):
        guesses.one_run_p_value(canaries=10, guesses=5, correct=6, epsilon=1.0, delta=0.0)


# ------------------------------------------------------------------------------------------------- pictures and labels


def test_picture_measures():
    image = np.kron(np.eye(2), np.ones((4, 4)))
    assert picture.psnr(image, image + 0.1) == pytest.approx(20.0)
    assert picture.psnr(image * 16, image * 16 + 1.6, brightest=16) == pytest.approx(20.0)
    assert picture.ssim(image, image) == pytest.approx(1.0)
    assert picture.ssim(image, 1 - image) < 0
    assert picture.ssim(image[..., None], image[..., None]) == pytest.approx(1.0)
    assert picture.relative_error(np.array([1.0, 5.0, 7.0]), np.array([2.0, 5.0, 0.0]), np.array([1.0, 2.0, 0.0])) == (
        pytest.approx(math.sqrt(0.5))  # the constant third feature is left out
    )


def test_class_counts_from_an_untrained_bias():
    # 3 records of 4 classes at chance: gradient of the mean loss is 1/4 - count / 3.
    counts = np.array([2, 0, 1, 0])
    assert labels.class_counts(0.25 - counts / 3, batch=3, classes=4).tolist() == counts.tolist()
    assert labels.class_counts(np.array([0.5 - 3 / 8]), batch=8, classes=2).tolist() == [5, 3]
