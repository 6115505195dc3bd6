"""The joint epsilon: never less than any part, exact where there is a formula, else that of the referee."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_hospitals.accounting import Ledger, MechanismEvent, epsilon_of, joint_ledger
from tff_hospitals.accounting.events import ADD_OR_REMOVE_ONE, ADJACENCIES, REPLACE_ONE, REPLACE_SPECIAL
from tff_hospitals.foundations import validation

DELTA = 1e-3
ROUNDING = 1e-6  # of Renyi moments at orders between whole numbers


def poisson(noise, chance=0.02):
    return MechanismEvent("poisson_gaussian", noise_multiplier=noise, sampling_probability=chance)


def gaussian(noise):
    return MechanismEvent("gaussian", noise_multiplier=noise)


def tree(noise, steps, restart):
    return MechanismEvent("tree", noise_multiplier=noise, steps=steps, period=5, restart=restart)


def ledger_of(*events, unit="record", of="a", adjacency=ADD_OR_REMOVE_ONE, delta=DELTA):
    ledger = Ledger(delta, adjacency)
    for event, count in events:
        ledger.record(unit, of, 1, event, count)
    return ledger


def test_gaussian_runs_add_their_squared_signal():
    ledgers = [ledger_of((gaussian(10.0), 5)), ledger_of((gaussian(4.0), 2)), ledger_of((gaussian(20.0), 1))]
    together = (5 / 100 + 2 / 16 + 1 / 400) ** -0.5
    expected = epsilon_of(gaussian(together), DELTA, conversion="gaussian_exact")
    assert joint_ledger(ledgers).epsilon("record", "a", "gaussian_exact") == pytest.approx(expected, rel=1e-12)


def test_the_referee_finds_the_same_joint_epsilon():
    """dp_accounting composes the events of three unlike runs."""
    from dp_accounting import dp_event
    from dp_accounting.rdp import rdp_privacy_accountant

    ledgers = [ledger_of((poisson(1.2, 0.05), 300)), ledger_of((poisson(2.4), 1500)), ledger_of((gaussian(30.0), 15))]
    accountant = rdp_privacy_accountant.RdpAccountant()
    for chance, noise, count in ((0.05, 1.2, 300), (0.02, 2.4, 1500), (1.0, 30.0, 15)):
        event = dp_event.PoissonSampledDpEvent(chance, dp_event.GaussianDpEvent(noise))
        accountant.compose(event, count)
    ours = joint_ledger(ledgers).epsilon("record", "a")
    assert ours == pytest.approx(accountant.get_epsilon(DELTA), rel=2e-3)
    assert ours < sum(one.epsilon("record", "a") for one in ledgers)


def test_one_run_is_what_it_was():
    ledger = ledger_of((poisson(1.1), 500), (gaussian(9.0), 3))
    assert joint_ledger([ledger]).epsilon("record") == ledger.epsilon("record")


def test_hospitals_stay_apart_and_the_worst_is_named():
    first, second = ledger_of((gaussian(10.0), 1), of="a"), ledger_of((gaussian(5.0), 1), of="b")
    joint = joint_ledger([first, second, first])
    assert joint.epsilon("record", "a") == pytest.approx(epsilon_of(gaussian(10.0), DELTA, count=2))
    assert joint.worst_epsilon("record") == (joint.epsilon("record", "b"), "b")


def test_trees_of_two_runs_do_not_grow_into_each_other():
    ledger = ledger_of((tree(10.0, 64, 0), 1), adjacency=REPLACE_SPECIAL)
    alone = ledger.epsilon("record", "a", "gaussian_exact")
    both = joint_ledger([ledger, ledger]).epsilon("record", "a", "gaussian_exact")
    noise = tree(10.0 / 2**0.5, 64, None)
    assert both == pytest.approx(epsilon_of(noise, DELTA, adjacency=REPLACE_SPECIAL, conversion="gaussian_exact"))
    assert both > alone


def test_what_hides_a_hospital_hides_a_record_by_half_the_noise():
    """A record moves its hospital's clipped update from one end of the clip ball to the other, at the most."""
    outer = ledger_of((gaussian(8.0), 10), unit="hospital", of=None, adjacency=REPLACE_SPECIAL)
    inner = ledger_of((poisson(2.0), 100))
    joint = joint_ledger([outer, inner])
    assert joint.epsilon("hospital") == outer.epsilon("hospital")
    expected = epsilon_of([(gaussian(4.0), 10), (poisson(2.0), 100)], DELTA, adjacency=REPLACE_SPECIAL)
    assert joint.epsilon("record", "a") == pytest.approx(expected)


