"""The ledger: steps as taken, epsilon per unit, hospital and round, and nothing lost on the way through a file."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_hospitals.accounting import Ledger, MechanismEvent, epsilon_of
from tff_hospitals.accounting import epsilon as epsilon_lib
from tff_hospitals.foundations import validation

STEP = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
OTHER = MechanismEvent("gaussian", noise_multiplier=20.0)
RECORDS = {"cleveland": 199, "hungary": 172, "switzerland": 30, "va": 85}


def run(rounds=15, steps=100):
    """A run of four hospitals of unequal size."""
    ledger = Ledger(delta=1e-3)
    for round_number in range(1, rounds + 1):
        for hospital_id, records in RECORDS.items():
            event = MechanismEvent(
                "poisson_gaussian", noise_multiplier=2.4, sampling_probability=1 / math.ceil(records / 4)
            )
            ledger.record("record", hospital_id, round_number, event, steps)
    return ledger


def test_epsilon_is_that_of_the_steps_taken():
    ledger = run()
    assert ledger.units() == ("record",)
    assert ledger.hospital_ids("record") == tuple(RECORDS)
    for hospital_id, records in RECORDS.items():
        event = MechanismEvent(
            "poisson_gaussian", noise_multiplier=2.4, sampling_probability=1 / math.ceil(records / 4)
        )
        assert ledger.steps("record", hospital_id) == 1500
        assert ledger.steps("record", hospital_id, through_round=4) == 400
        for conversion in ("rdp", "rdp_classical", "pld"):
            expected = epsilon_of(event, 1e-3, count=1500, conversion=conversion)
            assert ledger.epsilon("record", hospital_id, conversion) == expected
            expected = epsilon_of(event, 1e-3, count=400, conversion=conversion)
            assert ledger.epsilon("record", hospital_id, conversion, through_round=4) == expected


def test_the_smallest_hospital_is_worst_off():
    ledger = run()
    epsilon, worst = ledger.worst_epsilon("record", "rdp")
    assert worst == "switzerland"
    assert epsilon == ledger.epsilon("record", "switzerland") == ledger.epsilon("record", None)
    assert epsilon > 2 * ledger.epsilon("record", "cleveland")


def test_epsilon_by_round():
    ledger = run(rounds=5)
    by_round = ledger.epsilon_by_round("record", "va")
    assert list(by_round) == [0, 1, 2, 3, 4, 5]
    assert by_round[0] == 0.0
    assert list(by_round.values()) == sorted(by_round.values())
    assert by_round[5] == ledger.epsilon("record", "va")


def test_what_touches_every_hospital_counts_for_each():
    ledger = Ledger(1e-5)
    ledger.record("hospital", None, 1, OTHER, 3)
    assert ledger.hospital_ids("hospital") == ()
    assert ledger.worst_epsilon("hospital") == (epsilon_of(OTHER, 1e-5, count=3), None)
    assert ledger.epsilon("hospital", "anyone") == epsilon_of(OTHER, 1e-5, count=3)
    ledger.record("hospital", "cleveland", 2, OTHER, 1)
    assert ledger.epsilon("hospital", "cleveland") == epsilon_of(OTHER, 1e-5, count=4)
    assert ledger.steps("hospital", "cleveland") == 4


def test_units_are_apart():
    ledger = Ledger(1e-5)
    ledger.record("hospital", None, 1, OTHER)
    ledger.record("record", "va", 1, STEP, 10)
    assert ledger.units() == ("record", "hospital")
    assert ledger.epsilon("hospital") == epsilon_of(OTHER, 1e-5)
    assert ledger.epsilon("record", "va") == epsilon_of(STEP, 1e-5, count=10)


def test_nobody_is_private_by_silence():
    """A unit that no entry protects has no guarantee; a hospital that was announced has lost nothing yet."""
    ledger = Ledger(1e-5)
    assert ledger.epsilon("record") == math.inf
    ledger.expect("record", ["va", "hungary"])
    assert ledger.epsilon("record", "va") == 0.0
    ledger.record("record", "va", 1, STEP)
    assert ledger.epsilon("record", "va", through_round=0) == 0.0
    assert ledger.epsilon("record", "hungary") == 0.0
    with pytest.raises(validation.InvalidInput, match=r"hospital_id='hungery'.*did you mean 'hungary'"):
        ledger.epsilon("record", "hungery")


def test_one_release_without_noise_spoils_it_from_then_on():
    ledger = Ledger(1e-5)
    ledger.record("record", "va", 1, STEP)
    ledger.record("record", "va", 2, MechanismEvent("non_private"))
    assert ledger.epsilon("record", "va", through_round=1) < math.inf
    for conversion in ("rdp", "pld", "rdp_classical"):
        assert ledger.epsilon("record", "va", conversion) == math.inf


def test_a_tree_that_grows_is_paid_once():
    """Eight steps of one tree cost 4 nodes; after a restart the next tree costs its own 2 on top."""
    ledger = Ledger(1e-5, "replace_special")
    for step in range(1, 9):
        ledger.record("hospital", None, step, MechanismEvent("tree", noise_multiplier=2.0, steps=step, restart=0))
    one_tree = epsilon_of(MechanismEvent("gaussian", noise_multiplier=2.0), 1e-5, count=4)
    assert ledger.epsilon("hospital") == pytest.approx(one_tree)
    assert ledger.steps("hospital") == 8
    for step in range(1, 3):
        ledger.record("hospital", None, 8 + step, MechanismEvent("tree", noise_multiplier=2.0, steps=step, restart=1))
    both = epsilon_of(MechanismEvent("gaussian", noise_multiplier=2.0), 1e-5, count=6)
    assert ledger.epsilon("hospital") == pytest.approx(both)
    assert ledger.epsilon("hospital", through_round=8) == pytest.approx(one_tree)
    assert ledger.steps("hospital") == 10
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_an_event_that_does_not_fit_is_refused_and_leaves_no_trace():
    ledger = Ledger(1e-5)
    fixed = MechanismEvent("fixed_size_gaussian", noise_multiplier=1.0, records=100, batch=10)
    with pytest.raises(validation.InvalidInput, match="fixed_size_gaussian"):
        ledger.record("record", "va", 1, fixed)
    assert ledger == Ledger(1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("patient", "va", 1, STEP), "unit='patient'.*hospital, record"),
        (("record", "va", -1, STEP), "round_number=-1"),
        (("record", "va", 1.5, STEP), "whole number"),
        (("record", "va", 1, STEP, -3), "count=-3"),
        (("record", "va", 1, STEP, True), "count=True"),
    ],
)
def test_bad_entries(arguments, words):
    with pytest.raises(validation.InvalidInput, match=words):
        Ledger(1e-5).record(*arguments)


@pytest.mark.parametrize(("delta", "adjacency"), [(0.0, "replace_one"), (1e-5, "none"), (2.0, "replace_one")])
def test_bad_ledgers(delta, adjacency):
    with pytest.raises(validation.InvalidInput):
        Ledger(delta, adjacency)


def test_conversions_that_can_handle_it():
    ledger = Ledger(1e-5)
    ledger.record("record", "va", 1, STEP)
    assert ledger.conversions("record") == ("rdp", "rdp_classical", "pld")
    ledger.record(
        "record",
        "va",
        1,
        MechanismEvent("skellam", local_stddev=9.0, shares=4, l2_sensitivity=10.0, l1_sensitivity=30.0),
    )
    assert ledger.conversions("record", "va") == ("rdp", "rdp_classical")


def test_a_long_run_stays_small():
    """1,000 rounds of four hospitals are four rows, whatever the number of rounds."""
    content = run(rounds=1000).to_json()
    assert [entry["rows"] for entry in content["entries"]] == [[[number, 1, 1000, 100]] for number in range(4)]
    assert len(json.dumps(content)) < 1200


entries = st.tuples(
    st.sampled_from(["record", "hospital"]),
    st.sampled_from([None, "a", "b"]),
    st.integers(0, 6),
    st.sampled_from([STEP, OTHER]),
    st.integers(0, 5),
)


@settings(deadline=None, max_examples=80)
@given(st.lists(entries, max_size=25))
def test_round_trip_and_value_equality(recorded):
    """JSON keeps everything; the order in which a round's entries came in, or their pieces, do not matter."""
    ledger, other = Ledger(1e-5), Ledger(1e-5)
    for entry in recorded:
        ledger.record(*entry)
    for unit, hospital_id, round_number, event, count in sorted(recorded, key=repr, reverse=True):
        other.record(unit, hospital_id, round_number, event, 0)
        for _ in range(count):
            other.record(unit, hospital_id, round_number, event, 1)
    assert ledger == other
    copy = Ledger.from_json(json.loads(json.dumps(ledger.to_json(), allow_nan=False)))
    assert copy == ledger
    for unit in ledger.units():
        for through_round in (None, 3):
            total = sum(n for u, h, r, _, n in recorded if (u, h) == (unit, None) and r <= (through_round or 99))
            if not ledger.hospital_ids(unit):
                assert copy.steps(unit, None, through_round) == total


