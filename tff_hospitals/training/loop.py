"""The one loop: every method, baseline and sweep of this package trains here."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals import models
from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training import convergence
from tff_hospitals.training.extension import extension
from tff_hospitals.training.results import Progress, Run, TrainingError
from tff_hospitals.training.seed_independent import SeedIndependentParts
from tff_hospitals.training.session import Session

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset, Part
    from tff_hospitals.models import FunctionalModel


def build_model(plan: Plan, dataset: HospitalDataset) -> FunctionalModel:
    """The plan's model for these hospitals."""
    return models.build_model(plan.model.name, dataset, **plan.model.settings)


def train(
    plan: Plan,
    dataset: HospitalDataset,
    *,
    run_dir: str | pathlib.Path | None = None,
    runtime: str = "compiled",
    model: FunctionalModel | None = None,
    evaluate_on: HospitalDataset | None = None,
    server_held: Part | None = None,
    on_round: Callable[[Progress], None] | None = None,
    store_updates: int | None = None,
    runtime_options: Mapping[str, Any] | None = None,
    max_total_epsilon: float | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Trains a plan from its start, or from where an interrupted run in `run_dir` got to.

    A finished run in `run_dir` whose plan is the same but for fewer rounds is extended (see `extension`).

    Args:
      plan: what to do; refused when it has problems.
      dataset: the hospitals.
      run_dir: folder for the run's files and checkpoints; None keeps everything in memory.
      runtime: `compiled`, `native`, `cluster`, or `deployed` (see `deployment.server`).
      model: a model built before (several seeds of one plan share it).
      evaluate_on: hospitals to evaluate on when they are not those that train (baselines).
      server_held: records that the server holds itself, evaluated as `server`.
      on_round: called after every round.
      store_updates: keep every hospital's update of every k-th round in `updates/` for an audit; needs `run_dir`. What
        is trained does not depend on it.
      runtime_options: of the cluster: `address`, `time_limit_seconds`, `hospitals_per_chunk`, `workers`; of both it and
        the compiled runtime: `strategy`. A run that is resumed keeps its own.
      max_total_epsilon: refuse to begin if all runs on these data together, this one included, would release more in
        any unit at any hospital (see `odometer`).
      on_note: called with what a reader must know before anything is trained.

    Raises:
      validation.InvalidInput: bad plan, model or data, or a limit that would be exceeded, before anything is trained.
      records.RecordError: a run directory of another plan, no whole checkpoint, or a file that cannot be written.
      TrainingError: an update that is not finite.

    >>> from tff_hospitals.hospitals import load_dataset
    >>> run = train(Plan(rounds=2, seed=1), load_dataset("heart_disease"))
    >>> run.summary["rounds"], run.summary["stop_reason"]
    (2, 'round limit reached')
    """
    model = build_model(plan, dataset) if model is None else model
    evaluated = dataset if evaluate_on is None else evaluate_on
    extended = extension(plan, None if run_dir is None else pathlib.Path(run_dir))
    shared = SeedIndependentParts(plan, dataset, model, runtime, evaluated, server_held, runtime_options, extended)
    try:
        (run,) = _drive([Session(plan, shared, run_dir, store_updates, max_total_epsilon, on_note)], on_round)
        return run
    finally:
        shared.close()


def train_seeds(
    plans: Sequence[Plan],
    dataset: HospitalDataset,
    *,
    run_dirs: Sequence[str | pathlib.Path] | None = None,
    runtime: str = "compiled",
    model: FunctionalModel | None = None,
    evaluate_on: HospitalDataset | None = None,
    store_updates: int | None = None,
    on_start: Callable[[int], None] | None = None,
    max_total_epsilon: float | None = None,
) -> list[Run]:
    """Trains plans that differ in their seeds alone; each gives what `train` gives for it, and leaves the same files.

    Where rounds are so short that calling the compiled program counts, the runs share the calls, as many of them as
    memory has room for; else they train one after the other. A run that stops early leaves the others going.

    Args:
      plans: one plan with several seeds.
      dataset: the hospitals.
      run_dirs: a folder for each run; None keeps everything in memory.
      runtime, model, evaluate_on, store_updates, max_total_epsilon: see `train`.
      on_start: called with the number of each run when its training starts.

    Raises:
      validation.InvalidInput: plans that differ in more than their seeds, and as `train`.
      records.RecordError: as `train`.
      TrainingError: as `train`, after the runs that shared its calls have ended.

    >>> from tff_hospitals.hospitals import load_dataset
    >>> runs = train_seeds([Plan(rounds=2, seed=seed) for seed in (1, 2)], load_dataset("heart_disease"))
    >>> [run.plan.seed for run in runs]
    [1, 2]
    """
    runs: list[Run] = []
    with _shared_parts(plans, dataset, model, runtime, evaluate_on) as shared:
        while len(runs) < len(plans):
            sessions: list[Session] = []
            at_once = 1
            while len(sessions) < at_once and len(runs) + len(sessions) < len(plans):
                number = len(runs) + len(sessions)
                if on_start is not None:
                    on_start(number)
                run_dir = None if run_dirs is None else run_dirs[number]
                sessions.append(Session(plans[number], shared, run_dir, store_updates, max_total_epsilon))
                if len(sessions) == 1:
                    at_once = sessions[0].runs_at_once(len(plans) - number)
            runs += _drive(sessions, None)
    return runs


def train_to_the_end(
    plans: Sequence[Plan],
    dataset: HospitalDataset,
    *,
    run_dirs: Sequence[str | pathlib.Path] | None = None,
    runtime: str = "compiled",
    model: FunctionalModel | None = None,
    evaluate_on: HospitalDataset | None = None,
    on_start: Callable[[int], None] | None = None,
) -> list[Run]:
    """Trains baselines until nothing is gained any more (`convergence.fit`), whatever epochs and rate the plans name.

    Args:
      plans: one plan with several seeds, without privacy.
      dataset: one hospital.
      run_dirs, runtime, model, evaluate_on, on_start: see `train_seeds`.

    Raises:
      validation.InvalidInput, records.RecordError: as `train_seeds`.
    """
    (hospital,) = dataset.hospitals
    runs = []
    with _shared_parts(plans, dataset, model, runtime, evaluate_on) as shared:
        for number, plan in enumerate(plans):
            if on_start is not None:
                on_start(number)
            session = Session(plan, shared, None if run_dirs is None else run_dirs[number])
            if session.finished is None:
                started = time.perf_counter()
                streams = Streams.from_seed(plan.seed).child("baseline", hospital.hospital_id)
                with session.explained(training=True):
                    start = session.state.weights
                    found = convergence.fit(session.model, start, session.frozen, hospital.train, streams)
                warnings = [] if found.converged else [f"{hospital.hospital_id}: {found.words}"]
                session.adopt(found.weights, found.words, time.perf_counter() - started, warnings)
            if session.finished is not None:
                runs.append(session.finished)
    return runs


@contextlib.contextmanager
def _shared_parts(
    plans: Sequence[Plan],
    dataset: HospitalDataset,
    model: FunctionalModel | None,
    runtime: str,
    evaluate_on: HospitalDataset | None,
) -> Iterator[SeedIndependentParts]:
    """What plans that differ in their seeds alone have in common, closed at the end."""
    _refuse_other_differences(plans)
    model = build_model(plans[0], dataset) if model is None else model
    shared = SeedIndependentParts(plans[0], dataset, model, runtime, dataset if evaluate_on is None else evaluate_on)
    try:
        yield shared
    finally:
        shared.close()


def _refuse_other_differences(plans: Sequence[Plan]) -> None:
    same = {files.fingerprint(plan.replace(seed=0).to_json()) for plan in plans}
    if len(same) != 1:
        bound = "must be one or more plans that differ in their seeds alone"
        raise_if([Problem("plans", len(plans), bound, "train other plans by themselves")])


def _drive(sessions: Sequence[Session], on_round: Callable[[Progress], None] | None) -> list[Run]:
    """Trains runs to their ends. Those that are furthest behind go first, so that they are soon all at the same round
    and share calls.
    """
    going = [session for session in sessions if session.finished is None]
    places = len(going)  # that a shared call has for runs; those that end leave theirs empty
    failures: list[TrainingError] = []
    while going:
        for session in [one for one in going if one.stop_reason() is not None]:
            session.finish()
            going.remove(session)
        behind = min((one.next_round for one in going), default=0)
        group = [one for one in going if one.next_round == behind]
        group = [one for one in group if one.strategy == group[0].strategy]  # a call has one way for all of its runs
        for session, failure in _advance(group, places, on_round):
            going.remove(session)
            failures.append(failure)
    if failures:
        raise failures[0]
    return [session.finished for session in sessions if session.finished is not None]


def _advance(
    group: Sequence[Session], places: int, on_round: Callable[[Progress], None] | None
) -> list[tuple[Session, TrainingError]]:
    """Takes runs to the next round at which something is due; returns those that cannot go on."""
    if not group:
        return []
    inputs = [session.draw_rounds(places) for session in group]
    with group[0].explained(training=True):
        for session, rounds in zip(group, inputs):
            session.settle(rounds)
    runtime = group[0].runtime
    started = time.perf_counter()
    with group[0].explained(training=True):
        if places > 1:
            states, frozen = [session.state for session in group], [session.frozen for session in group]
            results = runtime.run_rounds_of_many(states, inputs, frozen)
        else:
            results = [runtime.run_rounds(group[0].state, inputs[0])]
    seconds = (time.perf_counter() - started) / sum(map(len, inputs))
    failures = []
    for session, rounds, (state, outputs) in zip(group, inputs, results):
        try:
            session.enter(rounds, state, outputs, seconds, on_round)
        except TrainingError as failure:
            failures.append((session, failure))
    return failures
