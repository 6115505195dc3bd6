"""Seeds that train together: each is the run that it would have been alone, whatever happens to the others."""

from __future__ import annotations

import collections
import csv
import json
import math

import numpy as np
import pytest
import toy
from few_fast import few_fast

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes.compiled import fused, joint_runs
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.training import loop, session
from tff_hospitals.training.loop import TrainingError, train, train_seeds

pytestmark = pytest.mark.tensorflow

SEEDS = (42, 43, 44)
PLAN = Plan().replace(rounds=6, checkpoint_every=2, client={"local_steps": 5, "batch_size": 4, "learning_rate": 0.1})
SERVER_SIDE = {"noise_multiplier": 1.0, "delta": 1e-2, "clip_norm": 0.5}
HIDDEN = {"name": "mlp", "options": {"hidden_units": [6], "trainable": ["output"]}}
PLANS = {
    "plain": PLAN,
    "dp_sgd": PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2}),
    "tree": PLAN.replace(weighting="equal", privacy={"mechanism": "tree", **SERVER_SIDE}),
    "skellam": PLAN.replace(weighting="equal", privacy={"mechanism": "skellam", **SERVER_SIDE}),
    "server_adam": PLAN.replace(evaluate_every=3, server={"optimizer": "adam", "learning_rate": 0.1}),
    "epochs": PLAN.replace(client={"local_steps": None, "local_epochs": 2}),
    "poisson_cohorts": PLAN.replace(cohort={"kind": "poisson", "sampling_probability": 0.5}),
    "frozen_differ": PLAN.replace(model=HIDDEN),
    "budget": PLAN.replace(
        privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2}, stopping={"max_epsilon": 4.7}
    ),
}


@pytest.fixture(scope="module")
def dataset():
    return toy.hospitals()


@pytest.fixture(scope="module")
def model(dataset):
    return loop.build_model(PLAN, dataset)


@pytest.fixture
def calls(monkeypatch):
    """Makes any number of saved calls pay, and says how many runs each shared call had."""
    runs = []
    run_all = joint_runs.JointProgram.run_all

    def counted(self, states, *rest):
        runs.append(len(states))
        return run_all(self, states, *rest)

    monkeypatch.setattr(joint_runs.JointProgram, "run_all", counted)
    monkeypatch.setattr(session, "_CALLS_THAT_PAY", 0)
    return runs


def with_seeds(plan, seeds=SEEDS):
    return [plan.replace(seed=seed) for seed in seeds]


def folders(path, seeds=SEEDS):
    return [path / f"seed{seed}" for seed in seeds]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same_values(first, second):
    """Numbers within 1e-5, everything else equal."""
    try:
        one, other = float(first), float(second)
    except ValueError:
        return first == second
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7) or (math.isnan(one) and math.isnan(other))


def lies_in(path):
    """What lies in a run directory; curves are written some seconds apart, so that their number depends on the time."""
    found = {one.relative_to(path).as_posix() for one in path.rglob("*")}
    return {name.split("/events.out.")[0] for name in found}


