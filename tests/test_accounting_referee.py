"""Our formulas against dp_accounting 0.6.0, which computes the same quantities in another way."""

import math

import numpy as np
import pytest

from tff_hospitals.accounting import (
    MechanismEvent,
    compose_dp_event,
    epsilon_of,
    from_dp_event,
    group_epsilon,
    renyi,
    to_dp_event,
)
from tff_hospitals.accounting.gaussian import exact_epsilon
from tff_hospitals.accounting.loss_shapes import parts_of
from tff_hospitals.accounting.strategies import amplified_noise
from tff_hospitals.foundations import validation

dp_accounting = pytest.importorskip("dp_accounting")
from dp_accounting import pld, rdp  # noqa: E402

RELATION = {
    "add_or_remove_one": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": dp_accounting.NeighboringRelation.REPLACE_ONE,
    "replace_special": dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
}


def referee_curve(event, adjacency="add_or_remove_one"):
    accountant = rdp.RdpAccountant(neighboring_relation=RELATION[adjacency])
    accountant.compose(to_dp_event(event, adjacency))
    return accountant.rdp


def our_curve(event, adjacency="add_or_remove_one"):
    (part,) = parts_of(event, adjacency)
    return renyi.curve(part)


def poisson(q, sigma):
    return MechanismEvent("poisson_gaussian", noise_multiplier=sigma, sampling_probability=q)


def test_orders_are_those_of_dp_accounting():
    assert np.array_equal(renyi.ORDERS, rdp.RdpAccountant().orders)


@pytest.mark.parametrize("q", [1e-4, 1 / 50, 1 / 8, 0.5])
@pytest.mark.parametrize("sigma", [0.4, 0.886, 14.0])
def test_poisson_curves(q, sigma):
    """Equal at whole orders; at the others dp_accounting has an upper bound, or none (no convergence)."""
    ours, theirs = our_curve(poisson(q, sigma)), referee_curve(poisson(q, sigma))
    whole = np.floor(renyi.ORDERS) == renyi.ORDERS
    np.testing.assert_allclose(ours[whole], theirs[whole], rtol=1e-7)
    big = ours * (renyi.ORDERS - 1) > 1e-8  # below, dp_accounting's sums lose digits against 1
    assert np.all(ours[big] <= theirs[big] * (1 + 1e-4))
    assert np.all(np.diff(ours) >= -1e-12 * ours[1:])  # the divergence never falls with the order


@pytest.mark.parametrize(("order", "slack"), [(1.5, 1.3), (3.5, 1.001), (8.5, 1.0000001)])
def test_a_fractional_curve_by_its_own_definition(order, slack):
    """The logarithm of E[(P/Q)^order] under Q, over order - 1, summed on a plain grid: never above our bound."""
    q, sigma = 0.3, 0.9
    x = np.linspace(-12, 16, 1_000_001)
    density = np.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    ratio = 1 - q + q * np.exp((2 * x - 1) / (2 * sigma**2))
    by_sum = math.log(float((density * ratio**order).sum() * (x[1] - x[0]))) / (order - 1)
    ours = our_curve(poisson(q, sigma))[list(renyi.ORDERS).index(order)]
    assert by_sum * (1 - 1e-9) <= ours <= by_sum * slack


@pytest.mark.parametrize(("records", "batch", "sigma"), [(199, 4, 3.0), (30, 15, 5.0)])
def test_fixed_size_curves(records, batch, sigma):
    event = MechanismEvent("fixed_size_gaussian", noise_multiplier=sigma, records=records, batch=batch)
    ours, theirs = our_curve(event, "replace_one"), referee_curve(event, "replace_one")
    assert np.all(ours <= theirs * (1 + 1e-6))
    low = renyi.ORDERS <= 16  # beyond, dp_accounting's alternating sums lose digits and fall back on a looser bound
    np.testing.assert_allclose(ours[low], np.minimum(theirs, renyi.ORDERS * 2 / sigma**2)[low], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 7.0, 50.0])
def test_laplace_curves(scale):
    event = MechanismEvent("laplace", noise_multiplier=scale)
    np.testing.assert_allclose(our_curve(event), referee_curve(event), rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 7, 8, 1600])
def test_tree_curves(steps):
    event = MechanismEvent("tree", noise_multiplier=2.0, steps=steps)
    theirs = rdp.RdpAccountant(neighboring_relation=RELATION["replace_special"])
    theirs.compose(dp_accounting.SingleEpochTreeAggregationDpEvent(2.0, steps))
    np.testing.assert_allclose(our_curve(event, "replace_special"), theirs.rdp, rtol=1e-12)


@pytest.mark.parametrize(("mean", "shape"), [(1.0, 1.0), (10.0, 1.0), (10.0, 0.0), (30.0, 0.5), (10.0, math.inf)])
def test_selection_curves(mean, shape):
    """Papernot and Steinke 2022, for every distribution of the number of runs."""
    event = MechanismEvent(
        "selection", mean_runs=mean, shape=None if math.isinf(shape) else shape, base=((poisson(0.02, 2.4), 1500),)
    )
    np.testing.assert_allclose(our_curve(event), referee_curve(event), rtol=1e-8)


@pytest.mark.skipif(
    not hasattr(dp_accounting, "get_epsilon_gaussian"),
    reason="get_epsilon_gaussian came with dp-accounting 0.6, which needs Python 3.10",
)
@pytest.mark.parametrize("mu", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("delta", [0.1, 1e-5, 1e-30])
def test_exact_gaussian(mu, delta):
    assert exact_epsilon(mu, delta) == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, delta), abs=1e-9)


