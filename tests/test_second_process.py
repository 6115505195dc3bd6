"""A second process: what it answers, how it ends, and that the runs of a comparison come out the same with it."""

import os
import sys
import threading
import time
import types

import pytest

from tff_hospitals.experiments import comparison, sweep
from tff_hospitals.foundations import files
from tff_hospitals.foundations.second_process import Lost, SecondProcess
from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if
from tff_hospitals.training.results import TrainingError

pytestmark = pytest.mark.tensorflow


def test_results_and_errors_come_back_in_order():
    problem = Problem("--rounds", 0, "must be at least 1", "give 1 or more")
    with SecondProcess(cores=2) as second:
        assert second.tell(print, "no answer, and nothing that could be taken for one")
        assert second.ask(sorted, [2, 1])
        assert second.ask(raise_if, [problem])
        assert second.ask(os.getpid)
        assert second.answer() == [1, 2]
        with pytest.raises(InvalidInput) as caught:
            second.answer()
        assert caught.value.problems == (problem,)
        assert second.answer() != os.getpid()


def test_it_ends_with_what_started_it_whatever_it_does_then():
    with SecondProcess(cores=2) as second:
        process = second._process
    assert process.returncode is not None  # killed, and waited for
    orphan = SecondProcess(cores=2)
    assert orphan.ask(time.sleep, 600)
    process, started = orphan._process, time.monotonic()
    process.stdin.close()  # as when this process dies
    assert process.wait(60) == 0
    assert time.monotonic() - started < 60
    with pytest.raises(Lost):
        orphan.answer()
    assert not orphan.ask(sorted, [1])
    process.stdout.close()


@pytest.mark.parametrize("ends", [(sys.exit, 0), (exec, "class Odd(Exception): pass\nraise Odd")])
def test_one_that_ends_or_cannot_say_what_went_wrong_is_lost(ends):
    with SecondProcess(cores=2) as second:
        assert second.ask(*ends)
        with pytest.raises(Lost):
            second.answer()


def test_without_a_second_core_there_is_none():
    with SecondProcess(cores=1) as second:
        assert not second.ask(sorted, [1])
        assert not second.tell(sorted, [1])
        with pytest.raises(Lost):
            second.answer()


class Stub:
    """A second process of this one: it answers in words, or fails."""

    def __init__(self, failure=None):
        self.failure, self.asked = failure, []
        self.busy = threading.Event()

    def ask(self, function, job):
        assert function is sweep.train_job
        self.asked.append(job)
        return True

    def answer(self):
        if len(self.asked) == 2:
            self.busy.wait(60)  # what is left is this process's
        if self.failure is not None:
            raise self.failure
        name, seeds = self.asked[-1]
        return [f"{name} {seed} there" for seed in seeds]


def _runner(name, runtime="compiled", is_small=True, method=None, unit="none"):
    def run_seeds(seeds, on_start):
        return [f"{name} {seed} here" for seed in seeds if on_start(seed) is None]

    known = types.SimpleNamespace(name=method or name)
    return types.SimpleNamespace(
        name=name, runtime=runtime, is_small=is_small, run_seeds=run_seeds, method=known, unit=unit
    )


@pytest.mark.parametrize("failure", [None, Lost("killed"), TrainingError("round 1: not finite")])
def test_every_run_is_trained_once_and_comes_in_the_order_of_the_table(monkeypatch, failure):
    monkeypatch.setattr(sweep, "job_of", lambda runner, *seeds: (runner.name, seeds))
    runners = [_runner("a"), _runner("b"), _runner("native", "native"), _runner("large", is_small=False)]
    runners += [_runner("c"), _runner("d")]
    stub = Stub(failure)
    runs = sweep.start("compiled", [(runner, (1, 2)) for runner in runners], second=stub)
    while len(stub.asked) < 2:  # "d", then "c"
        time.sleep(0.001)
    found, started = {}, []
    for runner in runners:
        if runner.name == "c":
            stub.busy.set()
        try:
            found[runner.name] = runs.rows(runner, (1, 2), lambda seed: started.append(seed))
        except TrainingError as error:
            found[runner.name] = str(error)
    runs.close()
    there = {None: "{} {} there", Lost: "{} {} here"}.get(failure and type(failure))
    for name, rows in found.items():
        if name not in "cd":
            assert rows == [f"{name} 1 here", f"{name} 2 here"]
        else:
            assert rows == ([there.format(name, seed) for seed in (1, 2)] if there else str(failure))
    assert started == [1, 2] * (len(runners) if there else 4)
    assert [name for name, _ in stub.asked] == ["d", "c"]


class Slow:
    """A second process whose answers come when the test lets them."""

    def __init__(self):
        self.asked, self.lets = [], threading.Semaphore(0)

    def ask(self, function, job):
        self.asked.append(job[0])
        return True

    def answer(self):
        assert self.lets.acquire(timeout=60)
        return [f"{self.asked[-1]} there"]


def _wait_for(condition):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 60
        time.sleep(0.001)


