"""Every registered runtime keeps the contract of `runtimes.base`, and a new one is a class and one entry."""

from __future__ import annotations

import importlib
import inspect
import sys
import types

import numpy as np
import pytest
import toy

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.rounds import RoundInput
from tff_hospitals.runtimes import DEFAULT, RUNTIMES, Registered, Runtime, build_runtime
from tff_hospitals.runtimes.base import one_after_the_other

pytestmark = pytest.mark.tensorflow
PLAN = Plan().replace(rounds=2, client={"batch_size": 4})


def loaded(registered: Registered) -> type[Runtime]:
    module, _, name = registered.path.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_registration_says_what_the_class_takes(name):
    registered, kind = RUNTIMES[name], loaded(RUNTIMES[name])
    assert issubclass(kind, Runtime)
    taken = inspect.signature(kind).parameters.values()
    options = {one.name for one in taken if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert options - {"plan"} == set(registered.options)
    assert ("plan" in options) == registered.needs_plan
    assert registered.summary
    assert registered.equality in ("reference", "rounding", "bits")


def test_there_is_one_reference_and_the_default_is_registered():
    assert [name for name, one in RUNTIMES.items() if one.equality == "reference"] == ["native"]
    assert DEFAULT in RUNTIMES


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nativ", {}, "must be one of cluster, compiled, deployed, native"),
        ("native", {"strategy": "fused"}, "is not one of its options (it has none)"),
        ("compiled", {"address": "a:1"}, "is not one of its options (strategy, expected_records)"),
    ],
)
def test_what_is_not_registered_is_refused_by_name(name, options, words):
    with pytest.raises(InvalidInput) as error:
        build_runtime(name, None, None, (), **options)
    assert words in str(error.value)
    assert "Remedy" in str(error.value)


class Counting(Runtime):
    """A runtime that only counts rounds, with a sentence about each call."""

    def run_rounds(self, state, rounds):
        self.note("rounds are only counted")
        return one_after_the_other(lambda now, one: (now + 1, one.number), state, rounds)


def test_several_runs_are_run_one_by_one_unless_a_runtime_shares_calls():
    runtime = Counting((np.ones(2),))
    assert not runtime.shares_calls
    rounds = [[RoundInput(0, ()), RoundInput(1, ())], [RoundInput(5, ()), RoundInput(6, ())]]
    assert runtime.run_rounds_of_many([10, 20], rounds, [(np.ones(2),)] * 2) == [(12, [0, 1]), (22, [5, 6])]
    assert runtime.notes == ["rounds are only counted"]
    with pytest.raises(InvalidInput, match="run=1: has frozen weights of its own"):
        runtime.run_rounds_of_many([10, 20], rounds, [(np.ones(2),), (np.zeros(2),)])


def test_a_new_runtime_is_one_entry(monkeypatch):
    from tff_hospitals.runtimes.compiled.runtime import CompiledRuntime
    from tff_hospitals.training.loop import train

    class Mine(CompiledRuntime):
        """The compiled one, with a remark."""

        def run_rounds(self, state, rounds):
            self.note("ran on mine")
            return super().run_rounds(state, rounds)

    module = types.ModuleType("mine")
    module.Mine = Mine
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setitem(RUNTIMES, "mine", Registered("mine:Mine", "a test", equality="bits", options=("strategy",)))
    dataset = toy.hospitals()
    mine, usual = (train(PLAN, dataset, runtime=name) for name in ("mine", "compiled"))
    for one, other in zip(mine.weights, usual.weights):
        np.testing.assert_array_equal(one, other)
    assert mine.summary["runtime"] == "mine"
    assert "ran on mine" in mine.summary["warnings"]
