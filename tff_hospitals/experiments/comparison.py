"""The main job: several methods, several seeds, the same target privacy; one summary that reports are drawn from."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import Ledger
from tff_hospitals.experiments import audit_rows, baselines, sweep
from tff_hospitals.experiments.grid import Grid, points, title_of
from tff_hospitals.experiments.method_plans import base_plan, cohort_problems, for_cohort, of_memory, own_cohort
from tff_hospitals.experiments.methods import Method, find_methods
from tff_hospitals.experiments.outcome import Outcome
from tff_hospitals.experiments.runner import MethodRunner, RunResult
from tff_hospitals.foundations import files
from tff_hospitals.foundations.second_process import SecondProcess
from tff_hospitals.foundations.validation import InvalidInput, Problem, in_range, one_of, raise_if, whole_number
from tff_hospitals.plan import mechanisms, options, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.checks import options as option_checks
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports import seeds as seed_statistics
from tff_hospitals.reports.columns import row_from_json
from tff_hospitals.training import stopping
from tff_hospitals.training.metrics import METRICS
from tff_hospitals.training.odometer import Odometer
from tff_hospitals.training.results import TrainingError
from tff_hospitals.training.run_directory import versions

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset


MOST_SPLITS = 100


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
      methods: names in `methods.METHODS`.
      target_epsilons: every private method is run at each of them.
      seeds: roots of the random streams; results are means and intervals over them.
      dataset: name or path; its preset is the plan to start from.
      given: options that replace the preset's and the methods' (by flag name).
      data_options, model_options: options of data set and model.
      runtime: `compiled`, `native` or `cluster`.
      baseline_epochs: epochs of the pooled and local baselines; None: they are trained to their end.
      command: how to do it again, for the report.
      audit: attack each method's run of the first seed, and put the outcome into its row.
      store_updates: keep every hospital's update of every k-th round.
      max_total_epsilon: a method whose runs would bring all runs on these data together beyond it is not run.
      headline: the metric that methods are ranked by; None: accuracy, or another one where it misleads.
      splits: how many times the records are divided anew into training and testing; every method runs on each.
      finetune_epochs: every federated method has a second row, of the models that hospitals make of its own by so many
        epochs on their own records.
      grid: settings whose every combination is a row of each federated method.
    """

    methods: tuple[str, ...]
    target_epsilons: tuple[float, ...]
    seeds: tuple[int, ...]
    dataset: str = "heart_disease"
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runtime: str = "compiled"
    baseline_epochs: int | None = None
    command: str = ""
    audit: bool = False
    store_updates: int | None = None
    max_total_epsilon: float | None = None
    headline: str | None = None
    splits: int = 1
    finetune_epochs: int | None = None
    grid: Grid = ()

    def problems(self) -> list[Problem]:
        """What is wrong before any data is read."""
        from tff_hospitals.runtimes import RUNTIMES

        found = [
            *(
                in_range("target_epsilon", value, low=0.0, low_open=True, remedy="give positive epsilons such as 1,5")
                for value in self.target_epsilons
            ),
            *(whole_number("seeds", seed, low=0, remedy="give whole numbers of 0 or more") for seed in self.seeds),
            one_of("runtime", self.runtime, RUNTIMES),
            None if self.headline is None else one_of("headline", self.headline, METRICS),
            whole_number("--splits", self.splits, low=1, high=MOST_SPLITS, remedy="give 1 or more, such as 5"),
            None
            if self.baseline_epochs is None
            else whole_number("baseline_epochs", self.baseline_epochs, low=1, remedy="give 1 or more epochs"),
            None
            if self.finetune_epochs is None
            else whole_number("finetune_epochs", self.finetune_epochs, low=1, remedy="give 1 or more, or leave it out"),
        ]
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            found.append(Problem("seeds", self.seeds, "must be one or more different numbers", "name each seed once"))
        if len(set(self.target_epsilons)) < len(self.target_epsilons):
            bound = "must be different numbers: each is a row of every private method"
            found.append(Problem("target_epsilon", self.target_epsilons, bound, "name each target once"))
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            found.append(Problem("aggregators", self.methods, "must be one or more names", "name each method once"))
        if self.splits > 1 and "split" in self.data_options:
            bound, remedy = "chooses one split, and --splits takes several", "drop one of the two"
            found.append(Problem("data_option split", self.data_options["split"], bound, remedy))
        if self.max_total_epsilon is not None:
            open_ones = [method.name for method in find_methods(self.methods) if not method.private]
            if open_ones:
                bound = f"cannot be kept by methods whose results no epsilon covers: {', '.join(open_ones)}"
                remedy = "name private methods alone: --aggregators=dp_sgd,..."
                found.append(Problem("max_total_epsilon", self.max_total_epsilon, bound, remedy))
        noisy = any(method.noisy for method in find_methods(self.methods))
        if noisy and not self.target_epsilons and "noise_multiplier" not in self.given:
            found.append(
                Problem("target_epsilon", None, "is needed by the private methods", "give --target_epsilon=1,5")
            )
        federated = [method for method in find_methods(self.methods) if method.kind == "federated"]
        if federated and all(own_cohort(method) for method in federated):
            found += [problem for method in federated for problem in cohort_problems(method, self.given)]
        return [problem for problem in found if problem is not None]

    def base_plan(self) -> Plan:
        """The data set's preset with data and model options."""
        return base_plan(self.dataset, self.given, self.data_options, self.model_options)

    def method_plans(self) -> list[tuple[Method, Plan]]:
        """One entry per row of the table: method and plan, private methods once per target."""
        base = self.base_plan()
        found: list[tuple[Method, Plan]] = []
        for method in find_methods(self.methods):
            targets: Sequence[float | None] = (None,)
            if method.noisy and "noise_multiplier" not in self.given:
                targets = self.target_epsilons
            for target in targets:
                plan = method.plan(base, target)
                if method.kind == "federated" and self.finetune_epochs is not None:
                    plan = plan.replace(personal={"kind": "fine_tune", "epochs": self.finetune_epochs})
                found += points(self.grid, method, options.apply(plan, self._given_for(method, plan)), self.given)
        return found

    def _given_for(self, method: Method, plan: Plan) -> dict[str, Any]:
        """Options that reach a method: all that its plan uses; baselines keep their own way of training."""
        shared = {"dataset", "partition", "sites", "data_seed", "model", "batch_size"}
        given = for_cohort(method, self.given)
        changed = options.apply(
            plan, {name: given[name] for name in given if name in shared or method.kind == "federated"}
        )
        unused = {problem.name[2:] for problem in option_checks.unused([changed], given)}
        return {
            name: value
            for name, value in given.items()
            if name not in unused and (method.kind == "federated" or name in shared)
        }


