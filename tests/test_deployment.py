"""A federation gives what the simulation gives: the same plan, in signed messages, over an engine."""

from __future__ import annotations

import numpy as np
import pytest
from federations import BASE, Members, running, train_deployed

from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
PRIVACY = {"noise_multiplier": 0.3, "delta": 1e-2, "clip_norm": 0.5}
CASES = {
    "mean": {},
    "dp_sgd": {"privacy": {**PRIVACY, "mechanism": "dp_sgd"}},
    "adaptive_clip": {"privacy": {**PRIVACY, "mechanism": "adaptive_clip"}, "weighting": "equal"},
    "quantised upload": {"upload": "rotate,quantize:8"},
    "encoded both ways": {"broadcast": "delta,quantize:8", "upload": "topk:0.5", "error_feedback": True},
    "tree": {"privacy": {**PRIVACY, "mechanism": "tree"}, "weighting": "equal"},
    "local_dp": {"privacy": {**PRIVACY, "mechanism": "local_dp"}, "weighting": "equal"},
    "discrete_gaussian": {
        "privacy": {**PRIVACY, "mechanism": "discrete_gaussian"},
        "weighting": "equal",
    },
    "secure_sum": {"privacy": {"secure_sum": True, "secure_sum_bound": 4.0}},
}
WHOLE_NUMBERS = ("discrete_gaussian", "secure_sum")


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


IN_MINUTES = ("mean", "adaptive_clip", "quantised upload", "tree", "local_dp", "secure_sum")


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] if name in IN_MINUTES else []) for name in CASES]
)
def test_a_federation_gives_what_the_simulation_gives(case, tmp_path):
    members = Members(BASE.replace(**CASES[case]))
    with running(members, tmp_path) as (federation, _):
        deployed = train_deployed(members, federation, tmp_path / "run")
    here = train(members.plan, members.dataset, model=members.parts.model)
    np.testing.assert_allclose(flat(deployed.weights), flat(here.weights), rtol=1e-5, atol=1e-6)
    assert deployed.ledger == here.ledger
    assert deployed.summary["bytes_up"] == here.summary["bytes_up"]
    assert deployed.summary["bytes_down"] == here.summary["bytes_down"]
    for name in members.dataset.ids:
        assert deployed.evaluation[name] == pytest.approx(here.evaluation[name], rel=1e-5, abs=1e-6, nan_ok=True)
    for metric in ("loss", "accuracy", "brier", "records"):
        assert deployed.evaluation["pooled"][metric] == pytest.approx(here.evaluation["pooled"][metric], rel=1e-5)
    assert deployed.summary["engine"] == "loopback"
    assert deployed.summary["overhead_seconds_per_round"] < 1
    assert set(deployed.summary) == {*here.summary, "engine", "overhead_seconds_per_round"}
    assert federation.rejected == 0
    said = [text for text in deployed.summary["warnings"] if "simulated" in text]
    assert said == []
    assert "only simulated" not in deployed.summary["guarantee"]
