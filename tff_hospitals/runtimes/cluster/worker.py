"""A worker of the cluster: chunks of the hospitals, in a process of its own with compiled programs of its own.

It composes the learning process from the plan and a description of the data set, reads the records where it runs, and
runs the same program as the compiled runtime, built once. What reaches it are the broadcast and the run's streams, once
a round, and ids and counts: it draws each hospital's batches and keys itself (`processes.hospital_draws`). Only what
the operating system drew, which nobody can draw again, travels as it is. What leaves it is the sum of a chunk's
contributions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tff_hospitals.processes.rounds import HospitalRound
from tff_hospitals.runtimes.compiled.tree_sum import Leaves

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital
    from tff_hospitals.processes.hospital_draws import RunStreams
    from tff_hospitals.runtimes.cluster.dataset_description import Description
    from tff_hospitals.runtimes.compiled.chunked import Chunk
    from tff_hospitals.runtimes.compiled.server_half import Broadcast, Report

_NOBODY = cast("Hospital", None)  # a worker puts the hospital that it reads itself in its place
_KEPT_BYTES = 256 * 2**20  # of the records of chunks that come back every round


class HospitalFailed(RuntimeError):
    """Hospitals could not do their part; the message names them and the cause."""


@dataclasses.dataclass(frozen=True)
class Order:
    """A chunk without the hospitals' records.

    Attributes:
      ids: of its hospitals.
      number: of the round, 0-based.
      sizes: of the chunk.
      told: what differs between these hospitals beside what each draws itself, by the names of `HospitalRound`: a
        number for each of them, or one for all.
      kept: what these hospitals keep of their last rounds, by id.
      drawn: the hospitals' rounds without the hospitals, where nobody can draw them again.
    """

    ids: tuple[str, ...]
    number: int
    sizes: Mapping[str, int]
    told: Mapping[str, Any]
    kept: Mapping[str, np.ndarray]
    drawn: tuple[HospitalRound, ...] | None = None


class Beginning(NamedTuple):
    """What all workers receive of a round: the broadcast, as numpy, and the run's streams where they draw."""

    broadcast: Broadcast
    streams: RunStreams | None


@dataclasses.dataclass(frozen=True)
class Done:
    """What is known of a chunk: a report of each hospital, and notes on how it was executed (`base.Runtime`)."""

    reports: Sequence[Report]
    notes: Sequence[str]


_TOLD = ("noise_multiplier", "weight", "factor", "late", "groups")


def order_for(chunk: Chunk, kept: Mapping[str, np.ndarray], *, drawn: bool = True) -> Order:
    """What travels to a worker for a chunk.

    Args:
      chunk: the hospitals.
      kept: what hospitals keep, those of other chunks too.
      drawn: whether what was drawn travels; else the worker draws it.
    """
    own = {name: kept[name] for name in chunk.ids if name in kept}
    if drawn:
        bare = tuple(dataclasses.replace(one, hospital=_NOBODY) for one in chunk.cohort)
        return Order(chunk.ids, chunk.number, dict(chunk.sizes), {}, own, bare)
    told: dict[str, Any] = {}
    for name in _TOLD:
        values = [getattr(one, name) for one in chunk.cohort]
        told[name] = values[0] if len(set(values)) == 1 else values
    return Order(chunk.ids, chunk.number, dict(chunk.sizes), told, own)


class Worker:
    """The body of an actor.

    Args:
      plan_json: the plan.
      description: see `dataset_description.describe`.
      frozen: weights that do not travel from round to round.
      signature: of the driver's composition; another one here means other code or other data.
      extension_names: modules that the driver loaded beside the package.
      strategy: that the driver chose; None: by the rule.
    """

    def __init__(
        self,
        plan_json: Mapping[str, Any],
        description: Description,
        frozen: Sequence[np.ndarray],
        signature: str,
        extension_names: Sequence[str] = (),
        strategy: str | None = None,
    ):
        from tff_hospitals.foundations import extensions, quiet

        quiet.be_quiet()
        extensions.load(extension_names)
        import tensorflow as tf

        from tff_hospitals import models
        from tff_hospitals.plan.plan import Plan
        from tff_hospitals.processes import composition, hospital_draws
        from tff_hospitals.runtimes.cluster import dataset_description
        from tff_hospitals.runtimes.compiled import chunked, device_data
        from tff_hospitals.runtimes.compiled import runtime as compiled

        _one_core()
        plan = Plan.from_json(plan_json)
        self._dataset = dataset_description.rebuild(description, plan.data)
        model = models.build_model(plan.model.name, self._dataset, **plan.model.settings)
        self._parts = composition.compose(plan, self._dataset, model)
        self._batches = hospital_draws.BatchRule(plan)
        if self._parts.signature != signature:
            raise RuntimeError(
                f"a worker composed process {self._parts.signature}, the driver {signature}. Remedy: install the same "
                "version of tff_hospitals on every machine of the cluster."
            )
        self._data = device_data.StreamedData(self._dataset, _KEPT_BYTES)
        self._frozen = tuple(tf.constant(weight) for weight in frozen)
        # A worker counts as one processor, so it runs one hospital at a time.
        self._execute = compiled.Executor(self._parts, compiled.in_chunks(self._parts, strategy), threads=1)
        self._tf, self._chunk, self._chunk_by_chunk = tf, chunked.Chunk, compiled.chunk_by_chunk

    def ready(self) -> bool:
        """Answers once the worker is built."""
        return True

    def work(self, beginning: Beginning, order: Order) -> tuple[Leaves, Done]:
        """The sum of a chunk's contributions, and what is known of it.

        Args:
          beginning: of the round.
          order: the chunk.

        Raises:
          HospitalFailed: names the hospitals, and the cause.
        """
        tf = self._tf
        received = tf.nest.map_structure(tf.constant, beginning.broadcast)
        try:
            chunk = self._chunk(order.number, self._cohort(order, beginning.streams), order.sizes)
            given = (received, [chunk], self._data, self._frozen, order.kept)
            ((total, reports),) = self._execute(lambda program: list(self._chunk_by_chunk(program).sums(*given)))
        except Exception as error:
            raise HospitalFailed(f"{named(order.ids)}: {type(error).__name__}: {error}") from error
        return [leaf.numpy() for leaf in tf.nest.flatten(total)], Done(reports, self._execute.notes)

    def _cohort(self, order: Order, streams: RunStreams | None) -> tuple[HospitalRound, ...]:
        """The hospitals of an order with what they draw."""
        hospitals = [self._dataset.hospital(name) for name in order.ids]
        if order.drawn is not None:
            return tuple(dataclasses.replace(one, hospital=each) for each, one in zip(hospitals, order.drawn))
        if streams is None:
            raise ValueError("this round came without the run's streams")
        told = {
            name: value if isinstance(value, list) else [value] * len(hospitals) for name, value in order.told.items()
        }
        return tuple(
            HospitalRound(
                each,
                self._batches.draw(streams, name, each.train.records, order.number, told["groups"][place]),
                streams.hospital_noise(name, order.number),
                upload_key=streams.upload(name, order.number),
                **{field: values[place] for field, values in told.items()},
            )
            for place, (name, each) in enumerate(zip(order.ids, hospitals))
        )


def named(ids: Sequence[str]) -> str:
    """The first of many ids, and how many there are beside them.

    >>> named(["north", "south"]), named(list("abcdefg"))
    ('north, south', 'a, b, c, d, e and 2 more')
    """
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _one_core() -> None:
    """A worker is counted as one processor; set before TensorFlow's first operation, later it stays as it is."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
