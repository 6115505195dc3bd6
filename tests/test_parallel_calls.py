"""Calls side by side, results in order; sums as one tree whether the items come together or one after the other."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from tff_hospitals.runtimes.compiled.parallel_calls import ordered
from tff_hospitals.runtimes.compiled.tree_sum import TreeSum, tree_sum


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        yield threads


def test_a_slow_first_call_changes_no_order(pool):
    others_done = threading.Barrier(3)

    def first():
        others_done.wait(20)
        return 0

    def later(number):
        others_done.wait(20)
        return number

    assert list(ordered(pool, [first, lambda: later(1), lambda: later(2)], in_flight=3)) == [0, 1, 2]


def test_calls_are_taken_as_results_are_given(pool):
    taken = []

    def calls():
        for number in range(9):
            taken.append(number)
            yield lambda number=number: number

    for number in ordered(pool, calls(), in_flight=2):
        assert len(taken) <= number + 3
    assert taken == list(range(9))


def test_an_error_comes_where_the_result_would_have_been(pool):
    def fail():
        raise ValueError("the second")

    results = ordered(pool, [lambda: 1, fail, lambda: 3], in_flight=2)
    assert next(results) == 1
    with pytest.raises(ValueError, match="the second"):
        next(results)
    assert list(results) == []


def test_what_has_not_begun_is_left_when_nobody_asks_any_more():
    ran = []
    release = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as one_thread:
        results = ordered(one_thread, [lambda: 0, lambda: release.wait(20), lambda: ran.append(1)], in_flight=2)
        assert next(results) == 0
        results.close()
        release.set()
    assert ran == []


def levels(items):
    """The sum as it is drawn: level by level."""
    level = list(items)
    while len(level) > 1:
        pairs = [f"({level[at]}{level[at + 1]})" for at in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
    return level[0]


@pytest.mark.parametrize("count", range(1, 40))
def test_a_tree_sum_pairs_neighbours_level_by_level(count):
    items = [chr(ord("A") + number) for number in range(count)]
    total = TreeSum(lambda one, other: f"({one}{other})")
    held = []
    for item in items:
        total.append(item)
        held.append(len(total._branches))
    assert total.result() == levels(items) == tree_sum(items, lambda one, other: f"({one}{other})")
    assert max(held) <= count.bit_length()


def test_a_sum_of_nothing():
    assert TreeSum(max).result() is None
    with pytest.raises(ValueError, match="at least one"):
        tree_sum([], max)
