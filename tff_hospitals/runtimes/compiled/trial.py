"""With XLA or without: a measured trial on the run's own model, shapes and processor.

Which of the two is quicker follows from no kind of layer: XLA fuses what surrounds a product, oneDNN has the better
products, and which counts for more depends on the sizes and on the processor. A trial trains one hospital on every core
for some steps, both ways in turn, and takes the least time of each.

A trial costs two compilations and a few seconds. Where the whole run is not much longer than that, or nothing but XLA
makes sense (whole rounds in one program), the rule of `runtime.choose_strategy` stays: what a small run takes depends
on its plan alone.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tff_hospitals import __version__
from tff_hospitals.foundations import files
from tff_hospitals.processes.composition import Composition, ServerState
from tff_hospitals.processes.rounds import HospitalRound, RoundInput
from tff_hospitals.runtimes.compiled import choice, device_data
from tff_hospitals.runtimes.compiled.choice import BY_XLA, WITHOUT_XLA, Choice, Outcome
from tff_hospitals.runtimes.compiled.chunked import Chunk, ChunkedProgram
from tff_hospitals.runtimes.compiled.scanned import ScannedProgram
from tff_hospitals.runtimes.compiled.side_by_side import SideBySideProgram

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel

WORTH_A_TRIAL = 5e12
"""Multiplications of a whole run; some minutes of two cores, of which a trial takes a tenth or less."""
_PASSES = 3  # forward, and backward to inputs and to weights
_OF_A_TURN = 1e10  # multiplications of one hospital in one measurement; at least two steps
_TURNS = 3
_CLEAR = 3.0  # times slower in a single step: no more need be measured, and it might take minutes
_KINDS: dict[str, Callable[[Composition], ChunkedProgram]] = {BY_XLA: ScannedProgram, WITHOUT_XLA: SideBySideProgram}


def choose(
    composition: Composition,
    rule: str,
    state: ServerState,
    one: RoundInput,
    data: device_data.Data,
    frozen: tuple,
    records: float | None,
    lacks_of: Callable[[BaseException], str | None],
) -> Choice:
    """The strategy of a run: the rule's where the run is small, else what a trial finds, now or in an earlier run.

    Args:
      composition: the composed plan.
      rule: the strategy that the rule takes.
      state: before the round; nothing of it is changed.
      one: a round of the run with its real shapes. What is computed from it is thrown away.
      data: the hospitals' records.
      frozen: weights that do not travel, as tensors.
      records: that the run trains on, all rounds and passes together; None: unknown.
      lacks_of: what XLA lacks, if an error says that it could not compile; None for another error.
    """
    usual = Choice(rule, choice.RULE)
    if rule not in _KINDS or records is None or not choice.may_measure():
        return usual
    if not any(each.schedule.steps for each in one.cohort):
        return usual
    found = work_of(composition.model)
    if found is None or found.draws or _PASSES * found.multiplications * records < WORTH_A_TRIAL:
        return usual
    about = _about(composition, one)
    key = files.fingerprint(about)
    remembers = bool(getattr(composition.model, "program", ""))  # else nobody knows what the model computes
    outcome, by = choice.kept(key) if remembers else None, "cache"
    if outcome is None:
        with choice.one_at_a_time():
            outcome = choice.kept(key) if remembers else None  # another process may just have found it
            if outcome is None:
                outcome, by = _measured(composition, state, one, data, frozen, found.multiplications, lacks_of), "trial"
                if remembers:
                    choice.keep(key, outcome, about)
    return Choice(outcome.best(rule), by, outcome.seconds, outcome.lacks)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a model does with one record: `multiplications` forward, at least; whether it `draws` random numbers."""

    multiplications: float
    draws: bool


def work_of(model: FunctionalModel) -> Work | None:
    """The work of a model for one record, counted in its graph; None of a model that cannot be traced by itself.

    Products in the body of a loop (recurrent layers) count once.
    """

    def forward(weights: tuple, frozen: tuple, features: tf.Tensor, key: tf.Tensor) -> Any:
        return model.predict(weights, frozen, features, training=True, key=key)

    specs = (tf.TensorSpec([1, *model.feature_shape], tf.float32), tf.TensorSpec([2], tf.int64))
    try:
        traced = tf.function(forward, autograph=False).get_concrete_function(
            tuple(model.trainable_specs), tuple(model.frozen_specs), *specs
        )
    except Exception:  # a user's model may need records of its own; the rule does without
        return None
    operations = traced.graph.get_operations()
    inner = traced.graph.as_graph_def().library.function
    kinds = {one.type for one in operations} | {node.op for body in inner for node in body.node_def}
    used = sum(spec.shape.num_elements() for spec in (*model.trainable_specs, *model.frozen_specs))
    counted = sum(map(_multiplications, operations))
    return Work(max(float(used), counted), any(kind.startswith(("StatelessRandom", "Random")) for kind in kinds))