def test_a_program_is_compiled_on_one_side_and_nobody_waits_while_something_is_open(monkeypatch):
    """The other side takes the record-level method with both its targets; this one meanwhile what comes behind it."""
    monkeypatch.setattr(sweep, "job_of", lambda runner, *seeds: (runner.name, seeds))
    trained = []

    def runner(name, method, unit="none"):
        made = _runner(name, method=method, unit=unit)
        made.run_seeds = lambda seeds, on_start: (trained.append(name), [f"{name} here"])[1]
        return made

    runners = [runner("mean", "mean"), runner("dp 1", "dp", "record"), runner("dp 5", "dp", "record")]
    runners += [runner("clip 1", "clip"), runner("clip 5", "clip")]
    second = Slow()
    runs = sweep.start("compiled", [(one, (1,)) for one in runners], second=second)
    _wait_for(lambda: second.asked == ["dp 5"])
    assert runs.rows(runners[0], (1,), lambda seed: None) == ["mean here"]
    found = []
    waiting = threading.Thread(target=lambda: found.append(runs.rows(runners[1], (1,), lambda seed: None)))
    waiting.start()
    _wait_for(lambda: trained == ["mean", "clip 1", "clip 5"])
    second.lets.release()
    _wait_for(lambda: second.asked == ["dp 5", "dp 1"])
    second.lets.release()
    waiting.join(60)
    assert found == [["dp 1 there"]]
    started = []
    rows = [runs.rows(one, (1,), started.append) for one in runners[2:]]
    assert rows == [["dp 5 there"], ["clip 1 here"], ["clip 5 here"]]
    assert started == [1, 1, 1]
    assert trained == ["mean", "clip 1", "clip 5"]


def test_what_a_failed_row_leaves_is_not_trained_or_waited_for(monkeypatch):
    """Splits that nobody asks for any more: one was open, one on its way there, whose charges must be counted."""
    monkeypatch.setattr(sweep, "job_of", lambda runner, *seeds: (runner.name, seeds))
    runners = [_runner("mean"), _runner("dp 0", unit="record"), _runner("dp 1", unit="record"), _runner("dp 2")]
    for one in runners[1:]:
        one.method.name = "dp"
    second = Slow()
    runs = sweep.start("compiled", [(one, (1,)) for one in runners], second=second)
    _wait_for(lambda: second.asked == ["dp 1"])
    left = threading.Thread(target=runs.leave_out, args=(runners[1:],))
    left.start()
    left.join(0.2)
    assert left.is_alive()  # it is on its way
    second.lets.release()
    left.join(60)
    assert not left.is_alive()
    assert runs.rows(runners[0], (1,), lambda seed: None) == ["mean 1 here"]
    runs.close()
    assert not runs._hands_out.is_alive()  # nobody else reads the other process's answers
    assert second.asked == ["dp 1"]


def test_a_model_that_cannot_be_built_stays_here_where_its_row_says_so(monkeypatch):
    monkeypatch.setattr(sweep, "job_of", lambda runner, *seeds: (runner.name, seeds))

    class Broken(types.SimpleNamespace):
        @property
        def is_small(self):
            raise ValueError("no such layer")

    fine, broken = _runner("fine"), _runner("broken")
    del broken.is_small
    broken = Broken(**vars(broken))
    runs = sweep.start("compiled", [(fine, (1,)), (broken, (1,))], second=Slow())
    assert runs.rows(broken, (1,), lambda seed: None) == ["broken 1 here"]
    runs.close(wait=False)


def test_a_side_that_is_busy_for_long_does_not_keep_its_method_for_itself(monkeypatch):
    monkeypatch.setattr(sweep, "job_of", lambda runner, *seeds: (runner.name, seeds))
    monkeypatch.setattr(sweep, "_LONG", 0.01)
    runners = [_runner(f"dp {i}", method="dp") for i in range(4)]
    second = Slow()
    runs = sweep.start("compiled", [(one, (1,)) for one in runners], second=second)
    _wait_for(lambda: second.asked == ["dp 3"])
    assert [runs.rows(one, (1,), lambda seed: None) for one in runners[:3]] == [[f"dp {i} 1 here"] for i in range(3)]
    second.lets.release()
    assert runs.rows(runners[3], (1,), lambda seed: None) == ["dp 3 there"]


@pytest.mark.slow
def test_a_comparison_in_two_processes_is_the_same(tmp_path):
    """All figures of summary.json but the times, and every table of every run."""
    asked = comparison.Comparison(
        methods=("pooled", "weighted_mean", "dp_sgd"), target_epsilons=(1.0, 5.0), seeds=(1, 2), given={"rounds": 2}
    )
    summaries = [comparison.run(asked, tmp_path / "one")]
    with SecondProcess(cores=2) as second:
        summaries.append(comparison.run(asked, tmp_path / "two", second=second))
    one, two = map(_without_times, summaries)
    assert one == two
    names = [
        {path.relative_to(folder) for path in folder.rglob("*")} for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert names[0] == names[1]
    for name in names[0]:
        if name.name in ("metrics.csv", "bytes.csv"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        if name.name == "ledger.json":
            assert files.read_json(tmp_path / "one" / name) == files.read_json(tmp_path / "two" / name)


def _without_times(found):
    if isinstance(found, dict):
        return {key: _without_times(value) for key, value in found.items() if "second" not in key and key != "created"}
    return [_without_times(one) for one in found] if isinstance(found, list) else found
