"""Faults planted at the server: each is trained, audited and noticed by the self-test that the catalogue names."""

from __future__ import annotations

import pytest
from catalogue import PLANTS
from few_fast import few_fast
from harness import check, inside_hospitals

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
MINE = [one.name for one in PLANTS.values() if not inside_hospitals(one.method)]
# The same fault in further mechanisms, or one that has its like among the others or inside hospitals.
RARE = [f"noise_of_0_6_in_{name}" for name in ("tree", "blt", "banded_mf", "local_dp", "skellam")]
RARE += ["same_tree_noise_every_round", "bands_not_carried_on", "server_settings_of_another_round"]
RARE += ["count_of_hospitals_without_noise", "count_of_zeroing_without_noise"]


@pytest.mark.parametrize("name", few_fast(MINE, slow=[name for name in MINE if name not in RARE]))
def test_a_planted_fault_is_noticed(name, monkeypatch, record_property):
    check(PLANTS[name], monkeypatch, record_property)
