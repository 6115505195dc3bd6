"""A federation gives what the simulation gives: the same plan, in signed messages, over an engine."""

from __future__ import annotations

import numpy as np
import pytest
from federations import BASE, Members, running, train_deployed
from few_fast import few_fast

from tff_hospitals.deployment import journal
from tff_hospitals.deployment.journal import Journal
from tff_hospitals.foundations.files import RecordError
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
    "fixed_clip": {"privacy": {**PRIVACY, "mechanism": "fixed_clip"}, "weighting": "equal"},
    "blt": {"privacy": {**PRIVACY, "mechanism": "blt"}, "weighting": "equal"},
    "skellam": {"privacy": {**PRIVACY, "mechanism": "skellam"}, "weighting": "equal"},
    "low-rank adapters": {"model": {"name": "mlp", "options": {"hidden_units": [8], "lora_rank": 2}}},
    "partial model": {"model": {"name": "mlp", "options": {"hidden_units": [8], "trainable": ["output"]}}},
    "plateau": {"stopping": {"patience": 1, "threshold": 10.0}},
    "budget": {
        "privacy": {**PRIVACY, "mechanism": "dp_sgd", "noise_multiplier": 1.0},
        "stopping": {"max_epsilon": 2.0},
    },
}
ENDS_EARLY = ("plateau", "budget")
WHOLE_NUMBERS = ("discrete_gaussian", "skellam")  # the plain secure sum is divided, and not by the same program


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


IN_SECONDS = ("dp_sgd", "encoded both ways", "discrete_gaussian")
SLOW = ("tree", "secure_sum", "low-rank adapters", "partial model", "plateau", "budget")  # the others are rare


@pytest.mark.parametrize("case", few_fast(CASES, IN_SECONDS, SLOW))
def test_a_federation_gives_what_the_simulation_gives(case, tmp_path):
    members = Members(BASE.replace(**CASES[case]))
    with running(members, tmp_path) as (federation, _):
        deployed = train_deployed(members, federation, tmp_path / "run")
    here = train(members.plan, members.dataset, model=members.parts.model)
    np.testing.assert_allclose(flat(deployed.weights), flat(here.weights), rtol=1e-5, atol=1e-6)
    if case in WHOLE_NUMBERS:
        assert flat(deployed.weights).tolist() == flat(here.weights).tolist()
    assert deployed.summary["rounds"] == here.summary["rounds"]
    assert (here.summary["rounds"] < BASE.rounds) is (case in ENDS_EARLY)
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


def test_a_journal_goes_on_behind_half_a_line_and_not_behind_somebody_else_s(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).append("approved")
    with path.open("ab") as file:
        file.write(b'{"event":"char')  # a crash
    one, other = Journal(path), Journal(path)
    one.append("charged")
    assert [entry["event"] for entry in Journal(path).entries] == ["approved", "charged"]
    with pytest.raises(RecordError, match=r"another one writes to it.*Remedy: let one worker run"):
        other.append("charged")
    path.unlink()
    with pytest.raises(RecordError, match="or it was removed"):
        one.append("charged")
    assert journal.problems(path) == []