def test_equality_sees_every_difference():
    assert Ledger(1e-5) != Ledger(1e-6)
    assert Ledger(1e-5) != Ledger(1e-5, "replace_one")
    first, second = run(rounds=2), run(rounds=2)
    assert first == second
    second.record("record", "va", 3, STEP)
    assert first != second
    assert first != "ledger"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.update(schema_version=2),
        lambda content: content.pop("events"),
        lambda content: content["events"].clear(),
        lambda content: content["events"][0].update(noise_multiplier=-1.0),
        lambda content: content["entries"][0].update(rows=[[0, 5, 4, 100]]),
        lambda content: content["entries"][0].update(rows=[[0, 1, 4, -100]]),
        lambda content: content.update(adjacency="replace_one"),
    ],
)
def test_a_spoiled_file_is_refused(spoil):
    content = run(rounds=2).to_json()
    spoil(content)
    with pytest.raises(validation.InvalidInput):
        Ledger.from_json(content)


def test_a_killed_run_goes_on_where_it_was():
    whole, first = run(rounds=10), run(rounds=6)
    resumed = Ledger.from_json(first.to_json())
    for round_number in range(7, 11):
        for hospital_id, records in RECORDS.items():
            event = MechanismEvent(
                "poisson_gaussian", noise_multiplier=2.4, sampling_probability=1 / math.ceil(records / 4)
            )
            resumed.record("record", hospital_id, round_number, event, 100)
    assert resumed == whole
    assert resumed.to_json() == whole.to_json()


