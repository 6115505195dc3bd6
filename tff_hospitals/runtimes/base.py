"""The contract of a runtime: what it is given, what it gives back, and what a reader of its results may rely on.

**The result.** A runtime is a function of (state, rounds): the state after the rounds and an output for each of them.
It draws nothing itself: batches, keys and weights arrive in the rounds, and noise follows from their keys. So all
runtimes give the same numbers on the same plan. How close they come to each other is part of a runtime's registration
(`Registered.equality`), and `tests/test_runtimes_equal.py` holds every registered one to it.

* Counts (steps, records, bytes) and the ledger are equal exactly, everywhere.
* One runtime repeats itself bit for bit: on any number of threads, in one call or round by round, killed and resumed.
* `native` is the reference. `compiled` equals it up to float32 rounding (rtol 1e-5), because XLA orders sums of a
  product otherwise; within `compiled` rounds that run in chunks have the same bits on every machine, and `cluster`
  has exactly those.

**State.** States are numpy values in the structure of `ServerState`, before and after. A call changes nothing that
it is given; a call that raises has used nothing of the round.

**Ways of running.** A runtime may have several (`Runtime.settle`): they give the same numbers up to rounding, with the
same noise. What is said of bits holds for one of them; a run's record keeps it, and the run is resumed with it.

**Notes.** `notes` says in whole sentences what a reader should know of how a run was executed (a slower way that was
taken). It only grows, holds each sentence once, and is complete when a call returns.

**Bytes.** `RoundOutput.bytes_sent` counts the payloads that were really made (None: dense float32, of a size that
follows from the plan). `RoundOutput.wire_bytes` is what the runtime's own transport sent for one hospital; None where
nothing crosses a wire in another form.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations import optional
from tff_hospitals.foundations.validation import Problem, raise_if

if TYPE_CHECKING:
    from tff_hospitals.processes.composition import ServerState
    from tff_hospitals.processes.rounds import RoundInput, RoundOutput

Result = tuple["ServerState", list["RoundOutput"]]


@dataclasses.dataclass(frozen=True)
class Registered:
    """A runtime as the rest of the package knows it before it is loaded.

    Attributes:
      path: `module:class`; loaded when it is asked for, because it imports TensorFlow.
      summary: what it is, for help texts and reports.
      equality: "reference", "rounding" (equal to the reference up to float32 rounding) or "bits" (equal to the
        compiled runtime in chunks).
      draws_system_noise: whether noise may come from the operating system (`--secure_noise`).
      draws_rounds: whether batches and keys are drawn by its workers, each hospital's from a stream of its own.
      needs_plan: whether it builds the process again from the plan, somewhere else.
      options: names of the keyword arguments that it takes.
      package: that it needs beside TensorFlow; empty for none.
      holds_records: whether the records are where it runs. Without them hospitals evaluate themselves
        (`Runtime.evaluate`), and a federation has to be started for it (`scripts/federation.py`).
    """

    path: str
    summary: str
    equality: str
    draws_system_noise: bool = True
    draws_rounds: bool = False
    needs_plan: bool = False
    options: tuple[str, ...] = ()
    package: str = ""
    holds_records: bool = True

    def missing(self, name: str) -> list[Problem]:
        """That its package cannot be imported, if so; `name` is the runtime's own."""
        return optional.missing(self.package, f"--runtime={name}") if self.package else []

    def problems(self, options: Sequence[str]) -> list[Problem]:
        """Options that it does not take."""
        bound = f"is not one of its options ({', '.join(self.options) or 'it has none'})"
        return [Problem("runtime_options", name, bound, "leave it out") for name in options if name not in self.options]


class Runtime(abc.ABC):
    """Executes a composed plan; see the module's text for what a caller may rely on.

    Args:
      frozen: weights that do not travel, numpy arrays; the hospitals hold them.

    Attributes:
      notes: what a reader of the run should know of how it was executed; sentences, each of them once.
    """

    def __init__(self, frozen: tuple):
        self.frozen = tuple(np.asarray(weight) for weight in frozen)
        self.notes: list[str] = []

    @abc.abstractmethod
    def run_rounds(self, state: ServerState, rounds: Sequence[RoundInput]) -> Result:
        """Runs the rounds in order: the state after the last one (numpy), and an output for each.

        Args:
          state: before the first round.
          rounds: in order; a round without hospitals is finished at the server alone.
        """

    def settle(self, state: ServerState, rounds: Sequence[RoundInput]) -> Mapping[str, Any]:
        """Chooses how a run is executed, where there are several ways and that is open; changes nothing else.

        Args:
          state: before the first of the rounds.
          rounds: of the run.

        Returns:
          What the run's record should hold: `strategy`, which a runtime for the rest of the run is built with, and how
          it was chosen. Nothing where there is one way, or these rounds do not tell yet.
        """
        return {}

    @property
    def shares_calls(self) -> bool:
        """Whether several runs are faster together than one after the other (`run_rounds_of_many`)."""
        return False

    def run_rounds_of_many(
        self,
        states: Sequence[ServerState],
        rounds_of_each: Sequence[Sequence[RoundInput]],
        frozen_of_each: Sequence[tuple],
    ) -> list[Result]:
        """What `run_rounds` gives for each of several runs that differ in their seeds alone, with the same bits.

        Args:
          states: of each run.
          rounds_of_each: the rounds of each run, as many for all of them.
          frozen_of_each: weights of each run that do not travel; a runtime that does not share calls holds one set.

        Raises:
          validation.InvalidInput: frozen weights that differ between runs, of a runtime that holds one set.
        """
        for number, frozen in enumerate(frozen_of_each):
            if not all(map(np.array_equal, frozen, self.frozen)):
                bound = "has frozen weights of its own, and this runtime holds one set"
                raise_if([Problem("run", number, bound, "build a runtime for each run")])
        return [self.run_rounds(state, rounds) for state, rounds in zip(states, rounds_of_each)]

    def evaluate(self, weights: tuple) -> dict[str, dict[str, float]]:
        """Metrics by scope as `training.evaluation.Evaluator` gives them, of a runtime that holds no records."""
        raise TypeError(f"{type(self).__name__} evaluates nothing: the records are where it runs")

    def summary_fields(self) -> dict[str, Any]:
        """What it adds to the summary of a run, by name."""
        return {}

    def close(self) -> None:
        """Frees what it started or holds; calling it twice is no error."""
        return

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def note(self, sentence: str) -> None:
        """Adds to `notes` what is not there yet."""
        if sentence not in self.notes:
            self.notes.append(sentence)


def one_after_the_other(
    run_one: Callable[[ServerState, RoundInput], tuple[ServerState, RoundOutput]],
    state: ServerState,
    rounds: Sequence[RoundInput],
) -> Result:
    """Runs rounds in order, each from the state that the one before left: the last state and all outputs."""
    outputs = []
    for one in rounds:
        state, output = run_one(state, one)
        outputs.append(output)
    return state, outputs