def test_the_outer_noise_of_a_run_with_two_units_is_no_second_release_about_a_record():
    both = ledger_of((poisson(2.0), 100), adjacency=REPLACE_SPECIAL)
    inside = both.epsilon("record", "a")
    both.record("hospital", None, 1, gaussian(8.0), 10)
    assert joint_ledger([both]).epsilon("record", "a") == inside


@pytest.mark.parametrize(
    "event",
    [
        MechanismEvent("adaptive_clip", noise_multiplier=4.0, bit_noise_stddev=3.0),
        MechanismEvent("adaptive_clip", noise_multiplier=4.0, bit_noise_stddev=3.0, sampling_probability=0.3),
        MechanismEvent("tree", noise_multiplier=4.0, steps=8, period=1),
        MechanismEvent("skellam", local_stddev=9.0, shares=4, l2_sensitivity=2.0, l1_sensitivity=5.0),
        poisson(4.0, 0.3),
    ],
    ids=lambda event: event.kind,
)
def test_a_hospitals_release_counts_as_a_replacement_for_its_records(event):
    """By hand: the accountant's own factor for replacing one, without amplification."""
    outer = ledger_of((event, 3), unit="hospital", of=None, adjacency=REPLACE_SPECIAL)
    plain = MechanismEvent.from_json({k: v for k, v in event.to_json().items() if k != "sampling_probability"} | {
        "kind": "gaussian" if event.kind == "poisson_gaussian" else event.kind
    })  # fmt: skip
    expected = epsilon_of(plain, DELTA, adjacency=REPLACE_ONE, count=3)
    assert joint_ledger([outer]).epsilon("record") == pytest.approx(expected, rel=1e-9)


def test_adjacencies_that_differ_get_one_that_all_have():
    fixed = MechanismEvent("fixed_size_gaussian", noise_multiplier=3.0, records=100, batch=10)
    runs = [ledger_of((fixed, 10), adjacency=REPLACE_ONE), ledger_of((poisson(3.0), 10))]
    joint = joint_ledger(runs)
    assert joint.adjacency == REPLACE_SPECIAL
    everywhere = [(MechanismEvent("no_amplification", noise_multiplier=3.0), 10), (poisson(3.0), 10)]
    assert joint.epsilon("record") == epsilon_of(everywhere, DELTA, adjacency=REPLACE_SPECIAL)
    assert joint_ledger(runs[:1]).adjacency == REPLACE_ONE
    assert joint_ledger(runs[:1]).epsilon("record") == runs[0].epsilon("record")


def test_batches_in_common_cost_what_one_step_with_both_noises_costs():
    first, second = ledger_of((poisson(2.0), 100)), ledger_of((poisson(3.0), 60))
    both = (2.0**-2 + 3.0**-2) ** -0.5
    expected = epsilon_of([(poisson(both), 60), (poisson(2.0), 40)], DELTA)
    apart, together = joint_ledger([first, second]), joint_ledger([first, second], drawn_together=["s", "s"])
    assert together.epsilon("record") == pytest.approx(expected)
    assert together.epsilon("record") > apart.epsilon("record")
    assert joint_ledger([first, second], drawn_together=["s", "t"]).epsilon("record") == apart.epsilon("record")


