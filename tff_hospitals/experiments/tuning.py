"""A search for settings of one method, on records held out of training; test records are never looked at.

Optuna proposes settings (Akiba et al. 2019, arXiv:1907.10902): TPE for one objective, NSGA-II for several. Its journal
is a file of the run directory, so that a search goes on after any kill and several processes share it. A trial trains
the plan on a part of each hospital's training records and is judged on the rest.

Choosing settings by private records costs privacy. A search says one of three things of it: the records are public (or
those of another, public data set); the choice is paid for (`selected_from`: as many trials as a geometric distribution
says, Papernot and Steinke 2022, arXiv:2110.03620); or its epsilon leaves the search out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.experiments import search_journal
from tff_hospitals.experiments.search_space import Axis
from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Failure, Problem, counted, in_range, one_of, raise_if, whole_number
from tff_hospitals.plan import mechanisms, options, review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.metrics import METRICS, default_headline

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.training.results import Run

QUESTION, TRIALS, BEST, SUMMARY = "search.json", "trials.csv", "best.flags", "summary.json"
PRUNERS = ("none", "median", "hyperband")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a search wants more or less of.

    Attributes:
      name: as flags say it.
      words: for tables and pictures.
      up: whether more is better.
      value: of a finished run, given the headline metric.
    """

    name: str
    words: str
    up: bool
    value: Callable[[Run, str], float]


def _headline(run: Run, metric: str) -> float:
    mean = run.summary[f"{metric}_mean"]
    return math.nan if mean is None else float(mean)


def _worst(run: Run, metric: str) -> float:
    known = [value for value in run.summary[f"{metric}_per_hospital"].values() if not math.isnan(value)]
    worst = min if METRICS[metric].higher_is_better else max
    return float(worst(known)) if known else math.nan


def objectives(metric: str) -> dict[str, Objective]:
    """Every objective, for a headline metric."""
    label, up = METRICS[metric].label, METRICS[metric].higher_is_better
    return {
        one.name: one
        for one in (
            Objective("headline", f"{label}, mean of the hospitals", up, _headline),
            Objective("worst", f"{label} at the worst hospital", up, _worst),
            Objective(
                "bytes",
                "bytes, all hospitals",
                False,
                lambda run, _: run.summary["bytes_up"] + run.summary["bytes_down"],
            ),
            Objective("seconds", "seconds of a round", False, lambda run, _: run.summary["seconds_per_round"]),
            Objective("epsilon", "epsilon", False, lambda run, _: run.summary["epsilon"]),
        )
    }


OBJECTIVES = ("headline", "worst", "bytes", "seconds", "epsilon")


@dataclasses.dataclass(frozen=True)
class Search:
    """A search.

    Attributes:
      plan: the method's, with everything that is not searched.
      axes: what is searched.
      trials: how many are tried; None where `selected_from` draws their number.
      aims: names of objectives; the first one decides ties.
      seeds: of each trial; its value is the mean.
      validation: share of each hospital's training records that judges.
      pruner: ends trials early that promise little (one objective only).
      seed: of the proposals.
      public: whether the records may be looked at as often as one likes (a tuning data set, or public ones).
      fixed: flags that were given, for the flag file.
    """

    plan: Plan
    axes: tuple[Axis, ...]
    trials: int | None = 40
    aims: tuple[str, ...] = ("headline",)
    seeds: int = 1
    validation: float = 0.25
    pruner: str = "median"
    seed: int = 0
    public: bool = False
    fixed: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """What is wrong with it before data are looked at."""
        found = [one_of("objective", name, OBJECTIVES) for name in self.aims]
        found += [
            one_of("pruner", self.pruner, PRUNERS),
            whole_number("seeds_per_trial", self.seeds, low=1, remedy="give 1 or more"),
            in_range(
                "validation",
                self.validation,
                low=0.0,
                low_open=True,
                high=0.9,
                remedy="give the share of training records that judges, such as .25",
            ),
        ]
        if self.trials is not None:
            found.append(whole_number("trials", self.trials, low=1, remedy="give 1 or more"))
        selected = self.plan.privacy.selected_from
        if selected > 1 and self.trials is not None:
            bound = f"is drawn from a geometric distribution of mean {selected:g}, as --selected_from promises"
            found.append(Problem("trials", self.trials, bound, "drop --trials, or drop --selected_from"))
        if selected <= 1 and self.trials is None:
            found.append(Problem("trials", None, "must be given", "give --trials=40"))
        if not self.aims:
            found.append(Problem("objective", "", "names nothing", "give --objective=headline"))
        if "epsilon" in self.aims and not mechanisms.of(self.plan.privacy).private:
            bound = "is reported by private methods only"
            found.append(Problem("objective", "epsilon", bound, "drop it, or take --aggregator=dp_sgd"))
        return [problem for problem in found if problem is not None]

    def question(self) -> dict[str, Any]:
        """What a run directory is known by: a search that goes on must be the same one."""
        axes = [[axis.option.flag, axis.low, axis.high, axis.logarithmic, list(axis.values)] for axis in self.axes]
        return files.plain(
            {
                "schema_version": 1,
                "plan": self.plan.to_json(),
                "axes": axes,
                "aims": list(self.aims),
                "seeds": self.seeds,
                "validation": self.validation,
                "pruner": self.pruner,
                "seed": self.seed,
                "public": self.public,
            }
        )


