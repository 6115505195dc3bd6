"""What a hospital types: it reads and approves, its limits hold over all agreements, its journals are checked."""

from __future__ import annotations

import configparser
import datetime
import importlib
import json
import re

import absl.flags
import pytest
import toy
from federations import BASE, Members
from own_tables import keep_key
from test_deployment_attacks import Server, charges, why

from tff_hospitals.deployment import (
    approval,
    certificates,
    engines,
    flower_environment,
    founding,
    launch,
    site_data,
)
from tff_hospitals.deployment.agreement import Agreement, no_records
from tff_hospitals.deployment.envelope import Kind
from tff_hospitals.deployment.journal import journal_of
from tff_hospitals.deployment.keys import SigningKey
from tff_hospitals.deployment.site_memory import SiteMemory
from tff_hospitals.experiments import front_door
from tff_hospitals.foundations import own_environment
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import Failure, InvalidInput
from tff_hospitals.hospitals import DataSecret, load_dataset
from tff_hospitals.hospitals.secret import secret_of
from tff_hospitals.training.odometer import Odometer

pytestmark = pytest.mark.tensorflow
PRIVATE = BASE.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2, "clip_norm": 0.5})


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """A federation's folders, with records."""
    folder, dataset = tmp_path_factory.mktemp("founded") / "federation", toy.hospitals((20, 13, 7, 11))
    agreement = founding.found(folder, PRIVATE, dataset)
    launch.prepare(folder, dataset)
    return folder, agreement


@pytest.fixture
def hospital(founded, capsys, monkeypatch):
    """Runs the command in the folder of site_0; gives exit code and everything that was said."""
    place = founding.folder_of(founded[0], "site_0")

    def run(*flags):
        with pytest.raises(SystemExit) as ended:
            front_door.main("hospital", ["hospital", f"--folder={place}", *flags])
        said = capsys.readouterr()
        return ended.value.code or 0, said.out + said.err

    run.place = place
    return run


def test_a_plan_is_shown_in_words_before_it_is_approved_and_signed(hospital, founded):
    asked = f"--approve={hospital.place / 'agreement.json'}"
    code, said = hospital(asked, "--budget=50", "--yes")
    assert code == 0, said
    for words in ("site_0 (key", "logistic_regression", "at most 3 rounds", "clip norm 0.5", "delta 0.01"):
        assert words in said
    epsilon = float(said.split("Epsilon of the whole run for this hospital: ")[1].split()[0])
    dataset = founded[1].dataset(DataSecret(bytes(32), True, None), no_records)
    assert epsilon == pytest.approx(approval.planned_epsilon(founded[1], "site_0", dataset), rel=1e-3)
    code, said = hospital("--verify_log")
    assert code == 0
    assert "approved" in said
    assert "entries, whole" in said
    path = journal_of(hospital.place, founded[1]).path
    path.write_text(path.read_text() + path.read_text())
    code, said = hospital("--verify_log")
    assert code == 1
    assert "does not follow" in said
    path.unlink()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "was asked for"),
        (["--budget=3", "--server=127.0.0.1:1"], "is only used with --approve"),
        (["--max_total_epsilon=3", "--approve=agreement.json"], "needs --approve and --data"),
        (["--approve={place}/agreement.json", "--budget=0.001"], "for its first round"),
        (["--approve={place}/agreement.json", "--budget=-1"], "above 0"),
        (["--approve={place}/agreement.json", "--hospital=site_1"], "to whom this key belongs"),
        (["--approve={place}/agreement.json", "--data={place}/data", "--max_total_epsilon=0.001"], "together reach"),
        (["--server=127.0.0.1:1"], "must name this hospital's records"),
        (["--verify_log"], "holds no journal"),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(hospital, flags, words):
    code, said = hospital(*(flag.format(place=hospital.place) for flag in flags))
    assert code in (1, 2)
    assert words in said
    assert "Remedy" in said


