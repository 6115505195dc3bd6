"""What a hospital keeps from round to round: the model that it decoded last, and what its last upload left out.

Both are on the disk, so that a worker that was stopped goes on. What an upload left out is kept from before the round,
too: a round that is asked once more is answered with the same bits.
"""

from __future__ import annotations

import io
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.foundations import files


class SiteMemory:
    """The memory of one hospital under one agreement.

    Args:
      folder: where it lies; None keeps it in this process alone.
    """

    def __init__(self, folder: pathlib.Path | None):
        self._path = None if folder is None else folder / "memory.npz"
        self._held: tuple[int, tuple[np.ndarray, ...]] | None = None
        self._upload: tuple[int, str, np.ndarray | None, np.ndarray | None] | None = None
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def hold(self, number: int, weights: Sequence[np.ndarray]) -> None:
        """The model that was decoded in a round."""
        self._held = number, tuple(weights)

    def held(self, number: int) -> tuple[np.ndarray, ...]:
        """The model that was decoded in a round.

        Raises:
          Rejected: the hospital holds another one; the server has to send the whole model.
        """
        if self._held is None or self._held[0] != number:
            raise Rejected(
                f"this hospital does not hold the model of round {number + 1}: send the whole model", "model"
            )
        return self._held[1]

    def residual_before(self, number: int, request: str) -> np.ndarray | None:
        """What waited for the upload of a round; None before the first one.

        Args:
          number: of the round.
          request: what is asked.
        """
        if self._upload is None:
            return None
        last, _, before, after = self._upload
        return after if last < number else before

    def keep(self, number: int, request: str, before: np.ndarray | None, after: np.ndarray | None) -> None:
        """What waits after a round, and what did before it; on the disk when this returns."""
        self._upload = number, request, before, after
        if self._path is None or (self._held is None and after is None):
            return
        arrays: dict[str, np.ndarray] = {"upload": np.array([number])}
        for name, value in (("before", before), ("after", after)):
            if value is not None:
                arrays[name] = value
        if self._held is not None:
            arrays["held"] = np.array([self._held[0], len(self._held[1])])
            arrays.update({f"weights_{place}": value for place, value in enumerate(self._held[1])})
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        with files.without_waiting():  # the model is sent whole, and a lost rest is one round's: no promise is broken
            files.write_bytes(self._path, buffer.getvalue(), mode=0o600)

    def _read(self, path: pathlib.Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as found:
                self._upload = int(found["upload"][0]), "", found.get("before"), found.get("after")
                if "held" in found:
                    number, count = (int(one) for one in found["held"])
                    self._held = number, tuple(found[f"weights_{place}"] for place in range(count))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise files.RecordError(
                f"{path} cannot be read: {error}. Remedy: remove it; the server then sends the whole model, and what "
                "the last upload left out is lost."
            ) from error
