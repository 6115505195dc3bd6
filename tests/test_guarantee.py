"""The page about one run's guarantee: its numbers are the ledger's, its curve holds for every hospital."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from tff_hospitals.accounting import Ledger, MechanismEvent
from tff_hospitals.accounting import trade_off as curves
from tff_hospitals.accounting.loss_shapes import compose
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports import guarantee_words
from tff_hospitals.reports.guarantee import facts
from tff_hospitals.reports.guarantee_json import as_json
from tff_hospitals.reports.guarantee_page import guarantee_page
from tff_hospitals.training.odometer import Total

POISSON = {
    "north": MechanismEvent("poisson_gaussian", noise_multiplier=1.2, sampling_probability=0.1),
    "south": MechanismEvent("poisson_gaussian", noise_multiplier=2.0, sampling_probability=0.4),
}
REGISTRY = {
    "product",
    "dp_flavor",
    "privacy_loss",
    "model",
    "accounting",
    "implementation",
    "resources",
}


def ledger_of(*pairs, delta=1e-3):
    ledger = Ledger(delta=delta)
    for unit, hospital, event, count in pairs:
        ledger.record(unit, hospital, 1, event, count=count)
    return ledger


def found_of(ledger, privacy, second=None, **more):
    units = ledger.units()
    summary = {
        "label": "a <method>",
        "conversion": "rdp",
        "guarantee": "Protected: somebody.",
        "second_unit": second,
        "second_conversion": "rdp",
        "noise_multiplier_per_hospital": {"north": 1.2},
        "second_noise_multiplier": 3.0 if second else None,
        "signal_to_noise": {"north": 0.5},
        "certificate": {"library": "dp_accounting 0.6.0", "rdp": {"north": 1.0}} if units else None,
    }
    record = {"dataset": {"name": "toy", "hospitals": [{"id": "north"}, {"id": "south"}], "salt": "public"}}
    return facts(Plan().replace(privacy=privacy), ledger, summary, record, **more)


RECORD = {"mechanism": "dp_sgd", "noise_multiplier": 1.2}
HOSPITAL = {"mechanism": "fixed_clip", "noise_multiplier": 2.0}
PLANS = {
    "record": lambda: (
        ledger_of(*(("record", name, event, 20) for name, event in POISSON.items())),
        RECORD,
        None,
    ),
    "hospital": lambda: (
        ledger_of(("hospital", None, MechanismEvent("gaussian", noise_multiplier=2.0), 4)),
        HOSPITAL,
        None,
    ),
    "both": lambda: (
        ledger_of(
            ("record", "north", POISSON["north"], 20),
            ("hospital", None, MechanismEvent("gaussian", noise_multiplier=3.0), 9),
        ),
        {**RECORD, "outer": "fixed_clip", "outer_noise_multiplier": 3.0},
        "hospital",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_number_of_the_page_is_the_ledgers(name):
    ledger, privacy, second = PLANS[name]()
    joint = [Total(unit, 2 * ledger.epsilon(unit), 1e-3, "", 3) for unit in ledger.units()]
    found = found_of(ledger, privacy, second, joint=joint)
    page, machines = guarantee_page(found), json.loads(json.dumps(as_json(found), allow_nan=False))
    assert set(machines["deployment"]) == REGISTRY
    assert machines["figures"]["delta"] == ledger.delta
    assert [one["unit"] for one in machines["figures"]["units"]] == list(ledger.units())
    for one in machines["figures"]["units"]:
        unit = one["unit"]
        assert one["epsilon"] == ledger.epsilon(unit, None, "rdp")
        assert set(one["epsilon_by_conversion"]) == set(ledger.conversions(unit))
        for conversion, value in one["epsilon_by_conversion"].items():
            assert value == ledger.epsilon(unit, None, conversion)
            assert f"{value:.4g} (" in page
        assert one["epsilon_per_hospital"] == {of: ledger.epsilon(unit, of) for of in ledger.hospital_ids(unit)}
        assert one["joint_epsilon"]["epsilon"] == 2 * one["epsilon"]
        assert one["releases"] == ledger.steps(unit, ledger.worst_epsilon(unit)[1])
        assert f"all 3 runs on the same data together: epsilon {2 * one['epsilon']:.4g}" in page
    listed = machines["deployment"]["privacy_loss"]["privacy_parameters"]
    assert [(one["privacy_unit"], one["epsilon"], one["delta"]) for one in listed] == [
        (unit, ledger.epsilon(unit), ledger.delta) for unit in ledger.units()
    ]


@pytest.mark.parametrize("name", PLANS)
def test_no_attacker_is_beyond_the_curve_at_any_hospital(name):
    ledger, privacy, second = PLANS[name]()
    for one in as_json(found_of(ledger, privacy, second))["figures"]["units"]:
        rates, missed = (np.array(one["trade_off"][key]) for key in ("false_alarms", "missed"))
        assert rates[0] == 0
        assert rates[-1] == 1
        assert np.all(np.diff(missed) <= 1e-6)
        epsilon = one["epsilon_by_conversion"]["pld"]  # the curve is no looser than what follows from it
        assert np.all(missed >= 1 - ledger.delta - math.exp(epsilon) * rates - 1e-4)
        for of in ledger.hospital_ids(one["unit"]) or (None,):
            curve = curves.trade_off(compose(ledger.events(one["unit"], of), ledger.adjacency))
            assert np.all(missed <= [curve.fnr_at(rate) + 1e-6 for rate in rates])
        assert np.max(1 - rates - missed) <= one["advantage"] + 1e-6


def test_gaussian_noise_is_said_to_be_gaussian():
    ledger, privacy, _ = PLANS["hospital"]()
    found = found_of(ledger, privacy)
    (one,) = as_json(found)["figures"]["units"]
    assert one["gaussian_mu"] == pytest.approx(math.sqrt(4) / 2.0)
    assert "mu = 1." in guarantee_page(found)


def test_the_page_says_what_is_missing_and_escapes_what_it_is_told():
    page = guarantee_page(found_of(Ledger(delta=1e-3), {"mechanism": "none"}))
    assert "no guarantee" in page
    assert "a &lt;method&gt;" in page
    ledger, privacy, _ = PLANS["record"]()
    page = guarantee_page(found_of(ledger, privacy))
    assert "Not audited" in page
    assert "Not known: the data set" in page
    assert "Research mode" in page
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    order = ["Privacy parameters", "Unit of privacy", "Mechanisms", "Composition: what else was published", "Trust"]
    assert [title for title in titles if title in order] == order


def test_an_audit_is_told_with_its_power_and_what_it_left_out():
    test = {"hospital": None, "figure": 0.123456, "bound": [0.9, 1.1], "notices": "noise below 0.9", "words": ""}
    audit = {
        "promise": {
            "verdict": "pass",
            "words": "The promise holds against this audit.",
            "self_tests": [
                {"name": "loudness: noise", **test, "passed": True, "power": 0.97},
                {"name": "loudness: noise", **test, "passed": False, "power": 0.95},
            ],
            "bounds": [
                {
                    "unit": "record",
                    "passed": True,
                    "ledger_epsilon": 1.0,
                    "notices_below": 0.854,
                    "words": "guessed seven",
                }
            ],
            "not_tested": [{"name": "order", "reason": "too few of eight passes"}],
        }
    }
    ledger, privacy, _ = PLANS["record"]()
    found = found_of(ledger, privacy, audit=audit)
    page, figures = guarantee_page(found), as_json(found)["figures"]["audit"]
    for words in ("1 of 2 passed", "0.95", "noise below 0.9", "noise below 0.85 of", "NOT TESTED: order", "says: pass"):
        assert words in page
    for secret in ("guessed seven", "eight passes", "The promise holds"):  # sentences of an audit are for people inside
        assert secret not in page + json.dumps(as_json(found))
    assert figures["self_tests"][0]["power"] == 0.95
    assert "failed: loudness: noise" in page
    assert "0.123456" not in json.dumps(figures)  # outcomes leave the house, figures of real batches do not


def test_the_page_tells_each_mechanisms_own_clip_norm_and_what_changes_by_round():
    found = found_of(*PLANS["both"]())
    plan = found.plan.replace(
        rounds=3,
        by_round="outer_noise_multiplier=linear:0.5,noise_multiplier=linear:2",
        privacy={"clip_norm": 0.5, "outer_clip_norm": 2.0},
    )
    said = guarantee_words.mechanisms_used(dataclasses.replace(found, plan=plan))
    assert "Per record: dp_sgd, noise multiplier 1.2 to 2.4, clip norm 0.5 (by round: the ledger has each)" in said
    assert "Per hospital: fixed_clip, noise multiplier 1.5 to 3, clip norm 2 (by round: the ledger has each)" in said
    plain = guarantee_words.mechanisms_used(dataclasses.replace(found, plan=plan.replace(by_round="")))
    assert "noise multiplier 3, clip norm 2, 9 noisy releases" in plain
