"""Loss distributions of whole-number noise: against sums over every outcome, and dp_accounting in one dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from tff_hospitals.accounting import MechanismEvent, epsilon_of, privacy_loss, whole_numbers
from tff_hospitals.accounting.epsilon import conversions_of, delta_of
from tff_hospitals.accounting.loss_shapes import DiscreteGaussianPart, GaussianPart, SkellamPart
from tff_hospitals.foundations.validation import InvalidInput


def noise(kind: str, local: float, shares: int, reach: int) -> np.ndarray:
    """Chances of the sum of the shares' noise, from -reach to reach, by convolution."""
    y = np.arange(-reach, reach + 1)
    if kind == "skellam":
        one = special.ive(y, local**2)
    else:
        one = np.exp(-(y**2) / (2 * local**2))
    one = one / one.sum()
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)[reach : 3 * reach + 1]
    return total


def loss_and_chance(density: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    shifted = np.roll(density, shift)
    with np.errstate(divide="ignore"):
        loss = np.log(density) - np.log(shifted)
    return (loss[shift:-shift], density[shift:-shift]) if shift else (loss, density)


def exact_delta(density: np.ndarray, shift: tuple[int, ...], epsilon: float) -> float:
    """Delta of noise of that density in every coordinate of a sum that moves by `shift`, summed over all outcomes."""
    loss, chance = loss_and_chance(density, shift[0])
    for step in shift[1:]:
        other, more = loss_and_chance(density, step)
        loss, chance = np.add.outer(loss, other).ravel(), np.multiply.outer(chance, more).ravel()
    above = loss > epsilon
    return float(-np.dot(chance[above], np.expm1(epsilon - loss[above])))


def event(kind: str, local: float, shares: int, shift: tuple[int, ...], dimension: int | None = None) -> MechanismEvent:
    return MechanismEvent(
        kind,
        local_stddev=local,
        shares=shares,
        l2_sensitivity=math.sqrt(sum(step**2 for step in shift)),
        l1_sensitivity=float(sum(shift)),
        dimension=dimension or len(shift),
    )


@pytest.mark.parametrize(
    ("kind", "local", "shares", "shift", "excess"),
    [
        *(("discrete_gaussian", 5.0, 4, shift, 0.04) for shift in ((15,), (9, 12), (1, 1, 14))),
        *(("skellam", 60.0, 3, shift, 0.12) for shift in ((60,), (36, 48))),
        ("skellam", 600.0, 3, (600,), 0.01),
    ],
)
def test_every_outcome_summed_up_is_bounded_and_nearly_reached(
    kind: str, local: float, shares: int, shift: tuple[int, ...], excess: float
) -> None:
    """The vector's direction does not matter, as it must not: only its L2 norm is known."""
    reach = round((9 if len(shift) == 1 else 5) * local * math.sqrt(shares))
    density = noise(kind, local, shares, reach)
    for epsilon in (0.0, 0.5, 1.5):
        exact = exact_delta(density, shift, epsilon)
        bound = delta_of(event(kind, local, shares, shift), epsilon, conversion="pld")
        assert exact <= bound * (1 + 1e-9)
        assert bound <= exact + excess


@pytest.mark.parametrize("local", [60.0, 1e3, 3e4])
def test_the_larger_the_variance_the_nearer_to_gaussian_noise_and_tighter_than_renyi(local: float) -> None:
    """Ten rounds of a hundred shares for a model of 1,024: both are within 2 % of Gaussian noise, Renyi 13 % above."""
    gaussian = epsilon_of(MechanismEvent("gaussian", noise_multiplier=4.0), 1e-3, count=10, conversion="pld")
    sensitivity = 10 * local / 4
    for kind in ("discrete_gaussian", "skellam"):
        one = MechanismEvent(
            kind,
            local_stddev=local,
            shares=100,
            l2_sensitivity=sensitivity,
            l1_sensitivity=32 * sensitivity,
            dimension=1024,
        )
        tight = epsilon_of(one, 1e-3, count=10, conversion="pld")
        assert gaussian < tight < gaussian * (1 + 1e3 / local**2 + 1e-6)
        assert tight < 0.9 * epsilon_of(one, 1e-3, count=10)


def test_dp_accounting_agrees_in_one_dimension() -> None:
    from dp_accounting.pld import privacy_loss_distribution

    theirs = privacy_loss_distribution.from_discrete_gaussian_mechanism(
        30.0, sensitivity=20, value_discretization_interval=1e-4
    )
    own = event("discrete_gaussian", 30.0, 1, (20,))
    for count in (1, 8):
        second = theirs.self_compose(count).get_epsilon_for_delta(1e-4)
        assert second * 0.995 < epsilon_of(own, 1e-4, count=count, conversion="pld") < second * 1.02


def test_whole_numbers_beside_sampled_noise_are_composed() -> None:
    sampled = MechanismEvent("poisson_gaussian", noise_multiplier=1.0, sampling_probability=0.1)
    whole = event("skellam", 1e3, 9, (900,))
    apart = epsilon_of(MechanismEvent("gaussian", noise_multiplier=10 / 3), 1e-5, conversion="pld")
    alone = epsilon_of(sampled, 1e-5, count=20, conversion="pld")
    gaussian = MechanismEvent("gaussian", noise_multiplier=10 / 3)
    together = epsilon_of([(sampled, 20), (whole, 1)], 1e-5, conversion="pld")
    assert max(alone, apart) < together
    assert together == pytest.approx(epsilon_of([(sampled, 20), (gaussian, 1)], 1e-5, conversion="pld"), rel=1e-3)


@pytest.mark.parametrize("coordinates", [10, 3000])
def test_the_sum_of_the_differences_stays_within_its_bound(coordinates: int) -> None:
    """A chance of 1e-2, 20,000 sums: it is left in fewer than that, and not in none at a tenth of the bound."""
    variance, sums = 225.0, 20_000
    y = np.arange(-200, 201)
    skellam = special.ive(y, variance)
    gain = np.log(skellam) - stats.norm(scale=math.sqrt(variance)).logpdf(y)
    rng = np.random.default_rng(3)
    counts = rng.multinomial(coordinates, skellam / skellam.sum(), size=sums)
    bound = whole_numbers.skellam_closeness(variance, coordinates, 1e-2)
    assert np.mean(counts @ gain > bound) < 1e-2
    assert np.mean(counts @ gain > bound / 10) > 0


def test_the_expansion_of_the_density_is_exact_where_it_is_used() -> None:
    for variance in (100.0, 1e3, 1e5):
        y = np.floor(np.linspace(0, 12 * math.sqrt(variance), 50))
        exact = np.log(special.ive(y, variance))
        assert np.max(np.abs(whole_numbers.log_skellam(y, variance) - exact)) < 1 / variance**4 + 1e-12


def test_what_is_not_known_to_be_near_gaussian_noise_says_why() -> None:
    few = event("skellam", 3.0, 4, (1,))
    unknown = MechanismEvent("skellam", local_stddev=90.0, shares=4, l2_sensitivity=10.0, l1_sensitivity=30.0)
    coarse = event("discrete_gaussian", 0.6, 2, (1,))
    for one, words in ((few, "at least 100 \\(here 36\\)"), (unknown, "does not say"), (coarse, "above 1.")):
        with pytest.raises(InvalidInput, match=words):
            epsilon_of(one, 1e-5, conversion="pld")
        assert "pld" not in conversions_of(one)


def test_noise_that_is_far_from_gaussian_in_so_many_coordinates_has_no_finite_claim() -> None:
    """A variance of 100 over 10^9 coordinates: the densities are not near each other, and nothing is claimed."""
    many = SkellamPart(l2_squared=1.0, l1=1.0, variance=100.0, dimension=10**9)
    assert privacy_loss.epsilon(((many, 1000.0),), 1e-5) == math.inf
    shares = DiscreteGaussianPart(l2_scale=0.01, l1_scale=0.01, tau=0.1, dimension=10**9, variance=100.0)
    assert privacy_loss.epsilon(((shares, 1.0),), 1e-5) == math.inf


@pytest.mark.parametrize("l2_scale", [50.0, 1e3])
def test_hardly_any_noise_has_an_epsilon_in_the_thousands(l2_scale: float) -> None:
    """Beyond 709 nothing can be multiplied by exp(epsilon): near to the Gaussian epsilon, or no claim for Skellam."""
    part = DiscreteGaussianPart(l2_scale=l2_scale, l1_scale=l2_scale, tau=0.0, dimension=4, variance=1e8)
    found = privacy_loss.epsilon(((part, 1.0),), 1e-5)
    assert found == pytest.approx(privacy_loss.epsilon(((GaussianPart(l2_scale**2), 1.0),), 1e-5), rel=1e-6)
    skellam = SkellamPart(l2_squared=l2_scale**2 * 1e8, l1=l2_scale * 1e4, variance=1e8, dimension=4)
    assert privacy_loss.epsilon(((skellam, 1.0),), 1e-5) == math.inf


def test_many_coordinates_that_move_by_a_little_are_bounded_too() -> None:
    """Fifty coordinates of two rounds: their losses are convolved, each rounded down, which can only lower delta."""
    variance, dimension, rounds, cell, shift = 2500.0, 50, 2, 2e-5, 3
    reach = 800
    for kind, density in (
        ("skellam", special.ive(np.arange(-reach, reach + 1), variance)),
        ("discrete_gaussian", np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))),
    ):
        loss, chance = loss_and_chance(density / density.sum(), shift)
        cells = np.floor(loss / cell).astype(int)
        size, first = 1 << 20, int(cells.min())
        power = np.fft.rfft(np.bincount(cells - first, weights=chance), size) ** (dimension * rounds)
        total = dimension * rounds
        centre = round(total * float(np.dot(cells, chance)))
        place = first * total + np.arange(size)
        place = centre + (place - centre + size // 2) % size - size // 2
        losses, chances = cell * place, np.fft.irfft(power, size)
        for epsilon in (0.0, 0.5, 1.5, 3.0):
            above = losses > epsilon
            truth = float(-np.dot(chances[above], np.expm1(epsilon - losses[above])))
            one = event(kind, math.sqrt(variance), 1, (shift,) * dimension)
            bound = delta_of(one, epsilon, conversion="pld", count=rounds)
            assert truth <= bound * (1 + 1e-9)
            if kind == "discrete_gaussian":
                assert bound < truth + 2e-3


def test_a_plan_may_state_its_target_by_loss_distributions() -> None:
    """Calibrated to the same target, noise in shares needs less by `pld` than by `rdp`, and reaches the target."""
    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.plan import noise as noise_plan
    from tff_hospitals.plan.plan import Plan

    dataset = load_dataset("heart_disease")
    multipliers = {}
    for conversion in ("rdp", "pld"):
        privacy = {"mechanism": "skellam", "target_epsilon": 4.0, "delta": 1e-2, "conversion": conversion}
        plan = Plan().replace(rounds=5, weighting="equal", privacy=privacy)
        multipliers[conversion] = noise_plan.make(plan, dataset).server_multiplier
    assert 0.7 < multipliers["pld"] / multipliers["rdp"] < 0.97


@pytest.mark.parametrize(("mean_runs", "target"), [(1.0, 8.0), (4.0, 11.0)])
def test_noise_of_a_grid_is_returned_once_it_keeps_the_target_and_not_before(mean_runs: float, target: float) -> None:
    """Noise that grows as the root of its multiplier: the few steps to the fixed point end a little below it."""
    from tff_hospitals.plan.calibration import calibrated_grid
    from tff_hospitals.plan.planned_events import Release

    def release_at(multiplier: float) -> Release:
        return Release(MechanismEvent("gaussian", noise_multiplier=multiplier**0.5))

    calibration = (target, 1e-5, "replace_special", "rdp", (), mean_runs)
    run = release_at(calibrated_grid(release_at, 4, calibration)).whole_run(4, 1)
    if mean_runs > 1:
        run = ((MechanismEvent("selection", mean_runs=mean_runs, shape=1.0, base=run), 1),)
    assert 0.98 * target < epsilon_of(run, 1e-5) <= target
    with pytest.raises(InvalidInput, match="raise modulus_bits"):
        calibrated_grid(lambda _: release_at(1.0), 4, (0.5, *calibration[1:]))