def held_out(dataset: HospitalDataset, share: float, seed: int) -> HospitalDataset:
    """The hospitals with a part of their training records as test part; their own test records are nowhere in it.

    Which side a record is on follows from its place alone, so that another record's absence moves nobody.

    Raises:
      InvalidInput: a hospital without records on either side.
    """
    from tff_hospitals.hospitals import Part

    hospitals, problems = [], []
    for one in dataset.hospitals:
        draws = Streams.from_seed(seed).child("validation", one.hospital_id).generator().random(one.train.records)
        judges = draws < share
        if judges.all() or not judges.any():
            bound = f"leaves {one.hospital_id} ({counted(one.train.records, 'training record')}) with one side empty"
            remedy = "give another share, or tune without the hospital (a folder without its file)"
            problems.append(Problem("validation", share, bound, remedy))
            continue
        features, labels = np.asarray(one.train.features), np.asarray(one.train.labels)
        parts = (Part(features[side], labels[side]) for side in (~judges, judges))
        train, test = parts
        hospitals.append(dataclasses.replace(one, train=train, test=test))
    raise_if(problems)
    return dataclasses.replace(dataset, hospitals=tuple(hospitals))


def headline_metric(dataset: HospitalDataset) -> str:
    """The metric that a comparison of these hospitals would rank by, told from training labels."""
    if dataset.task == "regression":
        return default_headline(dataset.task, {})[0]
    classes, counts = np.unique(np.concatenate([one.train.labels for one in dataset.hospitals]), return_counts=True)
    return default_headline(dataset.task, {int(one): int(count) for one, count in zip(classes, counts)})[0]


def trials_of(search: Search, folder: pathlib.Path) -> int:
    """How many trials there are: as asked, or drawn once (and written down) before the first one."""
    if search.trials is not None:
        return search.trials
    path = folder / "number_of_trials.json"
    if path.exists():
        return int(files.read_json(path)["trials"])
    below = math.log1p(-1 / search.plan.privacy.selected_from)  # log of the chance that another trial follows
    draw = float(Streams.from_operating_system().generator().random(1)[0])
    count = 1 + int(math.log1p(-draw) / below)
    files.write_json(path, {"trials": count, "mean": search.plan.privacy.selected_from, "distribution": "geometric"})
    return count


