"""Running one method of a comparison with its seeds: which data, which plans, where the files go."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments import baselines, last_rounds
from tff_hospitals.experiments.methods import Method
from tff_hospitals.foundations import files
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.convergence import NOT_CONVERGED, can_fit
from tff_hospitals.training.evaluation import Evaluator
from tff_hospitals.training.loop import build_model, train_seeds, train_to_the_end
from tff_hospitals.training.metrics import Predictions, evaluate, summary_fields
from tff_hospitals.training.stopping import DIVERGED

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

PERSONAL = {
    "fine_tune": ("_fine_tuned", "fine-tuned"),
    "ditto": ("_ditto", "Ditto"),
    "interpolate": ("_interpolated", "interpolated"),
}
"""By kind of own model: what follows the name of a method, and its label."""
OWN_MODELS = (
    "own models: the guarantee is that of the federated model; each hospital's own model knows its records without "
    "noise and must stay there"
)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a comparison keeps of one run.

    Attributes:
      row: its summary.
      predictions: of every test record, hospitals in order; they stay in memory.
      ledger: what it released; of runs without a mechanism it is empty.
      kind: how hospitals made models of their own of the finished one; `none`: they did not.
      own: what these predict.
    """

    row: Mapping[str, Any]
    predictions: Predictions
    ledger: Ledger
    kind: str = "none"
    own: Predictions | None = None

    def of_own_models(self, dataset: HospitalDataset) -> RunResult:
        """The run as its hospitals' own models show it; the row is that of a method of its own."""
        if self.own is None:
            raise ValueError("the hospitals made no models of their own")
        by_hospital, start = {}, 0
        for one, records in dataset.records(train=False).items():
            by_hospital[one] = evaluate(self.own[start : start + records])
            start += records
        suffix, words = PERSONAL[self.kind]
        kept = {name: value for name, value in self.row.items() if name != "backdoor_success"}
        row = {
            **kept,
            **summary_fields(by_hospital, evaluate(self.own)),
            "method": f"{self.row['method']}{suffix}",
            "label": f"{self.row['label']}, {words}",
            "curve": [],
        }
        if self.ledger.units():
            row["warnings"] = [*row["warnings"], OWN_MODELS]
        return RunResult(row, self.own, self.ledger)


