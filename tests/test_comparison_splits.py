"""Repeated splits: every method runs on each, intervals cover them, and what they release together is counted."""

from __future__ import annotations

import numpy as np
import pytest
from own_tables import keep_key

from tff_hospitals.accounting import Ledger, MechanismEvent, joint_ledger
from tff_hospitals.experiments import comparison as comparisons
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.experiments.runner import MethodRunner
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.hospitals.secret import public_secret
from tff_hospitals.hospitals.splits import by_record
from tff_hospitals.training.odometer import Odometer
from tff_hospitals.training.results import TrainingError

pytestmark = pytest.mark.tensorflow


def own_data(folder, patients=30):
    """Two hospitals; every patient has two records."""
    folder.mkdir()
    generator = np.random.default_rng(3)
    for one in ("a", "b"):
        rows = [
            f"{one}{patient},{x:.3f},{int(x > 5)}" for patient in range(patients) for x in generator.uniform(0, 10, 2)
        ]
        (folder / f"{one}.csv").write_text("who,x,y\n" + "\n".join(rows) + "\n")
    (folder / "schema.yaml").write_text(
        "features:\n  - {name: x, kind: numeric, bounds: [0, 10]}\ntarget: {name: y, positive: 1, negative: 0}\n"
        "scaling: fixed_bounds\npatient_column: who\nrecords_per_patient: 2\n"
    )
    keep_key(folder)
    return str(folder)


def test_each_split_follows_from_the_record_alone_and_is_independent_of_the_others():
    ids = [b"%d" % number for number in range(2000)]
    secret = public_secret("example")
    splits = [by_record(secret, ids, test_fraction=0.3, seed=0, number=number) for number in range(3)]
    without = by_record(secret, ids[1:], test_fraction=0.3, seed=0, number=2)
    assert (splits[2][1:] == without).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (splits[one] & splits[other]).mean() == pytest.approx(0.09, abs=0.02)


def test_a_patient_has_one_number_in_every_split_and_never_two_sides(tmp_path):
    place = own_data(tmp_path / "data")
    seen = {}
    for split in range(3):
        for hospital in load_dataset(place, split=split):
            patients = hospital.test_patients
            assert len(patients) == hospital.test.records
            assert (np.unique(patients, return_counts=True)[1] == 2).all()
            for patient, features in zip(patients, hospital.test.features):
                seen.setdefault((hospital.hospital_id, patient), set()).add(features.tobytes())
    assert max(len(cells) for cells in seen.values()) == 2  # the two records of one patient, whatever the split


def test_every_method_runs_on_every_split_and_all_releases_are_counted(tmp_path):
    place = own_data(tmp_path / "data")
    given = {"rounds": 2, "local_steps": 5, "delta": 0.01}
    asked = Comparison(("dp_sgd",), (5.0,), (1,), place, given, splits=2)
    summary = comparisons.run(asked, tmp_path / "run")
    assert summary["splits"] == 2
    names = sorted(path.name for path in (tmp_path / "run" / "runs").iterdir())
    assert names == [
        "dp_sgd-eps5-seed1",
        "dp_sgd-eps5-seed1-split1",
    ]
    ledgers = [Ledger.from_json(files.read_json(tmp_path / "run" / "runs" / name / "ledger.json")) for name in names]
    joint = joint_ledger(ledgers).epsilon("record")
    assert summary["joint_epsilon"]["record"]["epsilon"] == pytest.approx(joint)
    assert joint > max(ledger.epsilon("record") for ledger in ledgers)
    odometer = Odometer(load_dataset(place).secret)
    (total,) = [one for one in odometer.totals() if one.unit == "record"]
    assert (total.runs, total.epsilon) == (2, pytest.approx(joint))
    row = summary["rows"][0]
    runs = [files.read_json(tmp_path / "run" / "runs" / name / "inside" / "summary.json") for name in names]
    assert list(row["accuracy_per_seed"]) == [run["accuracy_mean"] for run in runs]
    assert row["accuracy_low"] <= row["accuracy_mean"] <= row["accuracy_high"]
    assert set(row["accuracy_low_per_hospital"]) == {"a", "b"}
    tested = [sum(load_dataset(place, split=split).records(train=False).values()) for split in (0, 1)]
    assert sum(sum(of.values()) for of in summary["test_records_by_class"].values()) == sum(tested)


def test_what_a_row_released_before_it_failed_stays_in_the_joint_epsilon(tmp_path, monkeypatch):
    ledger = Ledger(delta=0.01)
    ledger.record("record", "a", 1, MechanismEvent("gaussian", noise_multiplier=2.0))

    def failing(self, seeds, on_start=None):
        if self.plan.data.options.get("split"):
            raise TrainingError("round 1: the update of hospital 'a' has norm nan")
        files.write_json(self.folder / self.name(seeds[0]) / "ledger.json", ledger.to_json())
        return []

    monkeypatch.setattr(MethodRunner, "run_seeds", failing)
    asked = Comparison(("dp_sgd",), (5.0,), (1,), own_data(tmp_path / "data"), {"delta": 0.01}, splits=2)
    summary = comparisons.run(asked, tmp_path / "run")
    assert summary["rows"][0]["status"] == "failed"
    assert summary["joint_epsilon"]["record"]["epsilon"] == pytest.approx(ledger.epsilon("record"))
    assert summary["joint_epsilon"]["runs"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": 2}, "a split that can be drawn again, and this one is given: FLamby"),
        ({"splits": 0}, "--splits=0"),
        ({"splits": 2, "data_options": {"split": 1}}, "chooses one split"),
        ({"data_options": {"split": 1}}, "split=1: has no meaning here"),
        ({"data_options": {"split": -1}, "dataset": "heart_disease_all_rows"}, "split=-1"),
    ],
)
def test_what_cannot_be_split_again_is_refused(changes, words, tmp_path):
    with pytest.raises(InvalidInput, match=words):
        comparisons.run(Comparison(("weighted_mean",), (), (1,), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
