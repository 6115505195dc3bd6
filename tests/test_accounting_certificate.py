from __future__ import annotations

import pytest

from tff_hospitals.accounting import Ledger, MechanismEvent
from tff_hospitals.accounting.certificate import CertificateError, certify


def ledger(noise_multiplier, adjacency="add_or_remove_one"):
    found = Ledger(delta=1e-3, adjacency=adjacency)
    event = MechanismEvent("poisson_gaussian", noise_multiplier=noise_multiplier, sampling_probability=0.02)
    found.record("record", "cleveland", 1, event, count=1500)
    return found


@pytest.mark.parametrize("adjacency", ["add_or_remove_one", "replace_special"])
def test_dp_accounting_computes_the_same_from_the_same_ledger(adjacency):
    found = ledger(0.886, adjacency)
    second = certify(found, "record")
    assert second["library"].startswith("dp_accounting ")
    assert found.epsilon("record", "cleveland") == pytest.approx(second["rdp"]["cleveland"], rel=1e-4)
    assert found.epsilon("record", "cleveland", "pld") == pytest.approx(second["pld"]["cleveland"], rel=1e-3)


def test_an_epsilon_that_is_too_small_is_not_certified(monkeypatch):
    honest = Ledger.epsilon
    monkeypatch.setattr(Ledger, "epsilon", lambda self, *given, **named: 0.9 * honest(self, *given, **named))
    with pytest.raises(CertificateError, match=r"cleveland: epsilon by rdp is 4\.49"):
        certify(ledger(0.886), "record")


def test_mechanisms_that_dp_accounting_does_not_know_are_left_out():
    found = Ledger(delta=1e-3, adjacency="replace_special")
    event = MechanismEvent("skellam", local_stddev=100.0, shares=10, l2_sensitivity=50.0, l1_sensitivity=500.0)
    found.record("hospital", None, 1, event)
    assert certify(found, "hospital")["rdp"] == {}
