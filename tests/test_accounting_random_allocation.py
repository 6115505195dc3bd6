"""Random allocation: against integrals over two batches, the Gaussian mechanism, and sampling by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from tff_hospitals.accounting import MechanismEvent, epsilon_of, sampled_events
from tff_hospitals.accounting.random_allocation import allocation_rdp
from tff_hospitals.accounting.sampled_gaussian import ORDERS, poisson_rdp
from tff_hospitals.experiments import account_command
from tff_hospitals.foundations.validation import InvalidInput


@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0])
def test_two_batches_by_integrals_over_both(sigma: float) -> None:
    """Exact at whole orders, where the direction with the record present is the larger; never below at others."""
    grid = np.linspace(-11 * sigma, 6 + 11 * sigma, 1201)
    density = np.exp(-(grid**2) / (2 * sigma**2)) * (grid[1] - grid[0]) / (sigma * math.sqrt(2 * math.pi))
    ratio = np.exp((2 * grid - 1) / (2 * sigma**2))
    without, moved = np.multiply.outer(density, density), np.add.outer(ratio, ratio) / 2
    found = dict(zip(ORDERS, allocation_rdp(2, sigma)))
    for order in (1.5, 2.0, 3.0, 5.0, 5.5):
        present = math.log(np.sum(without * moved**order)) / (order - 1)
        absent = math.log(np.sum(without * moved ** (1 - order))) / (order - 1)
        assert max(present, absent) <= found[order] * (1 + 1e-6)
        if order == int(order):
            assert found[order] == pytest.approx(max(present, absent), rel=1e-6)


@pytest.mark.parametrize(("batches", "points"), [(3, 60), (4, 30)])
@pytest.mark.parametrize("sigma", [0.8, 2.0, 50.0])
def test_no_direction_and_no_order_is_above_the_divergence_of_few_batches(
    batches: int, points: int, sigma: float
) -> None:
    """Gaussian quadrature over the noise of every batch."""
    normal, chance = special.roots_hermitenorm(points)
    chance, ratio = chance / chance.sum(), np.exp(normal / sigma - 1 / (2 * sigma**2)) / batches
    weights, moved = chance, ratio
    for _ in range(batches - 1):
        weights, moved = np.multiply.outer(weights, chance).ravel(), np.add.outer(moved, ratio).ravel()
    found = dict(zip(ORDERS, allocation_rdp(batches, sigma)))
    for order in (1.1, 1.5, 2.0, 2.7, 4.0, 6.5, 10.0):
        for power in (order, 1 - order):
            assert math.log(np.dot(weights, moved**power)) / (order - 1) <= found[order] * (1 + 1e-6) + 1e-12


def test_the_least_noise_that_can_be_told_has_figures_at_once() -> None:
    """Between those of one Gaussian and what hiding it among so many batches can save: log t."""
    whole = (ORDERS >= 2) & (ORDERS <= 64) & (np.floor(ORDERS) == ORDERS)
    for sigma in (1e-6, 0.01, 0.1):
        plain = ORDERS[whole] / (2 * sigma**2)
        found = allocation_rdp(50, sigma)[whole]
        assert np.all(found >= (plain - math.log(50)) * (1 - 1e-12))
        assert np.all(found <= plain * (1 + 1e-12))


def test_the_direction_without_the_record_counts_where_it_is_the_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    from tff_hospitals.accounting import random_allocation

    monkeypatch.setattr(random_allocation, "_log_moments", lambda *_: np.zeros(65))
    sigma, grid = 1.0, np.linspace(-16, 16, 1601)
    density = np.exp(-(grid**2) / 2) * (grid[1] - grid[0]) / math.sqrt(2 * math.pi)
    moved = np.add.outer(np.exp(grid - 0.5), np.exp(grid - 0.5)) / 2
    found = dict(zip(ORDERS, random_allocation.allocation_rdp(2, sigma)))
    for order in (2.0, 3.0, 5.5):
        absent = math.log(np.sum(np.multiply.outer(density, density) * moved ** (1 - order))) / (order - 1)
        assert found[order] == pytest.approx(absent, rel=1e-6)


@pytest.mark.parametrize("batches", [10**4, 10**6])
def test_the_direction_without_the_record_keeps_its_digits_over_many_batches(
    monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """The mean of so many W is nearly normal: E[S^-m] is 1 + m (m + 1) / 2 times the variance of W over t, nearly."""
    from tff_hospitals.accounting import random_allocation

    monkeypatch.setattr(random_allocation, "_log_moments", lambda *_: np.zeros(65))
    found = dict(zip(ORDERS, random_allocation.allocation_rdp(batches, 1.0)))
    for order in (2.0, 3.0, 6.0):
        nearly = order / 2 * math.expm1(1.0) / batches
        assert found[order] == pytest.approx(nearly, rel=60 / batches + 1e-3)


def test_one_batch_is_the_gaussian_mechanism_and_many_hide_more() -> None:
    whole = (ORDERS >= 2) & (ORDERS <= 64) & (np.floor(ORDERS) == ORDERS)
    assert allocation_rdp(1, 2.0)[whole] == pytest.approx(ORDERS[whole] / 8, rel=1e-6)
    one = MechanismEvent("random_allocation", noise_multiplier=2.0, steps=1)
    assert epsilon_of(one, 1e-5) == epsilon_of(MechanismEvent("gaussian", noise_multiplier=2.0), 1e-5)
    at = list(ORDERS).index(4.0)
    curves = [allocation_rdp(batches, 1.0)[at] for batches in (1, 2, 7, 50, 10**6, 10**9)]
    assert curves == sorted(curves, reverse=True)
    assert curves[-1] == curves[-2]  # from there on nothing more is claimed


def test_it_hides_no_less_than_poisson_batches_of_the_same_size_at_whole_orders() -> None:
    for batches, sigma in ((8, 4.0), (50, 1.1)):
        whole = (ORDERS <= 20) & (np.floor(ORDERS) == ORDERS)
        sampled = batches * poisson_rdp(1 / batches, sigma)[whole]
        found = allocation_rdp(batches, sigma)[whole]
        assert np.all(found < sampled)
        assert found[0] > 0.9 * sampled[0]


def test_no_attacker_on_simulated_passes_does_better_than_epsilon() -> None:
    """40,000 passes of 8 batches with the record and without: a threshold on the density ratio stays below delta."""
    sigma, batches, count, delta = 1.0, 8, 40_000, 1e-2
    rng = np.random.default_rng(5)
    without = rng.normal(scale=sigma, size=(count, batches))
    moved = rng.normal(scale=sigma, size=(count, batches))
    moved[np.arange(count), rng.integers(batches, size=count)] += 1.0

    def ratio(x: np.ndarray) -> np.ndarray:
        return np.exp((2 * x - 1) / (2 * sigma**2)).mean(axis=1)

    epsilon = epsilon_of(MechanismEvent("random_allocation", noise_multiplier=sigma, steps=batches), delta)
    for present, absent in ((ratio(moved), ratio(without)), (1 / ratio(without), 1 / ratio(moved))):
        reached = np.mean(present > math.exp(epsilon)) - math.exp(epsilon) * np.mean(absent > math.exp(epsilon))
        assert reached < delta + 3 * math.sqrt(delta / count)


def test_passes_are_counted_and_the_command_says_what_is_assumed() -> None:
    event, passes = sampled_events(1.1, steps=95, sampling="random_allocation", sampling_probability=2 / 15)
    assert (event.kind, event.steps, passes) == ("random_allocation", 7, 14)
    found = account_command.answer(
        sampling="random_allocation", sampling_probability="1/50", noise_multiplier=1.1, steps=1500, delta=1e-3
    )
    assert found["epsilon_pld"] is None
    assert found["epsilon_rdp"] < 3.195
    assert "draws at random" in found["assumption"]
    assert "none: not known for this sampling" in account_command.text(found)
    with pytest.raises(InvalidInput, match="replace_one"):
        epsilon_of(event, 1e-5, adjacency="replace_one")
