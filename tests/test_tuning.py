"""Searches for settings: axes, records that judge, objectives, trials that fail, and what is left after a kill."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import sys

import numpy as np
import pytest
import toy

from tff_hospitals.experiments import baselines, command, front_door, presets, search_journal, tune_command, tuning
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.experiments.search_space import default_axes, parse_axes, parse_axis
from tff_hospitals.experiments.tuning import Search
from tff_hospitals.foundations import files
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import Failure, InvalidInput
from tff_hospitals.plan import Plan
from tff_hospitals.reports import search_page
from tff_hospitals.runtimes.cluster import connection
from tff_hospitals.training.loop import train_seeds

pytestmark = pytest.mark.tensorflow

BASE = Plan(rounds=2).replace(client={"local_steps": None, "local_epochs": 1, "batch_size": 8})
RATES = (parse_axis("client_learning_rate:0.01:0.3:log"),)
SAMPLED = {"seed": 0, "pruner": "none", "rounds": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat:1:2", "client_learning_rate"),
        ("client_learning_rate", "has no values"),
        ("server_optimizer:|", "has no values"),
        ("client_learning_rate:0.1", "is no range"),
        ("client_learning_rate:0.1:0.01", "lower bound below"),
        ("client_learning_rate:0:0.1:log", "> 0"),
        ("client_learning_rate:a:b", "must be a number"),
        ("local_steps:1.5:3", "must be a whole number"),
        ("server_optimizer:sgd|lars", "lars"),
        ("target_epsilon:1:2", "is what settings are compared for"),
        ("rounds:0:5", ">= 1"),
    ],
)
def test_axes_that_nobody_can_search_are_refused_with_remedy(text, words):
    with pytest.raises(InvalidInput, match=words.replace("|", ".")):
        parse_axis(text)


def test_axes_that_come_twice_and_all_bad_ones_are_named_at_once():
    with pytest.raises(InvalidInput) as error:
        parse_axes(["rounds:1:3", "rounds:2:5", "nonsense"], BASE)
    assert "comes twice" in str(error.value) or "nonsense" in str(error.value)
    assert [axis.option.flag for axis in default_axes(METHODS["fixed_clip"].plan(BASE, 1.0))][-1] == "clip_norm"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": None}, "give --trials"),
        ({"trials": 0}, "trials=0"),
        ({"aims": ("fame",)}, "fame"),
        ({"aims": ("epsilon",)}, "private methods"),
        ({"pruner": "axe"}, "hyperband"),
        ({"validation": 0.0}, "validation"),
        ({"seeds": 0}, "seeds_per_trial"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(changes, words):
    found = dataclasses.replace(Search(BASE, RATES), **changes).problems()
    assert any(words in str(problem) for problem in found), found


def test_a_choice_that_is_paid_for_draws_the_number_of_its_trials_once(tmp_path):
    paid = METHODS["dp_sgd"].plan(BASE, 3.0).replace(privacy={"selected_from": 6.0})
    assert "drop --trials" in str(Search(paid, RATES, trials=6).problems()[0])
    search = Search(paid, RATES, trials=None)
    assert search.problems() == []
    drawn = tuning.trials_of(search, tmp_path)
    assert drawn >= 1
    assert {tuning.trials_of(search, tmp_path) for _ in range(5)} == {drawn}
    drawn = []
    with files.without_waiting():
        for number in range(400):
            (tmp_path / str(number)).mkdir()
            drawn.append(tuning.trials_of(search, tmp_path / str(number)))
    assert abs(np.mean(drawn) - 6.0) < 5 * np.sqrt(30 / 400)  # a geometric number of mean 6 has the variance 30
    assert abs(np.mean(np.array(drawn) == 1) - 1 / 6) < 5 * np.sqrt(5 / 36 / 400)


def test_records_that_judge_are_training_records_and_stay_where_they_are():
    dataset = toy.hospitals()
    one, other = (tuning.held_out(dataset, 0.3, seed) for seed in (0, 1))
    for before, after in zip(dataset.hospitals, one.hospitals):
        rows = np.concatenate([after.train.features, after.test.features])
        assert sorted(map(tuple, rows)) == sorted(map(tuple, before.train.features))
    assert any(len(a.test.labels) != len(b.test.labels) for a, b in zip(one.hospitals, other.hospitals))
    first = dataset.hospitals[0]
    part = dataclasses.replace(first.train, features=first.train.features[:-1], labels=first.train.labels[:-1])
    fewer = dataclasses.replace(dataset, hospitals=(dataclasses.replace(first, train=part), *dataset.hospitals[1:]))
    kept, judged = tuning.held_out(fewer, 0.3, 0).hospitals[0], one.hospitals[0]
    assert kept.train.features.tolist() == judged.train.features[: len(kept.train.labels)].tolist()
    with pytest.raises(InvalidInput, match="one side empty"):
        tuning.held_out(dataset, 1e-9, 0)


def test_a_search_goes_on_after_a_kill_and_leaves_settings_that_train(tmp_path, monkeypatch):
    dataset, told = toy.hospitals(), []
    search = Search(BASE, (*RATES, parse_axis("local_epochs:1:2")), trials=4, pruner="none", fixed=("--rounds=2",))
    whole = tuning._value_of

    def killed(trial, *rest):
        value = whole(trial, *rest)
        if trial.number == 1:
            raise KeyboardInterrupt
        return value

    monkeypatch.setattr(tuning, "_value_of", killed)
    with pytest.raises(KeyboardInterrupt):
        tuning.run(search, dataset, tmp_path)
    monkeypatch.setattr(tuning, "_value_of", whole)
    (tmp_path / "journal.log.lock").symlink_to("journal.log")  # what a kill in the middle of writing leaves
    with open(tmp_path / "journal.log", "ab") as journal:
        journal.write(b'{"op_code": 4')
    with search_journal.owned(tmp_path), pytest.raises(RecordError, match="another process searches"):
        tuning.run(search, dataset, tmp_path)
    (tmp_path / "journal.log.lock").symlink_to("journal.log")
    found = tuning.run(search, dataset, tmp_path, on_trial=lambda done, of: told.append((done, of)))
    assert found["complete"] == 4
    assert told[-1] == (4, 4)
    with open(tmp_path / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * 4
    best = max(rows, key=lambda row: float(row["headline"]))
    assert found["best"]["values"] == [float(best["headline"])]
    lines = (tmp_path / "best.flags").read_text().splitlines()
    assert f"--client_learning_rate={best['client_learning_rate']}" in lines
    assert "--rounds=2" in lines
    assert tuning.run(search, dataset, tmp_path)["rows"] == found["rows"]  # finished: nothing is tried again
    with pytest.raises(RecordError, match="differs in validation"):
        tuning.run(dataclasses.replace(search, validation=0.4), dataset, tmp_path)
    page = search_page.write(tmp_path, found).read_text()
    assert "Every trial" in page
    assert (tmp_path / "plots" / "search_history.png").stat().st_size > 1000
    assert "best: trial" in search_page.text(found)


def test_no_more_settings_are_tried_than_were_asked_or_paid_for(tmp_path):
    """Two processes that both see one trial to go try one, not two: the choice among more would not be paid for."""
    search = Search(BASE, RATES, trials=2, pruner="none")
    tuning.run(search, toy.hospitals(), tmp_path)
    study = search_journal.study(tmp_path, [True], **SAMPLED)
    assert search_journal.done(study) == 2
    late = study.ask()
    assert search_journal.surplus(study, late, 2)
    assert not search_journal.surplus(study, late, 3)


@pytest.mark.parametrize("upward", [[True], [True, False]])
def test_processes_that_search_together_try_different_settings_and_a_later_one_goes_on(upward, tmp_path):
    """Each process has its own sampler: proposals follow from the number of the trial, not from who asks."""

    def proposals(folder, processes):
        folder.mkdir()
        studies = [search_journal.study(folder, upward, **SAMPLED) for _ in range(processes)]
        found = []
        for number in range(12):
            trial = studies[number % processes].ask()
            found.append(RATES[0].suggest(trial))
            studies[number % processes].tell(trial, [found[-1]] * len(upward))
        return found

    together = proposals(tmp_path / "two", 2)
    assert len(set(together)) == 12
    assert together == proposals(tmp_path / "one", 1)


@pytest.mark.slow
def test_several_objectives_have_a_front_and_trials_that_fail_say_why(tmp_path):
    private = METHODS["dp_sgd"].plan(BASE, None).replace(privacy={"noise_multiplier": 1.0, "delta": 1e-2})
    search = Search(
        private,
        (parse_axis("batch_size:2|8"), parse_axis("noise_multiplier:0.5:4")),
        trials=4,
        aims=("headline", "epsilon", "bytes"),
    )
    found = tuning.run(search, toy.hospitals(), tmp_path)
    assert {row["trial"] for row in found["rows"]} >= set(found["pareto_front"])
    for row in found["rows"]:
        better = [
            other
            for other in found["rows"]
            if other["headline"] > row["headline"] and other["epsilon"] < row["epsilon"]
        ]
        assert (row["trial"] in found["pareto_front"]) <= (not better)
    assert "public" in found["privacy"] or "leaves the search out" in found["privacy"]
    broken = Search(BASE, (parse_axis("client_learning_rate:1e30:1e31"),), trials=2, pruner="none")
    with pytest.raises(Failure, match="no trial of 2"):
        tuning.run(broken, toy.hospitals(), tmp_path / "broken")


def test_settings_that_were_searched_on_other_data_are_refused(tmp_path, capsys):
    lines = "--dataset=heart_disease\n--tuned_on=heart_disease\n--aggregator=mean\n"
    (tmp_path / "best.flags").write_text(lines)
    given = ["train", f"--flagfile={tmp_path / 'best.flags'}", "--dataset=digits", f"--run_dir={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as ended:
        front_door.main("train", given)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "is not the data set of this run, digits" in shown
    assert "search again with tune" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_search_on_heart_disease_is_not_below_what_was_published_for_it(tmp_path):
    """Federated rows of Ogier du Terrail et al. 2022 reach .7314 at most (mean of four hospitals' tests, 5 seeds)."""
    base = METHODS["weighted_mean"].plan(presets.preset("heart_disease"), None)
    dataset = baselines.load(base.data)
    found = tuning.run(Search(base, default_axes(base), trials=12), dataset, tmp_path)
    best = tuning.planned(Search(base, default_axes(base)), found["best"]["settings"])
    runs = train_seeds([best.replace(seed=seed) for seed in (42, 43, 44, 45, 46)], dataset)
    values = np.array([run.summary["accuracy_mean"] for run in runs])
    assert values.mean() + 2.776 * values.std(ddof=1) / np.sqrt(5) >= 0.7314  # 2.776: Student's t, 4 degrees, 95 %
    assert values.mean() > 0.72  # nor saved by a wide interval


def test_a_comparison_understands_the_flag_file_of_a_search(tmp_path, capsys):
    (tmp_path / "best.flags").write_text("--dataset=heart_disease\n--tuned_on=digits\n--aggregator=mean\n")
    given = ["compare", f"--flagfile={tmp_path / 'best.flags'}", "--aggregators=mean", f"--run_dir={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as ended:
        front_door.main("compare", given)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "drop --aggregators" in shown
    assert "search again with tune" in shown


class Cluster:
    """Stands for a connection to Ray: what is handed out is kept, and answered when it is asked for."""

    def __init__(self, answers):
        self.ray, self.processors, self.errors = self, 3, (RuntimeError,)
        self.answers, self.handed_out, self.closed = answers, [], False

    def remote(self, *of):
        if of == (tune_command.try_settings,):
            return self
        self.handed_out.append(of)
        return len(self.handed_out)

    def options(self, **_):
        return self

    def get(self, running):
        assert not self.closed
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers[: len(running)]

    def close(self):
        self.closed = True


@pytest.fixture
def cluster(monkeypatch):
    def made(answers):
        there = Cluster(answers)
        monkeypatch.setattr(connection, "Connection", lambda **_: there)
        return there

    monkeypatch.setattr(sys, "argv", ["tune.py", "--trials=4", "--runtime=cluster"])
    return made


def test_trials_are_tasks_of_a_cluster_and_one_that_fails_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = cluster([(0, ""), (0, "")])
    with tune_command._tasks(None, {}):
        assert there.handed_out == 2 * [
            (["--trials=4", "--runtime=cluster", "--helper", "--progress=false"], str(tmp_path))
        ]
    assert there.closed
    there = cluster([(0, ""), (2, "error: no such data")])
    with pytest.raises(Failure, match=r"1 of 2 tasks ended.*no such data.*goes on"), tune_command._tasks(None, {}):
        pass
    there = cluster(RuntimeError("the machine is gone"))
    with pytest.raises(Failure, match="lost: the machine is gone"), tune_command._tasks(2, {}):
        assert len(there.handed_out) == 1
    assert there.closed
    there = cluster([])
    with pytest.raises(ZeroDivisionError), tune_command._tasks(1, {}):
        raise ZeroDivisionError
    assert there.handed_out == []
    assert there.closed


def test_a_task_tries_settings_beside_the_search_that_began(tmp_path, monkeypatch):
    """What a machine of the cluster runs, with paths that start from the folder of the command."""
    monkeypatch.setattr(baselines, "load", lambda data: toy.hospitals())
    before = pathlib.Path.cwd()
    words = [
        "--rounds=1",
        "--local_steps=1",
        "--search=client_learning_rate:0.01:0.3:log",
        "--trials=2",
        "--run_dir=run",
    ]
    words += ["--pruner=none", "--runtime=cluster", "--helper", "--progress=false"]
    assert tune_command.try_settings(words, str(tmp_path)) == (0, "")
    study = search_journal.study(tmp_path / "run", [True], seed=0, pruner="none", rounds=1)
    assert search_journal.done(study) == 2
    code, said = tune_command.try_settings([*words, "--validation=2"], str(tmp_path))
    assert code == command.REFUSED
    assert "validation" in said
    assert pathlib.Path.cwd() == before