def _multiplications(operation: tf.Operation) -> float:
    """Of one operation, where its shapes are known."""
    shapes = [tensor.shape for tensor in (*operation.inputs, *operation.outputs)]
    kind = operation.type
    if len(shapes) < 3 or not all(shape.is_fully_defined() for shape in shapes):
        return 0.0
    first, second, made = shapes[0], shapes[1], float(np.prod(shapes[-1].as_list()))
    if kind in ("Conv2D", "Conv3D"):
        return made * float(np.prod(second[:-1].as_list()))
    if kind == "DepthwiseConv2dNative":
        return made * float(np.prod(second[:2].as_list()))
    if kind in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):  # a transposed convolution
        return float(np.prod(shapes[2].as_list())) * float(np.prod(second[:-1].as_list()))
    if kind == "MatMul":
        return made * first[0 if operation.get_attr("transpose_a") else 1]
    if kind == "BatchMatMulV2":
        return made * first[-2 if operation.get_attr("adj_x") else -1]
    if kind == "Einsum":
        return _of_einsum(operation.get_attr("equation").decode(), [first, second])
    return 0.0


def _of_einsum(equation: str, shapes: Sequence[tf.TensorShape]) -> float:
    """The product of the sizes of all letters: how often two numbers meet."""
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.partition("->")[0].split(","), shapes):
        sizes.update(zip(letters, shape.as_list()))
    return float(np.prod(list(sizes.values())))


def _about(composition: Composition, one: RoundInput) -> dict[str, Any]:
    """Everything that the outcome of a trial may depend on, by name."""
    work, model = composition.client_work, composition.model
    inputs = {"learning_rate", "momentum", "proximal_mu", "weight_decay"}  # of a program: whatever they are
    client = {name: bool(value) if name in inputs else value for name, value in dataclasses.asdict(work.client).items()}
    parts = [type(part).__qualname__ for part in (work.rule, work.correction, work.local, work.penalties)]
    return {
        "model": getattr(model, "program", ""),
        "weights": [str(spec) for spec in (*model.trainable_specs, "frozen", *model.frozen_specs)],
        "features": list(model.feature_shape),
        "client": client,
        "steps": [*parts, work.privacy.mechanism, work.privacy.clip_style, work.block, work.noise_width],
        "shapes": _size_classes(one),
        "processor": choice.processor(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "versions": [tf.__version__, __version__],
        "environment": {name: os.environ.get(name, "") for name in ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")},
    }


def _size_classes(one: RoundInput) -> list[int]:
    """Of steps and of a step's records, in powers of four: places of a Poisson batch differ from draw to draw, what is
    expected in it does not.
    """
    steps = max(each.schedule.steps for each in one.cohort)
    records = max(each.schedule.expected_batch for each in one.cohort)
    return [int(math.log(max(1.0, size), device_data.MOST_PADDING) + 1e-9) for size in (steps, records)]


def _measured(
    composition: Composition,
    state: ServerState,
    one: RoundInput,
    data: device_data.Data,
    frozen: tuple,
    multiplications: float,
    lacks_of: Callable[[BaseException], str | None],
) -> Outcome:
    """The trial itself, with programs of its own."""
    threads = max(1, len(os.sched_getaffinity(0)))
    capacity = max(each.schedule.capacity for each in one.cohort)
    most = max(2, int(_OF_A_TURN / (_PASSES * multiplications * capacity)))
    whole = [_cut(each, most) for each in one.cohort if each.schedule.steps][:threads]
    steps = max(each.schedule.steps for each in whole)
    sizes = {"rounds": 1, "cohort": 1, "steps": steps, "capacity": capacity}
    programs = {name: kind(composition) for name, kind in _KINDS.items()}
    found: dict[str, float] = {}
    for length, turns in ((1, 1), (steps, _TURNS)):
        # XLA's program pads to the same sizes. The other is traced anew: traced for any number of steps, which
        # TensorFlow would do at a second number, it is not the program of a run.
        programs[WITHOUT_XLA] = _KINDS[WITHOUT_XLA](composition)
        chunks = [Chunk(one.number, (_cut(each, length),), sizes) for each in whole]
        calls = {name: _rehearsal(program, state, one, chunks, data, frozen) for name, program in programs.items()}
        try:
            found = {name: seconds / length for name, seconds in least_seconds(calls, turns).items()}
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            lacks = lacks_of(error)
            if lacks is None:
                raise
            return Outcome({}, lacks)
        if max(found.values()) > _CLEAR * min(found.values()):
            break
    return Outcome(found)


def _cut(one: HospitalRound, most: int) -> HospitalRound:
    """A hospital's round without its later steps."""
    schedule = one.schedule
    shorter = dataclasses.replace(schedule, indices=schedule.indices[:most], mask=schedule.mask[:most])
    return dataclasses.replace(one, schedule=shorter)


def _rehearsal(
    program: ChunkedProgram,
    state: ServerState,
    one: RoundInput,
    chunks: Sequence[Chunk],
    data: device_data.Data,
    frozen: tuple,
) -> Callable[[], None]:
    opened = program.server.begin(state, one)

    def train() -> None:
        collections.deque(program.sums(opened.broadcast, chunks, data, frozen, opened.kept), maxlen=0)

    return train


def least_seconds(
    calls: Mapping[str, Callable[[], None]], turns: int = _TURNS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The least time that each call takes, in turn with the others, after a first one that compiles.

    The least and not the mean: other work on the machine only ever adds.

    Args:
      calls: by name.
      turns: measurements of each.
      clock: seconds.

    >>> ticks = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0, 6.0, 11.0])
    >>> least_seconds({"one": lambda: None, "other": lambda: None}, turns=2, clock=lambda: next(ticks))
    {'one': 2.0, 'other': 1.0}
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return {name: min(found) for name, found in seconds.items()}
