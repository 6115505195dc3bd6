"""Updates of single hospitals, kept for audits: what a curious server would have seen.

No runtime needs to hand them out. Client work is a function of (broadcast weights, batches, noise key), all of which
the run can draw again, so each stored update is computed once more from the same parts. Stored updates are as
sensitive as records: only an audit of one's own data should ask for them.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem, raise_if, whole_number
from tff_hospitals.processes import rounds

if TYPE_CHECKING:
    from tff_hospitals.processes.composition import Composition, ServerState
    from tff_hospitals.processes.rounds import HospitalRound, RoundInput


class Replay:
    """Client work of a composition, one hospital and round at a time.

    Args:
      composition: the composed plan.
      frozen: weights that do not travel.
    """

    def __init__(self, composition: Composition, frozen: tuple):
        import tensorflow as tf

        self._composition, self._frozen = composition, frozen
        self._work = tf.function(self._update, autograph=False, reduce_retracing=True)

    def _update(self, weights: tuple, round_number: Any, element: Any) -> tuple:
        delta = self._composition.client_work(weights, round_number, element).delta
        return delta[: len(weights)]

    def __call__(
        self, weights: tuple, round_number: int, one: HospitalRound, remembered: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, ...]:
        """The hospital's update (initial - final weights), before it is weighted, clipped or encoded for the upload.

        Args:
          weights: the broadcast trainable weights.
          round_number: 0-based.
          one: the hospital with its batches and noise key.
          remembered: what corrects its steps, as `Composition.remembered` gives it.
        """
        import tensorflow as tf

        own = rounds.own_element(one, self._composition.model.task, self._frozen)
        own.update(remembered or {})
        element = tf.nest.map_structure(tf.convert_to_tensor, own)
        weights = tuple(tf.convert_to_tensor(weight) for weight in weights)
        return tuple(part.numpy() for part in self._work(weights, tf.constant(round_number, tf.int32), element))


@dataclasses.dataclass(frozen=True)
class StoredRound:
    """One stored round.

    Attributes:
      number: of the round, counted from 1 as in every file.
      weights: broadcast trainable weights.
      deltas: update of each hospital that took part, by id.
    """

    number: int
    weights: tuple[np.ndarray, ...]
    deltas: Mapping[str, tuple[np.ndarray, ...]]


class UpdateFolder:
    """The folder `updates/` of a run directory: one file for each stored round.

    Args:
      run_dir: the run directory.
    """

    def __init__(self, run_dir: pathlib.Path):
        self._folder = run_dir / "updates"

    def write(self, stored: StoredRound) -> None:
        """Writes `round_NNNNNN.npz` whole or not at all.

        Raises:
          records.RecordError: when it cannot be written.
        """
        arrays = {f"weight_{i:04d}": weight for i, weight in enumerate(stored.weights)}
        for at, delta in enumerate(stored.deltas.values()):
            arrays.update({f"delta_{at:06d}_{i:04d}": part for i, part in enumerate(delta)})
        buffer = io.BytesIO()
        ids = np.array(list(stored.deltas), dtype=str)
        np.savez(buffer, number=np.int64(stored.number), hospitals=ids, **arrays)
        files.write_bytes(self._folder / f"round_{stored.number:06d}.npz", buffer.getvalue())

    def rounds(self) -> tuple[int, ...]:
        """Numbers of the stored rounds, in order."""
        if not self._folder.is_dir():
            return ()
        return tuple(int(path.stem.split("_")[1]) for path in sorted(self._folder.glob("round_*.npz")))

    def read(self, number: int) -> StoredRound:
        """A stored round.

        Raises:
          records.RecordError: it was not stored, or its file is damaged.
        """
        path = self._folder / f"round_{number:06d}.npz"
        remedy = "Remedy: train again into a new folder with --store_updates=1."
        try:
            with np.load(path, allow_pickle=False) as content:
                ids = [str(one) for one in content["hospitals"]]
                weights = [content[name] for name in sorted(content.files) if name.startswith("weight_")]
                parts = range(len(weights))
                deltas = {one: tuple(content[f"delta_{k:06d}_{i:04d}"] for i in parts) for k, one in enumerate(ids)}
                return StoredRound(int(content["number"]), tuple(weights), deltas)
        except FileNotFoundError as error:
            raise files.RecordError(
                f"{path} does not exist: no update of round {number} was stored. {remedy}"
            ) from error
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise files.RecordError(f"{path} cannot be read: {error}. {remedy}") from error


class UpdateStore:
    """Stores the updates of every k-th round while a run goes on.

    Args:
      run_dir: the run directory.
      every: rounds from one stored round to the next; the first round is always stored.
      composition, frozen: of the run.

    Raises:
      validation.InvalidInput: no run directory, or `every` is not a whole number of 1 or more.
    """

    def __init__(self, run_dir: str | pathlib.Path | None, every: int, composition: Composition, frozen: tuple):
        found = [whole_number("store_updates", every, low=1, remedy="give 1 to store every round, 5 for every fifth")]
        if run_dir is None:
            found.append(Problem("store_updates", every, "needs a run directory to write to", "give run_dir"))
        raise_if(found)
        self._folder, self.every = UpdateFolder(pathlib.Path(run_dir or "")), every
        self._composition, self._replay = composition, Replay(composition, frozen)

    def next_stored(self, round_number: int) -> int:
        """The first stored round after `round_number` (0-based): a chunk of rounds must not run past its start."""
        return (round_number // self.every + 1) * self.every

    def store_if_due(self, state: ServerState, one: RoundInput) -> None:
        """Stores a round that is about to run, from the state before it."""
        if one.number % self.every:
            return
        weights, deltas = self._composition.at_hospitals(state, one.broadcast_key), {}
        for hospital in one.cohort:
            name = hospital.hospital.hospital_id
            remembered = self._composition.remembered(state, name)
            deltas[name] = self._replay(weights, one.number, hospital, remembered)
        self._folder.write(StoredRound(one.number + 1, tuple(np.asarray(weight) for weight in weights), deltas))
