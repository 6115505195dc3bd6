"""How many bytes an encoding takes, in closed form: what can be known of a payload before there are any values.

>>> from tff_hospitals.communication import parse_chain
>>> shapes = [(784, 200), (200,), (200, 10), (10,)]
>>> dense_bytes(shapes), payload_bytes(parse_chain("rotate,quantize:4"), shapes)
(636040, ByteRange(low=79638, high=79639))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tff_hospitals.communication import body, chain, container, entropy, positions, stage, tensors
from tff_hospitals.communication.stages import rotation


class ByteRange(NamedTuple):
    """The least and the most bytes; equal where the values cannot change the size."""

    low: int
    high: int


def dense_bytes(shapes: Sequence[Sequence[int]]) -> int:
    """Bytes of the tensors as plain float32: the yardstick."""
    return 4 * sum(tensors.sizes(shapes))


def payload_bytes(encoder: chain.Chain, shapes: Sequence[Sequence[int]]) -> ByteRange:
    """Bounds of `len(payload)` for tensors of these shapes, whatever their values.

    Without entropy coding they differ by a byte or, for `threshold`, by the share of values that stays. With it the
    upper bound is that of the same chain without (plus a byte or two per coder), the lower one that of constant values.
    """
    pipeline = encoder.pipeline
    lengths = tensors.sizes(shapes)
    context = stage.Context(tuple(lengths))
    size = pipeline.size(context)
    frame = container.OVERHEAD_BYTES + container.varint_bytes(sum(lengths))
    low, high = frame, frame
    if pipeline.calculates:
        low, high = low + 1, high + container.varint_bytes(2 * body.MAX_EXPONENT)
    kept_low = kept_high = size
    sparsifier = pipeline.sparsifier
    if sparsifier is not None:
        kept = sparsifier.kept(size)
        kept_low, kept_high = (0, size) if kept is None else (kept, kept)
        if sparsifier.positions_travel:
            unknown = 0 if kept is not None else 1
            low += unknown + 1 + _positions_low(kept_low, size, pipeline.entropy)
            largest = max(positions.plain_bytes(kept_low, size), positions.plain_bytes(kept_high, size))
            high += unknown * container.varint_bytes(size) + 1 + largest
    scales_low, scales_high = _groups(pipeline, lengths, kept_low, kept_high)
    low += 4 * pipeline.quantiser.scales_per_group * scales_low
    high += 4 * pipeline.quantiser.scales_per_group * scales_high
    alphabet = pipeline.quantiser.alphabet
    high += entropy.packed_bytes(kept_high, alphabet)
    if pipeline.entropy:
        planes = len(entropy.planes(alphabet))
        low += planes * (1 + (kept_low > 0))
        # A plane whose width is no divisor of 8 may end in a byte of its own.
        high += 2 * planes
    else:
        low += entropy.packed_bytes(kept_low, alphabet)
    return ByteRange(low, high)


def _positions_low(count: int, size: int, coded: bool) -> int:
    plain = positions.plain_bytes(count, size)
    return min(plain, (count + 7) // 8) if coded else plain  # Elias gamma spends one bit on a gap of one


def _groups(pipeline: body.Pipeline, lengths: Sequence[int], kept_low: int, kept_high: int) -> tuple[int, int]:
    if pipeline.sparsifier is None:
        exact = rotation.block_count(sum(lengths)) if pipeline.rotate else stage.run_count(lengths)
        return exact, exact
    fewest = math.ceil(kept_low / stage.GROUP)
    if pipeline.rotate:
        return fewest, math.ceil(kept_high / stage.GROUP)
    tensors_at_most = sum(1 for length in lengths if length)
    return fewest, min(kept_high, kept_high // stage.GROUP + tensors_at_most)


def golomb_bits_per_position(density: float) -> float:
    """Expected bits of the Golomb-Rice code of one position, when each is taken with probability `density`.

    Source: Sattler et al. 2019, arXiv:1903.02891, equation 17.

    >>> round(golomb_bits_per_position(0.01), 3), round(golomb_bits_per_position(1 / 400), 3)
    (8.108, 10.114)
    """
    golden = (math.sqrt(5) + 1) / 2
    low_bits = max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log1p(-density))))
    return low_bits + 1 / (1 - (1 - density) ** (2**low_bits))


def sparse_ternary_bits_per_parameter(density: float) -> float:
    """Expected bits per parameter of `topk:density,ternary:mean,entropy`: a position and a sign for each kept value.

    >>> round(sparse_ternary_bits_per_parameter(0.01), 4), round(sparse_ternary_bits_per_parameter(1 / 400), 4)
    (0.0911, 0.0278)
    """
    return density * (golomb_bits_per_position(density) + 1)


def position_entropy_bits(density: float) -> float:
    """Bits per position that no code can do without, on average, for independent positions of this density.

    >>> round(position_entropy_bits(0.01), 3)
    8.079
    """
    other = 1 - density
    return -(density * math.log2(density) + other * math.log2(other)) / density