def run(
    search: Search,
    dataset: HospitalDataset,
    folder: pathlib.Path,
    *,
    runtime: str = "compiled",
    on_trial: Callable[[int, int], None] | None = None,
    helps: bool = False,
    beside: contextlib.AbstractContextManager[None] | None = None,
) -> dict[str, Any]:
    """Searches, or goes on where a search in `folder` got to; writes trials.csv, best.flags and summary.json.

    Args:
      search: what to search.
      dataset: the hospitals; lazy ones are refused.
      folder: the run directory.
      runtime: see `training.loop.train`.
      on_trial: called with the trials done so far and the number of all.
      helps: tries settings beside another process that began the search, and leaves its end to that.
      beside: entered when the search is open to other processes, left when they have to come to their end.

    Returns:
      What summary.json holds.

    Raises:
      InvalidInput: a bad search or plan, before any trial.
      RecordError: a folder of another search.
      Failure: when no trial could be trained.
    """
    import optuna

    problems = [*search.problems(), *review.problems(search.plan, dataset)]
    if dataset.recipe:
        bound = "reads its records when they are needed, and a search holds some of them out"
        problems.append(Problem("dataset", dataset.name, bound, "search on a smaller data set that fits into memory"))
    raise_if(problems)
    metric = headline_metric(dataset)
    known = objectives(metric)
    aims = [known[name] for name in search.aims]
    within = held_out(dataset, search.validation, search.seed)
    folder.mkdir(parents=True, exist_ok=True)
    _same_question(search, folder)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    count = trials_of(search, folder)
    with contextlib.nullcontext() if helps else search_journal.owned(folder):
        study = search_journal.study(
            folder, [aim.up for aim in aims], seed=search.seed, pruner=search.pruner, rounds=search.plan.rounds
        )
        if not helps:
            search_journal.take_up_again(study)

        def one_trial(trial: Any) -> Any:
            if search_journal.surplus(study, trial, count):
                study.stop()
                raise Failure(f"{count} settings are being tried already")
            return _value_of(trial, search, within, metric, aims, runtime)

        def told(study: Any, trial: Any) -> None:
            if not helps:
                _write_trials(study, search, aims, folder)
            if on_trial is not None:
                on_trial(search_journal.done(study), count)
            if search_journal.done(study) >= count:
                study.stop()

        rest = count - search_journal.done(study)
        if rest > 0:
            with beside or contextlib.nullcontext():
                study.optimize(one_trial, n_trials=rest, callbacks=[told], catch=(Failure, ArithmeticError))
        return {} if helps else _finish(study, search, aims, metric, dataset, folder, count)


def _same_question(search: Search, folder: pathlib.Path) -> None:
    path, question = folder / QUESTION, search.question()
    if not path.exists():
        files.write_json(path, question)
        return
    before = files.read_json(path)
    if before != question:
        differ = ", ".join(name for name in question if before.get(name) != question[name])
        raise files.RecordError(
            f"{folder} holds another search (it differs in {differ}). Remedy: name another --run_dir, or ask as before."
        )


def planned(search: Search, values: Mapping[str, Any]) -> Plan:
    """The plan of a trial."""
    return options.apply(search.plan, values)


def _value_of(
    trial: Any,
    search: Search,
    dataset: HospitalDataset,
    metric: str,
    aims: Sequence[Objective],
    runtime: str,
) -> Any:
    import optuna

    from tff_hospitals.training.loop import train

    plan = planned(search, {axis.option.flag: axis.suggest(trial) for axis in search.axes})
    refused = review.problems(plan, dataset)
    if refused:
        trial.set_user_attr("failed", str(refused[0]))
        raise Failure(str(refused[0]))
    up, found = METRICS[metric].higher_is_better, []
    started = time.perf_counter()
    for number in range(search.seeds):

        def after_round(progress: Any, first: bool = number == 0) -> None:
            value = progress.accuracy if metric == "accuracy" else None
            value = -progress.loss if value is None and progress.loss is not None else value
            if not first or len(aims) > 1 or value is None:
                return
            trial.report(value if up else -value, progress.round)
            if trial.should_prune():
                raise optuna.TrialPruned

        # Noise of different trials is independent: it follows from the whole plan and from this seed.
        seeded = dataclasses.replace(plan, seed=search.seed + 1000 * trial.number + number)
        try:
            result = train(seeded, dataset, runtime=runtime, on_round=after_round)
        except (Failure, ArithmeticError) as error:
            trial.set_user_attr("failed", str(error))
            raise
        found.append([aim.value(result, metric) for aim in aims])
    trial.set_user_attr("seconds", time.perf_counter() - started)
    values = [statistics.fmean(column) for column in zip(*found)]
    if any(math.isnan(value) for value in values):
        trial.set_user_attr("failed", f"{metric} is undefined on the validation records")
        raise Failure(f"{metric} is undefined on the validation records: give more of them (--validation)")
    return values[0] if len(values) == 1 else values


