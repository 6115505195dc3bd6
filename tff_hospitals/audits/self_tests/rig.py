"""Rounds of a run's own mechanism, thousands at a time, in a frame that hides nothing.

Client work, aggregator and the compiled program are the run's; around them stand plain gradient steps of rate 1, so
that what a round adds can be read off the weights. Every program is compiled anew: an audit sees the code as it is now.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.plan import mechanisms, schedules
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes import composition as composition_lib
from tff_hospitals.processes.rounds import HospitalRound, RoundInput
from tff_hospitals.runtimes.compiled import device_data
from tff_hospitals.runtimes.compiled.encoded import EncodedProgram
from tff_hospitals.runtimes.compiled.joint_runs import JointProgram
from tff_hospitals.runtimes.compiled.side_by_side import SideBySideProgram

if TYPE_CHECKING:
    from tff_hospitals.audits.self_tests.keys import Draws
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.composition import ServerState

PLACES = 8  # in every batch: one size means one compiled program
_BYTES_PER_CALL = 256 * 2**20
Flat = np.ndarray  # float64 [parameters]: the trainable weights, one tensor after the other


def plain_plan(
    plan: Plan, unit: str, multiplier: float, *, local_steps: int | None = None, keyed: bool = False, upload: str = ""
) -> Plan:
    """The plan with its mechanism at one unit, and plain gradient steps instead of its optimisers and encoders.

    Args:
      plan: of the run.
      unit: "record" or "hospital": of a plan with both, the other mechanism is left out.
      multiplier: of that mechanism's noise (each round brings the hospitals' own).
      local_steps: of a round; None: as in the plan.
      keyed: take noise from keys where the run took it from the operating system, so that it can be drawn twice.
      upload: encoders of the way up.
    """
    privacy = dataclasses.replace(
        plan.privacy if unit == "record" else mechanisms.hospital_settings(plan.privacy),
        noise_multiplier=multiplier,
        target_epsilon=None,
        outer="none",
        selected_from=1.0,
        secure_noise=plan.privacy.secure_noise and not keyed,
    )
    if unit == "record":
        privacy = dataclasses.replace(privacy, zeroing="none", secure_sum=False)
    read = mechanisms.options_read(privacy)
    unread: dict[str, Any] = {
        field.name: getattr(PrivacyPlan(), field.name)
        for field in dataclasses.fields(privacy)
        if field.name not in read
    }
    privacy = dataclasses.replace(privacy, **unread)
    client: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "learning_rate": 1.0,
        "learning_rate_schedule": "constant",
        "proximal_mu": 0.0,
    }
    if local_steps is not None:
        client |= {"local_steps": local_steps, "local_epochs": None}
    return plan.in_step().replace(
        client=client,
        server={"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0},
        privacy=privacy,
        stopping={"max_epsilon": None, "outer_max_epsilon": None},
        broadcast="",
        upload=upload,
        error_feedback=False,
        skip_below=None,
        poison="",
        by_round=_by_round(plan, unit, local_steps is None, bool(upload)),
    )


def _by_round(plan: Plan, unit: str, all_steps: bool, encoded: bool) -> str:
    """The settings by round that the mechanism reads: rates are 1 here, and steps where a plan gives them."""
    kept = ["hospitals_per_round", *(["local_steps", "local_epochs"] if all_steps else [])]
    kept += ["upload_bits"] if encoded else []
    prefix = noise_plan.prefix_of(plan, unit)
    own = {prefix + name: name for name in ("clip_norm", "noise_multiplier")}
    names = {**dict(zip(kept, kept)), **own}
    shapes = schedules.parse(plan.by_round)
    return ",".join(f"{names[name]}={shape}" for name, shape in shapes.items() if name in names)


def silent(one: HospitalRound, steps: int | None = None) -> HospitalRound:
    """The hospital's round with no record in any batch: what is left of its update is noise.

    Args:
      one: as it was drawn.
      steps: how many of its steps are taken; None: all.
    """
    steps = one.schedule.steps if steps is None else steps
    nothing = np.zeros([steps, 1])
    schedule = dataclasses.replace(one.schedule, indices=nothing.astype(np.int32), mask=nothing.astype(np.float32))
    return dataclasses.replace(one, schedule=schedule, factor=None, late=None)


def with_batches(one: HospitalRound, batches: Sequence[Sequence[int]]) -> HospitalRound:
    """The hospital's round with batches of one's own choice: record numbers of each step, at most `PLACES`."""
    places = max([PLACES, *map(len, batches)])
    indices, mask = np.zeros([len(batches), places], np.int32), np.zeros([len(batches), places], np.float32)
    for step, batch in enumerate(batches):
        indices[step, : len(batch)], mask[step, : len(batch)] = batch, 1.0
    schedule = dataclasses.replace(one.schedule, indices=indices, mask=mask)
    return dataclasses.replace(one, schedule=schedule, factor=None, late=None)


def one_step(one: HospitalRound) -> HospitalRound:
    """The hospital's round with a single step, on its first record."""
    return with_batches(one, [(0,)])