def assert_same_run(run, alone):
    for one, other in zip((*run.weights, *run.frozen), (*alone.weights, *alone.frozen)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    for name in ("ledger.json", "bytes.csv", "plan.json"):
        assert (run.directory / name).read_bytes() == (alone.directory / name).read_bytes(), name
    ours, theirs = table(run.directory / "metrics.csv"), table(alone.directory / "metrics.csv")
    assert len(ours) == len(theirs) > 0
    for row, expected in zip(ours, theirs):
        assert row.keys() == expected.keys()
        assert [name for name in row if not same_values(row[name], expected[name])] == []
    for name in ("seed", "epsilon", "rounds", "stop_reason", "bytes_up", "bytes_down", "guarantee", "warnings"):
        assert run.summary[name] == alone.summary[name], name
    assert lies_in(run.directory) == lies_in(alone.directory)


@pytest.mark.parametrize("name", few_fast(PLANS, ("dp_sgd", "frozen_differ", "budget"), ("tree", "epochs")))
def test_each_seed_is_the_run_alone(dataset, tmp_path, calls, name):
    plans = with_seeds(PLANS[name])
    built = loop.build_model(plans[0], dataset)
    runs = train_seeds(plans, dataset, model=built, run_dirs=folders(tmp_path / "together"))
    assert set(calls) == {len(SEEDS)}
    for plan, run, folder in zip(plans, runs, folders(tmp_path / "alone")):
        assert_same_run(run, train(plan, dataset, model=built, run_dir=folder))
    assert len({tuple(np.ravel(run.weights[0])) for run in runs}) == len(SEEDS)
    if name == "frozen_differ":
        assert len({tuple(np.ravel(run.frozen[0])) for run in runs}) == len(SEEDS)
    if name == "budget":
        assert [run.summary["stop_reason"].split(":")[0] for run in runs] == ["privacy budget spent"] * len(SEEDS)


def test_a_seed_on_a_plateau_leaves_the_others_going(dataset, model, tmp_path, calls):
    plan = PLAN.replace(rounds=30, stopping={"patience": 2, "threshold": 0.002, "metric": "loss"})
    plans = with_seeds(plan)
    runs = train_seeds(plans, dataset, model=model, run_dirs=folders(tmp_path / "together"))
    rounds = [run.summary["rounds"] for run in runs]
    assert len(set(rounds)) > 1
    assert min(rounds) < 30
    for number in range(1, len(SEEDS) + 1):  # as many runs in a call as are still going
        longer = sorted(rounds)[-number]
        assert calls.count(number) == longer - (sorted(rounds)[-number - 1] if number < len(SEEDS) else 0)
    for one, run, folder in zip(plans, runs, folders(tmp_path / "alone")):
        assert_same_run(run, train(one, dataset, model=model, run_dir=folder))


def interrupt(monkeypatch, seed, rounds):
    """Training dies when this seed has so many rounds behind it."""
    enter = session.Session.enter

    def dying(self, *arguments):
        enter(self, *arguments)
        if self.plan.seed == seed and self.next_round == rounds:
            raise KeyboardInterrupt

    monkeypatch.setattr(session.Session, "enter", dying)


def files(path):
    names = ("metrics.csv", "bytes.csv", "ledger.json", "inside/metrics.csv", "inside/drift.csv")
    return {folder.name: [(folder / name).read_bytes() for name in names] for folder in sorted(path.iterdir())}


@pytest.mark.parametrize("again", ["together", "seed by seed"])
def test_killed_in_the_middle_each_seed_resumes_from_its_own_checkpoint(dataset, model, tmp_path, calls, again):
    """The second of three seeds saves round 4 and dies: the third is still at round 2."""
    plans = with_seeds(PLANS["dp_sgd"])
    train_seeds(plans, dataset, model=model, run_dirs=folders(tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patched:
        interrupt(patched, 43, 4)
        with pytest.raises(KeyboardInterrupt):
            train_seeds(plans, dataset, model=model, run_dirs=folders(tmp_path / "killed"))
    saved = [max(folder.glob("checkpoints/*.ckpt")).stem for folder in folders(tmp_path / "killed")]
    assert saved == ["round_000004", "round_000004", "round_000002"]
    calls.clear()
    if again == "together":
        train_seeds(plans, dataset, model=model, run_dirs=folders(tmp_path / "killed"))
        assert calls == [1, 1, 3, 3]  # the one behind catches up, then all go on together
    else:
        for plan, folder in zip(plans, folders(tmp_path / "killed")):
            train(plan, dataset, model=model, run_dir=folder)
        assert calls == []
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_finished_seeds_are_read_and_the_rest_is_trained(dataset, model, tmp_path, calls):
    plans = with_seeds(PLAN)
    train(plans[1], dataset, model=model, run_dir=folders(tmp_path)[1])
    started = []
    runs = train_seeds(plans, dataset, model=model, run_dirs=folders(tmp_path), on_start=started.append)
    assert [run.already_finished for run in runs] == [False, True, False]
    assert [run.plan.seed for run in runs] == list(SEEDS)
    assert started == [0, 1, 2]
    assert set(calls) == {2}


def test_a_seed_that_cannot_go_on_is_named_when_the_others_have_ended(dataset, model, tmp_path, calls, monkeypatch):
    check = session.Session._check_finite

    def failing(self, output):
        if self.plan.seed == 43 and output.number == 2:
            raise TrainingError("seed 43 fails")
        check(self, output)

    monkeypatch.setattr(session.Session, "_check_finite", failing)
    with pytest.raises(TrainingError, match="seed 43 fails"):
        train_seeds(with_seeds(PLAN), dataset, model=model, run_dirs=folders(tmp_path))
    assert [(folder / "summary.json").exists() for folder in folders(tmp_path)] == [True, False, True]
    assert json.loads((folders(tmp_path)[2] / "summary.json").read_text())["rounds"] == 6


@pytest.mark.slow
def test_calls_hold_no_more_noise_than_is_allowed(dataset, model, monkeypatch, calls):
    plan = PLANS["dp_sgd"].replace(evaluate_every=6, checkpoint_every=6)
    whole = train_seeds(with_seeds(plan), dataset, model=model)
    shapes = []
    noise_of_all = joint_runs.JointProgram._noise_of_all

    def watched(self, own, inputs):
        noise = noise_of_all(self, own, inputs)
        shapes.append(noise[0].shape)
        return noise

    monkeypatch.setattr(joint_runs.JointProgram, "_noise_of_all", watched)
    one_round = 3 * 5 * 6  # hospitals, steps, parameters
    for rounds, expected in ((1, (1, 1)), (4, (3, 1)), (6, (3, 2))):
        monkeypatch.setattr(fused, "NOISE_SCALARS", rounds * one_round)
        monkeypatch.setattr(compiled, "_programs", collections.OrderedDict())
        shapes.clear()
        for run, expected_run in zip(train_seeds(with_seeds(plan), dataset, model=model), whole):
            np.testing.assert_allclose(run.weights[0], expected_run.weights[0], rtol=1e-5, atol=1e-7)
        assert {tuple(shape[:2]) for shape in shapes} == {expected}


def test_few_rounds_do_not_pay_for_a_program_of_their_own(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(joint_runs.JointProgram, "run_all", lambda *_: pytest.fail("shared a call"))
    plans = with_seeds(PLANS["frozen_differ"])
    built = loop.build_model(plans[0], dataset)
    runs = train_seeds(plans, dataset, model=built, run_dirs=folders(tmp_path / "in_turn"))
    for plan, run, folder in zip(plans, runs, folders(tmp_path / "alone")):
        assert_same_run(run, train(plan, dataset, model=built, run_dir=folder))


def test_only_the_fused_strategy_shares_calls(dataset, model):
    parts = composition.compose(PLAN, dataset, model)
    assert compiled.CompiledRuntime(parts, dataset, (), strategy="fused").shares_calls
    assert not compiled.CompiledRuntime(parts, dataset, (), strategy="scanned").shares_calls


def test_plans_that_differ_in_more_than_the_seed_are_refused(dataset, tmp_path):
    for plans in ([PLAN, PLAN.replace(rounds=7)], []):
        with pytest.raises(InvalidInput, match="differ in their seeds alone"):
            train_seeds(plans, dataset, run_dirs=[tmp_path / "a", tmp_path / "b"])
    assert list(tmp_path.iterdir()) == []