def _rows(study: Any, search: Search, aims: Sequence[Objective]) -> list[dict[str, Any]]:
    rows = []
    for trial in study.trials:
        if search_journal.cut_short(trial) or not trial.state.is_finished():
            continue
        values = list(trial.values or []) if trial.state.name == "COMPLETE" else []
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **{aim.name: values[place] if values else "" for place, aim in enumerate(aims)},
                **{axis.option.flag: trial.params.get(axis.option.flag, "") for axis in search.axes},
                "seconds": trial.user_attrs.get("seconds", ""),
                "reason": trial.user_attrs.get("failed", ""),
            }
        )
    return rows


def _write_trials(study: Any, search: Search, aims: Sequence[Objective], folder: pathlib.Path) -> None:
    import csv
    import io

    rows, text = _rows(study, search, aims), io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        files.write_bytes(folder / TRIALS, text.getvalue().encode())


def _finish(
    study: Any,
    search: Search,
    aims: Sequence[Objective],
    metric: str,
    dataset: HospitalDataset,
    folder: pathlib.Path,
    count: int,
) -> dict[str, Any]:
    rows = _rows(study, search, aims)
    _write_trials(study, search, aims, folder)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not complete:
        reasons = sorted({row["reason"] for row in rows if row["reason"]})
        raise Failure(f"no trial of {len(rows)} could be trained: {'; '.join(reasons) or 'all were ended early'}.")
    first = aims[0]
    best = (max if first.up else min)(complete, key=lambda trial: trial.values[0])
    front = [trial.number for trial in study.best_trials]
    importance = {}
    if len(complete) > 3 and len(search.axes) > 1:
        import optuna

        target = (lambda trial: trial.values[0]) if len(aims) > 1 else None
        with contextlib.suppress(RuntimeError, ValueError):  # all values alike
            importance = optuna.importance.get_param_importances(study, target=target)
    failed = [row for row in rows if row["state"] == "fail"]
    summary = {
        "schema_version": 1,
        "dataset": dataset.name,
        "method": search.plan.method,
        "headline": metric,
        "objectives": [{"name": aim.name, "words": aim.words, "higher_is_better": aim.up} for aim in aims],
        "trials": count,
        "complete": len(complete),
        "pruned": sum(row["state"] == "pruned" for row in rows),
        "failed": len(failed),
        "best": {"trial": best.number, "values": list(best.values), "settings": dict(best.params)},
        "pareto_front": front,
        "importance": dict(importance),
        "privacy": privacy_words(search, dataset),
        "rows": rows,
    }
    files.write_bytes(folder / BEST, best_flags(search, best.params).encode())
    files.write_json(folder / SUMMARY, files.plain(summary))
    return summary


def best_flags(search: Search, values: Mapping[str, Any]) -> str:
    """A flag file for `train`: the method on its data, with the settings that were found."""
    name = search.plan.data.name
    lines = [f"--dataset={name}", f"--tuned_on={name}", f"--aggregator={search.plan.method}", *search.fixed]
    for name, value in values.items():
        lines.append(f"--{name}={json.dumps(value) if isinstance(value, bool) else value}")
    return "\n".join(lines) + "\n"


def privacy_words(search: Search, dataset: HospitalDataset) -> str:
    """What the search costs, in one sentence."""
    if not mechanisms.of(search.plan.privacy).private:
        return "No method with a guarantee: nothing is promised for the records that were searched on."
    if search.public or dataset.secret.public:
        return "The records that were searched on are public: the choice of settings costs no privacy."
    if search.plan.privacy.selected_from > 1:
        return (
            f"Epsilon covers the choice: the number of trials was drawn from a geometric distribution of mean "
            f"{search.plan.privacy.selected_from:g} before the first one (Papernot and Steinke 2022)."
        )
    return (
        "Epsilon of a run with these settings leaves the search out: every trial saw the private records, at its own "
        "epsilon. Remedy: --tuning_dataset with public records, or --selected_from."
    )
