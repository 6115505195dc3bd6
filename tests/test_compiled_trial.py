"""With XLA or without: small runs keep the rule, others a trial's outcome, the cache's or their record's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
import threading

import numpy as np
import pytest
import tensorflow as tf
import toy

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes.compiled import choice, trial
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.runtimes.compiled.choice import Outcome
from tff_hospitals.training import loop
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow

PLAN = Plan().replace(
    rounds=4,
    checkpoint_every=1,
    client={"local_steps": 2, "batch_size": 4, "learning_rate": 0.1},
)
QUICKER = {
    "side_by_side": Outcome({"scanned": 0.3, "side_by_side": 0.1}),
    "scanned": Outcome({"scanned": 0.1, "side_by_side": 0.3}),
}
LACKS = Outcome({}, "ResizeBicubic")


@pytest.fixture
def dataset():
    return toy.hospitals()


@pytest.fixture
def trials(monkeypatch, tmp_path):
    """Every run is worth a trial, whose outcome a test sets; says how many there were."""

    class Trials(list):
        outcome = QUICKER["side_by_side"]

    found = Trials()

    def measured(*given):
        found.append(given)
        return found.outcome

    monkeypatch.setenv(choice.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "MOST_FUSED_PARAMETERS", 0)
    monkeypatch.setattr(trial, "WORTH_A_TRIAL", 0.0)
    monkeypatch.setattr(trial, "_measured", measured)
    return found


@pytest.fixture
def used(monkeypatch):
    """The strategies with which rounds were really run."""
    names = set()
    for name, kind in compiled._KINDS.items():
        run = kind.run

        def noted(self, *given, _run=run, _name=name, _kind=kind):
            if type(self) is _kind:
                names.add(_name)
            return _run(self, *given)

        monkeypatch.setattr(kind, "run", noted)
    return names


def execution(folder):
    return json.loads((folder / "record.json").read_text())["execution"]


def settled(plan, dataset):
    """What a run of a plan settles on; nothing is trained, and nothing compiled."""
    model = loop.build_model(plan, dataset)
    parts, noise = composition.compose(plan, dataset, model), noise_plan.make(plan, dataset)
    weights, frozen = model.initial_weights(np.array([1, 2], np.int64))
    state = parts.initial_state(weights, Streams.from_seed(1), noise.server_multiplier)
    runtime = compiled.CompiledRuntime(parts, dataset, frozen, expected_records=1e9)
    return runtime.settle(state, [RoundDrawer(plan, dataset, noise).draw(0)])


def kept_files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.json"))


def test_a_small_run_measures_nothing_and_its_record_says_rule(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_measured", lambda *_: pytest.fail("measured"))
    monkeypatch.setenv(choice.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "MOST_FUSED_PARAMETERS", 0)
    loop.train(PLAN, dataset, run_dir=tmp_path / "run")
    assert execution(tmp_path / "run") == {"strategy": "scanned", "chosen_by": "rule", "seconds_per_step": {}}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("quicker", QUICKER)
def test_the_quicker_way_is_taken_and_remembered(dataset, trials, used, tmp_path, quicker):
    trials.outcome = QUICKER[quicker]
    for name, by in (("first", "trial"), ("second", "cache")):
        loop.train(PLAN.replace(seed=len(name)), dataset, run_dir=tmp_path / name)
        seconds = dict(trials.outcome.seconds)
        assert execution(tmp_path / name) == {"strategy": quicker, "chosen_by": by, "seconds_per_step": seconds}
    assert used == {quicker}
    assert len(trials) == 1


def test_rates_and_rounds_share_an_outcome_and_whatever_changes_a_step_does_not(dataset, trials, monkeypatch):
    for changes in ({}, {"rounds": 3}, {"client": {"learning_rate": 0.3}}, {"server": {"learning_rate": 0.5}}):
        settled(PLAN.replace(**changes), dataset)
    assert len(trials) == 1
    private = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2})
    for seed in range(3):  # how many places its batches take differs from draw to draw
        monkeypatch.setattr("tff_hospitals.hospitals.batches.poisson_capacity", lambda *_, seed=seed: 4**seed)
        settled(private.replace(seed=seed), dataset)
    assert len(trials) == 2
    trials.pop()
    others = (
        {"client": {"batch_size": 20}},
        {"client": {"optimizer": "adam"}},
        {"privacy": {"mechanism": "dp_sgd", "clip_style": "per_layer", "noise_multiplier": 1.0, "delta": 1e-2}},
        {"model": {"name": "mlp", "options": {"hidden_units": [3]}}},
    )
    for number, changes in enumerate(others, start=2):
        settled(PLAN.replace(**changes), dataset)
        assert len(trials) == number, changes
    for number, place in enumerate((["another processor", "", 2], ["another processor", "", 4]), start=6):
        monkeypatch.setattr(choice, "processor", lambda place=place: place)
        settled(PLAN, dataset)
        assert len(trials) == number, place
    monkeypatch.setattr(trial, "__version__", "another")
    settled(PLAN, dataset)
    assert len(trials) == 8


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"version": 1}', b'{"version": 0, "key": "KEY", "seconds": {}, "lacks": ""}']
    + [
        json.dumps({"version": 1, "key": "KEY", "seconds": seconds, "lacks": lacks}).encode()
        for seconds, lacks in (
            ({"scanned": 1.0}, ""),
            ({"scanned": "a", "side_by_side": 1.0}, ""),
            ({"scanned": -1.0, "side_by_side": 1.0}, ""),
            ({"scanned": 1.0, "side_by_side": 1e999}, ""),
            ([1.0, 2.0], ""),
            (None, ""),
        )
    ],
)
def test_a_file_that_is_no_outcome_costs_a_trial_and_is_replaced(tmp_path, monkeypatch, content):
    monkeypatch.setenv(choice.CACHE, str(tmp_path))
    choice.keep("abc", QUICKER["scanned"], {})
    assert choice.kept("abc") == QUICKER["scanned"]
    (file,) = tmp_path.rglob("abc.json")
    file.write_bytes(content.replace(b"KEY", b"abc"))
    assert choice.kept("abc") is None
    choice.keep("abc", QUICKER["side_by_side"], {})
    assert choice.kept("abc") == QUICKER["side_by_side"]


def nowhere(monkeypatch, tmp_path):
    monkeypatch.delenv(choice.CACHE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", no_home)


def behind_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(choice.CACHE, str(tmp_path / "file" / "cache"))


def read_only(monkeypatch, tmp_path):
    def refusing(function):
        def refused(*given, **named):
            if str(tmp_path / "cache") in str([given, named]):
                raise OSError(30, "Read-only file system")
            return function(*given, **named)

        return refused

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(tempfile, "mkstemp", refusing(tempfile.mkstemp))
    for file in kept_files(tmp_path):
        file.unlink()


@pytest.mark.parametrize("broken", [nowhere, behind_a_file, read_only])
def test_a_cache_that_cannot_be_used_costs_a_trial_alone(dataset, trials, monkeypatch, tmp_path, broken):
    expected = loop.train(PLAN, dataset)
    with monkeypatch.context() as changed:
        broken(changed, tmp_path)
        found = [loop.train(PLAN, dataset) for _ in range(2)]
    assert len(trials) == 3
    for run in found:
        np.testing.assert_array_equal(run.weights[0], expected.weights[0])
        assert run.summary["warnings"] == expected.summary["warnings"]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv(choice.CACHE, str(tmp_path))
    assert choice.cache_folder() == tmp_path / "strategies"
    monkeypatch.delenv(choice.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert choice.cache_folder() == tmp_path / "tff_hospitals" / "strategies"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    assert choice.cache_folder() == tmp_path / ".cache" / "tff_hospitals" / "strategies"


def test_those_that_write_at_once_leave_a_whole_file(monkeypatch, tmp_path):
    monkeypatch.setenv(choice.CACHE, str(tmp_path))
    outcomes = list(QUICKER.values())
    choice.keep("abc", outcomes[0], {})
    writers = [
        threading.Thread(target=lambda one=one: [choice.keep("abc", one, {}) for _ in range(40)]) for one in outcomes
    ]
    for writer in writers:
        writer.start()
    seen = [choice.kept("abc") for _ in range(200)]
    for writer in writers:
        writer.join()
    assert all(one in outcomes for one in seen)
    assert {path.name for path in (tmp_path / "strategies").iterdir()} == {"abc.json"}


def test_one_trial_at_a_time_and_the_second_takes_the_first_ones_outcome(dataset, trials, monkeypatch, tmp_path):
    alone = choice.one_at_a_time

    @contextlib.contextmanager
    def just_after_another():
        with alone():
            with (tmp_path / "cache" / "strategies" / "lock").open() as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    monkeypatch.setattr(choice, "one_at_a_time", just_after_another)
    loop.train(PLAN, dataset)
    kept, asked = choice.kept, []
    monkeypatch.setattr(choice, "kept", lambda key: asked.append(key) or (kept(key) if len(asked) > 1 else None))
    loop.train(PLAN, dataset, run_dir=tmp_path / "run")
    assert execution(tmp_path / "run")["chosen_by"] == "cache"
    assert len(trials) == 1


def test_the_oldest_outcomes_are_forgotten(monkeypatch, tmp_path):
    monkeypatch.setenv(choice.CACHE, str(tmp_path))
    monkeypatch.setattr(choice, "_MOST_FILES", 3)
    for number in range(5):
        choice.keep(f"key{number}", LACKS, {})
    assert len(list((tmp_path / "strategies").iterdir())) == 3
    assert choice.kept("key4") == LACKS


@pytest.mark.parametrize("began", QUICKER)
def test_a_resumed_run_keeps_its_strategy_whatever_is_quicker_now(dataset, trials, used, tmp_path, monkeypatch, began):
    trials.outcome = QUICKER[began]
    plan = PLAN.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2})
    whole = loop.train(plan, dataset, run_dir=tmp_path / "whole")
    train, calls = loop.train, []

    def other_machine(*given, **named):
        if calls:  # the second call resumes
            (other,) = set(QUICKER) - {began}
            trials.outcome = QUICKER[other]
            monkeypatch.setenv(choice.CACHE, str(tmp_path / "elsewhere"))
        calls.append(given)
        return train(*given, **named)

    monkeypatch.setattr(loop, "train", other_machine)
    resumed = toy.killed_and_resumed(plan, dataset, tmp_path / "resumed", after=2)
    assert len(calls) == 2
    assert used == {began}
    assert len(trials) == 1
    for one, other in zip(resumed.weights, whole.weights):
        np.testing.assert_array_equal(one, other)
    inside = tmp_path / "resumed" / "inside"  # what was measured is no one's business outside
    assert execution(inside)["strategy"] == began
    assert "execution" not in json.loads((tmp_path / "resumed" / "record.json").read_text())


def test_a_run_of_before_that_is_resumed_takes_the_rule(dataset, trials, used, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(toy.Killed):
        loop.train(PLAN, dataset, run_dir=folder, on_round=lambda progress: killed_after(progress, 2))
    record = json.loads((folder / "record.json").read_text())
    del record["execution"]
    (folder / "record.json").write_text(json.dumps(record))
    used.clear()
    loop.train(PLAN, dataset, run_dir=folder)
    assert used == {"scanned"}
    assert execution(folder)["chosen_by"] == "rule"


def killed_after(progress, after):
    if progress.round == after:
        raise toy.Killed


def test_the_environment_chooses_for_runs_that_begin(dataset, trials, used, tmp_path, monkeypatch):
    monkeypatch.setenv(choice.STRATEGY, "side_by_side")
    with pytest.raises(toy.Killed):
        loop.train(PLAN, dataset, run_dir=tmp_path / "a", on_round=lambda progress: killed_after(progress, 2))
    assert execution(tmp_path / "a") == {"strategy": "side_by_side", "chosen_by": "asked", "seconds_per_step": {}}
    monkeypatch.setenv(choice.STRATEGY, "scanned")
    run = loop.train(PLAN, dataset, run_dir=tmp_path / "a")
    assert used == {"side_by_side"}
    assert any("strategy side_by_side was kept" in words for words in run.summary["warnings"])
    monkeypatch.setenv(choice.STRATEGY, "rule")
    loop.train(PLAN, dataset, run_dir=tmp_path / "b")
    assert execution(tmp_path / "b")["chosen_by"] == "rule"
    named = loop.train(PLAN, dataset, run_dir=tmp_path / "c", runtime_options={"strategy": "fused"})
    assert execution(tmp_path / "c")["strategy"] == "fused"
    assert not [words for words in named.summary["warnings"] if "strategy" in words]
    assert trials == []


def test_an_unknown_strategy_is_refused_before_anything_is_written(dataset, tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="strategy='fusd': must be one of"):
        compiled.CompiledRuntime(None, dataset, (), strategy="fusd")
    monkeypatch.setenv(choice.STRATEGY, "fusd")
    with pytest.raises(InvalidInput, match=r"TFF_HOSPITALS_STRATEGY='fusd': must be one of .*did you mean 'fused'"):
        loop.train(PLAN, dataset, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_xla_lacks_is_remembered_and_said_in_every_run(dataset, trials, used, monkeypatch):
    monkeypatch.setattr(compiled, "_not_compilable", {})
    trials.outcome = LACKS
    for _ in range(2):
        compiled._not_compilable.clear()
        run = loop.train(PLAN, dataset)
        assert [words for words in run.summary["warnings"] if "ResizeBicubic" in words]
    assert used == {"side_by_side"}
    assert len(trials) == 1


def test_seeds_of_one_plan_run_alike_and_one_that_is_resumed_as_it_began(dataset, trials, tmp_path):
    plans = [PLAN.replace(seed=seed) for seed in (1, 2, 3)]
    folders = [tmp_path / f"seed{plan.seed}" for plan in plans]
    trials.outcome = QUICKER["scanned"]
    with pytest.raises(toy.Killed):
        loop.train(plans[1], dataset, run_dir=folders[1], on_round=lambda progress: killed_after(progress, 2))
    trials.outcome = QUICKER["side_by_side"]
    for file in kept_files(tmp_path):
        file.unlink()
    loop.train_seeds(plans, dataset, run_dirs=folders)
    assert [execution(folder)["strategy"] for folder in folders] == ["side_by_side", "scanned", "side_by_side"]
    assert len(trials) == 2


def small_attention(feature_shape, num_classes):
    layers = tf.keras.layers
    inputs = layers.Input(feature_shape)
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    return tf.keras.Model(inputs, layers.Dense(num_classes)(layers.Flatten()(x)))


def with_dropout(feature_shape, num_classes):
    layers = tf.keras.layers
    inputs = layers.Input(feature_shape)
    x = layers.MultiHeadAttention(2, 4, dropout=0.1)(inputs, inputs)
    return tf.keras.Model(inputs, layers.Dense(num_classes)(layers.Flatten()(x)))


def small_convolution(feature_shape, num_classes):
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [layers.Input(feature_shape), layers.Conv1D(3, 2, padding="same"), layers.Flatten(), layers.Dense(num_classes)]
    )


@pytest.mark.parametrize(
    ("model", "multiplications", "draws"),
    [
        # queries, keys, values and outputs 4 x (6 x 4 x 8), products of queries and keys, and of them and values,
        # 2 x (6 x 6 x 8), and the dense layer 6 x 4 x 3.
        ("small_attention", 4 * 6 * 4 * 8 + 2 * 6 * 6 * 8 + 24 * 3, False),
        ("with_dropout", 4 * 6 * 4 * 8 + 2 * 6 * 6 * 8 + 24 * 3, True),
        ("small_convolution", 6 * 3 * 2 * 4 + 18 * 3, False),
        ("logistic_regression", 24 * 3 + 3, False),  # a bias is used as well
    ],
)
def test_the_work_of_a_model_is_counted_and_its_draws_are_seen(trials, model, multiplications, draws):
    dataset = toy.hospitals(shape=(6, 4), classes=3)
    name = model if model == "logistic_regression" else f"test_compiled_trial:{model}"
    plan = PLAN.replace(rounds=1, model={"name": name})
    built = loop.build_model(plan, dataset)
    assert trial.work_of(built) == trial.Work(multiplications, draws)
    settled(plan, dataset)
    assert len(trials) == (0 if draws else 1)  # XLA changes what is drawn


def test_a_trial_really_measures_both_ways_and_changes_no_result(dataset, monkeypatch, tmp_path):
    monkeypatch.setenv(choice.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "MOST_FUSED_PARAMETERS", 0)
    untried = loop.train(PLAN, dataset, runtime_options={"strategy": "scanned"})
    monkeypatch.setattr(trial, "WORTH_A_TRIAL", 0.0)
    monkeypatch.setattr(Outcome, "best", lambda *_: "scanned")
    tried = loop.train(PLAN, dataset, run_dir=tmp_path / "run")
    found = execution(tmp_path / "run")
    assert found["chosen_by"] == "trial"
    assert set(found["seconds_per_step"]) == {"scanned", "side_by_side"}
    assert all(seconds > 0 for seconds in found["seconds_per_step"].values())
    np.testing.assert_array_equal(tried.weights[0], untried.weights[0])


@pytest.mark.parametrize(("slower", "turns"), [(2.0, 2), (4.0, 1)])
def test_a_way_that_is_clearly_slower_is_not_measured_again(dataset, monkeypatch, slower, turns):
    plan = PLAN.replace(client={"local_steps": 3})
    model = loop.build_model(plan, dataset)
    parts, noise = composition.compose(plan, dataset, model), noise_plan.make(plan, dataset)
    one = RoundDrawer(plan, dataset, noise).draw(0)
    asked = []

    def seconds(calls, turns):
        asked.append((sorted(calls), turns))
        return {"scanned": slower, "side_by_side": 1.0}

    monkeypatch.setattr(trial, "least_seconds", seconds)
    monkeypatch.setattr(trial, "_rehearsal", lambda *_: None)
    found = trial._measured(parts, None, one, None, (), 1e9, compiled.what_xla_lacks)
    assert [turn for _, turn in asked] == [1, trial._TURNS][:turns]
    steps = 1 if turns == 1 else 2  # the longer measurement is bounded by its work, and has two steps at least
    assert found.seconds == {"scanned": slower / steps, "side_by_side": 1.0 / steps}