def test_a_worker_runs_nothing_that_was_not_approved_here(hospital, founded, tmp_path):
    work = ["--server=127.0.0.1:1", f"--data={hospital.place / 'data'}"]
    note = hospital.place / approval.FILE_NAME
    note.unlink(missing_ok=True)
    assert "was not approved at this hospital" in hospital(*work)[1]
    key = SigningKey.read(hospital.place / "signing.key")
    approval.approve(hospital.place, founded[1], "site_0", key, 4.0, 6.0)
    assert approval.read_limits(hospital.place, founded[1], "site_0", key) == approval.Limits(4.0, 6.0)
    written = json.loads(note.read_text())
    for change in ({"budget": 400.0}, {"together": None}, {"signature": "00"}):
        note.write_text(json.dumps({**written, **change}))
        assert "is not signed by this hospital's key" in hospital(*work)[1]
    note.write_text(json.dumps(written))
    agreement = hospital.place / "agreement.json"
    kept = agreement.read_text()
    altered = Agreement.from_json({**json.loads(kept), "deadline_seconds": 5.0})
    altered.write(agreement)
    assert "it was altered, or is another one" in hospital(*work)[1]
    agreement.write_text(kept)
    note.unlink()


# -- everything together -------------------------------------------------------------


@pytest.fixture(scope="module")
def two():
    """Two agreements over the same records."""
    first, second = (Members(PRIVATE, test_mode=False) for _ in range(2))
    first.work("site_0")
    second.parts = first.parts
    return first, second


def spent(folder):
    return {total.unit: total.epsilon for total in Odometer(DataSecret(bytes(32), False, folder)).totals()}["record"]


def test_what_left_under_one_agreement_counts_under_the_next(two, tmp_path):
    first, second = two
    kept = tmp_path / "beside the records"
    one = Server(first, first.site("site_0", tmp_path / "first", work=first.work("site_0", kept)))
    for number in range(3):
        assert one.ask(one.round(number))[0] is Kind.ANSWER
    alone = spent(kept)
    assert alone == pytest.approx(one.site.ledger.epsilon, rel=1e-6)
    # Under a limit that the second agreement alone would keep, and in which its own budget sees no danger.
    limited = second.site("site_0", tmp_path / "second", work=second.work("site_0", kept), together=alone * 1.001)
    other = Server(second, limited)
    assert "2 runs on these data would together reach" in why(other.ask(other.round(0)))
    assert charges(limited) == []
    assert spent(kept) == alone
    # Without the limit it answers, and both are added up, though the second knows the hospital by another name.
    named = Server(second, second.site("site_1", tmp_path / "named", work=second.work("site_1", kept)))
    assert named.ask(named.round(0))[0] is Kind.ANSWER
    assert spent(kept) > alone
    again = spent(kept)
    assert named.ask(named.round(0))[0] is Kind.ANSWER
    assert spent(kept) == again


def test_a_limit_on_everything_together_is_not_kept_without_the_file_that_counts(two, tmp_path):
    first = two[0]
    site = first.site("site_0", tmp_path, work=first.work("site_0"), together=1e9)
    one = Server(first, site)
    assert "needs an odometer" in why(one.ask(one.round(0)))
    assert charges(site) == []


def test_a_lost_journal_does_not_lose_what_was_charged(two, tmp_path):
    first, kept = two[0], tmp_path / "beside the records"
    site = first.site("site_0", tmp_path, work=first.work("site_0", kept))
    one = Server(first, site)
    for number in range(3):
        assert one.ask(one.round(number))[0] is Kind.ANSWER
    before = spent(kept)
    site.journal.path.unlink()
    new = Server(first, first.site("site_0", tmp_path, work=first.work("site_0", kept)))
    assert new.ask(new.round(0, scale=1.0))[0] is Kind.ANSWER
    assert spent(kept) > before


