"""The key of a data set: made once, kept from others, never guessed around when it is lost."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.hospitals import load_dataset, secret
from tff_hospitals.hospitals.locations import data_folder
from tff_hospitals.hospitals.secret import DataSecret, passing_secret, public_secret, secret_of, state_folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("TFF_HOSPITALS_STATE", str(tmp_path / "state"))
    shutil.copytree(data_folder() / "example_own_data", tmp_path / "data")
    return tmp_path / "data"


def refuse(monkeypatch, *parents):
    """As on a folder that cannot be written (root may write everywhere, so permissions alone do not show it)."""
    make = secret._make_key

    def refusing(folder):
        if any(parent in folder.parents for parent in parents):
            raise PermissionError(13, "Permission denied")
        make(folder)

    monkeypatch.setattr(secret, "_make_key", refusing)


def test_a_key_is_made_beside_the_data_and_found_again(own):
    first = secret_of(own)
    file = own / ".tff_hospitals" / "key"
    assert file.read_bytes() == first.key
    assert len(first.key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert (first.public, first.folder) == (False, file.parent)
    assert secret_of(own) == secret_of(own / "north.csv") == secret_of(own / ".." / "data") == first
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "key"]
    shutil.copytree(own, own.parent / "moved")
    assert secret_of(own.parent / "moved").key == first.key
    shutil.rmtree(file.parent)
    assert secret_of(own).key != first.key


def test_processes_that_start_together_share_one_key(own):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        keys = {made.key for made in pool.map(secret_of, [own] * 64)}
    assert len(keys) == 1
    assert [path for path in (own / ".tff_hospitals").iterdir() if path.name.startswith(".key.")] == []


def test_a_folder_that_cannot_be_written_has_its_key_in_the_state_folder(own, monkeypatch):
    refuse(monkeypatch, own)
    made = secret_of(own)
    assert made.folder is not None
    assert made.folder.parent == own.parent / "state" / "own"
    assert made.folder.name.startswith("data-")
    assert not (own / ".tff_hospitals").exists()
    assert secret_of(own / "south.csv") == made
    other = own.parent / "other" / "data"
    shutil.copytree(own, other)
    refuse(monkeypatch, own, other)
    assert secret_of(other).key != made.key
    monkeypatch.undo()
    monkeypatch.setenv("TFF_HOSPITALS_STATE", str(own.parent / "state"))
    assert secret_of(own) == made  # writable by now: still the key that was used


def test_a_key_that_can_be_kept_nowhere_is_an_error_that_names_the_remedy(own, monkeypatch):
    refuse(monkeypatch, own, own.parent / "state")
    with pytest.raises(RecordError, match=r"kept neither in .*Permission denied.*TFF_HOSPITALS_STATE"):
        load_dataset(own)
    monkeypatch.setenv("TFF_HOSPITALS_STATE", str(own.parent / "mine"))
    assert load_dataset(own).secret.folder.is_relative_to(own.parent / "mine")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda key: key.chmod(0o640), r"mode 0640: others may read it, must be 0600\. Remedy: chmod 600 "),
        (lambda key: key.write_bytes(b""), r"has 0 bytes: must be 32\. Remedy: restore it"),
        (lambda key: key.write_bytes(b"x" * 40), "has more than 32 bytes"),
        (lambda key: (key.unlink(), key.mkdir()), "cannot be read: Is a directory"),
        (lambda key: (key.unlink(), key.symlink_to("nowhere")), "cannot be read: No such file"),
    ],
)
def test_a_spoilt_key_is_never_replaced_in_silence(own, spoil, words):
    before = secret_of(own)
    key = own / ".tff_hospitals" / "key"
    spoil(key)
    with pytest.raises(RecordError, match=words) as caught:
        load_dataset(own)
    assert len(str(caught.value).splitlines()) == 1
    shutil.rmtree(key) if key.is_dir() else key.unlink()  # the remedy: restore it, with its mode
    key.touch(mode=0o600)
    key.write_bytes(before.key)
    assert load_dataset(own).secret == before


def test_the_remedy_for_a_wrong_mode_works(own):
    before = secret_of(own)
    key = own / ".tff_hospitals" / "key"
    key.chmod(0o644)
    with pytest.raises(RecordError) as caught:
        secret_of(own)
    command = str(caught.value).split("Remedy: ")[1].split(";")[0]
    subprocess.run(command.split(), check=True)
    assert secret_of(own) == before


def test_embedded_data_have_a_public_salt_and_leave_nothing_behind():
    datasets = [load_dataset(name) for name in ("heart_disease", "heart_disease_all_rows", "digits", "synthetic")]
    example = load_dataset(data_folder() / "example_own_data")
    for dataset in (*datasets, example):
        assert dataset.secret.public
        assert dataset.describe()["salt"] == "public"
        assert dataset.secret.folder.parent == state_folder() / "public"
    assert datasets[0].secret == datasets[1].secret  # the same patients
    assert not (data_folder() / "example_own_data" / ".tff_hospitals").exists()


def test_an_example_with_other_tables_is_own_data(own, monkeypatch):
    monkeypatch.setattr(sys.modules["tff_hospitals.hospitals.own_data"], "data_folder", lambda: own.parent)
    own.rename(own.parent / "example_own_data")
    example = own.parent / "example_own_data"
    assert load_dataset(example).secret.public
    shutil.copy(example / "north.csv", example / "west.csv")
    assert not load_dataset(example).secret.public
    (example / "west.csv").unlink()
    text = (example / "north.csv").read_text()
    (example / "north.csv").write_text(text.replace("52,f", "53,f"))
    assert not load_dataset(example).secret.public


def test_digests_need_the_key_and_tell_parts_apart():
    one, other = passing_secret(), passing_secret()
    assert one.digest("a", 1) == one.digest("a", np.int64(1)) == DataSecret(one.key, True, None).digest("a", 1)
    parts = [("a", 1), ("a", "1"), ("a", b"1"), ("a1",), ("a", "", 1), (1, "a"), ("a", -1), ("a", 11), (), ("",)]
    assert len({one.digest(*some) for some in parts}) == len(parts)
    assert one.digest("a") != other.digest("a")
    keyed = hashlib.blake2b(b"s1 a", digest_size=16, key=one.key).hexdigest()
    assert one.digest("a") == keyed
    assert one.child("noise").key not in (one.key, one.child("split").key, other.child("noise").key)
    assert one.child("noise").folder is one.folder
    draws = np.array([one.uniform("row", row) for row in range(4000)])
    assert 0 <= draws.min() < draws.max() < 1
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    with pytest.raises(ValueError, match="key has 3 bytes: must be 32"):
        DataSecret(b"key", False, None)


def test_a_key_is_never_shown():
    one = passing_secret()
    shown = repr(one) + str(one) + json.dumps(load_dataset("heart_disease").describe())
    assert repr(one) == "DataSecret(public=False)"
    assert one.key.hex() not in shown


def test_a_fingerprint_of_own_data_cannot_be_computed_without_the_key(own):
    dataset = load_dataset(own)
    assert dataset.describe()["salt"] == "secret"
    assert load_dataset(own).fingerprint() == dataset.fingerprint()
    guess = dataclasses.replace(dataset, secret=public_secret("guess"))
    assert guess.fingerprint() != dataset.fingerprint()
    assert dataclasses.replace(guess, secret=passing_secret()).fingerprint() != dataset.fingerprint()
    shutil.rmtree(own / ".tff_hospitals")
    assert load_dataset(own).fingerprint() != dataset.fingerprint()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TFF_HOSPITALS_STATE": "/a/b"}, "/a/b"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/tff_hospitals"),
        ({"HOME": "/h"}, "/h/.local/state/tff_hospitals"),
        ({"TFF_HOSPITALS_STATE": "~/s", "HOME": "/h"}, "/h/s"),
    ],
)
def test_where_the_state_folder_is(monkeypatch, environment, expected):
    for name in ("TFF_HOSPITALS_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == pathlib.Path(expected)


def test_tests_and_their_children_write_to_no_home():
    code = "from tff_hospitals.hospitals.secret import state_folder; print(state_folder())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(state_folder()) == os.environ["TFF_HOSPITALS_STATE"]
    assert not state_folder().is_relative_to(pathlib.Path.home())
