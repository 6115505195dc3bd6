"""The Python interface: `compare`, `train` and `audit`, which read as the commands do and return what they show.

    import tff_hospitals as th

    found = th.compare(["weighted_mean", "dp_sgd"], "heart_disease", target_epsilon=1)
    print(found)                      # the table
    found.to_frame()                  # as a data frame
    found.report("runs/first")        # page, figures, summary.json

Options are those of the commands, by the same names (`tff-hospitals options` prints them). All that is wrong with
them is said at once, before anything is trained.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.experiments.api_inputs import Inputs, runtime_of
from tff_hospitals.experiments.presets import SEEDS
from tff_hospitals.foundations import quiet
from tff_hospitals.foundations.validation import Problem, one_of, raise_if
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.experiments.api_results import Audited, Compared
    from tff_hospitals.hospitals import HospitalDataset, Schema
    from tff_hospitals.training.results import Progress, Run

    Dataset = str | os.PathLike[str] | HospitalDataset | Mapping[str, Any]


def compare(
    methods: str | Iterable[str],
    dataset: Dataset,
    *,
    target_epsilon: float | Iterable[float] | None = None,
    seeds: int | Iterable[int] = SEEDS,
    schema: Schema | str | os.PathLike[str] | None = None,
    model: str | Callable[..., Any] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    runtime: str = "compiled",
    splits: int = 1,
    baseline_epochs: int | None = None,
    finetune_epochs: int | None = None,
    audit: bool = False,
    headline: str | None = None,
    max_total_epsilon: float | None = None,
    on_run: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> Compared:
    """Compares ways of training together at the same privacy; what `tff-hospitals compare` does.

    Args:
      methods: names of methods, such as `local`, `weighted_mean` and `dp_sgd`; the rows of the table.
      dataset: a data set's name, a folder or file of tables, a `HospitalDataset`, or data frames by hospital id, which
        need a schema.
      target_epsilon: one or several; every private method is run at each. Needed unless `noise_multiplier` is given.
      seeds: one or several; results are means and intervals over them.
      schema: what the columns of tables or data frames mean.
      model: a name, `package.module:function`, or a function of a module that returns a Keras model.
      run_dir: folder for everything that is left behind; runs that are finished there are read, not repeated. None: a
        folder that lasts as long as the result.
      runtime, splits, baseline_epochs, finetune_epochs, audit, headline, max_total_epsilon: see `Comparison`.
      on_run: called before each run with its name, its number and how many there are.
      **options: of the plans, by the names of the flags (`rounds=3`, `client_learning_rate=0.1`), with `data_options`
        and `model_options` for those of data set and model.

    Raises:
      validation.InvalidInput: all problems at once, before anything is trained.
      records.RecordError: `run_dir` holds something else, or a file cannot be written.

    Warns:
      RuntimeWarning: names every method whose training failed or diverged; its row says why and has no figures.

    >>> found = compare(
    ...     ["weighted_mean", "dp_sgd"], "heart_disease", target_epsilon=1, seeds=1, rounds=1, local_steps=5
    ... )
    >>> found.to_frame()[["method", "epsilon"]].round(2).values.tolist()
    [['weighted_mean', nan], ['dp_sgd', 1.0]]
    """
    _be_quiet()
    from tff_hospitals.experiments import comparison as comparisons
    from tff_hospitals.experiments.api_results import Compared
    from tff_hospitals.reports.summary import read_summary

    inputs = Inputs.of(dataset, schema, model, options)
    several = _several("target_epsilon", target_epsilon), _several("seeds", seeds)
    names, unnamed = _names(methods)
    found = [*inputs.problems, *unnamed, *(one for _, problem in several for one in problem)]
    targets, numbers = several[0][0], tuple(_whole(one) for one in several[1][0])
    if targets and inputs.given.get("noise_multiplier") is not None:
        bound = "and noise_multiplier are two ways to say how much noise there is"
        found.append(Problem("target_epsilon", target_epsilon, bound, "give one of the two"))
    raise_if(found)
    comparison = comparisons.Comparison(
        methods=names,
        target_epsilons=targets,
        seeds=numbers,
        dataset=inputs.name,
        given=inputs.given,
        data_options=inputs.data_options,
        model_options=inputs.model_options,
        runtime=runtime,
        baseline_epochs=baseline_epochs,
        audit=audit,
        max_total_epsilon=max_total_epsilon,
        headline=headline,
        splits=splits,
        finetune_epochs=finetune_epochs,
    )
    kept = tempfile.TemporaryDirectory(prefix="tff_hospitals_") if run_dir is None else None
    folder = pathlib.Path(run_dir if kept is None else kept.name)  # type: ignore[arg-type]
    failed = comparisons.failures(comparisons.run(comparison, folder, on_run=on_run, dataset=inputs.in_memory))
    for text in failed:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Compared(read_summary(folder), folder, tuple(failed), kept)


def train(
    what: Any,
    dataset: Dataset | None = None,
    *,
    schema: Schema | str | os.PathLike[str] | None = None,
    model: str | Callable[..., Any] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    runtime: str = "compiled",
    store_updates: int | None = None,
    max_total_epsilon: float | None = None,
    on_round: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Trains one plan, or takes a run up again; what `tff-hospitals train` does.

    Args:
      what: a `Plan`, or the name of a method, which changes the preset of the data set.
      dataset: as for `compare`; may be left out beside a plan, which names its own.
      schema, model: as for `compare`.
      run_dir: folder for the run's files and checkpoints; None keeps everything in memory.
      runtime, store_updates, max_total_epsilon, on_round, on_note: see `training.loop.train`.
      **options: as for `compare`, with `target_epsilon` and `seed`; they replace those of the plan.

    Returns:
      The run: `run.summary`, `run.to_frame()`, `run.keras_model()`.

    Raises:
      validation.InvalidInput: all problems at once, before anything is trained.
      records.RecordError: `run_dir` holds another run, or a file cannot be written.
      TrainingError: an update that is not finite.

    >>> run = train("dp_sgd", "heart_disease", target_epsilon=2, rounds=1, local_steps=5, seed=1)
    >>> run.to_frame("hospital")["epsilon"].max().round(1)
    2.0
    """
    _be_quiet()
    from tff_hospitals.experiments import baselines
    from tff_hospitals.training import loop

    if not isinstance(what, (Plan, str)):
        raise_if([Problem("what", what, "must be a plan or the name of a method", 'give Plan(...) or "dp_sgd"')])
    inputs = Inputs.of(dataset, schema, model, options, plan=what if isinstance(what, Plan) else None, single=True)
    raise_if(inputs.problems)
    plan = inputs.plan(what)
    return loop.train(
        plan,
        baselines.load(plan.data) if inputs.in_memory is None else inputs.in_memory,
        run_dir=None if run_dir is None else pathlib.Path(run_dir),
        runtime=runtime_of(what, runtime) if isinstance(what, str) else runtime,
        on_round=on_round,
        store_updates=store_updates,
        max_total_epsilon=max_total_epsilon,
        on_note=on_note,
    )


