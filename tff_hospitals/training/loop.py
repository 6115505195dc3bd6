"""The one loop: every method, baseline and sweep of this package trains here."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals import learning_process, models, noise_plan, records
from tff_hospitals.accounting import Ledger
from tff_hospitals.plan import Plan
from tff_hospitals.privacy_checks import secure_noise_problems
from tff_hospitals.random_streams import Streams
from tff_hospitals.runtimes import build_runtime
from tff_hospitals.training import run_directory, stopping
from tff_hospitals.training.books import Books
from tff_hospitals.training.budgets import RoundBudgets, RoundDecision
from tff_hospitals.training.checkpoints import Checkpoint
from tff_hospitals.training.evaluation import POOLED, Evaluator
from tff_hospitals.training.rounds import RoundDrawer
from tff_hospitals.training.updates import UpdateStore
from tff_hospitals.validation import raise_if

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset, Part
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.runtimes.base import RoundInput, RoundOutput

_ROUNDS_PER_CALL = 64
_SCHEDULED_RECORDS = 2**23  # 64 MiB of schedules at once: memory must not grow with the number of hospitals


class TrainingError(RuntimeError):
    """Training cannot go on; the message names round, hospital, cause and remedy. Checkpoints written so far stay."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress display is told after every round; epsilon is of the worst hospital, None without a guarantee."""

    round: int
    rounds: int
    loss: float | None
    accuracy: float | None
    epsilon: float | None
    unit: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      plan: what was done.
      summary: the row that comparison tables are made of (see `run_directory.summary_row`).
      ledger: the only source of epsilon.
      weights, frozen: final weights, as numpy arrays.
      evaluation: metrics by hospital id and `pooled` of the final weights.
      directory: where the files are, None when nothing was written.
      already_finished: True when the directory held this run, finished, and nothing was done.
    """

    plan: Plan
    summary: Mapping[str, Any]
    ledger: Ledger
    weights: tuple[np.ndarray, ...]
    frozen: tuple[np.ndarray, ...]
    evaluation: Mapping[str, Mapping[str, float]]
    directory: pathlib.Path | None
    already_finished: bool
    model: FunctionalModel

    def keras_model(self) -> Any:
        """The trained model as a plain `tf.keras.Model`."""
        return self.model.keras_model(self.weights, self.frozen)


def build_model(plan: Plan, dataset: HospitalDataset) -> FunctionalModel:
    """The plan's model for these hospitals."""
    return models.build_model(plan.model.name, dataset, **dict(plan.model.options))


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
) -> Run:
    """Trains a plan from its start, or from where an interrupted run in `run_dir` got to.

    Args:
      plan: what to do; refused when it has problems.
      dataset: the hospitals.
      run_dir: folder for the run's files and checkpoints; None keeps everything in memory.
      runtime: `compiled`, `native` or `cluster`.
      model: a model built before (several seeds of one plan share it).
      evaluate_on: hospitals to evaluate on when they are not those that train (baselines).
      server_held: records that the server holds itself, evaluated as `server`.
      on_round: called after every round.
      store_updates: keep every hospital's update of every k-th round in `updates/` for an audit; needs `run_dir`. What
        is trained does not depend on it.
      runtime_options: of the cluster: `address`, `time_limit_seconds`, `hospitals_per_chunk`, `workers`.

    Raises:
      validation.InvalidInput: bad plan, model or data, before anything is trained.
      records.RecordError: a run directory of another plan, no whole checkpoint, or a file that cannot be written.
      TrainingError: an update that is not finite.

    >>> from tff_hospitals.hospitals import load_dataset
    >>> run = train(Plan(rounds=2, seed=1), load_dataset("heart_disease"))
    >>> run.summary["rounds"], run.summary["stop_reason"]
    (2, 'round limit reached')
    """
    session = _Session(plan, dataset, run_dir, runtime, model, evaluate_on, server_held, store_updates)
    session.runtime_options = dict(runtime_options or {})
    if session.finished is not None:
        return session.finished
    try:
        while session.stop_reason() is None:
            session.run_some_rounds(on_round)
        return session.finish()
    finally:
        session.close()


