"""Events: what they must say, which assumptions fit together, and their way through JSON and other processes."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_hospitals.accounting import (
    KINDS,
    MechanismEvent,
    epsilon_of,
    toeplitz_sensitivity,
    tree_squared_sensitivity,
)
from tff_hospitals.accounting.loss_shapes import discrete_tau, settled
from tff_hospitals.foundations import validation

STEP = MechanismEvent("poisson_gaussian", noise_multiplier=1.1, sampling_probability=0.02)
EXAMPLES = {
    "gaussian": MechanismEvent("gaussian", noise_multiplier=2.0),
    "no_amplification": MechanismEvent("no_amplification", noise_multiplier=2.0),
    "poisson_gaussian": STEP,
    "fixed_size_gaussian": MechanismEvent("fixed_size_gaussian", noise_multiplier=2.0, records=199, batch=4),
    "shuffled": MechanismEvent("shuffled", noise_multiplier=2.0, steps=50),
    "random_allocation": MechanismEvent("random_allocation", noise_multiplier=2.0, steps=50),
    "adaptive_clip": MechanismEvent("adaptive_clip", noise_multiplier=2.0, bit_noise_stddev=5.0),
    "tree": MechanismEvent("tree", noise_multiplier=2.0, steps=16, period=4, restart=0),
    "matrix": MechanismEvent("matrix", noise_multiplier=2.0, sensitivity=1.5, steps=10),
    "discrete_gaussian": MechanismEvent(
        "discrete_gaussian", local_stddev=20.0, shares=4, l2_sensitivity=30.0, l1_sensitivity=90.0, dimension=14
    ),
    "skellam": MechanismEvent("skellam", local_stddev=20.0, shares=4, l2_sensitivity=30.0, l1_sensitivity=90.0),
    "laplace": MechanismEvent("laplace", noise_multiplier=2.0),
    "selection": MechanismEvent("selection", mean_runs=10.0, shape=1.0, base=((STEP, 100),)),
    "non_private": MechanismEvent("non_private"),
}


def test_every_kind_has_an_example():
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("event", EXAMPLES.values(), ids=EXAMPLES)
def test_round_trip(event):
    copy = MechanismEvent.from_json(json.loads(json.dumps(event.to_json(), allow_nan=False)))
    assert copy == event
    assert hash(copy) == hash(event)
    assert pickle.loads(pickle.dumps(event)) == event
    assert event.sampling
    assert event.words


def test_repr_shows_what_is_set_and_builds_the_event_again():
    assert repr(STEP) == "MechanismEvent(kind='poisson_gaussian', noise_multiplier=1.1, sampling_probability=0.02)"
    assert eval(repr(EXAMPLES["selection"])) == EXAMPLES["selection"]


def test_numpy_numbers_become_plain_ones():
    event = MechanismEvent("tree", noise_multiplier=np.float32(2.0), steps=np.int64(8))
    assert json.dumps(event.to_json()) == '{"kind": "tree", "noise_multiplier": 2.0, "steps": 8}'


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "gausian"}, "did you mean 'gaussian'"),
        ({"kind": "gaussian"}, "noise_multiplier=None: needed by a gaussian event"),
        ({"kind": "gaussian", "noise_multiplier": -1.0}, "must be >= 0"),
        ({"kind": "gaussian", "noise_multiplier": math.inf}, "finite"),
        ({"kind": "gaussian", "noise_multiplier": math.nan}, "finite"),
        ({"kind": "gaussian", "noise_multiplier": 1.0, "sampling_probability": 0.1}, "not part of a gaussian event"),
        ({"kind": "poisson_gaussian", "noise_multiplier": 1.0, "sampling_probability": 0.0}, "must be > 0"),
        ({"kind": "poisson_gaussian", "noise_multiplier": 1.0, "sampling_probability": 1.01}, "<= 1"),
        ({"kind": "fixed_size_gaussian", "noise_multiplier": 1.0, "records": 3, "batch": 4}, "must be <= records=3"),
        ({"kind": "tree", "noise_multiplier": 1.0, "steps": 1.5}, "whole number"),
        ({"kind": "selection", "mean_runs": 0.5, "base": ((STEP, 1),)}, "must be >= 1"),
        ({"kind": "selection", "mean_runs": 5.0, "base": ()}, "at least one"),
    ],
)
def test_bad_events(fields, words):
    with pytest.raises(validation.InvalidInput, match=words):
        MechanismEvent(**fields)


def test_all_problems_of_an_event_come_at_once():
    with pytest.raises(validation.InvalidInput) as caught:
        MechanismEvent("poisson_gaussian", noise_multiplier=-1.0, sampling_probability=2.0, steps=3)
    assert {problem.name for problem in caught.value.problems} == {"noise_multiplier", "sampling_probability", "steps"}


def test_unknown_fields_in_json_are_refused():
    with pytest.raises(validation.InvalidInput, match="noise_multipler"):
        MechanismEvent.from_json({"kind": "gaussian", "noise_multipler": 1.0})


@pytest.mark.parametrize(
    ("kind", "adjacency"),
    [
        ("poisson_gaussian", "replace_one"),
        ("fixed_size_gaussian", "add_or_remove_one"),
        ("fixed_size_gaussian", "replace_special"),
        ("shuffled", "add_or_remove_one"),
        ("tree", "add_or_remove_one"),
        ("matrix", "add_or_remove_one"),
    ],
)
def test_a_guarantee_that_does_not_exist_is_refused(kind, adjacency):
    with pytest.raises(validation.InvalidInput, match=f"event.kind='{kind}'.*not under '{adjacency}'"):
        epsilon_of(EXAMPLES[kind], 1e-5, adjacency=adjacency)


def test_assumptions_cannot_be_mixed():
    """Poisson batches need add/remove-one or blanking, fixed-size batches replacing: no adjacency has both."""
    both = [(STEP, 1), (EXAMPLES["fixed_size_gaussian"], 1)]
    for adjacency in ("add_or_remove_one", "replace_one", "replace_special"):
        with pytest.raises(validation.InvalidInput):
            epsilon_of(both, 1e-5, adjacency=adjacency)
    assert epsilon_of([(STEP, 1), (EXAMPLES["shuffled"], 1)], 1e-5, adjacency="replace_special") > 0


def test_a_unit_in_every_step_of_a_tree_needs_no_fixed_place():
    tree = MechanismEvent("tree", noise_multiplier=2.0, steps=8, period=1)
    assert "add_or_remove_one" in tree.adjacencies
    assert "in every step" in tree.sampling


def test_a_selection_is_sound_where_its_runs_are():
    assert EXAMPLES["selection"].adjacencies == STEP.adjacencies


def nodes_of_a_tree(steps):
    """One row per completed node: the indicator of the steps below it."""
    rows, width = [], 1
    while width <= steps:
        for start in range(0, steps // width * width, width):
            rows.append(np.where((np.arange(steps) >= start) & (np.arange(steps) < start + width), 1, 0))
        width *= 2
    return np.array(rows)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 45)))
def test_tree_sensitivity_is_that_of_the_matrix(steps, period):
    columns = nodes_of_a_tree(steps)
    if period is None:
        expected = max(columns.sum(axis=0))
    else:
        expected = max((columns[:, offset::period].sum(axis=1) ** 2).sum() for offset in range(min(period, steps)))
    assert tree_squared_sensitivity(steps, period) == expected


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=0, max_size=6),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_toeplitz_sensitivity_bounds_every_participation(rest, steps, participations, period):
    """Against all sets of at most k steps that lie at least `period` apart; attained by one of them."""
    coefficients = [1.0, *sorted(rest, reverse=True)]
    strategy = np.zeros((steps, steps))
    for band, coefficient in enumerate(coefficients[:steps]):
        strategy += coefficient * np.eye(steps, k=-band)
    worst = 0.0
    for chosen in range(1 << steps):
        places = [step for step in range(steps) if chosen >> step & 1]
        apart = all(later - earlier >= period for earlier, later in zip(places, places[1:]))
        if len(places) <= participations and apart:
            worst = max(worst, float(np.linalg.norm(strategy[:, places].sum(axis=1))))
    found = toeplitz_sensitivity(coefficients, steps, participations=participations, period=period)
    assert found == pytest.approx(worst, rel=1e-9)


@pytest.mark.parametrize("coefficients", [[], [0.5, 1.0], [1.0, -0.1], [0.0]])
def test_toeplitz_refuses_what_its_proof_does_not_cover(coefficients):
    with pytest.raises(validation.InvalidInput, match="coefficients"):
        toeplitz_sensitivity(coefficients, 5)
    with pytest.raises(validation.InvalidInput, match="period"):
        toeplitz_sensitivity([1.0], 5, participations=2)


def test_a_growing_tree_counts_once():
    trees = [(MechanismEvent("tree", noise_multiplier=2.0, steps=steps, restart=0), 1) for steps in range(1, 17)]
    assert settled(trees) == ((MechanismEvent("tree", noise_multiplier=2.0, steps=16, restart=0), 1),)
    again = MechanismEvent("tree", noise_multiplier=2.0, steps=3, restart=1)
    assert len(settled([*trees, (again, 1)])) == 2


def test_discrete_noise_is_little_worse_than_gaussian():
    """A fine enough grid: discrete noise costs what Gaussian noise of the same variance costs, and never less."""
    noise = 20.0 * math.sqrt(4) / 30.0
    plain = epsilon_of(MechanismEvent("gaussian", noise_multiplier=noise), 1e-5)
    for kind in ("discrete_gaussian", "skellam"):
        assert plain <= epsilon_of(EXAMPLES[kind], 1e-5) <= plain * 1.02
        coarse = MechanismEvent.from_json({**EXAMPLES[kind].to_json(), "local_stddev": 0.7, "l2_sensitivity": 1.05})
        assert epsilon_of(coarse, 1e-5) > plain * 1.02


def test_shares_of_discrete_noise_by_hand():
    """Two shares: tau = 10 exp(-2 pi^2 sigma^2 / 2); with sigma = 1/2 that is 10 exp(-2.4674)."""
    assert discrete_tau(0.5, 1) == 0.0
    assert discrete_tau(0.5, 2) == pytest.approx(10 * math.exp(-2.4674011), rel=1e-7)
