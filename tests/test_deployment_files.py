"""Files of a federation where they are odd: links, devices, modes, a disk that is full, keys that are half written."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest
import toy
from test_deployment_attacks import PRIVATE, Members, Server, charges

from tff_hospitals.deployment import journal, keys, server, site_data
from tff_hospitals.deployment.envelope import Kind
from tff_hospitals.deployment.keys import SigningKey
from tff_hospitals.deployment.site_memory import SiteMemory
from tff_hospitals.foundations.files import RecordError

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def private():
    members = Members(PRIVATE, test_mode=False)
    return members, members.work("site_0")


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_private_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "signing.key"
    with monkeypatch.context() as during:
        during.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match="No space left"):
            SigningKey.generate().write(path)
    assert list(tmp_path.iterdir()) == []
    SigningKey.generate().write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (path, tmp_path / "link"):
        with pytest.raises(RecordError, match="File exists"):
            SigningKey.generate().write(taken)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "signing.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_may_read_or_write_is_not_used_behind_a_link_either(tmp_path, mode):
    path, link = tmp_path / "signing.key", tmp_path / "link"
    SigningKey.generate().write(path)
    link.symlink_to(path)
    path.chmod(mode)
    for one in (path, link):
        with pytest.raises(RecordError, match="others may read it, must be 0600"):
            keys.read_private(one)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_servers_noise_key_of_another_length_is_refused(tmp_path, size):
    keys.write_private(tmp_path / "noise.key", bytes(size))
    with pytest.raises(RecordError, match=rf"has {size} bytes: must be 32\. Remedy"):
        server._own_secret(tmp_path)


def test_records_and_what_an_upload_left_out_are_never_readable_for_others(tmp_path, monkeypatch):
    modes, replace = [], os.replace

    def watched(source, target):
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    site_data.write(tmp_path, toy.hospitals().hospitals[0])
    SiteMemory(tmp_path).keep(0, "request", None, np.zeros(3, np.float32))
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("target", ["/dev/full", "/dev/zero", "fifo", "folder"])
def test_a_journal_that_is_no_file_is_refused_and_not_read_for_ever(tmp_path, target):
    path = tmp_path / "journal.jsonl"
    if target == "fifo":
        os.mkfifo(path)
    elif target == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    with pytest.raises(RecordError, match=r"is no ordinary file\. Remedy"):
        journal.Journal(path)


def test_a_folder_and_a_journal_behind_links_are_gone_on_with(private, tmp_path):
    members, work = private
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "hospital").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "site_0").mkdir()
    (tmp_path / "elsewhere" / "site_0" / "journal.jsonl").symlink_to(tmp_path / "lies here")
    first = Server(members, members.site("site_0", tmp_path / "hospital", work=work))
    assert first.ask(first.round(0))[0] is Kind.ANSWER
    again = members.site("site_0", tmp_path / "elsewhere", work=work)
    assert again.ledger.epsilon == first.site.ledger.epsilon > 0
    assert len((tmp_path / "lies here").read_text().splitlines()) == len(again.journal.entries)


def test_of_a_full_disk_nothing_leaves_and_what_was_written_counts(private, tmp_path, monkeypatch):
    members, work = private
    first = Server(members, members.site("site_0", tmp_path, work=work))
    assert first.ask(first.round(0))[0] is Kind.ANSWER
    with monkeypatch.context() as during:
        during.setattr(journal.os, "fsync", full)
        with pytest.raises(RecordError, match=r"No space left.*Nothing was sent"):
            first.ask(first.round(1))
    # The line may be on the disk and may not: the worker does not go on as if it were not.
    with pytest.raises(RecordError, match="is not as this worker left it"):
        first.ask(first.round(1))
    again = Server(members, members.site("site_0", tmp_path, work=work))
    assert len(charges(again.site)) == 2
    assert again.ask(again.round(1))[0] is Kind.ANSWER
    assert len(charges(again.site)) == 2
