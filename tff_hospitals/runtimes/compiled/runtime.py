"""The compiled runtime: the same parts as the native one, executed in this process at the machine's limit.

Three ways of running a round, all calling the composition's own functions:

* *fused*: whole rounds as one XLA program that scans over rounds, hospitals and steps; best where a step is too small
  to pay for leaving the program (logistic regression).
* *scanned*: chunks of the cohort, each scanned by one XLA program, several chunks at once; best for larger dense
  models.
* *side by side*: one TensorFlow function per hospital without XLA, as many at once as there are cores; where oneDNN's
  products count for more than what XLA fuses, and for models that draw random numbers, whose bits XLA would change.

Which of the last two is quicker is measured, where a run is long enough to pay for it (see `trial`); else a rule
chooses (`choose_strategy`).

Sums are taken in the cohort's order and do not depend on the number of cores. In the last two, memory does not grow
with the cohort. With `TF_NUM_INTRAOP_THREADS=1` (the scripts set it) an operation stays on one core and hospitals or
chunks share the cores between them, which is faster than the other way round.

A plan that encodes what it sends runs with the codec between the halves (see `encoded`), whatever strategy is asked
for.

What XLA cannot compile at all (a layer with an operation that it lacks) runs side by side, too, and the run says so.

Programs are kept by the composition's signature: a second seed of the same plan compiles nothing. Seeds of a sweep that
would run fused share the calls as well (see `together`). The runtime starts no process and opens no port.
"""

from __future__ import annotations

import collections
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar, Union, cast

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations import quiet
from tff_hospitals.foundations.validation import one_of, raise_if
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.rounds import RoundInput
from tff_hospitals.runtimes import base
from tff_hospitals.runtimes.compiled import choice, device_data, trial
from tff_hospitals.runtimes.compiled.chunked import ChunkedProgram
from tff_hospitals.runtimes.compiled.encoded import EncodedProgram
from tff_hospitals.runtimes.compiled.fused import FusedProgram
from tff_hospitals.runtimes.compiled.joint_runs import JointProgram
from tff_hospitals.runtimes.compiled.scanned import ScannedProgram
from tff_hospitals.runtimes.compiled.side_by_side import SideBySideProgram

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

Program = Union[FusedProgram, ChunkedProgram]
MOST_FUSED_PARAMETERS = 20_000  # above it, a hospital's steps are long enough to be worth a core of their own
_KINDS: dict[str, Callable[..., Program]] = {
    "fused": FusedProgram,
    "scanned": ScannedProgram,
    "side_by_side": SideBySideProgram,
    "encoded": EncodedProgram,
}
_WHOLE_ROUNDS = "fused"
_BY_XLA = (_WHOLE_ROUNDS, "scanned")
_KEPT_PROGRAMS = 64
_programs: collections.OrderedDict[tuple, Program] = collections.OrderedDict()
_not_compilable: dict[str, str] = {}  # by signature: what XLA lacks
_LACKS = re.compile(
    r"unsupported operations when trying to compile.*? on XLA_\w+: (\w+)|with op (\w+) must be a compile"
)
T = TypeVar("T")
P = TypeVar("P", bound=Program)


class Executor:
    """A plan's program, and the one that takes its place when XLA cannot compile what the model does.

    Args:
      composition: the composed plan.
      strategy: `fused`, `scanned`, `side_by_side` or `encoded`.
      threads: see `program`.

    Attributes:
      strategy: the one in use.
      notes: what a reader of the run should know of it.
    """

    def __init__(self, composition: Composition, strategy: str, threads: int | None = None):
        self._parts, self._threads = composition, threads
        self.strategy = strategy
        self.notes: list[str] = []
        if strategy in _BY_XLA and composition.signature in _not_compilable:
            self._do_without_xla()
        self.program = program(composition, self.strategy, threads)

    def __call__(self, call: Callable[[Program], T]) -> T:
        """What `call` makes of the program; it may be called twice, and must change nothing before it is through."""
        try:
            return call(self.program)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            lacks = what_xla_lacks(error)
            if self.strategy not in _BY_XLA or lacks is None:
                raise
            _not_compilable[self._parts.signature] = lacks
        self._do_without_xla()
        self.program = program(self._parts, self.strategy, self._threads)
        return call(self.program)

    def _do_without_xla(self) -> None:
        lacks = _not_compilable[self._parts.signature]
        self.strategy = "side_by_side"
        self.notes.append(f"XLA cannot compile this model ({lacks}): its hospitals train without it, which is slower")


