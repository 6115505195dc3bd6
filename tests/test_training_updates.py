"""Stored updates: what a hospital sent in a round, computed again from the plan."""

from __future__ import annotations

import numpy as np
import pytest
from toy import hospitals

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train
from tff_hospitals.training.updates import UpdateFolder

pytestmark = pytest.mark.tensorflow
PLAN = Plan(rounds=5, evaluate_every=5, checkpoint_every=5).replace(client={"local_steps": 6, "batch_size": 4})


@pytest.mark.parametrize("mechanism", ["none", pytest.param("dp_sgd", marks=pytest.mark.slow)])
def test_stored_updates_add_up_to_what_the_run_did(mechanism, tmp_path):
    """Broadcast minus the weighted mean of the stored updates is the next broadcast, at each runtime."""
    noise = {"mechanism": mechanism, "noise_multiplier": 1.0 if mechanism == "dp_sgd" else None}
    plan, dataset = PLAN.replace(privacy=noise), hospitals()
    for runtime in ("compiled", "native"):
        folder = tmp_path / runtime
        run = train(plan, dataset, run_dir=folder, runtime=runtime, store_updates=1)
        stored = UpdateFolder(folder)
        assert stored.rounds() == (1, 2, 3, 4, 5)
        sizes = np.array([20, 13, 7]) / 40
        broadcasts = [stored.read(number).weights for number in stored.rounds()] + [run.weights]
        for number, after in zip(stored.rounds(), broadcasts[1:]):
            one = stored.read(number)
            assert list(one.deltas) == ["site_0", "site_1", "site_2"]
            for i, weight in enumerate(one.weights):
                mean = sum(share * delta[i] for share, delta in zip(sizes, one.deltas.values()))
                np.testing.assert_allclose(after[i], weight - mean, atol=2e-6)


def test_storing_changes_nothing_else(tmp_path):
    for name, every in (("without", None), ("with", 2)):
        train(PLAN, hospitals(), run_dir=tmp_path / name, store_updates=every)
    assert UpdateFolder(tmp_path / "with").rounds() == (1, 3, 5)
    assert UpdateFolder(tmp_path / "without").rounds() == ()
    without, stored = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("without", "with"))
    assert without == stored


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"store_updates=0.*>= 1"):
        train(PLAN, hospitals(), run_dir=tmp_path / "a", store_updates=0)
    with pytest.raises(InvalidInput, match="needs a run directory"):
        train(PLAN, hospitals(), store_updates=1)
    with pytest.raises(RecordError, match=r"round 2 was stored.*--store_updates=1"):
        UpdateFolder(tmp_path).read(2)
    (tmp_path / "updates").mkdir()
    (tmp_path / "updates" / "round_000002.npz").write_bytes(b"PK broken")
    with pytest.raises(RecordError, match="cannot be read"):
        UpdateFolder(tmp_path).read(2)