class _Session:
    """The state of one call of `train`."""

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        run_dir: str | pathlib.Path | None,
        runtime: str,
        model: FunctionalModel | None,
        evaluate_on: HospitalDataset | None,
        server_held: Part | None,
        store_updates: int | None = None,
    ):
        raise_if(secure_noise_problems(plan, runtime, store_updates))
        self.plan, self.dataset, self.runtime_name = plan, dataset, runtime
        self.model = model if model is not None else build_model(plan, dataset)
        self.composition = learning_process.compose(plan, dataset, self.model, compile_steps=False)
        self.evaluated = dataset if evaluate_on is None else evaluate_on
        self.noise = noise_plan.make(plan, dataset)
        root = Streams.from_seed(plan.seed)
        weights, self.frozen = self.model.initial_weights(root.child("model").key())
        if plan.privacy.secure_noise:
            root = Streams.from_operating_system()
        self.state = self.composition.initial_state(weights, root, self.noise.server_multiplier)
        dense = 4 * self.composition.client_work.scalars
        frozen_bytes = sum(weight.nbytes for weight in self.frozen)
        wire, side = self.composition.wire_bytes(), self.composition.side_bytes()
        self.books = Books(plan, dataset, self.noise, wire, (dense, dense), frozen_bytes, side)
        self.drawer = RoundDrawer(plan, dataset, self.noise, root)
        self.budgets = RoundBudgets(plan, dataset, self.noise)
        self.plateau = stopping.PlateauRule(plan.stopping)
        self.next_round = 0
        self.seconds: list[tuple[int, float]] = []
        self.evaluator: Evaluator | None = None
        self._server_held = server_held
        self.runtime_options: dict[str, Any] = {}
        self._runtime: Any = None
        self.finished: Run | None = None
        self.directory = None
        if run_dir is not None:
            self.directory = run_directory.RunDirectory(pathlib.Path(run_dir))
            self._open_directory()
        self.updates: UpdateStore | None = None
        if store_updates is not None and self.finished is None:
            self.updates = UpdateStore(run_dir, store_updates, self.composition, self.frozen)

    def _open_directory(self) -> None:
        directory = self.directory
        if directory is None:
            return
        identity = records.fingerprint(
            [self.plan.fingerprint(), self.dataset.fingerprint(), self.evaluated.fingerprint()]
        )
        self.identity = identity
        directory.claim(self.plan, self.dataset, identity, self.runtime_name)
        checkpoint, warnings = directory.checkpoints.latest()
        self.books.warnings.extend(warnings)
        if checkpoint is None:
            return
        if checkpoint.plan != identity:
            raise records.RecordError(
                f"{directory.path} holds a checkpoint of another plan ({checkpoint.plan}, this one is {identity}). "
                "Remedy: choose another --run_dir."
            )
        self._restore(checkpoint)
        summary = directory.finished_summary()
        if summary is not None:
            self.finished = self._result(summary, already_finished=True)

    def _restore(self, checkpoint: Checkpoint) -> None:
        import tensorflow as tf

        self.state = tf.nest.pack_sequence_as(self.state, list(checkpoint.arrays))
        found = self.books.warnings
        self.books.restore(checkpoint.progress["books"])
        self.books.warnings.extend(found)
        self.seconds = [(int(number), float(value)) for number, value in checkpoint.progress["seconds"]]
        self.next_round = checkpoint.next_round

    def stop_reason(self) -> str | None:
        """Why the run ends here, or None to go on."""
        if self.next_round >= self.plan.rounds:
            return stopping.ROUND_LIMIT
        decision = self._budget_decision(self.next_round)
        if decision is not None and decision.stop is not None:
            return f"{stopping.BUDGET_SPENT}: {decision.stop}"
        return self.plateau.reason(self.books.history)

    def _budget_decision(self, round_number: int) -> RoundDecision | None:
        """Who can pay for a round; None without a limit."""
        if not self.budgets:
            return None
        return self.budgets.decide(self.books.ledger, round_number, self.drawer.cohort(round_number))

    def _draw(self, round_number: int) -> RoundInput:
        """A round's input without the hospitals that have spent their budget; the others go on."""
        decision = self._budget_decision(round_number)
        if decision is None or not decision.reasons:
            return self.drawer.draw(round_number)
        for one, reason in decision.reasons.items():
            if one not in self.books.left:
                self.books.left[one] = round_number + 1
                self.books.warnings.append(f"{one} left the cohort before round {round_number + 1}: {reason}")
        return self.drawer.draw(round_number, decision.may_train)

    def run_some_rounds(self, on_round: Callable[[Progress], None] | None) -> None:
        """Runs up to the next evaluation, checkpoint or possible stop, then evaluates and saves what is due."""
        if self._runtime is None:
            options = {"plan": self.plan, **self.runtime_options} if self.runtime_name == "cluster" else {}
            self._runtime = build_runtime(self.runtime_name, self.composition, self.dataset, self.frozen, **options)
            self.evaluator = Evaluator(self.model, self.evaluated, self._server_held)
        inputs = [self._draw(number) for number in range(self.next_round, self._chunk_end())]
        if self.updates is not None:
            self.updates.store_if_due(self.composition.at_hospitals(self.state, inputs[0].broadcast_key), inputs[0])
        started = time.perf_counter()
        self.state, outputs = self._runtime.run_rounds(self.state, inputs)
        elapsed = (time.perf_counter() - started) / len(inputs)
        self.books.warnings.extend(note for note in self._runtime.notes if note not in self.books.warnings)
        for one, output in zip(inputs, outputs):
            self._check_finite(output)
            self.books.record_round(one, output)
            self.next_round = one.number + 1
            due = self.next_round % self.plan.evaluate_every == 0 or self.next_round == self.plan.rounds
            evaluation = self._evaluate() if due else {}
            self.books.enter_metrics(one, output, evaluation, self._rate(one.number))
            self.seconds.append((one.number + 1, elapsed))
            if on_round is not None:
                on_round(self._progress(one.number))
        if self.next_round % self.plan.checkpoint_every == 0:
            self._save()

    def _chunk_end(self) -> int:
        """One past the last round of the next call: nothing may be due before it."""
        plan, start = self.plan, self.next_round
        if self.budgets:
            return start + 1
        ends = [plan.rounds, start + self.drawer.rounds_within(_SCHEDULED_RECORDS, _ROUNDS_PER_CALL)]
        for every in (plan.evaluate_every, plan.checkpoint_every):
            ends.append((start // every + 1) * every)
        if self.updates is not None:
            ends.append(self.updates.next_stored(start))
        return min(ends)

    def _rate(self, round_number: int) -> float:
        from tff_hospitals.processes.client_optimizers import learning_rate_at

        return float(f"{float(learning_rate_at(self.plan.client, round_number)):.7g}")  # float32 has no more digits

    def _evaluate(self) -> dict[str, dict[str, float]]:
        if self.evaluator is None:
            self.evaluator = Evaluator(self.model, self.evaluated, self._server_held)
        return self.evaluator(self.state.weights, self.frozen)

    def _check_finite(self, output: RoundOutput) -> None:
        """A NaN update is reported with round and hospital id; averaging would hide whose it was."""
        for hospital, metrics in output.metrics.items():
            if not math.isfinite(metrics["update_norm"]):
                raise TrainingError(
                    f"round {output.number + 1}: the update of hospital {hospital!r} has norm "
                    f"{metrics['update_norm']}: must be "
                    f"finite. Remedy: lower --client_learning_rate (now {self.plan.client.learning_rate:g}) or check "
                    "the "
                    "features of that hospital for extreme values."
                )

    def _progress(self, round_number: int) -> Progress:
        pooled = self.books.last_evaluation.get(POOLED, {})
        return Progress(
            round=round_number + 1,
            rounds=self.plan.rounds,
            loss=pooled.get("loss"),
            accuracy=pooled.get("accuracy"),
            epsilon=self.books.epsilon(POOLED),
            unit=self.noise.unit,
            bytes=sum(self.books.bytes_down.values()) + sum(self.books.bytes_up.values()),
        )

    def _save(self) -> None:
        if self.directory is None:
            return
        import tensorflow as tf

        arrays = tuple(np.asarray(leaf) for leaf in tf.nest.flatten(self.state))
        progress = {"books": self.books.to_json(), "seconds": self.seconds}
        self.directory.checkpoints.save(Checkpoint(self.next_round, self.identity, arrays, progress))
        self.directory.write_tables(self.books, self.seconds)

    def finish(self) -> Run:
        """Evaluates if the last round was not, writes everything and returns the result."""
        reason = self.stop_reason() or stopping.ROUND_LIMIT
        if (self.books.metric_rows and self.books.metric_rows[-1].get("loss") is None) or not self.books.metric_rows:
            self.books.last_evaluation = self._evaluate()
        summary = run_directory.summary_row(
            self.plan, self.dataset, self.noise, self.books, reason, self.next_round, self.seconds, self.runtime_name
        )
        run = self._result(summary, already_finished=False)
        if self.directory is not None:
            self._save()
            self.directory.finish(run, summary)
        return run

    def _result(self, summary: Mapping[str, Any], *, already_finished: bool) -> Run:
        return Run(
            plan=self.plan,
            summary=summary,
            ledger=self.books.released(),
            weights=tuple(np.asarray(weight) for weight in self.state.weights),
            frozen=self.frozen,
            evaluation=self.books.last_evaluation,
            directory=None if self.directory is None else self.directory.path,
            already_finished=already_finished,
            model=self.model,
        )

    def close(self) -> None:
        """Frees what the runtime holds."""
        if self._runtime is not None:
            self._runtime.close()
