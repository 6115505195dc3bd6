"""The trade-off curve against closed forms, against epsilon and delta, and against simulated attackers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tff_hospitals.accounting import MechanismEvent, loss_shapes, privacy_loss, trade_off
from tff_hospitals.accounting.sampled_gaussian import mixture_loss
from tff_hospitals.foundations.validation import InvalidInput


def composition(*events, adjacency="add_or_remove_one"):
    return loss_shapes.compose(events, adjacency)


SAMPLED = MechanismEvent("poisson_gaussian", noise_multiplier=1.0, sampling_probability=0.1)
CASES = {
    "sampled": composition((SAMPLED, 40)),
    "rarely sampled": composition(
        (MechanismEvent("poisson_gaussian", noise_multiplier=0.8, sampling_probability=0.02), 300)
    ),
    "laplace": composition((MechanismEvent("laplace", noise_multiplier=2.0), 3)),
    "two kinds": composition((SAMPLED, 20), (MechanismEvent("gaussian", noise_multiplier=2.0), 2)),
}


def test_the_curve_of_gaussian_noise_is_the_closed_form():
    curve = trade_off.trade_off(composition((MechanismEvent("gaussian", noise_multiplier=2.0), 4)))
    assert curve.mu == pytest.approx(1.0)
    assert curve.fnr_at(0.3) == pytest.approx(stats.norm.cdf(-stats.norm.ppf(0.3) - 1.0))
    assert curve.area == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)))
    # A whole curve from a loss distribution agrees: next to all sampling probability is 1.
    almost = composition((MechanismEvent("poisson_gaussian", noise_multiplier=2.0, sampling_probability=1 - 1e-9), 4))
    sampled = trade_off.trade_off(almost)
    assert sampled.mu is None
    rates = np.linspace(0.01, 0.99, 50)
    assert np.allclose([sampled.fnr_at(one) for one in rates], [curve.fnr_at(one) for one in rates], atol=2e-4)
    assert sampled.area == pytest.approx(curve.area, abs=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_every_epsilon_and_delta_is_a_line_below_the_curve_that_touches_it(name):
    """fnr >= 1 - delta - e^epsilon fpr, with equality somewhere: the curve says exactly what the accountant says."""
    curve = trade_off.trade_off(CASES[name])
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.fnr) <= 0).all()
    for epsilon in (0.2, 0.5, 1.0):
        delta = privacy_loss.delta(CASES[name], epsilon)
        above = curve.fnr - (1 - delta - np.exp(epsilon) * curve.fpr)
        mirrored = curve.fpr - (1 - delta - np.exp(epsilon) * curve.fnr)
        assert min(above.min(), mirrored.min()) == pytest.approx(0.0, abs=2e-4)


def test_no_simulated_attacker_does_better_and_the_best_one_gets_there():
    """The likelihood ratio over all steps is the best rule (Neyman and Pearson); its area comes from 40,000 pairs."""
    generator, steps, q = np.random.default_rng(0), 40, 0.1
    curve = trade_off.trade_off(CASES["sampled"])

    def scores(taken):
        seen = taken + generator.normal(size=taken.shape)
        return mixture_loss(seen, (1 - q, q), 1.0).sum(axis=1)

    runs = 40_000
    present, absent = scores(generator.random((runs, steps)) < q), scores(np.zeros((runs, steps)))
    share = (present > absent).mean()
    assert share == pytest.approx(curve.area, abs=4 * 0.5 / np.sqrt(runs))
    threshold = np.quantile(absent, 0.9)
    assert (present <= threshold).mean() == pytest.approx(curve.fnr_at(0.1), abs=4 * 0.5 / np.sqrt(runs))


def test_more_noise_means_a_smaller_area():
    areas = [trade_off.trade_off(trade_off.with_noise(CASES["two kinds"], ratio)).area for ratio in (0.7, 1.0, 1.4)]
    assert areas == sorted(areas, reverse=True)
    assert trade_off.with_noise(CASES["sampled"], 1.0) == CASES["sampled"]


def test_whole_number_noise_has_no_curve_of_its_own_and_gaussian_noise_stands_in():
    event = MechanismEvent(
        "skellam", local_stddev=50.0, shares=4, l2_sensitivity=40.0, l1_sensitivity=160.0, dimension=16
    )
    parts = composition((event, 10), adjacency="replace_special")
    with pytest.raises(InvalidInput, match=r"whole-number noise.*no loss distribution"):
        trade_off.trade_off(parts)
    assert trade_off.trade_off(trade_off.like_gaussian(parts)).mu == pytest.approx(np.sqrt(10) * 40 / 100)
