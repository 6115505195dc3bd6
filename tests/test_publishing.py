"""What leaves the house: nothing but fields of the table, no seed, no key, no figure of inside/."""

from __future__ import annotations

import csv
import dataclasses
import fractions
import json
import pathlib
import re
import zipfile

import pytest
import tensorflow as tf
import toy
from few_fast import few_fast

from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.hospitals.secret import DataSecret
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
FEW = ("dp_sgd", "fixed_clip", "local_dp")
"""Of each kind one; the others are walked with what takes longer."""


def plan_of(mechanism, **privacy):
    return BASE.replace(privacy={"mechanism": mechanism, "noise_multiplier": 2.0, **privacy})


def fields_of(value, path=""):
    """Every leaf of a JSON value, as a dotted path."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        name = str(key).replace(".", "_")
        here = f"{path}.{name}" if path else name
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
    few_fast(
        ["weighted_mean", *(name for name, method in METHODS.items() if method.private)],
        ("weighted_mean", *FEW),
        ("dp_sgd_fixed_clip", "dp_ftrl_local", "adaptive_clip", "tree", "tff_gaussian_fixed"),
    ),
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
        if file.startswith("tensorboard/"):  # exact figures as curves
            assert inside or published_fields.leaves(plan)("tensorboard/", path.name)
            continue
        assert file in published_fields.FIELDS, file
        found = []
        if path.suffix == ".json":
            found = list(fields_of(json.loads(path.read_text())))
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(path.open()))
            found = [column for column in (rows[0] if rows else ()) if any(row[column] for row in rows)]
        for field in found:
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
        for path in (tmp_path / "out").glob("*.json"):
            for field in fields_of(json.loads(path.read_text())):
                assert published_fields.may_be_published(plan)(path.name, field), (path.name, field)
        machines = json.loads((tmp_path / "out" / "guarantee.json").read_text())
        assert len(machines["deployment"]) == 7  # nothing was left out for want of a name
        assert set(machines["figures"]) == {"delta", "adjacency", "units", "randomness", "audit"}
        assert {"trade_off", "epsilon_by_conversion", "advantage"} <= set(machines["figures"]["units"][0])
        may, exact = published_fields.leaves(plan), set()
        assert list((folder / "inside" / "tensorboard").iterdir())
        for path in (one for one in (folder / "inside").iterdir() if one.is_file()):
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


def test_no_container_is_open_for_what_nobody_named():
    """A new leaf, however deep, stays inside until the table names it."""
    for file, fields in published_fields.FIELDS.items():
        for pattern, kind in fields.items():
            if pattern.endswith("**") and published_fields.KINDS[kind].published:
                assert (file.endswith((".keras", ".h5", ".html")) or file == "model_config.json") or pattern in (
                    *("data.options.**", "model.options.**"),  # what a user wrote on the command line
                    "published_fields.**",  # made of the table alone
                ), (file, pattern)
    for plan in (BASE, plan_of("dp_sgd"), plan_of("fixed_clip"), plan_of("dp_sgd", outer="fixed_clip")):
        may = published_fields.may_be_published(plan)
        for file, field in (
            ("record.json", "dataset.mean_age"),
            ("record.json", "dataset.preprocessing.means.0"),
            ("record.json", "dataset.hospitals.0.class_counts.1"),
            ("record.json", "machine.user"),
            ("plan.json", "privacy.key"),
            ("ledger.json", "events.0.records_seen"),
            ("summary.json", "communication.norms.0"),
            ("summary.json", "certificate.note"),
            ("guarantee.json", "figures.audit.bounds.0.words"),
            ("bytes.csv", "norm"),
        ):
            assert not may(file, field), (file, field)


def test_a_leaf_that_nobody_named_is_not_published(tmp_path):
    train(plan_of("dp_sgd"), toy.hospitals(), run_dir=tmp_path / "run")
    for name, lead in (("record.json", "dataset"), ("summary.json", "communication"), ("ledger.json", "events")):
        folder = tmp_path / "run"
        path = next(place for place in (folder / "inside" / name, folder / name) if place.exists())
        content = json.loads(path.read_text())
        target = content[lead][0] if isinstance(content[lead], list) else content[lead]
        if name != "ledger.json":  # which only holds what an event may hold
            target["deep"] = {"new": 0.123456789}
        path.write_text(json.dumps(content))
        (folder / name).write_text(json.dumps(content))
    publish(tmp_path / "run", tmp_path / "out", research=True)
    assert b"0.123456789" not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


def values_published(plan, data, folder):
    """Everything that is published but what the events of the ledger cover, and the sizes of files of one form."""
    train(plan, data, run_dir=folder / "run")
    publish(folder / "run", folder / "out")
    found = {}
    for path in sorted((folder / "out").iterdir()):
        if path.suffix in (".json", ".csv"):
            pairs = values_of(path)
            fields = [(field, value) for field, value in pairs if ".signal_to_noise" not in f".{field}"]
            found[path.name] = [one for one in fields if not one[0].startswith(("clip_norms", "figures.randomness"))]
        else:
            found[path.name] = path.stat().st_size if path.suffix == ".keras" else None
    return found


@pytest.mark.parametrize(
    ("privacy", "changes", "sizes"),
    [
        ({"mechanism": "dp_sgd"}, {}, (20, 13, 7)),
        ({"mechanism": "dp_sgd", "outer": "fixed_clip", "outer_noise_multiplier": 2.0}, {}, (20, 13, 7)),
        ({"mechanism": "fixed_clip"}, {}, (31, 9, 16)),
        pytest.param(
            {"mechanism": "fixed_clip"},
            {"cohort": {"kind": "poisson", "sampling_probability": 0.5}},
            (31, 9, 16),
            marks=pytest.mark.slow,
        ),
        ({"mechanism": "local_dp"}, {}, (31, 9, 16)),
    ],
    ids=["record", "both", "hospital", "sampled hospitals", "local"],
)
def test_what_is_published_is_the_same_whatever_the_records_say(privacy, changes, sizes, tmp_path):
    """An attacker who reads everything but the noised results learns nothing: neither norms (two units), nor who took
    part (sampled hospitals), nor how many records a hospital has where hospitals are protected.
    """
    plan = plan_of(**{"noise_multiplier": 2.0, "secure_noise": True, **privacy}).replace(rounds=4, **changes)
    some = values_published(plan, toy.hospitals(), tmp_path / "some")
    others = values_published(plan, toy.hospitals(sizes, seed=3, scale=40.0), tmp_path / "others")
    assert some == others
    summary = json.loads((tmp_path / "some" / "out" / "summary.json").read_text())
    if privacy["mechanism"] != "dp_sgd" or "outer" in privacy:
        assert set(summary["signal_to_noise"]) <= {"pooled"}
        if "outer" in privacy:
            page = (tmp_path / "some" / "out" / "guarantee.html").read_text()
            assert "How many training records each hospital has is public here too" in page
            assert "how many training records each has" in summary["guarantee"]
    if "cohort" in changes:
        assert not (tmp_path / "some" / "out" / "bytes.csv").exists()


def test_neither_times_nor_folders_nor_seeds_leave(tmp_path):
    source = tmp_path / "secret_folder" / "start.keras"
    source.parent.mkdir()
    plan = plan_of("dp_sgd").replace(data={"seed": 123454321, "options": {"note": str(source)}})
    by_record = load_dataset("digits", seed=123454321).split_rule
    data = dataclasses.replace(toy.hospitals(), split_rule=by_record)
    train(plan, data, run_dir=tmp_path / "run")
    publish(tmp_path / "run", tmp_path / "out", research=True)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"123454321" not in content
    assert b"secret_folder" not in content
    assert len(json.loads((tmp_path / "out" / "record.json").read_text())["started"]) == 10  # the day
    with zipfile.ZipFile(tmp_path / "out" / "model.keras") as model:
        assert {member.date_time[0] for member in model.infolist()} == {1980}
        assert json.loads(model.read("metadata.json"))["date_saved"].startswith("1980")
    assert tf.keras.models.load_model(tmp_path / "out" / "model.keras", compile=False).count_params() > 0


def test_runs_without_a_guarantee_are_named_beside_the_joint_epsilon(tmp_path):
    secret = DataSecret(bytes(range(32)), False, tmp_path / "own")
    data = dataclasses.replace(toy.hospitals(), secret=secret)
    train(plan_of("dp_sgd", secure_noise=True), data, run_dir=tmp_path / "run")
    publish(tmp_path / "run", tmp_path / "alone", dataset=data)
    assert "no epsilon covers what they released" not in (tmp_path / "alone" / "guarantee.html").read_text()
    train(BASE, data)
    publish(tmp_path / "run", tmp_path / "beside", dataset=data)
    for name in ("guarantee.html", "guarantee.json"):
        assert "1 more run has no guarantee: no epsilon covers" in (tmp_path / "beside" / name).read_text()


def test_the_page_of_fields_is_that_of_the_table(checkout):
    assert (checkout / "docs" / "published_fields.md").read_text() == published_fields.markdown()


def test_noised_means_of_public_data_are_research_even_beside_system_noise(tmp_path):
    """Their noise follows from the data's key, which is public: before, such a folder could leave as if nobody knew."""
    data = load_dataset("heart_disease", scaling="dp_moments", scaling_noise_multiplier=5.0)
    plan = Plan(rounds=1).replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 2.0, "secure_noise": True})
    train(plan, data, run_dir=tmp_path / "run")
    with pytest.raises(InvalidInput, match="the noise of its means and deviations follows from a seed"):
        publish(tmp_path / "run", tmp_path / "out")
    publish(tmp_path / "run", tmp_path / "out", research=True)
    page = (tmp_path / "out" / "guarantee.html").read_text()
    assert "protects nobody" in page
    assert "means and deviations follows from the data set" in page
