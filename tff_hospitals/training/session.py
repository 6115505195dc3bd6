"""One run in training: its state, history, files and reasons to stop, driven by `loop`."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.validation import raise_if
from tff_hospitals.plan import mechanisms, schedules
from tff_hospitals.plan.checks.asynchronous import stored_updates_problems
from tff_hospitals.plan.checks.privacy import secure_noise_problems
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes.rounds import RoundInput, RoundOutput
from tff_hospitals.training import cross_site, failures, personalisation, stopping
from tff_hospitals.training.budgets import RoundBudgets, RoundDecision
from tff_hospitals.training.drawn_ahead import DrawnAhead
from tff_hospitals.training.evaluation import POOLED
from tff_hospitals.training.extension import Extension
from tff_hospitals.training.releases import add_ledger, empty_ledger
from tff_hospitals.training.results import Progress, Run, TrainingError
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_directory import RunDirectory
from tff_hospitals.training.run_history import RunHistory
from tff_hospitals.training.run_record import RunIdentity
from tff_hospitals.training.run_streams import release_name, run_streams
from tff_hospitals.training.run_summary import summary_row
from tff_hospitals.training.seed_independent import SeedIndependentParts
from tff_hospitals.training.separation import Separation
from tff_hospitals.training.updates import UpdateStore
from tff_hospitals.training.write_ahead import WriteAhead

if TYPE_CHECKING:
    from tff_hospitals.accounting import Ledger
    from tff_hospitals.processes.composition import ServerState
    from tff_hospitals.runtimes.base import Runtime

_ROUNDS_PER_CALL = 64
_SCHEDULED_RECORDS = 2**23  # 64 MiB of schedules at once: memory must not grow with the number of hospitals
_MOST_RUNS = 32  # that share a call: more gain nothing, and each holds a state
_CALLS_THAT_PAY = 200  # a call costs some 1.3 ms; a program for several runs takes .15 to .25 s longer to compile


class Session:
    """One run: what it carries from round to round, and what it writes.

    Args:
      plan: what to do.
      shared: what all runs of this plan share.
      run_dir, store_updates, max_total_epsilon, on_note: see `loop.train`.
    """

    def __init__(
        self,
        plan: Plan,
        shared: SeedIndependentParts,
        run_dir: str | pathlib.Path | None = None,
        store_updates: int | None = None,
        max_total_epsilon: float | None = None,
        on_note: Callable[[str], None] | None = None,
    ):
        drawn = shared.registered.draws_system_noise
        raise_if(secure_noise_problems(plan, shared.runtime_name, drawn, store_updates))
        raise_if(stored_updates_problems(plan, store_updates))
        tested = sum(hospital.test.records for hospital in shared.evaluated.hospitals)
        raise_if([stopping.nothing_to_look_at(plan.stopping, tested)])
        self.plan, self.shared = plan, shared
        self.dataset, self.model, self.evaluated = shared.dataset, shared.model, shared.evaluated
        self.composition, self.noise, self.extension = shared.composition, shared.noise, shared.extension
        continues = [] if self.extension is None else self.extension.releases(self.dataset, self.model)
        self.streams = run_streams(plan, self.dataset, self.model, continues)
        weights, self.frozen = self.model.initial_weights(self.streams.weights())
        self.state = self.composition.initial_state(weights, self.streams.own, self.noise.server_multiplier)
        dense = 4 * self.composition.client_work.scalars
        frozen_bytes = sum(weight.nbytes for weight in self.frozen) - 4 * self.composition.own_scalars
        self.history = RunHistory(
            plan, self.dataset, self.noise, shared.wire_bytes, (dense, dense), frozen_bytes, shared.side_bytes
        )
        self.drawer = RoundDrawer(
            plan, self.dataset, self.noise, self.streams, at_workers=shared.registered.draws_rounds
        )
        self.budgets = RoundBudgets(plan, self.dataset, self.noise)
        self.ahead = DrawnAhead(self._draw)
        self.plateau = stopping.PlateauRule(plan.stopping)
        self.next_round = 0
        self.seconds: list[tuple[int, float]] = []
        self.finished: Run | None = None
        identity = RunIdentity(plan, self.dataset, self.evaluated, self.model)
        self.files = RunDirectory(identity, shared.runtime_name, run_dir, self.extension)
        self.charges = WriteAhead(
            plan,
            self.dataset,
            self.noise,
            release=release_name(plan, self.dataset, self.model, continues),
            attempt=self.files.attempt,
            run_dir=self.files.path,
            first_round=0 if self.extension is None else self.extension.first_round,
        )
        self._resume()
        self.strategy = self._kept_strategy()
        self.separation = Separation(self.noise, self.drawer, self.next_round)
        if self.finished is None:
            self._begin(max_total_epsilon, on_note)
        self.updates: UpdateStore | None = None
        if store_updates is not None and self.finished is None:
            self.updates = UpdateStore(run_dir, store_updates, self.composition, self.frozen)

    def _resume(self) -> None:
        """Takes over what the run directory holds of this run."""
        import tensorflow as tf

        checkpoint, warnings = self.files.checkpoint()
        copy, charged = 0, {}
        if checkpoint is not None:
            self.state = tf.nest.pack_sequence_as(self.state, list(checkpoint.arrays))
            self.history.restore(checkpoint.progress["history"])
            self.seconds = [(int(number), float(value)) for number, value in checkpoint.progress["seconds"]]
            self.next_round, copy = checkpoint.next_round, int(checkpoint.progress["tree_copy"])
            charged = checkpoint.progress.get("charged", {})
        self.history.warnings.extend(warnings)
        summary = self.files.finished_summary()
        if summary is not None:
            self.finished = self._result(summary, already_finished=True)
            return
        before = self.charges.released_before(self.next_round, copy, charged)
        if before is not None:
            self.history.ledger, lost = before
            if lost:
                self.history.statements.append(
                    f"an interruption lost the results of {lost} rounds, which are drawn again with other noise: each "
                    "drawing is charged"
                )

    def _begin(self, max_total_epsilon: float | None, on_note: Callable[[str], None] | None) -> None:
        """Refuses what may not begin, says what a reader must know, and charges before anything is released."""
        if self.extension is not None and self.extension.new:
            raise_if(self.extension.layout_problems(self.plan))  # before a ledger is planned that it could not fill
        if self.charges.needed or self.extension is not None or max_total_epsilon is not None:
            rest = self.charges.plan_ahead(self.drawer, self.next_round, max_total_epsilon)
            if self.extension is not None and self.extension.new:
                self._state_extension(self.extension, rest, on_note)
        notes = getattr(self.model, "notes", ())  # TFF's models keep theirs to themselves
        for text in (*notes, *self._how_clipped(), *personalisation.statements(self.plan)):
            if text not in self.history.statements:
                self.history.statements.append(text)
            if on_note is not None:
                on_note(text)
        self.files.claim()
        self.charges.begin()

    def _how_clipped(self) -> list[str]:
        """How the gradients of single records are found, where it is not the usual way."""
        from tff_hospitals.models import FunctionalModel
        from tff_hospitals.models.per_record import fallback

        if mechanisms.record_level(self.plan.privacy) is None or not isinstance(self.model, FunctionalModel):
            return []
        words = fallback(self.model)
        return [] if words is None else [f"clipping of every record's gradient: {words}"]

    def _state_extension(self, extension: Extension, rest: Ledger, on_note: Callable[[str], None] | None) -> None:
        """What epsilon results when more rounds follow than the noise was made for; beyond a target it is refused."""
        before, after = self.history.ledger, empty_ledger(self.dataset, self.noise)
        for ledger in (before, rest):
            add_ledger(after, ledger)
        raise_if(extension.problems(self.plan, self.noise, after))
        for text in extension.statements(self.plan, self.noise, before, after):
            self.history.statements.append(text)
            if on_note is not None:
                on_note(text)

    def stop_reason(self) -> str | None:
        """Why the run ends here, or None to go on."""
        if self.next_round >= self.plan.rounds:
            return stopping.ROUND_LIMIT
        decision = self._budget_decision(self.next_round)
        if decision is not None and decision.stop is not None:
            return f"{stopping.BUDGET_SPENT}: {decision.stop}"
        return self.plateau.reason(self.history.monitored)

    def _budget_decision(self, round_number: int) -> RoundDecision | None:
        """Who can pay for a round; None without a limit."""
        if not self.budgets:
            return None
        return self.budgets.decide(
            self.history.ledger, round_number, self.drawer.cohort(round_number), self.charges.copy
        )

    def _draw(self, round_number: int) -> RoundInput:
        """A round's input without the hospitals that have spent their budget; the others go on."""
        decision = self._budget_decision(round_number)
        if decision is None or not decision.reasons:
            return self.drawer.draw(round_number)
        for one, reason in decision.reasons.items():
            if one not in self.history.left:
                self.history.left[one] = round_number + 1
                self.history.warnings.append(f"{one} left the cohort before round {round_number + 1}: {reason}")
        return self.drawer.draw(round_number, decision.may_train)

    def _kept_strategy(self) -> str | None:
        """How the rounds before were run, which is how the rest is run; None: nothing was computed yet."""
        kept: str | None = self.files.execution.get("strategy")
        asked = self.shared.asked_strategy
        if kept is not None and asked not in (None, kept) and self.finished is None:
            words = f"strategy {kept} was kept, with which this run began; {asked} is taken by runs that begin"
            if words not in self.history.warnings:
                self.history.warnings.append(words)
        return kept

    @property
    def runtime(self) -> Runtime:
        """What runs the rounds."""
        return self.shared.runtime(self.frozen, self.strategy, self._expected_records)

    @property
    def _expected_records(self) -> float | None:
        """That the whole run trains on; None for one that is under way, which nothing is tried for."""
        return None if self.next_round else self.drawer.records_per_round * self.plan.rounds

    def settle(self, inputs: Sequence[RoundInput]) -> None:
        """Before anything is computed: how the rounds are run, if that is open. The record keeps it."""
        if self.strategy is None:
            found = self.shared.settle(self.frozen, self.state, inputs, self._expected_records)
            self.strategy = found.get("strategy")
            self.files.keep_execution(found)

    def runs_at_once(self, runs: int) -> int:
        """How many of the runs of this plan should share calls.

        One where the runtime gains nothing by it, or where too few calls are saved to pay for a program that takes
        longer to compile; else as many as have room for the batches of a round.
        """
        plan = self.plan
        rounds_per_call = min(self._most_rounds(runs), plan.evaluate_every, plan.checkpoint_every)
        if (runs - 1) * plan.rounds / rounds_per_call < _CALLS_THAT_PAY:
            return 1
        if not self.runtime.shares_calls:
            return 1
        return self.drawer.rounds_within(_SCHEDULED_RECORDS, min(runs, _MOST_RUNS))

    def draw_rounds(self, runs: int) -> list[RoundInput]:
        """The rounds up to the next evaluation, checkpoint or possible stop, for a call with room for so many runs."""
        start, end = self.next_round, self._chunk_end(runs)
        last = end if self.budgets else self.plan.rounds  # who has budget left is known round by round
        inputs = self.ahead.rounds(start, end, last)
        self.separation.check(inputs)
        self.charges.before(inputs)
        if self.updates is not None:
            self.updates.store_if_due(self.state, inputs[0])
        return inputs

    def enter(
        self,
        inputs: Sequence[RoundInput],
        state: ServerState,
        outputs: Sequence[RoundOutput],
        seconds: float,
        on_round: Callable[[Progress], None] | None = None,
    ) -> None:
        """Takes over finished rounds; evaluates and saves what is due.

        Args:
          inputs, outputs: of the rounds.
          state: after the last one.
          seconds: of each.
          on_round: called after every round.
        """
        self.state = state
        self.history.warnings.extend(note for note in self.runtime.notes if note not in self.history.warnings)
        for one, output in zip(inputs, outputs):
            self._check_finite(output)
            self.history.record_round(one, output, self.charges.copy)
            self.next_round = one.number + 1
            due = self.next_round % self.plan.evaluate_every == 0 or self.next_round == self.plan.rounds
            evaluation = self._evaluate() if due else {}
            self.history.enter_metrics(one, output, evaluation, self._rate(one.number))
            self.seconds.append((one.number + 1, seconds))
            if on_round is not None:
                on_round(self._progress(one.number))
        if self.next_round % self.plan.checkpoint_every == 0 and self.next_round < self.plan.rounds:
            self._save()

    def _chunk_end(self, runs: int) -> int:
        """One past the last round of the next call: nothing may be due before it."""
        plan, start = self.plan, self.next_round
        ends = [plan.rounds, start + self._most_rounds(runs)]
        for every in (plan.evaluate_every, plan.checkpoint_every):
            ends.append((start // every + 1) * every)
        if self.updates is not None:
            ends.append(self.updates.next_stored(start))
        return min(ends)

    def _most_rounds(self, runs: int) -> int:
        """Rounds of each of so many runs that one call may hold."""
        if self.budgets:
            return 1
        return self.drawer.rounds_within(_SCHEDULED_RECORDS // runs, _ROUNDS_PER_CALL)

    def _rate(self, round_number: int) -> float:
        from tff_hospitals.processes.client_optimizers import learning_rate_at

        plan = self.plan
        by = schedules.factor(plan.by_round, "client_learning_rate", plan.rounds, round_number)
        return float(f"{by * float(learning_rate_at(plan.client, round_number)):.7g}")  # float32 has no more digits

    def explained(self, *, training: bool) -> contextlib.AbstractContextManager[None]:
        """While this is open, a layer that fails is named with its hospital."""
        dataset = self.dataset if training else self.evaluated
        where = f"round {self.next_round + 1}" if training else f"evaluation after round {self.next_round}"
        weights = tuple(self.state.weights)
        return failures.explained(self.model, dataset, weights, self.frozen, where, training=training)

    def _evaluate(self) -> dict[str, dict[str, float]]:
        with self.explained(training=False):
            own = self.composition.own_weights(self.state, self.frozen)
            return self.shared.evaluate(self.state.weights, self.frozen, own)

    def _check_finite(self, output: RoundOutput) -> None:
        """A NaN update is reported with round and hospital id, from the hospital's own report: no sum holds it.

        Where hospitals are protected it counted as zero, and the run goes on: that it ended would be a release that no
        guarantee covers.
        """
        private = mechanisms.hospital_level(self.plan.privacy).private
        for hospital, metrics in output.metrics.items():
            if not math.isfinite(metrics["update_norm"]) and private:
                self.history.warnings.append(
                    f"round {output.number + 1}: the update of hospital {hospital!r} was not finite and counted as zero"
                )
            elif not math.isfinite(metrics["update_norm"]):
                raise TrainingError(
                    f"round {output.number + 1}: the update of hospital {hospital!r} has norm "
                    f"{metrics['update_norm']}: must be finite. Remedy: "
                    f"{stopping.smaller_steps(self.plan, output.number)}, or check the features of that hospital for "
                    "extreme values."
                )

    def _progress(self, round_number: int) -> Progress:
        pooled = self.history.last_evaluation.get(POOLED, {})
        return Progress(
            round=round_number + 1,
            rounds=self.plan.rounds,
            loss=pooled.get("loss"),
            accuracy=pooled.get("accuracy"),
            epsilon=self.history.epsilon(POOLED),
            unit=self.noise.unit,
            bytes=sum(self.history.bytes_down.values()) + sum(self.history.bytes_up.values()),
            simulated_seconds=self.history.simulated_seconds,
        )

    def _save(self, *, last: bool = False) -> None:
        import tensorflow as tf

        if self.files.path is None:
            return
        arrays = tuple(np.asarray(leaf) for leaf in tf.nest.flatten(self.state))
        progress = {
            "history": self.history.to_json(),
            "seconds": self.seconds,
            "tree_copy": self.charges.copy,
            "charged": self.charges.charged,
        }
        self.files.save(self.next_round, arrays, progress, last=last)
        self.files.write_tables(self.history, self.seconds, last=last)

    def adopt(self, weights: tuple, words: str, seconds: float, warnings: Sequence[str] = ()) -> Run:
        """Takes weights that were found outside of the rounds, as those of a single round, and finishes.

        Args:
          weights: of a baseline that was trained to its end.
          words: why it ended.
          seconds: that it took.
          warnings: of it.
        """
        self.state = self.state._replace(weights=tuple(weights))
        self.next_round = self.plan.rounds
        self.history.warnings.extend(warnings)
        nobody = RoundInput(self.plan.rounds - 1, ())
        output = RoundOutput(self.plan.rounds - 1, {}, {})
        self.history.enter_metrics(nobody, output, self._evaluate(), self._rate(self.plan.rounds - 1))
        self.seconds.append((self.plan.rounds, seconds))
        return self.finish(words)

    def finish(self, reason: str | None = None) -> Run:
        """Evaluates if the last round was not, writes everything; the result is `finished` from now on."""
        self.ahead.stop()
        reason = reason or self.stop_reason() or stopping.ROUND_LIMIT
        if (
            self.history.metric_rows and self.history.metric_rows[-1].get("loss") is None
        ) or not self.history.metric_rows:
            self.history.last_evaluation = self._evaluate()
        self.history.warnings.extend(stopping.final_warnings(self.plan, self.history.last_evaluation.get(POOLED, {})))
        summary = summary_row(
            self.plan,
            self.dataset,
            self.noise,
            self.history,
            reason,
            self.next_round,
            self.seconds,
            self.shared.runtime_name,
        )
        success = self.shared.backdoor_success(self.state.weights, self.frozen)
        if success is not None:
            summary["backdoor_success"] = success
        summary.update(self.shared.summary_fields())
        run = self._result(summary, already_finished=False)
        across: list[dict[str, Any]] = []
        if run.own:
            one = None if self.plan.model.local_layers else (run.weights, run.frozen)
            across = cross_site.rows(self.shared.evaluator, run.own, one)
        self.charges.settle(self.history.ledger, self.next_round)
        self._save(last=True)
        self.files.finish(run, run.summary, across)
        self.finished = run
        return run

    def _result(self, summary: Mapping[str, Any], *, already_finished: bool) -> Run:
        own = self.shared.own_models(self.state, self.frozen, self.plan.seed)
        if self.plan.personal.kind != "none" and not already_finished:
            summary = {**summary, "personal": own.fields(self.plan, self.shared.evaluator)}
        return Run(
            plan=self.plan,
            summary=summary,
            ledger=self.history.released(),
            weights=tuple(np.asarray(weight) for weight in self.state.weights),
            frozen=self.frozen,
            evaluation=self.history.last_evaluation,
            directory=self.files.path,
            already_finished=already_finished,
            model=self.model,
            metrics=tuple(self.history.metric_rows),
            own=own.weights,
        )
