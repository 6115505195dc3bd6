"""What travels in a run, captured on the wire and, as whoever holds the keys of TLS would see it, beneath it."""

from __future__ import annotations

import contextlib
import socket
import threading

import numpy as np
import pytest
from federations import BASE, Members, running, train_deployed

from tff_hospitals.deployment import wire
from tff_hospitals.deployment.certificates import Authority
from tff_hospitals.deployment.engines import Engine
from tff_hospitals.deployment.envelope import MAGIC

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
SECURE = {"secure_sum": True, "secure_sum_bound": 4.0}


class Proxy:
    """Listens in front of a server and keeps everything that passes, both ways."""

    def __init__(self, address):
        self.captured, self._lock = bytearray(), threading.Lock()
        self._target = (address.rpartition(":")[0], int(address.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                outer = socket.create_connection(self._target)
                for source, target in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.captured += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self):
        self._listener.close()


class Listening:
    """A line that keeps every message, decrypted, both ways."""

    def __init__(self, line, kept):
        self._line, self._kept = line, kept

    def send(self, message):
        self._kept.append(message)
        self._line.send(message)

    def receive(self, seconds):
        found = self._line.receive(seconds)
        if found is not None:
            self._kept.append(found)
        return found

    def close(self):
        self._line.close()


def captured_run(plan, tmp_path):
    """A run over gRPC with mutual TLS: (members, bytes on the wire, messages, plain contributions by hospital)."""
    members = Members(plan, test_mode=False)
    sites, plain = {}, {}
    for name in members.dataset.ids:
        work = members.work(name)
        original, plain[name] = work.train, []

        def train(*arguments, _original=original, _kept=plain[name]):
            found = _original(*arguments)
            _kept.append(found.contribution)
            return found

        work.train = train
        sites[name] = members.site(name, tmp_path, work=work)
    authority, engine = Authority("ours"), Engine("grpc")
    authority.write_server(tmp_path / "tls", ["127.0.0.1"])
    for name in members.dataset.ids:
        authority.write_hospital(tmp_path / name / "tls", name)
    most = next(iter(sites.values())).work.wire.most_bytes
    server = engine.listen(tmp_path / "tls", "127.0.0.1:0", members.dataset.ids, most)
    proxy, messages = Proxy(server.address), []

    def dial(name):
        return Listening(engine.dial(tmp_path / name / "tls", proxy.address, name, most, 20.0), messages)

    with running(members, tmp_path, server, sites, dial) as (federation, _):
        train_deployed(members, federation)
    proxy.close()
    assert federation.rejected == 0
    return members, bytes(proxy.captured), b"\n".join(messages), plain


def traces_of_records(members, seen):
    """Pairs of neighbouring values of a record, as either kind of float, and values as text, that were seen."""
    found = []
    for hospital in members.dataset.hospitals:
        for part in (hospital.train, hospital.test):
            for row in np.asarray(part.features):
                for kind in (np.float32, np.float64):
                    pairs = np.lib.stride_tricks.sliding_window_view(row.astype(kind), 2)
                    found += [pair.tobytes() for pair in pairs if np.ptp(pair) and pair.tobytes() in seen]
                found += [text for text in (f"{value:.6g}".encode() for value in row) if len(text) > 5 and text in seen]
    return found


def traces_of_updates(members, plain, seen, bits):
    """Pieces of contributions, as their bytes, as 32-bit words and as packed words, that were seen."""
    link, found = wire.Wire(members.parts), []
    for contributions in plain.values():
        for one in contributions:
            forms = [link.contribution.pack(one)]
            if bits is not None:
                words = link.contribution.to_words(one, bits)
                forms += [words.tobytes(), wire.pack_words(words, bits)]
            for form in forms:
                pieces = {form[at : at + 16] for at in range(0, len(form) - 15, 4)}
                found += [piece for piece in pieces if len(set(piece)) > 4 and piece in seen]
    return found


@pytest.mark.parametrize("secure", [True, False])
def test_no_record_travels_and_under_the_secure_sum_no_update(secure, tmp_path):
    plan = BASE.replace(rounds=2, **({"privacy": SECURE} if secure else {}))
    members, on_the_wire, messages, plain = captured_run(plan, tmp_path)
    assert len(on_the_wire) > len(messages) > 10_000
    bits = members.parts.aggregator.modulus_bits
    assert traces_of_records(members, messages) == []
    assert traces_of_records(members, on_the_wire) == []
    leaked = np.asarray(members.dataset.hospitals[0].train.features[0], np.float32).tobytes()
    assert traces_of_records(members, messages + leaked) != []  # the search finds what it looks for
    assert MAGIC in messages
    assert MAGIC not in on_the_wire
    assert traces_of_updates(members, plain, on_the_wire, bits) == []
    seen = traces_of_updates(members, plain, messages, bits)
    # Without the secure sum the server sees each update: that it is found there shows that the search finds.
    assert (seen == []) is secure
