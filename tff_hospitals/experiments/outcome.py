"""What a comparison found beyond its rows: the headline metric, intervals and differences, and the joint epsilon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.accounting import UNITS, Ledger, joint_ledger
from tff_hospitals.experiments import last_rounds
from tff_hospitals.experiments.intervals import METRICS, Drawn, Resamples, differences, headline_of, interval
from tff_hospitals.experiments.runner import RunResult
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports import seeds as seed_statistics
from tff_hospitals.training.convergence import NOT_CONVERGED
from tff_hospitals.training.evaluation import Evaluator
from tff_hospitals.training.metrics import Predictions
from tff_hospitals.training.results import Run

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


class Outcome:
    """Grows by one row after the other.

    Args:
      datasets: the hospitals, once for each split of their records.
      seeds: how many runs each method has on each split.
      headline: the metric asked for; None: the one that fits.
    """

    def __init__(self, datasets: Sequence[HospitalDataset], seeds: int, headline: str | None = None):
        self._asked = headline
        tested, trained = (sum(datasets[0].records(train=train).values()) for train in (False, True))
        self._resamples = Resamples([patients_of(one) for one in datasets], seeds, tested / max(1, trained))
        self._datasets = datasets
        self._class_counts: dict[str, dict[str, int]] = {}
        self._rows: list[dict[str, Any]] = []
        self._scores: list[np.ndarray | None] = []
        self._at_hospitals: list[np.ndarray | None] = []
        self._ledgers: list[Ledger] = []
        self._without_guarantee = 0
        self._headline: tuple[str, str] | None = None

    def enter(
        self,
        row: dict[str, Any],
        results: Sequence[RunResult] = (),
        plan: Plan | None = None,
        ledgers: Sequence[Ledger] = (),
        *,
        charged: bool = True,
    ) -> None:
        """Adds a row with what its runs predicted and released; without runs it was refused.

        Args:
          row: as tables show it.
          results: of its runs, split by split, each with all seeds.
          plan: of a method whose last rounds say whether it had come to its end.
          ledgers: of runs without a result; they count in the joint epsilon all the same.
          charged: whether these runs count in the joint epsilon; not those of a row before.

        Raises:
          validation.InvalidInput: the headline asked for does not exist for this task.
        """
        scores = at_hospitals = None
        if results:
            runs = [result.predictions for result in results]
            if self._headline is None:
                self._headline = self._choose(results[0])
                self._count_classes(runs)
            for name in dict.fromkeys((self._headline[0], "accuracy")):
                if runs[0].task in METRICS[name].tasks:
                    drawn = self._resamples.draw(METRICS[name], runs)
                    if name == self._headline[0]:
                        scores, at_hospitals = drawn.scores, np.array([drawn.of_hospital(one) for one in drawn.ids])
                    row.update(_intervals(name, drawn))
            if plan is not None:
                self._judge_the_end(row, [result.row["curve"] for result in results], plan)
        every = [*(result.ledger for result in results), *ledgers] if charged else []
        private = [ledger for ledger in every if ledger.units()]
        self._ledgers += private
        self._without_guarantee += len(every) - len(private)
        self._rows.append(row)
        self._scores.append(scores)
        self._at_hospitals.append(at_hospitals)

    def enter_again(self, results: Sequence[RunResult]) -> None:
        """Adds a second row of the runs that were entered last: what else was made of them, with no new release."""
        row = seed_statistics.aggregate_runs([result.row for result in results]).to_json()
        if "converged" in self._rows[-1]:
            row["converged"] = self._rows[-1]["converged"]
        self.enter(row, results, charged=False)

    def _count_classes(self, runs: Sequence[Predictions]) -> None:
        """Test records of each class by hospital, all splits together; a regression has none."""
        if runs[0].task == "regression":
            return
        seeds = max(1, len(runs) // len(self._datasets))
        for number, dataset in enumerate(self._datasets):
            labels, start = runs[min(number * seeds, len(runs) - 1)].labels, 0
            for one, records in dataset.records(train=False).items():
                counts = np.bincount(labels[start : start + records].astype(int), minlength=dataset.num_classes)
                known = self._class_counts.setdefault(one, {})
                known.update({str(k): known.get(str(k), 0) + int(count) for k, count in enumerate(counts)})
                start += records

    def _judge_the_end(self, row: dict[str, Any], curves: Sequence[last_rounds.Curve], plan: Plan) -> None:
        """Says of a row whether it had come to its end; one that had not is not ranked."""
        if self._headline is None or not last_rounds.known(curves):
            return
        rises = last_rounds.still_rising(curves, self._headline[0])
        row["converged"] = rises is None and row.get("converged") is not False
        if rises is not None:
            remedy = last_rounds.remedy(plan, row["stop_reason"])
            row["warnings"] = [*row["warnings"], f"{NOT_CONVERGED}, so it is not ranked: {rises}. Remedy: {remedy}."]

    def _choose(self, result: RunResult) -> tuple[str, str]:
        if self._asked is None:
            return headline_of(result.predictions)
        task = result.predictions.task
        known = ", ".join(name for name, metric in METRICS.items() if task in metric.tasks)
        bound = f"does not exist for a {task} target"
        fits = task in METRICS[self._asked].tasks
        raise_if([None if fits else Problem("headline", self._asked, bound, f"choose one of {known}")])
        return self._asked, "asked for by --headline"

    def fields(self) -> dict[str, Any]:
        """The fields of `summary.json`."""
        name, why = self._headline or ("accuracy", "")
        return {
            "rows": self._rows_with_gains(name),
            "headline": name,
            "headline_reason": why,
            "differences": differences(name, self._scores),
            "test_records_by_class": self._class_counts,
            "joint_epsilon": joint_of(self._ledgers, self._without_guarantee),
        }

    def _rows_with_gains(self, metric: str) -> list[dict[str, Any]]:
        """The rows; those that train together with what every hospital gains over training alone, above 0 is better.

        Both are tested on the same patients, so that the interval of a gain is that of a paired difference.
        """
        alone = next((k for k, row in enumerate(self._rows) if row.get("kind") == "local"), None)
        base = None if alone is None else self._at_hospitals[alone]
        if alone is None or base is None:
            return self._rows
        field, sign = f"{metric}_per_hospital", 1.0 if METRICS[metric].higher_is_better else -1.0
        rows = []
        for row, drawn in zip(self._rows, self._at_hospitals):
            if drawn is not None and row.get("kind") == "federated":
                ids = list(self._datasets[0].ids)
                both = {one: (row[field].get(one), self._rows[alone][field].get(one)) for one in ids}
                ends = {one: interval(sign * found) for one, found in zip(ids, drawn - base)}
                row = {
                    **row,
                    "gain_per_hospital": {
                        one: None if None in pair else sign * (pair[0] - pair[1]) for one, pair in both.items()
                    },
                    "gain_low_per_hospital": {one: end and end[0] for one, end in ends.items()},
                    "gain_high_per_hospital": {one: end and end[1] for one, end in ends.items()},
                }
            rows.append(row)
        return rows


def joint_of(ledgers: Sequence[Ledger], without_guarantee: int) -> dict[str, Any]:
    """The epsilon of everything that private runs released together, for each unit that one of them protects.

    Every private run has noise and secret batches of its own (`training.run_streams`), so that their ledgers compose;
    runs without a mechanism promise nothing and are counted apart.

    Args:
      ledgers: of the private runs.
      without_guarantee: how many others there are.
    """
    found: dict[str, Any] = {"runs": len(ledgers), "runs_without_guarantee": without_guarantee}
    if not ledgers:
        return found
    joint = joint_ledger(ledgers, delta=max(ledger.delta for ledger in ledgers))
    for unit in UNITS:
        if unit in joint.units():
            epsilon, worst = joint.worst_epsilon(unit)
            found[unit] = {
                "epsilon": epsilon if math.isfinite(epsilon) else None,
                "worst_hospital": worst,
                "delta": joint.delta,
                "adjacency": joint.adjacency,
                "conversion": "rdp",
            }
    return found


def over_patients(run: Run, dataset: HospitalDataset) -> dict[str, Any]:
    """The 95 % intervals over test patients of a single run, as the rows of a comparison name them.

    Args:
      run: finished.
      dataset: the hospitals that it was evaluated on.
    """
    found = Evaluator(run.model, dataset).predictions(run.weights, run.frozen)
    resamples = Resamples([patients_of(dataset)], seeds=1)
    fields: dict[str, Any] = {}
    for name in ("accuracy", "rmse") if len(found) else ():
        if found.task in METRICS[name].tasks:
            fields.update(_intervals(name, resamples.draw(METRICS[name], [found])))
    return fields


def patients_of(dataset: HospitalDataset) -> dict[str, Sequence[int]]:
    """A number for the patient of every test record, by hospital."""
    return {
        one.hospital_id: range(one.test.records) if one.test_patients is None else one.test_patients.tolist()
        for one in dataset.hospitals
    }


def _intervals(name: str, drawn: Drawn) -> dict[str, Any]:
    """The 95 % intervals of a metric, of the mean and at each hospital; None where it is not defined."""
    low, high = interval(drawn.scores) or (None, None)
    found: dict[str, Any] = {f"{name}_low": low, f"{name}_high": high}
    ends = {one: interval(drawn.of_hospital(one)) or (None, None) for one in drawn.ids}
    for place, side in enumerate(("low", "high")):
        found[f"{name}_{side}_per_hospital"] = {one: both[place] for one, both in ends.items()}
    return found
