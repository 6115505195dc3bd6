"""Running one method of a comparison with one seed: which data, which plan, where the files go."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.experiments import baselines
from tff_hospitals.experiments.methods import Method
from tff_hospitals.plan import Plan
from tff_hospitals.training.loop import build_model, train

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


@dataclasses.dataclass
class MethodRunner:
    """Runs a method's seeds; models and compiled programs are shared between them.

    Attributes:
      method: what to run.
      plan: its plan; the seed is replaced by each run's.
      dataset: the hospitals.
      runtime: `compiled` or `native`.
      folder: where run directories go.
      baseline_epochs: epochs of the pooled and local baselines.
      store_updates: keep every hospital's update of every k-th round, for audits.
    """

    method: Method
    plan: Plan
    dataset: HospitalDataset
    runtime: str
    folder: pathlib.Path
    baseline_epochs: int
    store_updates: int | None = None
    _model: Any = None

    def name(self, seed: int, hospital: str | None = None) -> str:
        """The run directory of a seed: method, target and seed, so that nothing is trained twice."""
        target = self.plan.privacy.target_epsilon
        parts = [self.method.name, hospital, None if target is None else f"eps{target:g}", f"seed{seed}"]
        return "-".join(part for part in parts if part)

    def problems(self) -> list[Any]:
        """What keeps this method from running here; a baseline is checked by the plan that it really runs."""
        if self.method.kind != "federated":
            return baselines.baseline_plan(self.plan, self.baseline_epochs).problems()
        return self.plan.problems(self.dataset)

    def run(self, seed: int) -> Mapping[str, Any]:
        """Trains (or takes up again, or reads) one seed and returns its summary row."""
        plan = self.plan.replace(seed=seed)
        if self.method.kind == "local":
            return self._alone(plan)
        if self.method.kind == "pooled":
            training, evaluated = baselines.pooled(plan.data, self.dataset)
            plan = baselines.baseline_plan(plan, self.baseline_epochs)
            return self._train(plan, training, self.name(seed), evaluated)
        return self._train(plan, self.dataset, self.name(seed), None)

    def _train(
        self, plan: Plan, dataset: HospitalDataset, name: str, evaluated: HospitalDataset | None
    ) -> dict[str, Any]:
        if self._model is None:
            self._model = build_model(plan, dataset)
        run = train(
            plan,
            dataset,
            run_dir=self.folder / name,
            runtime=self.runtime,
            model=self._model,
            evaluate_on=evaluated,
            store_updates=self.store_updates,
        )
        return {**run.summary, "label": self.method.label, **self._without_wire(run.summary)}

    def _without_wire(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Baselines send nothing from round to round: a federation of one has no wire."""
        return {"bytes_up": 0, "bytes_down": 0, "curve": []} if self.method.kind != "federated" else {}

    def _alone(self, plan: Plan) -> dict[str, Any]:
        """Every hospital by itself; the row holds each hospital's own model on its own test records."""
        plan = baselines.baseline_plan(plan, self.baseline_epochs)
        rows = {
            one: self._train(plan, baselines.alone(self.dataset, one), self.name(plan.seed, one), None)
            for one in self.dataset.ids
        }
        accuracy = {one: row["accuracy_per_hospital"][one] for one, row in rows.items()}
        records = self.dataset.records(train=False)
        total = sum(records.values())
        pooled = sum(accuracy[one] * records[one] for one in accuracy if records[one]) / total if total else None
        first = next(iter(rows.values()))
        known = [value for value in accuracy.values() if not math.isnan(value)]
        mean = sum(known) / len(known) if known else None
        return {
            **first,
            "accuracy_mean": mean,
            "accuracy_per_seed": [mean],
            "accuracy_per_hospital": accuracy,
            "accuracy_pooled_mean": pooled,
            "auc_mean": _mean([row["auc_mean"] for row in rows.values()]),
            "loss_mean": _mean([row["loss_mean"] for row in rows.values()]),
            "seconds_per_round": sum(row["seconds_per_round"] or 0.0 for row in rows.values()),
            "warnings": list(self.dataset.warnings),
        }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None
