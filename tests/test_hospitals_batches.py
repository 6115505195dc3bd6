"""Batch schedules: what the accountant is told of them is what they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import batches

STREAMS = Streams.from_seed(11)


def inclusion(schedule):
    """1 where a record is in a step's batch, of shape [steps, records]."""
    found = np.zeros((schedule.steps, schedule.records))
    steps, places = np.nonzero(schedule.mask)
    np.add.at(found, (steps, schedule.indices[steps, places]), 1)
    return found


def used(schedule, step):
    return schedule.indices[step][schedule.mask[step] > 0].tolist()


def check_form(schedule):
    assert schedule.indices.dtype == np.int32
    assert schedule.mask.dtype == np.float32
    assert schedule.indices.shape == schedule.mask.shape == (schedule.steps, schedule.capacity)
    assert set(np.unique(schedule.mask)) <= {0.0, 1.0}
    assert schedule.indices.min() >= 0
    assert schedule.indices.max() < schedule.records
    assert (schedule.indices[schedule.mask == 0] == 0).all()
    assert inclusion(schedule).max() <= 1  # no record twice in a step
    assert schedule.examples == int((schedule.mask > 0).sum())


@settings(max_examples=40, deadline=None)
@given(records=st.integers(1, 40), batch_size=st.integers(1, 12), epochs=st.integers(1, 4), seed=st.integers(0, 99))
def test_epochs_cover_every_record_once_each(records, batch_size, epochs, seed):
    made = batches.shuffled_epochs(Streams.from_seed(seed), records, batch_size=batch_size, local_epochs=epochs)
    check_form(made)
    per_epoch = -(-records // batch_size)
    # No places for records that the hospital does not have, in eights.
    assert (made.steps, made.capacity) == (epochs * per_epoch, min(batch_size, -(-records // 8) * 8))
    each = inclusion(made).reshape(epochs, per_epoch, records).sum(axis=1)
    assert (each == 1).all()
    sizes = made.mask.sum(axis=1).reshape(epochs, per_epoch)
    assert (sizes[:, :-1] == batch_size).all()
    assert (sizes[:, -1] == records - batch_size * (per_epoch - 1)).all()
    assert made.expected_batch == pytest.approx(sizes.mean())
    assert made.sampling == "shuffled"


def test_each_epoch_has_its_own_uniform_order():
    made = batches.shuffled_epochs(STREAMS, 5, batch_size=1, local_epochs=4000)
    orders = made.indices.reshape(4000, 5)
    counts = np.array([[(orders[:, place] == record).sum() for record in range(5)] for place in range(5)])
    # 16 degrees of freedom; five deviations above the mean is 16 + 5 sqrt(32) = 44.
    assert ((counts - 800) ** 2 / 800).sum() < 44


@settings(max_examples=30, deadline=None)
@given(records=st.integers(1, 30), batch_size=st.integers(1, 9), steps=st.integers(1, 40), cut=st.integers(1, 39))
def test_steps_are_exact_and_go_on_where_a_round_stopped(records, batch_size, steps, cut):
    whole = batches.shuffled_steps(STREAMS, records, batch_size=batch_size, local_steps=steps)
    check_form(whole)
    assert whole.steps == steps
    epochs = batches.shuffled_epochs(
        STREAMS, records, batch_size=batch_size, local_epochs=-(-steps * batch_size // records) + 1
    )
    assert np.array_equal(whole.indices, epochs.indices[:steps])
    assert np.array_equal(whole.mask, epochs.mask[:steps])
    if cut < steps:
        late = batches.shuffled_steps(STREAMS, records, batch_size=batch_size, local_steps=steps - cut, first_step=cut)
        assert np.array_equal(late.indices, whole.indices[cut:])
        assert np.array_equal(late.mask, whole.mask[cut:])


def z_statistics(members, probability):
    """Sums of squared standardised deviations: of records' counts, of pairs of records, of a record's successive steps.

    Under independent Bernoulli draws they are chi-square with n, n(n-1)/2 and n degrees of freedom.
    """
    steps, records = members.shape
    spread = probability * (1 - probability)
    off = members - probability
    counts = off.sum(axis=0) / np.sqrt(steps * spread)
    pairs = ((off.T @ off) / (np.sqrt(steps) * spread))[np.triu_indices(records, 1)]
    successive = (off[1:] * off[:-1]).sum(axis=0) / (np.sqrt(steps - 1) * spread)
    return [(counts**2).sum(), (pairs**2).sum(), (successive**2).sum()], [records, len(pairs), records]


def accepted(members, probability):
    statistics, freedoms = z_statistics(members, probability)
    return [bool(abs(value - free) < 5 * np.sqrt(2 * free)) for value, free in zip(statistics, freedoms)]


def test_poisson_inclusion_is_bernoulli_and_independent():
    made = batches.poisson(STREAMS, 40, sampling_probability=0.15, local_steps=4000)
    check_form(made)
    members = inclusion(made)
    assert accepted(members, 0.15) == [True, True, True]
    assert not accepted(members, 0.15 * 2 / 3)[0]
    assert not accepted(members, 0.15 * 3 / 2)[0]
    assert made.expected_batch == pytest.approx(6.0)
    assert made.sampling == "poisson"


def test_other_schedules_would_not_pass_as_poisson():
    """The test above has the power to see the two usual impostors: fixed batches and shuffled passes."""
    fixed = batches.fixed_size(STREAMS, 40, batch_size=6, local_steps=4000)
    assert accepted(inclusion(fixed), 0.15) == [True, False, True]  # right rate, but records exclude each other
    passes = batches.shuffled_epochs(STREAMS, 40, batch_size=6, local_epochs=572)
    assert accepted(inclusion(passes), 1 / 7)[2] is False  # a record that was used waits for the next pass


def test_poisson_batches_are_never_cut_to_fit():
    roomy = batches.poisson(STREAMS, 60, sampling_probability=0.5, local_steps=30, capacity=64)
    tight = batches.poisson(STREAMS, 60, sampling_probability=0.5, local_steps=30, capacity=3)
    assert np.array_equal(inclusion(roomy), inclusion(tight))
    assert roomy.capacity == 64
    assert tight.capacity == 48  # 3 doubled until it holds the largest batch
    assert tight.mask.sum(axis=1).max() > 24
    everyone = batches.poisson(STREAMS, 9, sampling_probability=1.0, local_steps=2)
    assert (inclusion(everyone) == 1).all()


def test_poisson_steps_may_be_empty():
    made = batches.poisson(STREAMS, 3, sampling_probability=0.01, local_steps=50)
    assert (made.mask.sum(axis=1) == 0).sum() > 40
    assert made.steps == 50  # an empty step is a step: the ledger counts it


def test_large_hospitals_are_drawn_in_chunks_without_changing_the_draw(monkeypatch):
    whole = batches.poisson(STREAMS, 50, sampling_probability=0.2, local_steps=30)
    fixed = batches.fixed_size(STREAMS, 50, batch_size=5, local_steps=30)
    monkeypatch.setattr(batches, "_CHUNK", 170)
    assert np.array_equal(batches.poisson(STREAMS, 50, sampling_probability=0.2, local_steps=30).indices, whole.indices)
    assert np.array_equal(batches.fixed_size(STREAMS, 50, batch_size=5, local_steps=30).indices, fixed.indices)


def test_fixed_size_is_uniform_without_replacement():
    made = batches.fixed_size(STREAMS, 10, batch_size=3, local_steps=6000)
    check_form(made)
    members = inclusion(made)
    assert (members.sum(axis=1) == 3).all()
    together = (members.T @ members / 6000)[np.triu_indices(10, 1)]
    assert abs(members.mean(axis=0) - 0.3).max() < 0.03  # deviation .0059
    assert abs(together - 3 * 2 / (10 * 9)).max() < 0.016  # deviation .0032
    assert (made.sampling, made.expected_batch) == ("fixed_size_without_replacement", 3.0)


@pytest.mark.parametrize("kind", ["shuffled_epochs", "shuffled_steps", "poisson", "fixed_size"])
def test_same_stream_same_batches_another_stream_others(kind):
    options = {
        "shuffled_epochs": {"batch_size": 4, "local_epochs": 3},
        "shuffled_steps": {"batch_size": 4, "local_steps": 12},
        "poisson": {"sampling_probability": 0.2, "local_steps": 12, "capacity": 32},
        "fixed_size": {"batch_size": 4, "local_steps": 12},
    }[kind]
    make = getattr(batches, kind)
    first, again = make(STREAMS, 30, **options), make(Streams.from_seed(11), 30, **options)
    assert np.array_equal(first.indices, again.indices)
    assert not np.array_equal(first.indices, make(STREAMS.child("other"), 30, **options).indices)
    assert set(batches.KINDS) >= {kind}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("shuffled_epochs", {"batch_size": 0, "local_epochs": 1}, "batch_size=0: must be >= 1"),
        ("shuffled_epochs", {"batch_size": 2, "local_epochs": 0}, "local_epochs=0"),
        ("shuffled_steps", {"batch_size": 2, "local_steps": 0}, "local_steps=0"),
        ("shuffled_steps", {"batch_size": 2, "local_steps": 1, "first_step": -1}, "first_step=-1"),
        ("poisson", {"sampling_probability": 0.0, "local_steps": 1}, "sampling_probability=0.0"),
        ("poisson", {"sampling_probability": 1.5, "local_steps": 1}, "sampling_probability=1.5"),
        ("poisson", {"sampling_probability": 0.5, "local_steps": 1, "capacity": 0}, "capacity=0"),
        ("fixed_size", {"batch_size": 11, "local_steps": 1}, "batch_size=11: must be <= 10"),
    ],
)
def test_bad_settings_are_refused(kind, options, words):
    with pytest.raises(InvalidInput, match=words):
        getattr(batches, kind)(STREAMS, 10, **options)


def test_a_hospital_without_records_is_refused():
    with pytest.raises(InvalidInput, match="records=0: must be >= 1"):
        batches.poisson(STREAMS, 0, sampling_probability=0.5, local_steps=1)
