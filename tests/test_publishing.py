"""What leaves the house: nothing but fields of the table, no seed, no key, no figure of inside/."""

from __future__ import annotations

import csv
import json
import pathlib

import pytest
import toy

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.publishing import publish
from tff_hospitals.training import published_fields
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow
SEED = 987654321987
BASE = Plan(rounds=2, weighting="equal", seed=SEED).replace(
    client={"local_steps": 3, "batch_size": 5}, model={"name": "logistic_regression"}
)
PRIVATE = sorted(
    name for name, one in mechanisms.MECHANISMS.items() if one.private and one.level == "record" and not one.runs_on
) + [
    "fixed_clip",
    "tree",
    "local_dp",
    "discrete_gaussian",
]


def plan_of(mechanism, **privacy):
    return BASE.replace(privacy={"mechanism": mechanism, "noise_multiplier": 2.0, **privacy})


def fields_of(value, path=""):
    """Every leaf of a JSON value, as a dotted path."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(item, (dict, list)) and item:
            yield from fields_of(item, here)
        else:
            yield here


@pytest.mark.parametrize("name", ["none", *PRIVATE])
def test_every_field_of_a_run_is_in_the_table_and_stands_where_it_may(name, tmp_path):
    plan = BASE if name == "none" else plan_of(name)
    train(plan, toy.hospitals(), run_dir=tmp_path)
    seen = set()
    for path in sorted(tmp_path.rglob("*")):
        file = path.relative_to(tmp_path).as_posix()
        if not path.is_file() or file.startswith("checkpoints/"):
            continue
        inside, file = file.startswith("inside/"), file.removeprefix("inside/")
        assert file in published_fields.FIELDS, file
        found = []
        if path.suffix == ".json":
            found = list(fields_of(json.loads(path.read_text())))
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(path.open()))
            found = [column for column in (rows[0] if rows else ()) if any(row[column] for row in rows)]
        for field in found:
            if file != "ledger.json" and not field.startswith("published_fields"):
                assert published_fields.kind_of(file, field) is not None, (file, field)
            assert inside or published_fields.leaves(plan)(file, field), (file, field)
        seen.add(file)
    assert {"plan.json", "record.json", "summary.json", "metrics.csv", "ledger.json", "model.keras"} <= seen
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["published_fields"]["fields"]["metrics.csv"]["epsilon_rdp"] == "accounting"
    if name != "none":
        assert "accuracy_mean" not in summary
        assert "Outside of it: figures of test records" in summary["guarantee"]


def test_seeded_noise_does_not_leave_and_system_noise_does(tmp_path):
    data = toy.hospitals()
    train(plan_of("dp_sgd"), data, run_dir=tmp_path / "seeded")
    with pytest.raises(InvalidInput, match="follows from a seed that is written down"):
        publish(tmp_path / "seeded", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    publish(tmp_path / "seeded", tmp_path / "research", research=True)
    assert "protects nobody" in (tmp_path / "research" / "guarantee.html").read_text()
    run = train(plan_of("dp_sgd", secure_noise=True), data, run_dir=tmp_path / "secure")
    written = publish(tmp_path / "secure", tmp_path / "out", dataset=data)
    assert [path.name for path in written[:2]] == ["guarantee.html", "guarantee.json"]
    (unit,) = json.loads(written[1].read_text())["figures"]["units"]
    assert unit["epsilon"] == run.summary["epsilon"] == run.ledger.epsilon("record")
    assert unit["joint_epsilon"]["runs"] >= 2  # the seeded run of the same data is in it
    assert unit["joint_epsilon"]["epsilon"] > unit["epsilon"]
    figures = [repr(value) for value in run.summary["accuracy_per_hospital"].values() if len(repr(value)) > 6]
    for folder in (tmp_path / "out", tmp_path / "research"):
        content = b"".join(path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file())
        for secret in (str(SEED).encode(), data.secret.key, data.secret.key.hex().encode()):
            assert secret not in content
        assert not any(figure.encode() in content for figure in figures)
        assert not (folder / "inside").exists()
        assert not (folder / "checkpoints").exists()
    with pytest.raises(InvalidInput, match="still holds checkpoints, inside, a seed"):
        publish(tmp_path / "secure", tmp_path / "seeded")
    with pytest.raises(InvalidInput, match="must not be, hold or lie in the run directory"):
        publish(tmp_path / "secure", tmp_path / "secure" / "out")


def test_the_page_of_fields_is_that_of_the_table(checkout):
    assert (checkout / "docs" / "published_fields.md").read_text() == published_fields.markdown()
