"""What a plan may not say about its encoders: each refusal with value, bound and remedy, before any training."""

from __future__ import annotations

import pytest

from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import review
from tff_hospitals.plan.plan import Plan

PRIVATE = {"mechanism": "fixed_clip", "noise_multiplier": 1.0}


def refused(**changes):
    return {problem.name: problem for problem in review.problems(Plan().replace(**changes))}


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"upload": "quantize:17"}, "quantize bits", "16"),
        ({"upload": "quantize:0"}, "quantize bits", "1"),
        ({"upload": "topk:1.5"}, "topk fraction", "1"),
        ({"upload": "quantise:4"}, "upload", "quantize"),
        ({"upload": "quantize:4,rotate"}, "upload", "rotate must come before"),
        ({"broadcast": "entropy,delta"}, "broadcast", "delta must come before"),
        ({"upload": "delta,quantize:4"}, "upload", "already is a difference"),
        ({"upload": "rotate,quantize:4", "error_feedback": True}, "upload", "error feedback needs"),
        ({"error_feedback": True}, "error_feedback", "loses nothing"),
        ({"skip_below": 0.0}, "skip_below", "> 0"),
        ({"link": {"uplink_mbps": 1.0}}, "uplink_mbps, downlink_mbps", "both directions"),
        ({"link": {"uplink_mbps": -1.0, "downlink_mbps": 1.0}}, "uplink_mbps", "> 0"),
        ({"link": {"latency_ms": 5.0}}, "latency_ms", "stated link"),
    ],
)
def test_bad_encoders_are_refused(changes, name, words):
    found = refused(**changes)
    assert name in found
    assert words in f"{found[name].bound} {found[name].remedy}"
    assert found[name].remedy


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"upload": "topk:0.1,ternary:mean,entropy"}, "upload", "length"),
        ({"upload": "threshold:0.1"}, "upload", "length"),
        ({"skip_below": 0.1}, "skip_below", "noises only later"),
        ({"upload": "topk:0.1", "error_feedback": True}, "error_feedback", "clipped"),
    ],
)
def test_hospital_level_noise_at_the_server_forbids_what_would_leak_before_it(changes, name, words):
    found = refused(privacy=PRIVATE, weighting="equal", **changes)
    assert words in found[name].bound
    inside = {"mechanism": "dp_sgd", "noise_multiplier": 1.0}  # noised before it is encoded: allowed
    assert refused(privacy=inside, **changes) == {}


def test_a_secure_sum_takes_no_payloads():
    found = refused(upload="rotate,quantize:4", weighting="equal", privacy={**PRIVATE, "mechanism": "skellam"})
    assert "cannot decode" in found["upload"].bound
    assert "--modulus_bits" in found["upload"].remedy


def test_both_chains_are_read_before_anything_is_said():
    found = refused(broadcast="quantize:40", upload="nonsense")
    assert {"quantize bits", "upload"} <= set(found)


def test_what_a_clip_does_to_an_encoder_is_said():
    dataset = load_dataset("heart_disease")
    plan = Plan(weighting="equal", upload="rotate,quantize:4").replace(privacy=PRIVATE)
    assert review.problems(plan, dataset) == []
    assert any("clipped again" in words for words in review.warnings(plan, dataset))
    biased = Plan(upload="topk:0.01")
    assert any("is biased" in words for words in review.warnings(biased, dataset))
    assert not any("is biased" in words for words in review.warnings(biased.replace(error_feedback=True), dataset))


def test_registered_methods_with_encoders_are_sound():
    encoded = [method for method in METHODS.values() if "upload" in method.changes]
    assert len(encoded) >= 5
    for method in encoded:
        assert review.problems(method.plan(Plan(), 5.0)) == []