class CompiledRuntime(base.Runtime):
    """Runs rounds in this process.

    Args:
      composition: the composed plan.
      dataset: its hospitals.
      frozen: weights that do not travel.
      strategy: `fused`, `scanned`, `side_by_side`, or None to choose: by the environment's wish (see `choice`), by
        the rule, or by a trial when a run settles.
      expected_records: that a run trains on, all rounds and passes together; without it nothing is tried.

    Raises:
      validation.InvalidInput: there is no such strategy.
    """

    def __init__(
        self,
        composition: Composition,
        dataset: HospitalDataset,
        frozen: tuple,
        *,
        strategy: str | None = None,
        expected_records: float | None = None,
    ):
        super().__init__(frozen)
        raise_if([*choice.problems(), None if strategy is None else one_of("strategy", strategy, _KINDS)])
        if (late := quiet.threads_warning()) is not None:
            warnings.warn(late, stacklevel=2)
        strategy = strategy or choice.asked()
        self._records, self._open = expected_records, strategy is None
        by = choice.RULE if strategy is None else "asked"
        strategy = strategy or choose_strategy(composition)
        # Whole rounds need all records at once, padded to the largest hospital.
        # What hospitals keep from round to round stays on the host, between the halves of a round.
        on_host = composition.transfer is not None or bool(composition.hospital_ids)
        if on_host or device_data.is_streamed(dataset) or device_data.is_uneven(dataset):
            strategy = in_chunks(composition, strategy)
        self._composition = composition
        self._choice = choice.Choice(strategy, by)
        self._execute = Executor(composition, strategy)
        self.notes = self._execute.notes
        self._held: device_data.Data | None = device_data.load(dataset)
        self._frozen = tuple(tf.constant(weight) for weight in frozen)

    def settle(self, state: ServerState, rounds: Sequence[RoundInput]) -> Mapping[str, Any]:
        """Chooses between the strategies with XLA and without, by a trial on the first round that has hospitals."""
        if self._open:
            one = next((one for one in rounds if one.cohort), None)
            if one is None:
                return {}
            parts = self._composition
            given = (parts, self._choice.strategy, state, one, self._data, self._frozen, self._records)
            self._choice, self._open = trial.choose(*given, what_xla_lacks), False
            if self._choice.lacks:
                _not_compilable[parts.signature] = self._choice.lacks
            if self._choice.by != choice.RULE:
                self._execute = Executor(parts, self._choice.strategy)
                self.notes = self._execute.notes
        return self._choice.record()

    def run_rounds(self, state: ServerState, rounds: Sequence[RoundInput]) -> base.Result:
        """Runs the rounds in order and returns numpy state."""
        if not rounds:
            return state, []
        data = self._data
        state, outputs = self._execute(lambda program: program.run(state, rounds, data, self._frozen))
        return tf.nest.map_structure(np.asarray, state), outputs

    @property
    def strategy(self) -> str:
        """The strategy in use."""
        return self._execute.strategy

    @property
    def shares_calls(self) -> bool:
        """Whether several runs are faster together: where rounds are so short that the call itself counts."""
        return self.strategy == "fused"

    def run_rounds_of_many(
        self,
        states: Sequence[ServerState],
        rounds_of_each: Sequence[Sequence[RoundInput]],
        frozen_of_each: Sequence[tuple],
    ) -> list[base.Result]:
        """What `run_rounds` gives for each of several runs that differ in their seeds alone.

        Args:
          states: of each run.
          rounds_of_each: the rounds of each run, as many for all of them.
          frozen_of_each: weights of each run that do not travel.
        """
        data = self._data

        def run(one_by_one: Program) -> list[base.Result]:
            if self.shares_calls:
                return joint_program(self._composition).run_all(states, rounds_of_each, data, frozen_of_each)
            every = zip(states, rounds_of_each, frozen_of_each)
            return [one_by_one.run(state, rounds, data, frozen) for state, rounds, frozen in every]

        found = self._execute(run)
        return [(tf.nest.map_structure(np.asarray, state), outputs) for state, outputs in found]

    def close(self) -> None:
        """Frees the resident data."""
        self._held = None

    @property
    def _data(self) -> device_data.Data:
        if self._held is None:
            raise RuntimeError("this runtime was closed. Remedy: build another with runtimes.build_runtime")
        return self._held


