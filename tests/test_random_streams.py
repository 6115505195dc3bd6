from __future__ import annotations

import numpy as np
import pytest

from tff_hospitals.foundations.random_streams import Streams


def test_same_names_same_stream_other_names_other_stream():
    root = Streams.from_seed(7)
    draws = {
        names: root.child(*names).generator().standard_normal(4).tolist()
        for names in [("a",), ("b",), ("a", 1), ("a", "1"), ("a", 11), ("a", 1, 1), ("hospital", "a")]
    }
    again = {names: Streams.from_seed(7).child(*names).generator().standard_normal(4).tolist() for names in draws}
    assert draws == again
    assert len({tuple(values) for values in draws.values()}) == len(draws)


def test_children_in_steps_are_the_children_of_a_path():
    root = Streams.from_seed(0)
    assert root.child("a").child("b").key().tolist() == root.child("a", "b").key().tolist()


def test_a_name_that_looks_like_two_is_one():
    root = Streams.from_seed(0)
    assert root.child("a", "b").key().tolist() != root.child("a/b").key().tolist()
    assert root.child("ab").key().tolist() != root.child("a", "b").key().tolist()


def test_streams_of_two_hospitals_are_uncorrelated():
    root = Streams.from_seed(3)
    first = root.child("hospital", "a").generator().standard_normal(100_000)
    second = root.child("hospital", "b").generator().standard_normal(100_000)
    # The correlation of independent draws has deviation 1 / sqrt(n) = 0.0032; five of them.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.016


def test_key_bits_are_balanced():
    bits = np.unpackbits(np.stack([Streams.from_seed(s).child("x").key() for s in range(2000)]).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)


def test_operating_system_streams_differ_every_time():
    assert Streams.from_operating_system().key().tolist() != Streams.from_operating_system().key().tolist()


def test_the_secret_is_not_printed():
    stream = Streams.from_seed(1)
    assert stream._secret.hex()[:12] not in repr(stream)
    assert repr(stream) == repr(Streams.from_seed(1))


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="must be 32"):
        Streams(b"short")