def test_replace_one_means_twice_the_sensitivity_there_too():
    """In dp_accounting the loss distribution doubles the sensitivity; the Renyi accountant does not."""
    theirs = (
        pld.PLDAccountant(RELATION["replace_one"], 1e-3).compose(dp_accounting.GaussianDpEvent(4.0)).get_epsilon(1e-5)
    )
    event = MechanismEvent("gaussian", noise_multiplier=4.0)
    assert epsilon_of(event, 1e-5, adjacency="replace_one", conversion="pld") == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta", "grid"),
    [
        (0.5, 1.0, 1, 1e-5, 1e-3),
        (0.5, 0.5, 10, 1e-5, 1e-2),
        (1e-3, 0.8, 1000, 1e-6, 2e-4),
        (0.02, 0.886, 1500, 1e-3, 3e-4),
        (1 / 8, 14.1, 1500, 1e-3, 1e-4),
        (0.2, 20.0, 100, 1e-9, 1e-4),
    ],
)
def test_loss_distributions(q, sigma, steps, delta, grid):
    accountant = pld.PLDAccountant(value_discretization_interval=grid)
    accountant.compose(to_dp_event(poisson(q, sigma)), steps)
    theirs = accountant.get_epsilon(delta)
    assert epsilon_of(poisson(q, sigma), delta, count=steps, conversion="pld") == pytest.approx(theirs, rel=2e-4)


@pytest.mark.parametrize(("bands", "target"), [(4, 8.0), (16, 3.0)])
def test_amplified_bands_by_loss_distributions(bands, target):
    """Cyclic Poisson sampling: dp_accounting finds the target again, and less noise than by Renyi divergences."""
    asked = {"steps": 1500, "sampling_probability": 1 / 50, "bands": bands, "target_epsilon": target, "delta": 1e-3}
    noise = amplified_noise(conversion="pld", **asked)
    assert noise < amplified_noise(**asked)
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(to_dp_event(poisson(bands / 50, noise)), -(-1500 // bands))
    assert accountant.get_epsilon(1e-3) == pytest.approx(target, rel=1e-3)


def test_a_mixed_loss_distribution():
    events = [
        (poisson(0.02, 1.0), 1000),
        (MechanismEvent("gaussian", noise_multiplier=5.0), 1),
        (MechanismEvent("laplace", noise_multiplier=20.0), 3),
    ]
    theirs = pld.PLDAccountant(value_discretization_interval=5e-4).compose(compose_dp_event(events)).get_epsilon(1e-5)
    assert epsilon_of(events, 1e-5, conversion="pld") == pytest.approx(theirs, rel=2e-4)
    classical = rdp.RdpAccountant().compose(compose_dp_event(events)).get_epsilon(1e-5)
    assert epsilon_of(events, 1e-5) == pytest.approx(classical, rel=1e-9)


def test_a_group_of_records_under_sampling():
    """Two records of one patient, each in a step with chance .02: dp_accounting's mixture of Gaussians."""
    theirs = pld.PLDAccountant(value_discretization_interval=1e-3)
    theirs.compose(
        dp_accounting.dp_event.MixtureOfGaussiansDpEvent(2.4, [0, 1, 2], [0.98**2, 2 * 0.98 * 0.02, 0.02**2]), 100
    )
    ours = group_epsilon([(poisson(0.02, 2.4), 100)], 1e-3, 2, method="mixture")
    assert ours == pytest.approx(theirs.get_epsilon(1e-3), rel=5e-4)


def test_round_trip_of_events():
    for event in (
        poisson(0.02, 1.1),
        MechanismEvent("gaussian", noise_multiplier=1.1),
        MechanismEvent("laplace", noise_multiplier=1.1),
        MechanismEvent("non_private"),
    ):
        assert from_dp_event(to_dp_event(event)) == ((event, 1),)
    fixed = MechanismEvent("fixed_size_gaussian", noise_multiplier=1.1, records=100, batch=10)
    assert from_dp_event(to_dp_event(fixed, "replace_one"), "replace_one") == ((fixed, 1),)


def test_what_tff_extracts_from_adaptive_clipping():
    """Two Gaussians per round, self-composed: noise 1 on values and 1 on bits are one of noise .7071."""
    extracted = dp_accounting.SelfComposedDpEvent(
        dp_accounting.ComposedDpEvent([dp_accounting.GaussianDpEvent(1.0), dp_accounting.GaussianDpEvent(1.0)]), 5
    )
    step = MechanismEvent("gaussian", noise_multiplier=0.5**0.5)
    assert epsilon_of(from_dp_event(extracted), 1e-5) == pytest.approx(epsilon_of(step, 1e-5, count=5), rel=1e-12)
    sampled = dp_accounting.PoissonSampledDpEvent(0.1, extracted.event)
    ((event, count),) = from_dp_event(sampled)
    assert (event.kind, event.sampling_probability, count) == ("poisson_gaussian", 0.1, 1)
    assert event.noise_multiplier == pytest.approx(0.5**0.5)


def test_an_unsupported_event_is_refused():
    with pytest.raises(validation.InvalidInput, match="UnsupportedDpEvent"):
        from_dp_event(dp_accounting.UnsupportedDpEvent())
    with pytest.raises(validation.InvalidInput, match="skellam"):
        to_dp_event(MechanismEvent("skellam", local_stddev=9.0, shares=4, l2_sensitivity=10.0, l1_sensitivity=30.0))