class _Counted(dict):
    """A dictionary that counts how many keys were walked over."""

    walked = 0

    def __iter__(self):
        for key in super().__iter__():
            type(self).walked += 1
            yield key

    def items(self):
        return [(key, self[key]) for key in self]


def _pooled_work(hospitals, monkeypatch):
    """Keys walked over and epsilons computed by pooled queries, and by one query for every hospital."""
    ledger = Ledger(1e-3)
    for number in range(hospitals):
        event = MechanismEvent("poisson_gaussian", noise_multiplier=2.0 + number % 3, sampling_probability=0.02)
        ledger.record("record", f"site_{number}", 1, event, 100)
    _Counted.walked, computed = 0, []
    honest = epsilon_lib.composed_epsilon
    monkeypatch.setattr(epsilon_lib, "composed_epsilon", lambda *given: computed.append(given) or honest(*given))
    ledger._entries = _Counted(ledger._entries)
    worst = ledger.worst_epsilon("record")
    ledger.conversions("record")
    ledger.units()
    pooled = len(computed)
    for one in ledger.hospital_ids("record"):
        ledger.events("record", one)
    monkeypatch.undo()
    return worst, pooled, _Counted.walked


def test_pooled_queries_over_many_hospitals_do_not_grow_with_their_square(monkeypatch):
    """Entries are looked up, never searched, and hospitals that did the same share one epsilon."""
    for hospitals in (30, 3000):
        worst, computed, walked = _pooled_work(hospitals, monkeypatch)
        assert worst[1] == "site_0"  # the first of those with the least noise
        assert computed == 3
        assert walked == 0


def test_the_ids_of_a_ledger_keep_their_order_through_a_checkpoint():
    ledger = Ledger(1e-3)
    ledger.expect("record", ["b", "a"])
    ledger.record("record", None, 1, MechanismEvent("gaussian", noise_multiplier=9.0))
    ledger.record("record", "c", 1, MechanismEvent("gaussian", noise_multiplier=4.0))
    ledger.record("record", "a", 2, MechanismEvent("gaussian", noise_multiplier=5.0))
    for one in (ledger, Ledger.from_json(ledger.to_json())):
        assert one.hospital_ids("record") == ("b", "a", "c")
        assert one.units() == ("record",)
        assert one.worst_epsilon("record")[1] == "c"
        assert one.knows("record", "b")
        assert one.knows("record", None)
        assert not one.knows("hospital", "b")