def run(
    comparison: Comparison,
    run_dir: str | pathlib.Path,
    on_run: Callable[[str, int, int], None] | None = None,
    runtime_options: Mapping[str, Any] | None = None,
    dataset: HospitalDataset | None = None,
    second: SecondProcess | None = None,
) -> dict[str, Any]:
    """Runs a comparison and writes `summary.json` after every row, so that an interruption costs one row at most.

    A method that cannot give the target with these hospitals keeps its row: the cell says why instead of a number.

    Args:
      comparison: what to compare.
      run_dir: folder for summary and run directories; runs that finished there before are read, not repeated.
      on_run: called before each run with its name, its number and how many there are.
      runtime_options: of the cluster: `address`, `time_limit_seconds`; runs are then spread over it.
      dataset: hospitals in memory, in place of those that the comparison names.
      second: a process that trains a part of the methods where that is faster.

    Raises:
      validation.InvalidInput: all problems at once, before anything is trained.
      records.RecordError: a folder of another comparison, or a file that cannot be written.
    """
    raise_if(comparison.problems())
    folder = pathlib.Path(run_dir)
    plans = comparison.method_plans()
    if dataset is not None:
        plans = [(method, of_memory(plan, dataset)) for method, plan in plans]
    both = [flag for flag, _ in comparison.grid if flag in comparison.given]
    raise_if([Problem(f"--{flag}", comparison.given[flag], "is in the grid as well", "give it once") for flag in both])
    asked = {**comparison.given, **dict(comparison.grid)}
    raise_if(option_checks.unused([plan for _, plan in plans], asked))
    found: list[Problem] = []
    for _, plan in plans:
        found += [problem for problem in review.problems(plan) if problem not in found]
    raise_if(found)
    datasets = _splits(comparison, plans[0][1]) if dataset is None else _in_memory(comparison, dataset)
    if comparison.max_total_epsilon is not None:
        raise_if(Odometer(datasets[0].secret).limit_problems(comparison.max_total_epsilon))
    models: dict[str, Any] = {}
    rows = [
        [
            MethodRunner(
                method,
                _on_split(plan, number),
                dataset,
                method.runs_on or comparison.runtime,
                folder / "runs",
                comparison.baseline_epochs,
                store_updates=comparison.store_updates,
                max_total_epsilon=comparison.max_total_epsilon,
                models=models,
            )
            for number, dataset in enumerate(datasets)
        ]
        for method, plan in plans
    ]
    refused = [_first_problems(runners) for runners in rows]
    _refuse_bad_plans(rows, refused)
    claim(folder, comparison, datasets[0])
    summary = _header(comparison, datasets[0], plans[0][1])
    going = [runners for runners, problems in zip(rows, refused) if not problems]
    jobs = [(runner, comparison.seeds) for runners in going for runner in runners]
    # Limits on all runs together are kept in the order of the table; hospitals in memory are nowhere else.
    alone = dataset is not None or comparison.max_total_epsilon is not None
    runs = sweep.start(comparison.runtime, jobs, runtime_options, None if alone else second)
    numbers = itertools.count(1)
    outcome = Outcome(datasets, len(comparison.seeds), comparison.headline)
    try:
        for runners, problems in zip(rows, refused):
            first = runners[0]
            delta = noise_plan.delta_of(first.plan, datasets[0])
            if problems:
                outcome.enter(refused_row(first, problems, delta))
            else:

                def started(seed: int, runner: MethodRunner) -> None:
                    if on_run is not None:
                        on_run(runner.name(seed), next(numbers), len(jobs) * len(comparison.seeds))

                try:
                    results = [
                        result
                        for runner in runners
                        for result in runs.rows(runner, comparison.seeds, functools.partial(started, runner=runner))
                    ]
                except (
                    InvalidInput,
                    TrainingError,
                ) as error:  # the other methods go on; the row and the exit code say it
                    if isinstance(error, InvalidInput) and any(
                        one.name != "max_total_epsilon" for one in error.problems
                    ):
                        raise
                    runs.leave_out(runners)
                    outcome.enter(failed_row(first, str(error), delta), ledgers=_left_behind(runners, comparison.seeds))
                else:
                    federated = first.plan if first.method.kind == "federated" else None
                    outcome.enter(_row(comparison, first, results), results, federated)
                    if federated is not None and federated.personal.kind != "none":
                        outcome.enter_again([result.of_own_models(first.dataset) for result in results])
            summary.update(outcome.fields())
            files.write_json(folder / "summary.json", summary)
    except BaseException:
        runs.close(wait=False)
        raise
    runs.close()
    return summary