class Rig:
    """A frame around one plan's mechanism.

    Args:
      plan: of `plain_plan`.
      dataset: its hospitals.
      model: its model.
      frozen: weights that do not travel.
      runs_per_call: how many runs share a call. One number means one compiled program.

    Every round starts from zero weights, which lose no digits, or from those of `at`.
    """

    def __init__(
        self, plan: Plan, dataset: HospitalDataset, model: FunctionalModel, frozen: tuple, runs_per_call: int = 1024
    ):
        self.composition = composition_lib.compose(plan, dataset, model)
        self._program: Any = (JointProgram if self.composition.transfer is None else EncodedProgram)(self.composition)
        self._data: Any = device_data.load(dataset)
        self._frozen = frozen
        self._called = False
        self._weights = tuple(np.zeros(spec.shape, np.float32) for spec in model.trainable_specs)
        self.tensors = _slices(model)
        self.parameters = sum(weight.size for weight in self._weights)
        each = 4 * (self.parameters + sum(weight.size for weight in frozen))
        self._at_once = max(1, min(runs_per_call, _BYTES_PER_CALL // max(1, each)))

    def at(self, weights: tuple) -> Rig:
        """The same frame, with rounds that start from other weights."""
        other = copy.copy(self)
        other._weights = tuple(np.asarray(weight, np.float32) for weight in weights)
        return other

    @property
    def largest_weight(self) -> float:
        """Of those that rounds start from."""
        return max(float(np.abs(weight).max(initial=0.0)) for weight in self._weights)

    def state(self, number: int, aggregator: Any = None) -> ServerState:
        """The server before a round.

        Args:
          number: of the round, 0-based.
          aggregator: state of the mechanism, which is told the round unless it counts by itself; None: it has none.
        """
        held = collections.OrderedDict() if aggregator is None else aggregator
        if "round" in held:
            held = collections.OrderedDict(held, round=np.int32(number))
        parts = self.composition
        finalizer, settings = parts.finalizer.initial_state(parts.model.trainable_specs), parts.client_work.settings()
        return composition_lib.ServerState(self._weights, np.int32(number), held, finalizer, client=settings)

    def updates(
        self, states: Sequence[ServerState], inputs: Sequence[RoundInput]
    ) -> tuple[np.ndarray, list[ServerState]]:
        """One round each of many runs: what it subtracts from the weights [runs, parameters], and the next states.

        Every state must hold the rig's own weights; those that come back do again.
        """
        moved, after = [], []
        before = flat(self._weights)
        for start in range(0, len(states), self._at_once):
            some = slice(start, start + self._at_once)
            for state in self._run(list(states[some]), list(inputs[some])):
                moved.append(before - flat(state.weights))
                after.append(state._replace(weights=self._weights))
        return np.array(moved).reshape(len(states), self.parameters), after

    def _run(self, states: list[ServerState], inputs: list[RoundInput]) -> list[ServerState]:
        import tensorflow as tf

        if isinstance(self._program, JointProgram):
            # The first call decides the size of the compiled program, which must not grow.
            missing = 0 if self._called else self._at_once - len(states)
            filled, rounds = states + states[:1] * missing, inputs + inputs[:1] * missing
            try:
                frozen = [self._frozen] * len(filled)
                results = self._program.run_all(filled, [[one] for one in rounds], self._data, frozen)
                self._called = True
                return [state for state, _ in results[: len(states)]]
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):  # what XLA cannot compile
                self._program = SideBySideProgram(self.composition)
        constant = tuple(map(tf.constant, self._frozen))
        found = [self._program.run(state, [one], self._data, constant)[0] for state, one in zip(states, inputs)]
        return [tf.nest.map_structure(np.asarray, state) for state in found]


def flat(weights: Iterable[Any]) -> Flat:
    """Tensors as one vector."""
    return np.concatenate([np.asarray(one, np.float64).ravel() for one in weights])


def _slices(model: FunctionalModel) -> dict[str, slice]:
    """Where each trainable tensor lies in a flat vector."""
    found, start = {}, 0
    for name, spec in zip(model.trainable_names, model.trainable_specs):
        size = spec.shape.num_elements()
        found[name] = slice(start, start + size)
        start += size
    return found


def one_hospital(number: int, one: HospitalRound, draws: Draws) -> RoundInput:
    """A round in which one hospital takes part alone."""
    return RoundInput(number, (one,), draws.round(number).broadcast_key)
