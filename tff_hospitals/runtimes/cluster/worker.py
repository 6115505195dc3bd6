"""A worker of the cluster: chunks of the hospitals, in a process of its own with compiled programs of its own.

It composes the learning process from the plan and a description of the data set, reads the records where it runs, and
runs the same program as the compiled runtime, built once. What reaches it are ids, schedules, keys and the broadcast;
what leaves it is the sum of a chunk's contributions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tff_hospitals.runtimes.compiled.tree_sum import Leaves

if TYPE_CHECKING:
    from tff_hospitals.hospitals import Hospital
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
      chunk: whose hospitals are None.
      kept: what these hospitals keep of their last rounds, by id.
    """

    ids: tuple[str, ...]
    chunk: Chunk
    kept: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Done:
    """What is known of a chunk: a report of each hospital, and notes on how it was executed (`base.Runtime`)."""

    reports: Sequence[Report]
    notes: Sequence[str]


def order_for(chunk: Chunk, kept: Mapping[str, np.ndarray]) -> Order:
    """What travels to a worker for a chunk; `kept` may hold those of other hospitals too."""
    bare = tuple(dataclasses.replace(one, hospital=_NOBODY) for one in chunk.cohort)
    own = {name: kept[name] for name in chunk.ids if name in kept}
    return Order(chunk.ids, dataclasses.replace(chunk, cohort=bare), own)


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
        from tff_hospitals.processes import composition
        from tff_hospitals.runtimes.cluster import dataset_description
        from tff_hospitals.runtimes.compiled import device_data
        from tff_hospitals.runtimes.compiled import runtime as compiled

        _one_core()
        plan = Plan.from_json(plan_json)
        self._dataset = dataset_description.rebuild(description, plan.data)
        model = models.build_model(plan.model.name, self._dataset, **plan.model.settings)
        self._parts = composition.compose(plan, self._dataset, model)
        if self._parts.signature != signature:
            raise RuntimeError(
                f"a worker composed process {self._parts.signature}, the driver {signature}. Remedy: install the same "
                "version of tff_hospitals on every machine of the cluster."
            )
        self._data = device_data.StreamedData(self._dataset, _KEPT_BYTES)
        self._frozen = tuple(tf.constant(weight) for weight in frozen)
        # A worker counts as one processor, so it runs one hospital at a time.
        self._execute = compiled.Executor(self._parts, compiled.in_chunks(self._parts, strategy), threads=1)
        self._tf, self._chunk_by_chunk = tf, compiled.chunk_by_chunk

    def ready(self) -> bool:
        """Answers once the worker is built."""
        return True

    def work(self, broadcast: Broadcast, order: Order) -> tuple[Leaves, Done]:
        """The sum of a chunk's contributions, and what is known of it.

        Args:
          broadcast: what hospitals receive, as numpy.
          order: the chunk.

        Raises:
          HospitalFailed: names the hospitals, and the cause.
        """
        tf = self._tf
        received = tf.nest.map_structure(tf.constant, broadcast)
        try:
            cohort = tuple(
                dataclasses.replace(one, hospital=self._dataset.hospital(name))
                for name, one in zip(order.ids, order.chunk.cohort)
            )
            chunk = dataclasses.replace(order.chunk, cohort=cohort)
            given = (received, [chunk], self._data, self._frozen, order.kept)
            ((total, reports),) = self._execute(lambda program: list(self._chunk_by_chunk(program).sums(*given)))
        except Exception as error:
            raise HospitalFailed(f"{named(order.ids)}: {type(error).__name__}: {error}") from error
        return [leaf.numpy() for leaf in tf.nest.flatten(total)], Done(reports, self._execute.notes)


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