def test_runs_at_home_count_as_well(hospital, founded):
    folder = hospital.place / "data"
    odometer = Odometer(secret_of(folder))
    dataset = founded[1].dataset(DataSecret(bytes(32), True, None), no_records)
    odometer.charge(approval.first_charge(founded[1], "site_1", dataset))
    asked = [f"--approve={hospital.place / 'agreement.json'}", f"--data={folder}", "--yes"]
    code, said = hospital(*asked, "--max_total_epsilon=100")
    assert code == 0, said
    assert "Released about these records before, in 1 runs: epsilon" in said


# -- agreements and records that do not fit ----------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hospital_keys": {"stranger": "ab" * 32}}, "hospital='stranger': is in the roster and not in the data"),
        ({"hospital_keys": {"site_1": None}}, "hospital='site_1': has no key in the roster"),
        ({"hospital_keys": {"site_1": "short"}}, "must be 64 hexadecimal digits"),
        ({"hospital_keys": {"site_1": "site_0"}}, "is somebody else's too"),
        ({"server_key": "site_0"}, "is somebody else's too"),
        ({"data": "twice"}, "hospital='site_0': is there twice"),
        ({"version": "9.9"}, "install tff_hospitals 9.9"),
        ({"valid_until": "2020-01-01T00:00:00+00:00"}, "is over. Remedy: agree anew"),
        ({"valid_until": "soon"}, "must be a date"),
        ({"fewest_hospitals": 9}, "give 1 to 4"),
        ({"more": 1}, "is missing or unknown"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_agreement_that_does_not_fit_is_refused_by_whoever_reads_it(founded, changes, words):
    kept = founded[1].to_json()
    keys = dict(kept["hospital_keys"])
    changed = {**kept, **{name: keys.get(value, value) for name, value in changes.items() if isinstance(value, str)}}
    changed.update({name: value for name, value in changes.items() if not isinstance(value, (str, dict))})
    for name, key in changes.get("hospital_keys", {}).items():
        keys[name] = keys.get(key, key)
    changed["hospital_keys"] = {name: key for name, key in keys.items() if key is not None}
    if changes.get("data") == "twice":
        hospitals = [kept["data"]["hospitals"][0], *kept["data"]["hospitals"]]
        changed["data"] = {**kept["data"], "hospitals": hospitals}
    with pytest.raises(InvalidInput) as refused:
        Agreement.from_json(changed)
    assert words in str(refused.value)


def test_a_table_with_other_columns_is_refused_and_they_are_named(tmp_path):
    def write(name, columns):
        (tmp_path / name).mkdir()
        rows = [",".join([*columns, "target"])]
        for number in range(40):
            rows.append(",".join([*(str(number % 7 + place) for place in range(len(columns))), str(number % 2)]))
        (tmp_path / name / "north.csv").write_text("\n".join(rows) + "\n")
        features = ", ".join(f"{{name: {column}, bounds: [0, 200]}}" for column in columns)
        schema = f"features: [{features}]\ntarget: {{name: target, positive: 1, negative: 0}}\ntest_fraction: 0.25\n"
        (tmp_path / name / "schema.yaml").write_text(schema)
        keep_key(tmp_path / name)
        return tmp_path / name

    agreed, other = write("agreed", ["age", "pulse"]), write("other", ["age", "weight"])
    plan = BASE.replace(data={"name": str(agreed)})
    agreement = Members(plan, load_dataset(str(agreed), seed=plan.data.seed), fewest_hospitals=1).agreement
    hospital, _ = site_data.read(agreed, "north", agreement)
    assert hospital.hospital_id == "north"
    with pytest.raises(InvalidInput, match=r"missing \['pulse'\], unknown \['weight'\].*Remedy"):
        site_data.read(other, "north", agreement)
    with pytest.raises(InvalidInput, match="is not among the hospitals of these tables"):
        site_data.read(agreed, "south", agreement)


@pytest.mark.parametrize("cut", [0, 1, 100, -30])
def test_files_of_a_hospital_that_were_cut_off_are_told_with_their_remedy(founded, tmp_path, cut):
    whole = (founding.folder_of(founded[0], "site_0") / "data" / site_data.FILE_NAME).read_bytes()
    for name in (site_data.FILE_NAME, "memory.npz"):
        (tmp_path / name).write_bytes(whole[:cut])
    with pytest.raises(RecordError, match=r"records\.npz cannot be read.*Remedy: prepare it again"):
        site_data.read(tmp_path, "site_0", founded[1])
    with pytest.raises(RecordError, match=r"memory\.npz cannot be read.*Remedy: remove it"):
        SiteMemory(tmp_path)


def test_a_clock_that_is_wrong_is_told_from_a_certificate_that_is_over(founded):
    path = founding.folder_of(founded[0], "site_0") / "tls.crt"
    now = datetime.datetime.now(datetime.timezone.utc)
    (early,) = certificates.problems(path, now - datetime.timedelta(days=2))
    (late,) = certificates.problems(path, now + datetime.timedelta(days=200))
    assert "set the clock of this machine" in str(early)
    assert "have it renewed" in str(late)


def test_without_tls_is_said_in_red_and_leaves_no_other_machine_in(hospital, founded, capsys):
    key = SigningKey.read(hospital.place / "signing.key")
    approval.approve(hospital.place, founded[1], "site_0", key, None)
    red = "\033[31mWITHOUT TLS: for trying out on this machine alone\033[0m"
    code, said = hospital("--insecure", "--server=10.0.0.1:1", f"--data={hospital.place / 'data'}")
    assert code != 0
    assert red in said
    assert "nothing runs there without TLS" in said
    (hospital.place / approval.FILE_NAME).unlink()
    with pytest.raises(SystemExit):
        front_door.main("federation", ["federation", "serve", "--insecure", "--run_dir=nowhere"])
    assert red in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_says_what_else_there_is(monkeypatch, tmp_path):
    monkeypatch.setattr(own_environment, "find_python", lambda: None)
    monkeypatch.setattr(own_environment.shutil, "which", lambda name: None)
    with pytest.raises(Failure, match=r"(?s)flower.* there is no Python 3\.11 .*Remedy: install it.*--engine=grpc"):
        engines.engine("flower", tmp_path)
    assert flower_environment.existing(tmp_path) is None
    assert engines.engine("grpc", tmp_path).python is None


UNIT_KEYS = {
    "Unit": {"description", "wants", "after"},
    "Service": {
        *("user", "workingdirectory", "execstart", "restart", "restartsec", "nonewprivileges"),
        *("protectsystem", "privatetmp"),
    },
    "Install": {"wantedby"},
}


def test_units_of_the_page_are_whole_and_start_what_there_is(checkout):
    page = (checkout / "docs" / "deployment.md").read_text()
    units = re.findall(r"```ini\n(.*?)```", page, flags=re.DOTALL)
    assert len(units) == 2
    for text in units:
        unit = configparser.ConfigParser(interpolation=None)
        unit.read_string(text)
        assert {name: set(unit[name]) for name in unit.sections()} == UNIT_KEYS
        assert "%h" not in text  # of the manager, not of the user
        service = unit["Service"]
        assert service["WorkingDirectory"] == "~"  # of the unit's user; what is started is found from there
        start, program, command, *flags = service["ExecStart"].split()
        assert (start, program) == ("/usr/bin/env", "tff_hospitals/.venv/bin/tff-hospitals")
        defined = importlib.import_module(front_door.COMMANDS[command])
        before = set(absl.flags.FLAGS)
        defined.define_flags()
        found = set(absl.flags.FLAGS) - before
        for name in found:
            delattr(absl.flags.FLAGS, name)
        given = [flag for flag in flags if flag.startswith("--")]
        assert [flag for flag in given if flag[2:].partition("=")[0] not in found] == []
