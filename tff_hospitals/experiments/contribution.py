"""What each hospital adds, and how unlike hospitals are: training without each of them, their updates, their records.

A hospital's contribution is the headline metric of the model that all trained together minus that of the model without
the hospital, on the same test records with the same seeds (leave one out); above 0 the others are better off with it,
whichever way the metric goes. Intervals are those of a paired bootstrap over patients and seeds (`intervals`).

What records and updates of a private plan say outside of a guarantee is not computed, or lies in `inside/`: updates of
single hospitals are not looked at, and counts are noised and charged, or not shown.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.accounting import Ledger, MechanismEvent
from tff_hospitals.experiments import sweep
from tff_hospitals.experiments.intervals import METRICS, Drawn, Resamples, headline_of, interval
from tff_hospitals.experiments.methods import Method
from tff_hospitals.experiments.outcome import joint_of, patients_of
from tff_hospitals.experiments.runner import MethodRunner, RunResult
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem, in_range, one_of, raise_if, whole_number
from tff_hospitals.hospitals import shift
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.checks.own_models import nobodys
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports import contribution_page
from tff_hospitals.reports.contribution_page import RESULT
from tff_hospitals.training import heterogeneity
from tff_hospitals.training.charges import Charge
from tff_hospitals.training.loop import build_model
from tff_hospitals.training.metrics import mean_of
from tff_hospitals.training.odometer import Odometer, division_of
from tff_hospitals.training.published_fields import INSIDE
from tff_hospitals.training.published_table import is_private
from tff_hospitals.training.releases import planned_ledger
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_streams import release_name, run_streams
from tff_hospitals.training.updates import UpdateFolder

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

COUNTS, QUESTION = "noised_counts.json", "question.json"
_ROUNDS_LOOKED_AT = 20
_EFFECT_COLUMNS = (
    *("hospital", "train_records", "with_all", "without", "contribution", "low", "high"),
    *("own", "own_low", "own_high", "others"),
)
_LABEL_COLUMNS = ("hospital", "total_variation", "jensen_shannon")
_SHIFT_COLUMNS = ("hospital", "column", "mean_difference", "stability_index")


@dataclasses.dataclass(frozen=True)
class Contribution:
    """What is asked.

    Attributes:
      method: how hospitals train together.
      plan: its plan.
      seeds: of every federation.
      left_out: the hospitals that are left out in turn; empty: each of them.
      headline: the metric; None: the one that a comparison would rank by.
      store_updates: look at updates of every k-th round, and keep them; None: of some rounds, and delete them.
      counts_noise_multiplier: of the counts that shifts are told from; None: exact ones, or none where privacy is on.
      max_total_epsilon: the limit on all releases about these data together.
      command: how to do it again.
    """

    method: Method
    plan: Plan
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    headline: str | None = None
    store_updates: int | None = None
    counts_noise_multiplier: float | None = None
    max_total_epsilon: float | None = None
    command: str = ""

    def problems(self, dataset: HospitalDataset) -> list[Problem]:
        """What is wrong with it."""
        found = [whole_number("seeds", seed, low=0, remedy="give whole numbers of 0 or more") for seed in self.seeds]
        found += [one_of("left_out", one, dataset.ids) for one in self.left_out]
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            found.append(Problem("seeds", self.seeds, "must be one or more different numbers", "name each seed once"))
        if len(dataset.ids) < 2:
            remedy = "take a data set of two or more hospitals"
            found.append(Problem("dataset", dataset.name, "has one hospital, which nobody can do without", remedy))
        if self.headline is not None:
            known = [name for name, metric in METRICS.items() if dataset.task in metric.tasks]
            found.append(one_of("headline", self.headline, known))
        if not sum(dataset.records(train=False).values()):
            bound, remedy = (
                "has no test records, by which a contribution is told",
                "keep some (--data_option=test_fraction=.2)",
            )
            found.append(Problem("dataset", dataset.name, bound, remedy))
        found += nobodys(self.plan, ["who is left out"])
        hidden = heterogeneity.why_not_shown(self.plan)
        if self.store_updates is not None and hidden is not None:
            found.append(Problem("store_updates", self.store_updates, f"is {hidden}", "drop it"))
        noise = self.counts_noise_multiplier
        if noise is not None:
            remedy = "give a positive number such as 2"
            found.append(in_range("counts_noise_multiplier", noise, low=0.0, low_open=True, remedy=remedy))
            found.append(shift.noise_problem(dataset, noise))
            if mechanisms.hospital_level(self.plan.privacy).private:
                bound = "protects records, and the plan's guarantee is for whole hospitals"
                found.append(Problem("counts_noise_multiplier", noise, bound, "drop it: shifts are then not shown"))
        return [problem for problem in found if problem is not None]


def run(
    asked: Contribution,
    dataset: HospitalDataset,
    folder: pathlib.Path,
    *,
    runtime: str = "compiled",
    on_run: Callable[[str, int, int], None] | None = None,
    runtime_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains with all and without each, and writes contribution.json and its tables; goes on where it got to.

    Args:
      asked: what is asked.
      dataset: the hospitals.
      folder: the run directory.
      runtime: see `training.loop.train`; on a cluster every run is a task.
      on_run: called before each run with its name, its number and how many there are.
      runtime_options: of the cluster.

    Returns:
      What contribution.json holds.

    Raises:
      InvalidInput: all problems at once, before anything is trained.
      RecordError: a folder of another question.
    """
    hidden = heterogeneity.why_not_shown(asked.plan)
    every = asked.store_updates or max(1, asked.plan.rounds // _ROUNDS_LOOKED_AT)
    models: dict[str, Any] = {}
    runners = {
        one: MethodRunner(
            asked.method,
            asked.plan,
            dataset,
            asked.method.runs_on or runtime,
            folder / "runs",
            None,
            store_updates=every if one is None and hidden is None else None,
            max_total_epsilon=asked.max_total_epsilon,
            left_out=one,
            models=models,
        )
        for one in (None, *(asked.left_out or dataset.ids))
    }
    raise_if([*asked.problems(dataset)])
    raise_if(list(dict.fromkeys(itertools.chain(*(runner.problems() for runner in runners.values())))))
    if _there(asked, dataset, folder):
        return contribution_page.read(folder)
    counts, released = _counts(asked, dataset, folder, lambda: _planned(runners.values(), asked.seeds))
    jobs = [(runner, asked.seeds) for runner in runners.values()]
    runs, numbers = sweep.start(runtime, jobs, runtime_options), itertools.count(1)
    results: dict[str | None, list[RunResult]] = {}
    for one, runner in runners.items():

        def started(seed: int, runner: MethodRunner = runner) -> None:
            if on_run is not None:
                on_run(runner.name(seed), next(numbers), len(jobs) * len(asked.seeds))

        results[one] = runs.rows(runner, asked.seeds, started)
    runs.close()
    metric, why = (asked.headline, "asked for") if asked.headline else headline_of(results[None][0].predictions)
    effects, matrix = _effects(results, dataset, metric, len(asked.seeds))
    drift = _drift(runners[None], asked.seeds, dataset) if hidden is None else ([], [])
    ledgers = [*released, *(result.ledger for of in results.values() for result in of)]
    private = [ledger for ledger in ledgers if ledger.units()]
    found = files.plain(
        {
            "schema_version": 1,
            "status": "finished",
            "command": asked.command,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "dataset": dataset.describe(),
            "method": asked.method.label,
            "private": is_private(asked.plan),
            "seeds": list(asked.seeds),
            "rounds": asked.plan.rounds,
            "headline": metric,
            "headline_reason": why,
            "hospitals": effects,
            "effect_at": matrix,
            "drift": {"not_shown": hidden, "hospitals": drift[0], "rounds": drift[1]},
            "shift": _shift(counts, asked, dataset),
            "joint_epsilon": joint_of(private, len(ledgers) - len(private)),
            "warnings": list(dict.fromkeys(text for result in results[None] for text in result.row["warnings"])),
        }
    )
    _write(asked, dataset, folder, found)
    if asked.store_updates is None and hidden is None:  # single updates are as sensitive as records
        for seed in asked.seeds:
            shutil.rmtree(runners[None].folder / runners[None].name(seed) / "updates", ignore_errors=True)
    return found


def _there(asked: Contribution, dataset: HospitalDataset, folder: pathlib.Path) -> bool:
    """Whether the folder holds the answer; a free folder is claimed.

    Raises:
      RecordError: it holds another question.
    """
    words = {**dataclasses.asdict(asked), "plan": asked.plan.to_json(), "method": asked.method.name}
    for name in ("command", "max_total_epsilon"):
        del words[name]
    question = files.plain({**words, "data": dataset.fingerprint()})
    path = folder / QUESTION
    begun = any((folder / name).exists() for name in ("runs", COUNTS))  # else the question was refused
    if not path.exists() or not begun:
        if folder.is_dir() and any(one != path for one in folder.iterdir()):
            raise files.RecordError(f"{folder} holds something else. Remedy: name another --run_dir.")
        files.write_json(path, question)
        return False
    before = files.read_json(path)
    if before != question:
        differ = ", ".join(name for name in question if before.get(name) != question[name])
        raise files.RecordError(
            f"{folder} holds another question: it differs in {differ}. Remedy: name another --run_dir, or ask as then."
        )
    return contribution_page.holds(folder)


def _effects(
    results: Mapping[str | None, Sequence[RunResult]], dataset: HospitalDataset, metric: str, seeds: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float | None]]]:
    """A row for each hospital that was left out, and its effect at every hospital."""
    resamples, sign = Resamples([patients_of(dataset)], seeds), 1.0 if METRICS[metric].higher_is_better else -1.0
    drawn = {one: resamples.draw(METRICS[metric], [run.predictions for run in runs]) for one, runs in results.items()}
    at = {one: _at_hospitals(runs, metric, dataset.ids) for one, runs in results.items()}
    rows, matrix = [], {}
    for one in results:
        if one is None:
            continue
        effect = {name: _minus(at[None][name], at[one][name], sign) for name in dataset.ids}
        low, high = interval(sign * (drawn[None].scores - drawn[one].scores)) or (None, None)
        own_low, own_high = _own_interval(drawn, one, sign)
        both = mean_of(at[None].values()), mean_of(at[one].values())
        matrix[one] = effect
        rows.append(
            {
                "hospital": one,
                "train_records": dataset.hospital(one).train.records,
                "with_all": both[0],
                "without": both[1],
                "contribution": _minus(*both, sign),
                "low": low,
                "high": high,
                "own": effect[one],
                "own_low": own_low,
                "own_high": own_high,
                "others": mean_of(value for name, value in effect.items() if name != one),
            }
        )
    return rows, matrix


