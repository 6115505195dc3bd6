"""Cohorts: pure functions of stream and round, in a stable order, with the accounting that fits."""

from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Cohorts

IDS = tuple(f"h{number}" for number in range(20))
STREAMS = Streams.from_seed(5)


def member_matrix(cohorts, rounds=2000):
    drawn = [set(cohorts(STREAMS, number)) for number in range(rounds)]
    return np.array([[hospital in cohort for hospital in cohorts.hospital_ids] for cohort in drawn], float)


def test_all():
    cohorts = Cohorts(IDS)
    assert cohorts(STREAMS, 1) == IDS
    assert (cohorts.sampling, cohorts.sampling_probability, cohorts.expected_size) == ("none", 1.0, 20.0)


def test_the_same_round_gives_the_same_hospitals_whenever_it_is_asked():
    for cohorts in (Cohorts(IDS, "fixed_size", 6), Cohorts(IDS, "poisson", probability=0.3)):
        later = [cohorts(Streams.from_seed(5), number) for number in (9, 3, 7)]
        assert later == [cohorts(STREAMS, number) for number in (9, 3, 7)]
        assert len(set(later)) == 3
        assert all(list(drawn) == sorted(drawn, key=IDS.index) for drawn in later)


def test_fixed_size_is_uniform_without_replacement():
    cohorts = Cohorts(IDS, "fixed_size", hospitals_per_round=6)
    members = member_matrix(cohorts)
    assert (members.sum(axis=1) == 6).all()
    # Shares of 2,000 rounds around 6/20, deviation .0102; pairs together 6 x 5 / (20 x 19) = .0789, deviation .006.
    assert abs(members.mean(axis=0) - 0.3).max() < 0.05
    together = (members.T @ members / len(members))[np.triu_indices(20, 1)]
    assert abs(together - 6 * 5 / (20 * 19)).max() < 0.035
    assert cohorts.sampling == "fixed_size_without_replacement"
    assert cohorts.sampling_probability == pytest.approx(0.3)


def test_poisson_draws_every_hospital_on_its_own():
    cohorts = Cohorts(IDS, "poisson", probability=0.1)
    members = member_matrix(cohorts)
    assert abs(members.mean(axis=0) - 0.1).max() < 0.035  # deviation .0067
    sizes = members.sum(axis=1)
    assert sizes.var() == pytest.approx(20 * 0.1 * 0.9, rel=0.15)  # binomial; a fixed size would have 0
    assert (sizes == 0).mean() == pytest.approx(0.9**20, abs=0.035)  # empty cohorts are returned as such
    assert (cohorts.sampling, cohorts.sampling_probability) == ("poisson", 0.1)


def test_empty_cohort():
    assert Cohorts(("a",), "poisson", probability=1e-9)(STREAMS, 0) == ()


def test_a_new_hospital_changes_nobody_elses_draw():
    before, after = Cohorts(IDS, "poisson", probability=0.4), Cohorts((*IDS, "new"), "poisson", probability=0.4)
    for number in range(50):
        assert [h for h in after(STREAMS, number) if h != "new"] == list(before(STREAMS, number))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "al"}, "did you mean 'all'"),
        ({"kind": "fixed_size"}, "hospitals_per_round=None"),
        ({"kind": "fixed_size", "hospitals_per_round": 21}, "hospitals_per_round=21: .*<= 20"),
        ({"kind": "fixed_size", "hospitals_per_round": 0}, "hospitals_per_round=0"),
        ({"kind": "poisson"}, "probability=None"),
        ({"kind": "poisson", "probability": 0.0}, "must be > 0"),
        ({"kind": "poisson", "probability": 1.1}, "<= 1"),
        ({"kind": "all", "probability": 0.5}, "only used with cohort=poisson"),
        ({"kind": "poisson", "probability": 0.5, "hospitals_per_round": 3}, "only used with cohort=fixed_size"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(InvalidInput, match=words):
        Cohorts(IDS, **settings)


def test_doubled_hospitals_are_refused():
    with pytest.raises(InvalidInput, match="different ids"):
        Cohorts(("a", "a"))


def test_a_cyclic_cohort_takes_every_hospital_in_turn():
    ids = tuple(f"site_{number}" for number in range(7))
    cyclic = Cohorts(ids, "cyclic", hospitals_per_round=3)
    drawn = [cyclic(Streams.from_seed(1), number) for number in range(6)]
    assert [len(one) for one in drawn] == [3, 3, 1, 3, 3, 1]
    assert sorted(drawn[0] + drawn[1] + drawn[2]) == sorted(ids)  # nobody twice in a cycle
    assert drawn[:3] == drawn[3:]
    assert cyclic(Streams.from_seed(2), 0) != drawn[0]
    assert cyclic.sampling == "none"