def _row(comparison: Comparison, runner: MethodRunner, results: Sequence[RunResult]) -> dict[str, Any]:
    """The runs of a method as one row, with what an audit of the first one found."""
    rows = [dict(result.row) for result in results]
    if comparison.audit:
        columns = audit_rows.audit_columns(runner, comparison.seeds[0])
        texts = [*rows[0].get("warnings", ()), *columns.pop("audit_warnings")]
        rows[0] = {**rows[0], **columns, "warnings": texts}
    return seed_statistics.aggregate_runs(rows).to_json()


def _left_behind(runners: Sequence[MethodRunner], seeds: Sequence[int]) -> list[Ledger]:
    """The ledgers of the runs of a row that failed: what they released before stays released."""
    places = [runner.folder / runner.name(seed) / "ledger.json" for runner in runners for seed in seeds]
    return [Ledger.from_json(files.read_json(place)) for place in places if place.exists()]


def _on_split(plan: Plan, number: int) -> Plan:
    """The plan on one of several splits of its records; the first one is that of the plan."""
    return plan if number == 0 else plan.replace(data={"options": {**plan.data.options, "split": number}})


def _splits(comparison: Comparison, plan: Plan) -> list[HospitalDataset]:
    """The data set with each of its splits.

    Raises:
      validation.InvalidInput: several splits of records whose split is given.
    """
    datasets = [baselines.load(plan.data)]
    rule = datasets[0].split_rule
    if comparison.splits > 1 and rule.startswith("given"):
        bound = f"needs a split that can be drawn again, and this one is {rule}"
        raise_if([Problem("--splits", comparison.splits, bound, "leave it out, or bring the records without a split")])
    return datasets + [baselines.load(_on_split(plan, number).data) for number in range(1, comparison.splits)]


def _in_memory(comparison: Comparison, dataset: HospitalDataset) -> list[HospitalDataset]:
    """The only split of hospitals that nobody can load again.

    Raises:
      validation.InvalidInput: all that would have to load them.
    """
    remedy = "name a data set or a folder instead"
    found = []
    if comparison.splits > 1:
        found.append(Problem("--splits", comparison.splits, "needs records that can be divided again", remedy))
    if comparison.runtime == "cluster":
        bound = "reads its hospitals where it runs, and these are in memory"
        found.append(Problem("runtime", comparison.runtime, bound, remedy))
    if "pooled" in comparison.methods and dataset.preprocessing.kind == "per_hospital":
        bound = "would have to scale the records anew, which each hospital of this data set has scaled for itself"
        found.append(Problem("aggregators", "pooled", bound, 'make the data set with scaling="pooled", or drop it'))
    raise_if(found)
    return [dataset]


