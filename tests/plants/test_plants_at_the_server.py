"""Faults planted at the server: each is trained, audited and noticed by the self-test that the catalogue names."""

from __future__ import annotations

import pytest
from catalogue import PLANTS
from harness import check, inside_hospitals

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
MINE = [one for one in PLANTS.values() if not inside_hospitals(one.method)]


@pytest.mark.parametrize("plant", MINE, ids=lambda one: one.name)
def test_a_planted_fault_is_noticed(plant, monkeypatch, record_property):
    check(plant, monkeypatch, record_property)