def _at_hospitals(runs: Sequence[RunResult], metric: str, ids: Sequence[str]) -> dict[str, float | None]:
    """The mean over seeds at each hospital."""
    return {one: mean_of(run.row[f"{metric}_per_hospital"].get(one) for run in runs) for one in ids}


def _own_interval(drawn: Mapping[str | None, Drawn], one: str, sign: float) -> tuple[float | None, float | None]:
    return interval(sign * (drawn[None].of_hospital(one) - drawn[one].of_hospital(one))) or (None, None)


def _minus(one: float | None, other: float | None, sign: float) -> float | None:
    return None if one is None or other is None else sign * (one - other)


def _drift(
    runner: MethodRunner, seeds: Sequence[int], dataset: HospitalDataset
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures of the updates of the federation of all, means over the seeds: by round and hospital, and by round."""
    by_records = runner.plan.weighting == "records"
    weights = {name: float(records) if by_records else 1.0 for name, records in dataset.records().items()}
    hospitals: dict[tuple[int, str], list[dict[str, Any]]] = {}
    rounds: dict[int, list[dict[str, Any]]] = {}
    for seed in seeds:
        kept = UpdateFolder(runner.folder / runner.name(seed))
        for number in kept.rounds():
            rows, together = heterogeneity.measured(kept.read(number), weights)
            rounds.setdefault(number, []).append(together)
            for row in rows:
                hospitals.setdefault((number, row["hospital"]), []).append(row)
    return [_mean_row(rows) for rows in hospitals.values()], [_mean_row(rows) for rows in rounds.values()]


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (int, str)) else mean_of(row[name] for row in rows)
        for name, value in rows[0].items()
    }


def _planned(runners: Iterable[MethodRunner], seeds: Sequence[int]) -> Iterator[Charge]:
    """What the runs of a question will release at most."""
    for runner in runners:
        for seed in seeds:
            plan, dataset = runner.plan.replace(seed=seed), runner.trained
            model, noise = build_model(plan, dataset), noise_plan.make(plan, dataset)
            cohort = RoundDrawer(plan, dataset, noise, run_streams(plan, dataset, model)).cohort
            name, words = release_name(plan, dataset, model), {"division": division_of(dataset)}
            yield Charge(name, name, plan.rounds, planned_ledger(plan, dataset, noise, cohort), words=words)


def _counts(
    asked: Contribution,
    dataset: HospitalDataset,
    folder: pathlib.Path,
    planned: Callable[[], Iterable[Charge]] = tuple,
) -> tuple[shift.Counts, list[Ledger]]:
    """What shifts are told from, and the ledger of its release where it is noised: charged before it is drawn.

    `planned` gives the charges of all runs of the question, for its limit.
    """
    noise = asked.counts_noise_multiplier
    if noise is None:
        return shift.counts(dataset), []
    ledger = Ledger(noise_plan.delta_of(asked.plan, dataset), noise_plan.adjacency_of(asked.plan.privacy))
    for one in dataset.ids:
        ledger.record("record", one, 0, MechanismEvent("gaussian", noise_multiplier=noise))
    path = folder / COUNTS
    charged = folder / "ledger.json"
    if charged.exists() and not path.exists():
        raise files.RecordError(
            f"{path} is missing, and what it held is charged ({charged}): drawn again it would be another release. "
            "Remedy: restore it, or name another --run_dir, which charges another release."
        )
    if path.exists():  # drawn again it would be another release
        kept = files.read_json(path)
        labels, columns = ({one: np.array(of) for one, of in kept[name].items()} for name in ("labels", "columns"))
        axes = tuple(shift.Axis(**axis) for axis in kept["axes"])
        return shift.Counts(labels, columns, axes, noise, tuple(kept["left_out"])), [ledger]
    name = secrets.token_hex(16)
    words = {"method": "noised counts of labels and columns", "unit": "record", "division": division_of(dataset)}
    charge = Charge(name, name, 0, ledger, settled=True, words=words)
    odometer = Odometer(dataset.secret)
    if asked.max_total_epsilon is not None:  # nothing is charged for a question that its limit does not let end
        raise_if(odometer.problems(asked.max_total_epsilon, charge, *planned()))
    odometer.charge(charge, asked.max_total_epsilon)
    files.write_json(charged, ledger.to_json())
    drawn = shift.counts(dataset, noise_multiplier=noise)
    files.write_json(path, files.plain(dataclasses.asdict(drawn)))
    return drawn, [ledger]


def _shift(found: shift.Counts, asked: Contribution, dataset: HospitalDataset) -> dict[str, Any]:
    """What is shown of how unlike the records are; of a private plan only what was noised."""
    why = None
    if mechanisms.hospital_level(asked.plan.privacy).private:
        why = "not shown: the plan protects whole hospitals, and counts of records say what is special of one"
    elif is_private(asked.plan) and found.noise_multiplier is None:
        why = "not shown: the plan protects records, and no epsilon covers exact counts; add --counts_noise_multiplier"
    if why is not None:
        return {"not_shown": why, "labels": [], "columns": [], "counts": {}}
    by_class = dataset.task != "regression"
    return {
        "not_shown": None,
        "noise_multiplier": found.noise_multiplier,
        "left_out": list(found.left_out),
        "labels": shift.label_rows(found),
        "columns": shift.column_rows(found),
        "counts": {one: list(of) for one, of in found.labels.items()} if by_class else {},
    }


def _write(asked: Contribution, dataset: HospitalDataset, folder: pathlib.Path, found: Mapping[str, Any]) -> None:
    """The tables, and last of all contribution.json; of a private plan all but what was noised goes inside.

    Effects are exact figures of test records, and warnings and sizes say what no epsilon covers.
    """
    place = folder / INSIDE if is_private(asked.plan) else folder
    files.write_csv(place / "contribution.csv", _EFFECT_COLUMNS, found["hospitals"])
    if found["drift"]["not_shown"] is None:
        files.write_csv(folder / "drift_by_hospital.csv", heterogeneity.HOSPITAL_COLUMNS, found["drift"]["hospitals"])
        files.write_csv(folder / "diversity.csv", heterogeneity.ROUND_COLUMNS, found["drift"]["rounds"])
    if found["shift"]["not_shown"] is None:
        _write_shift(folder, found["shift"]["labels"], found["shift"]["columns"])
    if is_private(asked.plan) or asked.counts_noise_multiplier is not None:
        exact = shift.counts(dataset)
        _write_shift(folder / INSIDE, shift.label_rows(exact), shift.column_rows(exact))
    files.write_json(place / RESULT, found)


def _write_shift(
    folder: pathlib.Path, labels: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]]
) -> None:
    files.write_csv(folder / "label_shift.csv", _LABEL_COLUMNS, labels)
    files.write_csv(folder / "feature_shift.csv", _SHIFT_COLUMNS, columns)
