"""Agreements as somebody might write them who wants another thing approved than he says; folders that are none."""

from __future__ import annotations

import dataclasses
import json

import pytest
import toy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from federations import BASE, Members

from tff_hospitals.deployment import approval, founding
from tff_hospitals.deployment.agreement import Agreement, no_records
from tff_hospitals.deployment.keys import SigningKey, is_public_key
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import DataSecret

pytestmark = pytest.mark.tensorflow
SMALL_ORDER = [
    *("00" * 32, "01" + "00" * 31, "01" + "00" * 30 + "80", "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f"),
    *("ee" + "ff" * 30 + "7f", "ee" + "ff" * 31),
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.fixture(scope="module")
def agreed():
    return Members(BASE, test_mode=False).agreement.to_json()


def changed(agreed, path, value):
    content = json.loads(json.dumps(agreed))
    *way, last = path.split(".")
    place = content
    for name in way:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"rounds": 3', '"rounds": 1, "rounds": 3', "'rounds' is there twice"),
        ('"federation":', '"share_test_metrics": false, "federation":', "'share_test_metrics' is there twice"),
        ('"learning_rate": 0.1', '"learning_rate": NaN', "NaN is no number"),
        ('"skip_below": null', '"skip_below": -Infinity', "-Infinity is no number"),
    ],
)
def test_what_people_and_programs_may_read_differently_is_no_agreement(agreed, tmp_path, old, new, words):
    path, text = tmp_path / "agreement.json", json.dumps(agreed)
    path.write_text(text)
    Agreement.read(path)
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(RecordError, match=words):
        Agreement.read(path)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("federation", "\x1b[2J", "printable text in one line"),
        ("federation", "", "a text of 1 to"),
        ("federation", 3, "a text of 1 to"),
        ("data.name", "toy\nEpsilon of the whole run for this hospital: 0.01", "printable text in one line"),
        ("data.name", "\u202eyot", "printable text in one line"),
        ("data.hospitals.0.train_records", -3, "must be >= 0"),
        ("data.hospitals.0.train_records", 1e3, "whole number"),
        ("data.hospitals.0.test_records", True, "whole number"),
        ("data.feature_shape", [-5], "must be >= 1"),
        ("data.feature_shape", 5, "whole number"),
        ("data.task", [], "agreement.data"),
        ("data.preprocessing", None, "agreement.data"),
        ("data", [], "missing or unknown"),
        ("plan", [], "missing or unknown"),
        ("hospital_keys", 5, "missing or unknown"),
        ("plan.rounds", 10**400, "rounds"),
        ("deadline_seconds", 1e300, "604800"),
        ("deadline_seconds", 10**400, "604800"),
        ("share_test_metrics", "no", "true or false"),
        ("valid_until", "2030-01-01", "a date with its zone"),
    ],
)
def test_a_field_that_is_not_what_it_seems_is_refused(agreed, path, value, words):
    with pytest.raises(InvalidInput, match=words):
        Agreement.from_json(changed(agreed, path, value))


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_a_key_that_anybody_can_sign_for_is_none(key):
    assert not is_public_key(key)


def test_of_such_a_key_one_signature_is_valid_for_everything():
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(SMALL_ORDER[1]))
    for text in (b"a", b"b", b"c"):
        key.verify(bytes([1]) + bytes(63), text)


def test_one_key_has_one_spelling(agreed):
    key = agreed["hospital_keys"]["site_1"]
    assert is_public_key(key)
    assert all(is_public_key(SigningKey.generate().public) for _ in range(20))
    with pytest.raises(InvalidInput, match="small letters"):
        Agreement.from_json(changed(agreed, "hospital_keys.site_0", key.upper()))


def named(*ids):
    dataset = toy.hospitals((20, 13, 7)[: len(ids)])
    made = tuple(dataclasses.replace(one, hospital_id=name) for one, name in zip(dataset.hospitals, ids))
    return dataclasses.replace(dataset, hospitals=made)


@pytest.mark.parametrize(
    "ids",
    [("h" * 65, "b", "c"), ("\u00e9", "e\u0301", "c"), ("north", "\uff4eorth", "c")],
    ids=("long", "form", "width"),
)
def test_names_that_nobody_tells_apart_or_no_certificate_holds_are_refused(ids):
    with pytest.raises(InvalidInput, match=r"looks like another hospital's name|a text of 1 to 64 bytes"):
        Members(BASE, named(*ids), test_mode=False)


def test_letters_that_look_like_others_are_told_when_it_is_approved():
    members = Members(BASE, named("north", "n\u043erth", "c"), test_mode=False)
    dataset = members.agreement.dataset(DataSecret(bytes(32), True, None), no_records)
    said = approval.in_words(members.agreement, "north", dataset)
    assert r"n\u043erth" in said
    assert r"'north'" not in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"days": float("nan")}, "days=nan"),
        ({"days": 1e9}, "days=1000000000"),
        ({"hosts": []}, "at least one name or address"),
        ({"hosts": ["b\u00fccher.example"]}, "is no host name or address"),
        ({"hosts": ["localhost", ""]}, "is no host name or address"),
    ],
)
def test_a_federation_that_cannot_be_made_leaves_nothing(tmp_path, more, words):
    with pytest.raises(InvalidInput, match=words):
        founding.found(tmp_path / "new", BASE, toy.hospitals((20, 13, 7)), **more)
    assert not (tmp_path / "new").exists()


def test_a_federation_of_long_names_has_certificates(tmp_path):
    dataset = named("h" * 64, "b", "c")
    founding.found(tmp_path / "new", BASE, dataset, name="n" * 150, hosts=["a" * 60 + ".example.org"])
    assert (tmp_path / "new" / "hospitals" / ("h" * 64) / "tls.crt").exists()


def test_keys_are_put_into_no_file_and_behind_no_link_that_leads_nowhere(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name, words in (("file", "is no folder"), ("link", "is no folder"), ("full", "is not empty")):
        with pytest.raises(InvalidInput, match=words):
            founding.found(tmp_path / name, BASE, toy.hospitals((20, 13, 7)))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mechanism", ["fixed_clip", "discrete_gaussian"])
def test_cohorts_that_are_too_small_to_open_a_secure_sum_are_refused(mechanism):
    privacy = {"mechanism": mechanism, "noise_multiplier": 5.0, "delta": 1e-2, "clip_norm": 0.5}
    privacy["secure_sum"] = mechanism == "fixed_clip"
    for size in (2, 3):
        cohort = {"kind": "fixed_size", "hospitals_per_round": size}
        plan = BASE.replace(privacy=privacy, cohort=cohort, weighting="equal")
        if size == 3:
            Members(plan, test_mode=False)
            continue
        with pytest.raises(InvalidInput, match="may be 2 hospitals in a round, and 3 must help to open a secure sum"):
            Members(plan, test_mode=False)