def _first_problems(runners: Sequence[MethodRunner]) -> tuple[Problem, ...]:
    """What keeps a method from running, on the first split where something does."""
    found = (tuple(runner.problems()) for runner in runners)
    return next((problems for problems in found if problems), ())


def _refuse_bad_plans(rows: Sequence[Sequence[MethodRunner]], refused: Sequence[tuple[Problem, ...]]) -> None:
    """Raises when a problem is the user's to mend; a target out of reach for these hospitals is a result, not a
    mistake.
    """
    found: list[Problem] = []
    for runners, problems in zip(rows, refused):
        if problems and not _vacuous(runners[0]):
            found.extend(problem for problem in problems if problem not in found)
    if found:
        raise InvalidInput(found)


def _vacuous(runner: MethodRunner) -> bool:
    """Whether the plan by itself is sound and only these hospitals make its target impossible."""
    own = mechanisms.of(runner.plan.privacy)
    return own.level == "hospital" and own.noisy and not review.problems(runner.plan)


def refused_row(runner: MethodRunner, problems: Sequence[Problem], delta: float) -> dict[str, Any]:
    """A row without numbers that says why the method cannot give its target here."""
    privacy = runner.plan.privacy
    row = {
        "method": runner.method.name,
        "label": runner.method.label,
        "kind": runner.method.kind,
        "unit": mechanisms.of(privacy).unit,
        "target_epsilon": privacy.target_epsilon,
        "epsilon": None,
        "delta": delta,
        "conversion": mechanisms.meant_in(privacy),
        "rounds": 0,
        "stop_reason": "not run: the target is out of reach with these hospitals",
        "runtime": runner.runtime,
        "guarantee": "",
        "warnings": [str(problem) for problem in problems],
        "curve": [],
    }
    return row_from_json(row, runner.method.name).to_json()


def failed_row(runner: MethodRunner, why: str, delta: float) -> dict[str, Any]:
    """A row without numbers of a method whose training could not go on."""
    row = {**refused_row(runner, (), delta), "status": "failed", "converged": False}
    return row_from_json({**row, "stop_reason": f"failed: {why}", "warnings": [f"failed: {why}"]}).to_json()


def failures(summary: Mapping[str, Any]) -> list[str]:
    """Methods that failed or diverged, each with the reason."""
    return [
        f"{row['label']}: {text}"
        for row in summary["rows"]
        for text in row["warnings"]
        if text.startswith(("failed: ", stopping.DIVERGED))
    ]


def claim(folder: pathlib.Path, comparison: Comparison, dataset: HospitalDataset) -> None:
    """Writes comparison.json, or checks that the one there asks for the same.

    Raises:
      records.RecordError: when the folder holds another comparison.
    """
    asked = files.plain({**dataclasses.asdict(comparison), "command": "", "data": dataset.fingerprint()})
    # None of these changes what is trained: they may be asked for later.
    for name in ("audit", "store_updates", "headline", "max_total_epsilon"):
        del asked[name]
    for name, unused in (
        ("splits", 1),
        ("finetune_epochs", None),
        ("grid", []),
    ):  # as folders of earlier versions have it
        if asked[name] == unused:
            del asked[name]
    path = folder / "comparison.json"
    if path.exists():
        there = files.read_json(path)
        differing = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
        if differing:
            raise files.RecordError(
                f"{folder} holds another comparison: it differs in {', '.join(differing)}. Nothing was changed. "
                "Remedy: choose another --run_dir, or give the same flags to go on with it."
            )
        return
    if (folder / "summary.json").exists() or (folder / "plan.json").exists():
        raise files.RecordError(f"{folder} already holds results of something else. Remedy: choose another --run_dir.")
    files.write_json(path, asked)


def _header(comparison: Comparison, dataset: HospitalDataset, plan: Plan) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "title": f"Ways of training together on {dataset.name}" + title_of(comparison.grid),
        "command": comparison.command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        "dataset": dataset.describe(),
        "seeds": list(comparison.seeds),
        "splits": comparison.splits,
        "rounds": comparison.given.get("rounds", plan.rounds),
        "target_epsilons": list(comparison.target_epsilons),
        "delta": noise_plan.delta_of(plan, dataset),
        "adjacency": noise_plan.adjacency_of(plan.privacy),
        "conversion": comparison.given.get("conversion") or "rdp",
        "rows": [],
    }
