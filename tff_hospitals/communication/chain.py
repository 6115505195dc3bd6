"""Chains of encoders: float32 tensors in, one byte string out, and back at the other end.

Order: delta > rotate > sparsify > quantise > entropy; each at most once, each may be missing.

| stage | what it does |
|---|---|
| `delta` | difference to the reference that both ends hold |
| `rotate` | random rotation in blocks of up to 16,384 values |
| `threshold:t`, `topk:fraction`, `randk:fraction[:unscaled]` | sends only some values |
| `quantize:bits[:nearest]`, `float16`, `bfloat16` | evenly spaced levels; short floats |
| `onebit[:biased]`, `eden:bits[:biased]`, `ternary[:mean]` | 1 to 4 bits a value |
| `entropy` | codes positions and symbols in as few bytes as they need |

>>> chain = parse_chain("rotate,quantize:8")
>>> update = [("kernel", np.ones((20, 10), np.float32)), ("bias", np.zeros(10, np.float32))]
>>> payload, decoded, _ = chain.encode(update, key=np.array([1, 2]))
>>> len(payload), sum(array.nbytes for _, array in update)
(260, 840)
>>> received = chain.decode(payload, shapes=[(20, 10), (10,)], key=np.array([1, 2]))
>>> all((a == b).all() for a, b in zip(received, decoded)), bool(np.allclose(received[0], 1, atol=0.1))
(True, True)
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tff_hospitals.communication import container, parsing, shared_randomness, stage, tensors
from tff_hospitals.communication.body import Pipeline, Section
from tff_hospitals.communication.feedback import Feedback
from tff_hospitals.communication.stages import rotation
from tff_hospitals.foundations import validation


class Encoded(NamedTuple):
    """What `Chain.encode` gives: the bytes, the arrays that the other end will see, the next error feedback state."""

    payload: bytes
    decoded: list[np.ndarray] | None
    state: Feedback | None


@dataclasses.dataclass(frozen=True)
class Chain:
    """A sound sequence of stages; `str(chain)` is its text, which `parse_chain` reads back.

    Args:
      stages: in the order delta, rotate, sparsify, quantise, entropy.

    Raises:
      InvalidInput: for arguments out of bounds and for an unsound order, with the reason.
    """

    stages: tuple[stage.Stage, ...] = ()

    def __post_init__(self) -> None:
        parsing.parse_stages(str(self), "chain")  # the bounds of stages that were not made by the parser
        validation.raise_if(parsing.order_problems(self.stages, "chain"))

    def __str__(self) -> str:
        return ",".join(map(str, self.stages)) or "none"

    def _of_rank(self, rank: int) -> Any:
        return next((each for each in self.stages if each.rank == rank), None)

    @property
    def needs_reference(self) -> bool:
        """Whether both ends must hold the same reference (`delta`)."""
        return self._of_rank(stage.DELTA) is not None

    @property
    def needs_key(self) -> bool:
        """Whether the chain draws shared random bits."""
        return any(each.uses_key for each in self.stages)

    @property
    def bias(self) -> str:
        """Of the whole chain: "unbiased", "nearly unbiased" (exact for an ideal rotation) or "biased"."""
        kinds = {each.bias for each in self.stages}
        return next((kind for kind in (stage.BIASED, stage.NEARLY_UNBIASED) if kind in kinds), stage.UNBIASED)

    @property
    def unbiased(self) -> bool:
        """Whether the mean over the chain's own randomness of what is decoded is exactly what was encoded."""
        return self.bias == stage.UNBIASED

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back the same bits."""
        return all(each.rank == stage.ENTROPY for each in self.stages)

    @property
    def contraction(self) -> bool:
        """Whether the error is never longer than the update (in expectation), as error feedback needs."""
        return all(each.contraction for each in self.stages)

    @property
    def bits(self) -> int | None:
        """B of `quantize:B` or `eden:B`; None where no stage is given a number of bits."""
        one = self._of_rank(stage.QUANTISE)
        given = one is not None and any(field.name == "bits" and field.init for field in dataclasses.fields(one))
        return one.bits if given else None

    def with_bits(self, bits: int) -> Chain:
        """The same chain with another B.

        Raises:
          InvalidInput: a number that the stage does not take, or a chain without one.

        >>> print(parse_chain("rotate,quantize:8,entropy").with_bits(2))
        rotate,quantize:2,entropy
        """
        if self.bits is None:
            remedy = "write quantize:B or eden:B, such as rotate,quantize:8"
            raise validation.InvalidInput([validation.Problem("chain", str(self), "has no number of bits", remedy)])
        changed = (
            dataclasses.replace(each, bits=bits) if each.rank == stage.QUANTISE else each  # type: ignore[type-var]
            for each in self.stages
        )
        return Chain(tuple(changed))

    def norm_growth(self, shapes: Sequence[Sequence[int]]) -> float:
        """Upper bound of ||decoded|| / ||update|| for tensors of these shapes: the factor on a sensitivity.

        1 means that clipping before encoding bounds what is decoded. (`delta` is left out: the bound then is that of
        the difference.) Where it is larger, clip again what was decoded, or multiply the sensitivity.
        """
        lengths = tensors.sizes(shapes)
        groups = rotation.blocks(sum(lengths)) if self._of_rank(stage.ROTATE) else stage.runs(lengths)
        if self._of_rank(stage.SPARSIFY) is not None and self._of_rank(stage.ROTATE) is not None:
            groups = stage.runs([sum(lengths)])
        group = max((stop - start for start, stop in groups), default=1)
        return math.prod(each.norm_growth(group) for each in self.stages)

    @property
    def pipeline(self) -> Pipeline:
        """The stages in their places, for size accounting."""
        quantiser = self._of_rank(stage.QUANTISE) or stage.Unquantised()
        coded = self._of_rank(stage.ENTROPY) is not None
        return Pipeline(self._of_rank(stage.ROTATE), self._of_rank(stage.SPARSIFY), quantiser, coded)

    def usage_problems(self, *, direction: str, error_feedback: bool = False) -> list[validation.Problem]:
        """Why this chain should not be used so.

        Args:
          direction: "broadcast" or "upload".
          error_feedback: whether a `Feedback` state is to be carried.
        """
        problems = []
        if direction == "upload" and self.needs_reference:
            bound = "an upload already is a difference to the broadcast"
            problems.append(validation.Problem(direction, str(self), bound, "drop delta from it"))
        if error_feedback and self.needs_reference:
            bound = "delta already carries what the last payload left out; error feedback would send it twice"
            problems.append(validation.Problem(direction, str(self), bound, "drop delta or error feedback"))
        bad = [str(each) for each in self.stages if not each.contraction]
        if error_feedback and bad:
            bound = f"error feedback needs stages whose error is never longer than the update; not so: {', '.join(bad)}"
            remedy = "take quantize:b:nearest (b >= 2), onebit:biased, eden:b:biased, ternary:mean or randk:f:unscaled"
            problems.append(validation.Problem(direction, str(self), bound, remedy))
        return problems

    def encode(
        self,
        arrays: Sequence[tuple[str, np.ndarray]],
        key: Any = None,
        state: Feedback | None = None,
        *,
        reference: Sequence[np.ndarray] | None = None,
        want_decoded: bool = True,
    ) -> Encoded:
        """Encodes named tensors.

        Args:
          arrays: (name, float32 array) pairs; finite values.
          key: int64 [2] that the other end knows too; for `rotate`, `randk` and stochastic stages.
          state: None for no error feedback.
          reference: the arrays that both ends hold, for `delta`.
          want_decoded: False saves the work of decoding where neither the arrays nor a state are needed.

        Returns:
          (payload, decoded arrays, new state); the decoded arrays are bit for bit what `decode` gives.

        Raises:
          InvalidInput: values that are not finite or not float32 (by tensor and index), shapes that differ from the
            reference's, a missing key or reference, a state with a chain that it would make diverge.
        """
        shapes = [np.shape(array) for _, array in arrays]
        context = self._context(shapes, key)
        old = self._reference(shapes, reference)
        problems = self.usage_problems(direction="chain", error_feedback=True) if state is not None else []
        if state is not None and state.residual.shape != (context.size,):
            bound = f"must be the residual of the same {context.size} values"
            remedy = "start with Feedback.zeros(shapes)"
            problems.append(validation.Problem("state", state.residual.shape, bound, remedy))
        validation.raise_if(problems)
        flat = tensors.flatten(arrays)
        with np.errstate(over="ignore"):  # looked at right below
            if old is not None:
                flat -= old
            if state is not None:
                flat += state.residual
        largest = tensors.largest_magnitude(flat)
        if not math.isfinite(largest):
            where = tensors.name_of(int(np.argmin(np.isfinite(flat))), arrays)
            bound = "the difference to the reference, or the sum with the residual, is beyond float32"
            raise validation.InvalidInput([validation.Problem(*where, bound, "look at how the model diverged")])
        carried = flat if state is not None else None
        pipeline = self.pipeline
        parts = pipeline.encode(flat, largest, context, keep=carried is not None)
        del flat
        payload = container.seal(self._fingerprint, pipeline.write(parts, context).parts)
        if not want_decoded and state is None:
            return Encoded(payload, None, None)
        decoded = self.pipeline.decode(parts, context)
        if carried is not None:
            carried -= decoded
        arrays_at_the_other_end = tensors.split(tensors.add(decoded, old), shapes)
        return Encoded(payload, arrays_at_the_other_end, None if carried is None else Feedback(carried))

    def decode(
        self,
        payload: bytes | bytearray | memoryview,
        shapes: Sequence[Sequence[int]],
        key: Any = None,
        reference: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """The arrays that a payload of this chain stands for.

        Args:
          payload: the bytes; need not be trusted.
          shapes: of the tensors, which both ends know; no size is ever believed from the payload.
          key: the key of the encoder.
          reference: the arrays that both ends hold, for `delta`.

        Raises:
          PayloadError: the bytes are not a payload of this chain and these shapes.
          InvalidInput: a missing key or a reference that does not fit.
        """
        context = self._context(shapes, key)
        old = self._reference(shapes, reference)
        parts, _ = self.pipeline.read(container.unseal(self._fingerprint, payload), context)
        decoded = self.pipeline.decode(parts, context)
        return tensors.split(tensors.add(decoded, old), shapes)

    def sections(self, payload: bytes, shapes: Sequence[Sequence[int]], key: Any = None) -> list[Section]:
        """Where the bytes of a payload go: frame, positions, scales, symbols, each with the coder that was picked."""
        frame = Section("frame", "crc32", container.OVERHEAD_BYTES)
        reader = container.unseal(self._fingerprint, payload)
        return [frame, *self.pipeline.read(reader, self._context(shapes, key))[1]]

    # -- inside ----------------------------------------

    @property
    def _fingerprint(self) -> int:
        return int.from_bytes(hashlib.sha256(str(self).encode()).digest()[:2], "little")

    def _context(self, shapes: Sequence[Sequence[int]], key: Any) -> stage.Context:
        if self.needs_key and key is None:
            bound = f"{self} draws random bits that both ends must share"
            raise validation.InvalidInput([validation.Problem("key", None, bound, "pass streams.child(...).key()")])
        lengths = tuple(tensors.sizes(shapes))
        if sum(lengths) > tensors.MAX_VALUES:
            remedy = "encode the tensors in several payloads"
            bound = f"must be at most {tensors.MAX_VALUES}"
            raise validation.InvalidInput([validation.Problem("values in one payload", sum(lengths), bound, remedy)])
        return stage.Context(lengths, shared_randomness.checked_key(key) if self.needs_key else None)

    def _reference(self, shapes: Sequence[Sequence[int]], reference: Any) -> np.ndarray | None:
        if not self.needs_reference:
            return None
        found = None if reference is None else [tuple(np.shape(array)) for array in reference]
        if found != [tuple(shape) for shape in shapes]:
            bound = f"delta needs arrays of the shapes {[tuple(shape) for shape in shapes]} that both ends hold"
            remedy = "pass the last decoded arrays"
            raise validation.InvalidInput([validation.Problem("reference", found, bound, remedy)])
        return tensors.flatten([(f"reference[{index}]", array) for index, array in enumerate(reference)])


def parse_chain(text: str, *, name: str = "chain") -> Chain:
    """Reads a chain such as `rotate,quantize:4,entropy`; "" and "none" are the empty chain (float32 as it is).

    Args:
      text: stages separated by commas; README and `forms.FORMS` list them.
      name: what messages call it, for example the flag that it came from.

    Raises:
      InvalidInput: unknown stages (with the nearest names), arguments out of bounds, unsound orders (with the reason).
    """
    stages = parsing.parse_stages(text, name)
    validation.raise_if(parsing.order_problems(stages, name))
    return Chain(stages)
