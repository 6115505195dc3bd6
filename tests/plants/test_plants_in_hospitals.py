"""Faults planted inside hospitals: each is trained, audited and noticed by the self-test that the catalogue names."""

from __future__ import annotations

import pytest
from catalogue import PLANTS
from few_fast import few_fast
from harness import check, inside_hospitals

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
MINE = [one.name for one in PLANTS.values() if inside_hospitals(one.method)]
# The same fault in further mechanisms, or one that has its like among the others and at the server.
RARE = ["noise_of_0_6_in_dp_sgd_adaptive", "noise_of_0_6_in_dp_ftrl_local", "noise_of_0_6_in_dp_mf_local"]
RARE += ["noise_of_0_9_in_dp_sgd_per_layer", "noise_of_1_1_in_dp_sgd_automatic", "ftrl_without_clipping"]
RARE += ["no_noise_on_one_layer", "noise_off_after_round_8", "noise_shared_by_seeds", "same_noise_every_round"]


@pytest.mark.parametrize("name", few_fast(MINE, slow=[name for name in MINE if name not in RARE]))
def test_a_planted_fault_is_noticed(name, monkeypatch, record_property):
    check(PLANTS[name], monkeypatch, record_property)