def audit(
    run: Run | str | os.PathLike[str],
    *,
    dataset: HospitalDataset | None = None,
    on_part: Callable[[str], None] | None = None,
    **options: Any,
) -> Audited:
    """Attacks a finished run and says whether its promise holds; what `tff-hospitals audit` does.

    Args:
      run: its folder, or a run that was trained with `run_dir`.
      dataset: its hospitals where they are in memory; None: as its plan names them.
      on_part: called with the name of each part before it starts.
      **options: see `audits.options.AuditOptions`: `parts=("membership", "promise")`, `shadow_models=8`, ...

    Raises:
      validation.InvalidInput: a run without a folder, unknown options, options that do not fit the run.
      records.RecordError: no finished run, or other data.

    >>> audit("no folder", shadow_models=2, fprs=[0.1], part=("promise",))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    tff_hospitals.foundations.validation.InvalidInput: option='part': must be one of attributes, ...
    """
    _be_quiet()
    from tff_hospitals.audits.options import AuditOptions
    from tff_hospitals.audits.run_audit import audit_run
    from tff_hospitals.experiments.api_results import Audited
    from tff_hospitals.training.results import Run

    folder = run.directory if isinstance(run, Run) else pathlib.Path(run)
    known = [field.name for field in dataclasses.fields(AuditOptions)]
    found = [one_of("option", name, known) for name in options]
    if folder is None:
        found.append(Problem("run", "in memory", "must have left its files in a folder", "train it with run_dir="))
    raise_if(found)
    settings = {name: tuple(one) if isinstance(one, list) else one for name, one in options.items()}
    return Audited(audit_run(folder, AuditOptions(**settings), on_part, dataset))  # type: ignore[arg-type]


def _be_quiet() -> None:
    """The stack below starts without a word, unless it has started already."""
    if not quiet.tensorflow_is_loaded():
        quiet.be_quiet()


def _names(methods: Any) -> tuple[tuple[str, ...], list[Problem]]:
    """One name of a method or several, as a tuple."""
    names = (methods,) if isinstance(methods, str) or not isinstance(methods, Iterable) else tuple(methods)
    bound = "must be a method's name or several names"
    return names, [Problem("methods", one, bound, 'give "dp_sgd"') for one in names if not isinstance(one, str)]


def _several(name: str, value: Any) -> tuple[tuple[Any, ...], list[Problem]]:
    """One value or several, as a tuple."""
    if value is None:
        return (), []
    if isinstance(value, (str, bytes, Mapping)):
        return (), [Problem(name, value, "must be a number or several", f"give {name}=1 or {name}=[1, 5]")]
    return (tuple(value) if isinstance(value, Iterable) else (value,)), []


def _whole(value: Any) -> Any:
    """A whole number of numpy's as Python's own; anything else as it is, for the checks to refuse."""
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value