def choose_strategy(composition: Composition) -> str:
    """The rule for runs that are too short for a trial, by what was measured (see benchmarks/round_time.py): whole
    rounds in one program win where a round is short, chunks on all cores where it is long; convolutions are left to
    oneDNN, whose programs are ready sooner, whichever is quicker then.
    """
    model = composition.model
    if model.draws_random_numbers or has_convolution(model):
        return "side_by_side"
    return "fused" if composition.client_work.scalars <= MOST_FUSED_PARAMETERS else "scanned"


def in_chunks(composition: Composition, strategy: str | None = None) -> str:
    """The strategy that is nearest to the asked or chosen one and runs a round chunk by chunk."""
    if composition.transfer is not None:  # payloads are made of bytes: the codec stands between the halves
        return "encoded"
    strategy = strategy or choose_strategy(composition)
    return "scanned" if strategy == _WHOLE_ROUNDS else strategy


def program(composition: Composition, strategy: str, threads: int | None = None) -> Program:
    """The compiled pieces of a plan: those of an earlier composition with the same signature where there are any.

    Args:
      composition: the composed plan.
      strategy: one of `fused`, `scanned`, `side_by_side`, `encoded`.
      threads: of the last three; as many as there are cores by default.
    """

    def build() -> Program:
        return _KINDS[strategy](composition, threads) if threads else _KINDS[strategy](composition)

    return _kept((composition.signature, strategy, threads), build)


def chunk_by_chunk(found: Program) -> ChunkedProgram:
    """The same program, where `in_chunks` chose it.

    Raises:
      TypeError: a program of whole rounds.
    """
    if not isinstance(found, ChunkedProgram):
        raise TypeError(f"{type(found).__name__} runs whole rounds: choose the strategy with in_chunks")
    return found


def joint_program(composition: Composition) -> JointProgram:
    """As `program`, for several runs at once."""
    return _kept((composition.signature, "together", None), lambda: JointProgram(composition))


def _kept(key: tuple, build: Callable[[], P]) -> P:
    """What was built under that key before, or builds it; the oldest are forgotten."""
    if key not in _programs:
        _programs[key] = build()
        while len(_programs) > _KEPT_PROGRAMS:
            _programs.popitem(last=False)
    return cast("P", _programs[key])


def has_convolution(model: FunctionalModel) -> bool:
    """Whether a trainable or frozen weight has three axes or more, as those of convolutions (and of attention) have."""
    return any(len(spec.shape) >= 3 for spec in (*model.trainable_specs, *model.frozen_specs))


def what_xla_lacks(error: BaseException) -> str | None:
    """The operation that XLA could not compile, or its last words; None for an error of another kind."""
    if not re.search("XLA|compil", str(error)):
        return None
    found = _LACKS.search(str(error))
    return next(filter(None, found.groups())) if found else str(error).strip().splitlines()[-1][:200]
