"""The body of a payload: what the stages of a chain make of a flat vector, written to bytes and read back.

Body: count of values | exponent, if the chain calculates | number and code of positions, if they travel | float32
scales | symbols. No length of an array is taken from the payload where shapes and chain already give it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from tff_hospitals.communication import entropy, positions, stage, tensors
from tff_hospitals.communication.container import PayloadError, Reader, Writer
from tff_hospitals.communication.stages import rotation

COMFORT = 20  # largest magnitudes outside 2**-20 to 2**20 are scaled by a power of two before anything is calculated
MAX_EXPONENT = 160


class Section(NamedTuple):
    """One part of a payload: its name, the coder that wrote it and its bytes."""

    name: str
    coder: str
    bytes: int


class Parts(NamedTuple):
    """What stands between values and bytes; symbols are those of the kept values."""

    exponent: int
    positions: np.ndarray | None
    symbols: stage.Symbols


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The stages of a chain in their places, None where one is missing."""

    rotate: rotation.Rotate | None
    sparsifier: stage.Sparsifier | None
    quantiser: stage.Quantiser
    entropy: bool

    @property
    def calculates(self) -> bool:
        """Whether huge or tiny values could be lost on the way: they are then scaled by a power of two."""
        copies = self.quantiser.copies and (self.sparsifier is None or self.sparsifier.copies)
        return self.rotate is not None or not copies

    def size(self, context: stage.Context) -> int:
        """Values after rotation: its blocks may reach beyond the last value."""
        plan = rotation.blocks(context.size) if self.rotate else []
        return plan[-1][1] if plan else context.size

    def groups(self, context: stage.Context, kept: np.ndarray | None) -> list[tuple[int, int]]:
        """(start, stop) of the runs of symbols that share scales, from what both ends know."""
        if kept is None:
            return rotation.blocks(context.size) if self.rotate else stage.runs(context.lengths)
        if self.rotate:
            return stage.runs([kept.size])
        edges = np.searchsorted(kept, np.cumsum([0, *context.lengths]).astype(np.uint32))  # same type: no copy
        return stage.runs(np.diff(edges).tolist())

    # -- values ----------------------------------------

    def encode(self, flat: np.ndarray, largest: float, context: stage.Context, *, keep: bool) -> Parts:
        """Runs the stages over float32 `flat`, whose largest magnitude is `largest`; `keep`: leave `flat` as it is."""
        exponent = 0
        if self.calculates and largest > 0 and not 2.0**-COMFORT <= largest <= 2.0**COMFORT:
            exponent = math.frexp(largest)[1]
            flat = np.ldexp(flat, -exponent, out=None if keep else flat)
        values = flat if self.rotate is None else self.rotate.encode(flat, context)
        kept = None
        if self.sparsifier is not None:
            values, kept = self.sparsifier.encode(values, context)
        return Parts(exponent, kept, self.quantiser.encode(values, self.groups(context, kept), context))

    def decode(self, parts: Parts, context: stage.Context) -> np.ndarray:
        """Float32 [context.size], finite: the one definition of decoding, for both ends.

        Raises:
          PayloadError: symbols or scales that stand for values that are not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # only with forged scales; the results are looked at
            values = self.quantiser.decode(parts.symbols, self.groups(context, parts.positions))
            if not math.isfinite(tensors.largest_magnitude(values)):
                raise PayloadError("values: some are not finite")
            if parts.positions is None:
                if np.may_share_memory(values, parts.symbols.values):  # unquantised: not ours to change
                    values = values.copy()
            else:
                dense = np.zeros(self.size(context), np.float32)
                dense[parts.positions] = values
                values = dense
            if self.rotate is not None:
                values = self.rotate.decode(values, context)
            if parts.exponent:
                np.ldexp(values, parts.exponent, out=values)
        largest = tensors.largest_magnitude(values)
        if math.isnan(largest):
            raise PayloadError("values: some are not numbers")
        return tensors.saturate(values) if math.isinf(largest) else values

    # -- bytes -----------------------------------------

    def write(self, parts: Parts, context: stage.Context) -> Writer:
        """The body."""
        writer = Writer()
        writer.varint(context.size)
        if self.calculates:
            writer.varint(2 * parts.exponent if parts.exponent >= 0 else -2 * parts.exponent - 1)
        if self.sparsifier is not None and self.sparsifier.positions_travel:
            size = self.size(context)
            kept = parts.positions if parts.positions is not None else np.empty(0, np.uint32)
            if self.sparsifier.kept(size) is None:
                writer.varint(kept.size)
            code, coded = positions.encode(kept, size, entropy=self.entropy)
            writer.varint(positions.CODES.index(code))
            writer.extend(coded)
        writer.array(parts.symbols.scales, "<f4")
        if self.entropy:
            entropy.encode(writer, parts.symbols.values, parts.symbols.alphabet)
        else:
            entropy.encode_packed(writer, parts.symbols.values, parts.symbols.alphabet)
        return writer

    def read(self, reader: Reader, context: stage.Context) -> tuple[Parts, list[Section]]:
        """The inverse of `write`, and where the bytes went.

        Raises:
          PayloadError: for bytes that `write` does not write.
        """
        sections: list[Section] = []
        start = reader.offset

        def close(name: str, coder: str) -> None:
            nonlocal start
            sections.append(Section(name, coder, reader.offset - start))
            start = reader.offset

        count = reader.varint("count of values", high=tensors.MAX_VALUES)
        if count != context.size:
            raise PayloadError(f"holds {count} values, the shapes {context.size}: set the same model at both ends")
        folded = reader.varint("exponent", high=2 * MAX_EXPONENT) if self.calculates else 0
        exponent = folded // 2 if folded % 2 == 0 else -(folded // 2) - 1  # 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
        close("counts", "varint")
        kept, size = None, self.size(context)
        if self.sparsifier is not None and self.sparsifier.positions_travel:
            number = self.sparsifier.kept(size)
            if number is None:
                number = reader.varint("number of kept values", high=size)
            code = positions.CODES[reader.varint("code of positions", high=len(positions.CODES) - 1)]
            kept = positions.decode(code, reader, number, size)
            close("positions", code)
        elif self.sparsifier is not None:
            kept = self.sparsifier.positions(size, context)
        groups = self.groups(context, kept)
        per_group = self.quantiser.scales_per_group
        scales = reader.array(len(groups) * per_group, "<f4", "scales").reshape(len(groups), per_group)
        if not bool(np.isfinite(scales).all()):
            raise PayloadError("scales: some are not finite")
        close("scales", "float32")
        count, alphabet = (size if kept is None else kept.size), self.quantiser.alphabet
        if self.entropy:
            symbols, coders = entropy.decode(reader, count, alphabet)
            close("symbols", "+".join(coders))
        else:
            symbols = entropy.decode_packed(reader, count, alphabet)
            close("symbols", "packed")
        reader.finish()
        return Parts(exponent, kept, stage.Symbols(symbols, alphabet, scales)), sections
