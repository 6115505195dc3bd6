"""What leaves the house: nothing but fields of the table, no seed, no key, no figure of inside/."""

from __future__ import annotations

import csv
import dataclasses
import fractions
import json
import pathlib
import re

import pytest
import toy

from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.publishing import publish
from tff_hospitals.training import published_fields
from tff_hospitals.training.loop import train
from tff_hospitals.training.results import Progress

pytestmark = pytest.mark.tensorflow
SEED = 987654321987
BASE = Plan(rounds=2, weighting="equal", seed=SEED).replace(
    client={"local_steps": 3, "batch_size": 5}, model={"name": "logistic_regression"}
)
FEW = ("dp_sgd", "dp_ftrl_local", "fixed_clip", "tree", "local_dp", "dp_sgd_fixed_clip")
"""Of each kind one; the others are walked with what takes longer."""


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


def plan_of_method(name, **changes):
    return (
        METHODS[name]
        .plan(BASE.replace(**changes), None)
        .replace(
            privacy={
                "noise_multiplier": 0.2 if "adaptive" in name and not name.startswith("dp_sgd") else 2.0,
                "outer_noise_multiplier": 2.0 if name == "dp_sgd_fixed_clip" else None,
                "target_epsilon": None,
            }
        )
    )


def long_numbers(text):
    """Every number of six decimals and more in a text, but fractions such as 6/7, which meet by chance."""
    found = set(re.findall(r"-?\d+\.\d{6,}(?:e-?\d+)?", text))
    return {
        one for one in found if abs(fractions.Fraction(one).limit_denominator(200) - fractions.Fraction(one)) > 1e-9
    }


def values_of(path):
    """Field and value of every leaf of a JSON file or cell of a CSV file."""
    if path.suffix == ".csv":
        return [pair for row in csv.DictReader(path.open()) for pair in row.items()]
    content = json.loads(path.read_text())

    def leaf(field):
        value = content
        for key in field.split("."):
            value = value[int(key) if isinstance(value, list) else key]
        return json.dumps(value)

    return [(field, leaf(field)) for field in fields_of(content) if "." not in field or _walks(content, field)]


def _walks(content, field):
    """Whether a dotted path leads somewhere: names with a dot in them do not."""
    value = content
    for key in field.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False
    return True


@pytest.mark.parametrize(
    "name",
    [
        "weighted_mean",
        *(
            pytest.param(name, marks=() if name in FEW else pytest.mark.slow)
            for name, method in METHODS.items()
            if method.private
        ),
    ],
)
def test_every_field_of_a_run_is_in_the_table_and_stands_where_it_may(name, tmp_path, capfd):
    plan = BASE if name == "weighted_mean" else plan_of_method(name)
    shown, folder, native = [], tmp_path / "run", METHODS[name].runs_on
    updates = None if native else 1
    train(
        plan,
        toy.hospitals(),
        run_dir=folder,
        runtime=native or "compiled",
        on_round=shown.append,
        store_updates=updates,
    )
    said = "".join(capfd.readouterr())
    seen = set()
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        inside, file = file.startswith("inside/"), file.removeprefix("inside/")
        if file.startswith(("checkpoints/", "updates/")):  # binary: whole folders stay in the house
            assert published_fields.kind_of(f"{file.split('/')[0]}/", path.name) is published_fields.KINDS["house"]
            continue
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
    for field in dataclasses.fields(Progress):
        assert published_fields.kind_of("terminal", field.name) is not None, field.name
    assert len(shown) == plan.rounds
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["published_fields"]["fields"]["metrics.csv"]["epsilon_rdp"] == "accounting"
    if METHODS[name].private:
        assert "accuracy_mean" not in summary
        assert "Outside of it: figures of test records" in summary["guarantee"]
        publish(folder, tmp_path / "out", research=True)
        may, exact = published_fields.leaves(plan), set()
        for path in (folder / "inside").iterdir():
            for field, value in values_of(path):
                exact |= set() if may(path.name, field) else long_numbers(value)
        assert exact
        out = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".keras")
        assert not exact & long_numbers(out)
        assert not exact & long_numbers(said)  # in a log or on the terminal of the library
        assert {path.name for path in (tmp_path / "out").iterdir()} <= {
            *("guarantee.html", "guarantee.json", "plan.json", "record.json", "summary.json", "metrics.csv"),
            *("bytes.csv", "ledger.json", "model.keras"),
        }


def test_seeded_noise_does_not_leave_and_system_noise_does(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TFF_HOSPITALS_STATE", str(tmp_path / "state")
    )  # other tests' runs on these records do not count
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