@dataclasses.dataclass
class MethodRunner:
    """Runs a method's seeds; models and compiled programs are shared between them.

    Attributes:
      method: what to run.
      plan: its plan; the seed is replaced by each run's.
      dataset: the hospitals.
      runtime: `compiled` or `native`.
      folder: where run directories go.
      baseline_epochs: of the pooled and local baselines; None trains them to their end where the model is small enough
        for that, and for `baselines.PUBLISHED_EPOCHS` else.
      store_updates: keep every hospital's update of every k-th round, for audits.
      max_total_epsilon: the limit on all runs on these data together.
      left_out: a hospital that does not train and is tested all the same; None: all train.
      models: by name, filled on first use; methods that share it share compiled programs and first weights.
    """

    method: Method
    plan: Plan
    dataset: HospitalDataset
    runtime: str
    folder: pathlib.Path
    baseline_epochs: int | None
    store_updates: int | None = None
    max_total_epsilon: float | None = None
    left_out: str | None = None
    models: dict[str, Any] = dataclasses.field(default_factory=dict)

    def name(self, seed: int, hospital: str | None = None) -> str:
        """The run directory of a seed: method, target and seed, so that nothing is trained twice."""
        target, split = self.plan.privacy.target_epsilon, self.plan.data.options.get("split")
        name = self.method.name.replace(":", ".")  # of a module's factory
        without = None if self.left_out is None else f"without_{self.left_out}"
        parts = [name, hospital, without, None if target is None else f"eps{target:g}", f"seed{seed}"]
        parts += [f"split{split}"] if split else []
        return "-".join(part for part in parts if part)

    @property
    def trained(self) -> HospitalDataset:
        """The hospitals that train."""
        return self.dataset if self.left_out is None else baselines.without(self.dataset, self.left_out)

    @property
    def unit(self) -> str:
        """The unit of privacy that its plan's mechanism protects; `none` without one."""
        return mechanisms.of(self.plan.privacy).unit

    @property
    def is_small(self) -> bool:
        """Whether one core is enough for its runs."""
        from tff_hospitals.runtimes.compiled.runtime import MOST_FUSED_PARAMETERS

        model = self._model_of(self.plan, self.dataset)
        records = sum(self.dataset.records(train=True).values())
        return model.parameters <= MOST_FUSED_PARAMETERS and can_fit(model, records)

    def problems(self) -> list[Any]:
        """What keeps this method from running here; a baseline is checked by the plan that it really runs."""
        if self.method.kind != "federated":
            return review.problems(baselines.baseline_plan(self.plan, self.baseline_epochs))
        return review.problems(self.plan, self.trained)

    def run(self, seed: int) -> RunResult:
        """Trains (or takes up again, or reads) one seed."""
        return self.run_seeds((seed,))[0]

    def run_seeds(self, seeds: Sequence[int], on_start: Callable[[int], None] | None = None) -> list[RunResult]:
        """Several seeds, which train together where that is faster; `on_start` is told each seed."""
        plans = [self.plan.replace(seed=seed) for seed in seeds]
        if self.method.kind == "local":
            return self._alone(plans, on_start)
        if self.method.kind == "pooled":
            training, evaluated = baselines.pooled(self.plan.data, self.dataset)
            plans = [baselines.baseline_plan(plan, self.baseline_epochs) for plan in plans]
            return self._train(plans, training, evaluated, on_start=on_start)
        return self._train(plans, self.trained, self.dataset if self.left_out else None, on_start=on_start)

    def _train(
        self,
        plans: Sequence[Plan],
        dataset: HospitalDataset,
        evaluated: HospitalDataset | None,
        hospital: str | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> list[RunResult]:
        model = self._model_of(plans[0], dataset)
        common: dict[str, Any] = {
            "run_dirs": [self.folder / self.name(plan.seed, hospital) for plan in plans],
            "runtime": self.runtime,
            "model": model,
            "evaluate_on": evaluated,
            "on_start": None if on_start is None else lambda number: on_start(plans[number].seed),
        }
        records = sum(one.train.records for one in dataset.hospitals)
        to_its_end = self.method.kind != "federated" and self.baseline_epochs is None
        if to_its_end and can_fit(model, records):
            runs, rises = train_to_the_end(plans, dataset, **common), None
        else:
            plans = [baselines.in_sight(plan) for plan in plans] if to_its_end else plans
            limit = self.max_total_epsilon
            runs = train_seeds(plans, dataset, store_updates=self.store_updates, max_total_epsilon=limit, **common)
            curves = [run.summary["curve"] for run in runs]
            rises = last_rounds.still_rising(curves, "loss") if to_its_end else None
        evaluator = Evaluator(model, dataset if evaluated is None else evaluated)
        shared = {"label": self.method.label, "kind": self.method.kind, **self._without_wire()}
        return [
            RunResult(
                {**run.summary, **shared, **_how_it_ended(run.summary, to_its_end, rises)},
                evaluator.predictions(run.weights, run.frozen, run.own if run.plan.model.local_layers else None),
                run.ledger,
                run.plan.personal.kind,
                None if run.plan.personal.kind == "none" else evaluator.predictions((), (), run.own),
            )
            for run in runs
        ]

    def _model_of(self, plan: Plan, dataset: HospitalDataset) -> Any:
        """The plan's model; what hospitals share (shapes, task) is the same in every baseline of a data set."""
        name = files.fingerprint(dataclasses.asdict(plan.model))
        if name not in self.models:
            self.models[name] = build_model(plan, dataset)
        return self.models[name]

    def _without_wire(self) -> dict[str, Any]:
        """Baselines send nothing from round to round: a federation of one has no wire."""
        return {"bytes_up": 0, "bytes_down": 0, "curve": []} if self.method.kind != "federated" else {}

    def _alone(self, plans: Sequence[Plan], on_start: Callable[[int], None] | None = None) -> list[RunResult]:
        """Every hospital by itself; a row holds each hospital's own model on its own test records."""
        plans = [baselines.baseline_plan(plan, self.baseline_epochs) for plan in plans]
        runs = {}
        for one in self.dataset.ids:
            runs[one] = self._train(plans, baselines.alone(self.dataset, one), None, one, on_start)
            on_start = None  # the seeds have started
        return [self._row_of_hospitals({one: runs[one][i] for one in runs}) for i in range(len(plans))]

    def _row_of_hospitals(self, runs: Mapping[str, RunResult]) -> RunResult:
        rows = [run.row for run in runs.values()]
        together = Predictions.joined([run.predictions for run in runs.values()])
        by_hospital = {one: evaluate(run.predictions) for one, run in runs.items()}
        row = {
            **rows[0],
            **summary_fields(by_hospital, evaluate(together)),
            "seconds_per_round": sum(row["seconds_per_round"] or 0.0 for row in rows),
            "warnings": [
                *review.warnings(self.plan, self.dataset),
                *(text for row in rows for text in _unfinished(row)),
            ],
            "converged": _all_converged(rows),
        }
        return RunResult(row, together, next(iter(runs.values())).ledger)


def _all_converged(rows: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether every hospital's run came to its end; None where one does not say."""
    found = [row.get("converged") for row in rows]
    return False if False in found else None if None in found else True


def _unfinished(row: Mapping[str, Any]) -> list[str]:
    """What a run says of a training that did not come to its end, or to none that is of use."""
    return [text for text in row.get("warnings", ()) if NOT_CONVERGED in text or text.startswith(DIVERGED)]


def _how_it_ended(row: Mapping[str, Any], to_its_end: bool, rises: str | None) -> dict[str, Any]:
    """Whether a run came to its end, where that is known, with a warning of one that did not."""
    if rises is not None:
        remedy = f"--baseline_epochs, more than {baselines.PUBLISHED_EPOCHS}"
        words = f"{NOT_CONVERGED}, so it is not ranked: {rises}. Remedy: {remedy}."
        return {"converged": False, "warnings": [*row["warnings"], words]}
    if _unfinished(row):
        return {"converged": False}
    return {"converged": True} if to_its_end else {}