def test_the_bound_for_common_batches_covers_what_really_happens():
    """By hand, at order 2 of Renyi's divergence: batches that partly agree never cost more than the bound."""
    q, a, b = 0.1, 1 / 2.0**2, 1 / 3.0**2

    def second_moment(chances):
        """E over two independent copies of exp(k (k - 1) (...) / 2) with k in 0, 1, 2; `chances` of (in A, in B)."""
        total = 0.0
        for one, other in itertools.product(chances, repeat=2):
            in_a, in_b = one[0] * other[0], one[1] * other[1]
            total += chances[one] * chances[other] * math.exp(in_a * a + in_b * b)
        return math.log(total)

    def overlapping(share):  # the same draw with chance `share`, else another one
        same, apart = share, 1 - share
        return {
            (1, 1): same * q + apart * q * q,
            (1, 0): apart * q * (1 - q),
            (0, 1): apart * q * (1 - q),
            (0, 0): same * (1 - q) + apart * (1 - q) ** 2,
        }

    bound = math.log((1 - q) ** 2 + 2 * q * (1 - q) + q * q * math.exp(a + b))
    costs = [second_moment(overlapping(share)) for share in (0.0, 0.3, 0.7, 1.0)]
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(bound)


EVENTS = st.tuples(
    st.one_of(
        st.builds(poisson, st.floats(0.8, 8.0), st.sampled_from([0.01, 0.1, 1.0])),
        st.builds(gaussian, st.floats(2.0, 50.0)),
        st.builds(lambda noise: tree(noise, 16, 0), st.floats(5.0, 50.0)),
    ),
    st.integers(1, 50),
)


@settings(max_examples=40)
@given(
    runs=st.lists(st.lists(EVENTS, min_size=1, max_size=3), min_size=1, max_size=4),
    keys=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    seed=st.randoms(use_true_random=False),
)
def test_the_joint_epsilon_bounds_every_part_and_ignores_the_order(runs, keys, seed):
    ledgers = [ledger_of(*events, adjacency=REPLACE_SPECIAL) for events in runs]
    keys = keys[: len(ledgers)]
    joint = joint_ledger(ledgers, drawn_together=keys).epsilon("record")
    assert joint >= joint_ledger(ledgers).epsilon("record") * (1 - ROUNDING) >= 0
    assert all(joint >= one.epsilon("record") * (1 - ROUNDING) for one in ledgers)
    shuffled = seed.sample(range(len(ledgers)), len(ledgers))
    again = joint_ledger([ledgers[k] for k in shuffled], drawn_together=[keys[k] for k in shuffled])
    assert again.epsilon("record") == pytest.approx(joint, rel=1e-9)


def test_a_run_without_noise_makes_the_joint_epsilon_infinite_and_one_without_entries_adds_nothing():
    nothing, loud = Ledger(DELTA), ledger_of((gaussian(3.0), 1))
    assert joint_ledger([nothing, loud]).epsilon("record") == loud.epsilon("record")
    assert math.isinf(joint_ledger([loud, ledger_of((MechanismEvent("non_private"), 1))]).epsilon("record"))
    assert joint_ledger([nothing]).units() == ()
    for key in (None, [1, 1]):
        assert math.isinf(joint_ledger([loud, ledger_of((poisson(0.0), 1))], drawn_together=key).epsilon("record"))


def test_bad_input_is_named_at_once():
    runs = [ledger_of((gaussian(3.0), 1)), ledger_of((gaussian(3.0), 1), delta=1e-5)]
    with pytest.raises(validation.InvalidInput, match="delta") as error:
        joint_ledger(runs, drawn_together=[1])
    assert "drawn_together" in str(error.value)
    assert joint_ledger(runs, delta=1e-4).delta == 1e-4
    with pytest.raises(validation.InvalidInput, match="at least one ledger"):
        joint_ledger([])
    assert set(ADJACENCIES) == {ADD_OR_REMOVE_ONE, REPLACE_ONE, REPLACE_SPECIAL}  # a new one needs a place above
