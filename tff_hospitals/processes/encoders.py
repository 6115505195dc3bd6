"""What a hospital or the server decodes, as a TensorFlow graph: the twin of `communication.Chain` for TFF's executor.

The numpy codec is the definition of every encoding: it makes the bytes. But TFF ships graphs to a worker process, and
numpy cannot be called from there. So the values after encoding *and* decoding are computed here once more, in the
codec's own order of float32 operations and from the codec's own random bits (`encoder_draws`); a test holds the two
equal for every stage, and the native runtime checks every payload of a run against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from tff_hospitals.communication import Chain, body, stage
from tff_hospitals.communication.stages import rotation
from tff_hospitals.communication.stages.casts import BFloat16, Float16
from tff_hospitals.communication.stages.codebook import CELLS, REACH, Eden, OneBit
from tff_hospitals.communication.stages.sparsify import RandomK, Threshold, TopK
from tff_hospitals.communication.stages.ternary import Ternary
from tff_hospitals.communication.stages.uniform import FLAT, Quantize
from tff_hospitals.processes import encoder_draws
from tff_hospitals.processes.modular import walsh_hadamard

_LARGEST_BFLOAT16 = float(np.array(0x7F7F0000, np.uint32).view(np.float32))


class Groups(NamedTuple):
    """Which values share scales: the group of each value, in order, and the most groups there can be."""

    ids: tf.Tensor
    most: int


def transcode(chain: Chain, lengths: Sequence[int], flat: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The values that the other end decodes when `flat` is encoded.

    Args:
      chain: the chain of encoders; `delta` is left to the caller, who holds the reference.
      lengths: values of each tensor.
      flat: float32 [sum of lengths].
      draws: see `encoder_draws.draw`.

    >>> from tff_hospitals.communication import parse_chain
    >>> transcode(parse_chain("topk:0.5"), [4], tf.constant([1.0, -3.0, 2.0, 0.5]), {}).numpy().tolist()
    [0.0, -3.0, 2.0, 0.0]
    """
    pipeline, size = chain.pipeline, sum(lengths)
    down, up = _power_of_two(flat) if pipeline.calculates else (None, None)
    values = flat if down is None else flat * down[0] * down[1]
    if pipeline.rotate is not None:
        padded = pipeline.size(stage.Context(tuple(lengths)))
        values = _each_block(tf.pad(values, [[0, padded - size]]) * draws["signs"], size)
    dense = values.shape[0]
    kept = None
    if pipeline.sparsifier is not None:
        values, kept = twin_of(pipeline.sparsifier)(pipeline.sparsifier, values, draws)
    groups = _groups(chain, lengths, values, kept)
    values = twin_of(pipeline.quantiser)(pipeline.quantiser, values, groups, draws)
    if kept is not None:
        values = tf.scatter_nd(kept[:, tf.newaxis], values, [dense])
    if pipeline.rotate is not None:
        values = (_each_block(values, size) * draws["signs"])[:size]
    return values if up is None else values * up[0] * up[1]


def _exponent(magnitude: tf.Tensor) -> tf.Tensor:
    """`math.frexp(magnitude)[1]` of positive float32 values, int32."""
    stored = tf.bitwise.right_shift(tf.bitcast(magnitude, tf.int32), 23)
    return stored - 126


def _to_the_power(exponent: tf.Tensor) -> tf.Tensor:
    """2.0**exponent, exactly, for -126 to 127."""
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


def _power_of_two(flat: tf.Tensor) -> tuple[Any, Any]:
    """Factors that bring huge or tiny values near one, and those that bring them back; each in two steps."""
    exponent = exponent_of(flat)
    half = exponent // 2
    rest = exponent - half
    return (_to_the_power(-half), _to_the_power(-rest)), (_to_the_power(half), _to_the_power(rest))


def exponent_of(flat: tf.Tensor) -> tf.Tensor:
    """The power of two that is taken out of the values before anything is calculated, int32; 0 for usual sizes."""
    largest = tf.reduce_max(tf.abs(flat))
    comfortable = (largest >= 2.0**-body.COMFORT) & (largest <= 2.0**body.COMFORT)
    return tf.where(comfortable | (largest <= 0.0), 0, _exponent(largest))


def group_count(chain: Chain, lengths: Sequence[int], flat: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """How many groups of values share scales in the payload of `flat`, int32; of a chain that sparsifies."""
    sparsifier = chain.pipeline.sparsifier
    if sparsifier is None:
        raise TypeError(f"{chain} keeps all values: their groups follow from the lengths")
    values, kept = twin_of(sparsifier)(sparsifier, flat, draws)
    groups = _groups(chain, lengths, values, kept)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(groups.ids), groups.ids, groups.most)
    return tf.reduce_sum(tf.cast(sizes > 0, tf.int32))


# -- rotation -------------------------------------------------------------


def _each_block(values: tf.Tensor, size: int) -> tf.Tensor:
    """The Walsh-Hadamard transform of every block; blocks of one size are transformed together."""
    out, start, plan = [], 0, [stop - begin for begin, stop in rotation.blocks(size)]
    while plan:
        length = plan[0]
        count = next((i for i, other in enumerate(plan) if other != length), len(plan))
        stop = start + count * length
        out.append(tf.reshape(walsh_hadamard(tf.reshape(values[start:stop], [count, length])), [-1]))
        start, plan = stop, plan[count:]
    return tf.concat(out, axis=0) if len(out) > 1 else out[0]


# -- sparsifiers and groups -----------------------------------------------


TWINS: dict[type[stage.Stage], Callable[..., Any]] = {}
"""The TensorFlow twin of each stage, by its class."""

Twin = TypeVar("Twin", bound=Callable[..., Any])


def register(*kinds: type[stage.Stage]) -> Callable[[Twin], Twin]:
    """A decorator that makes a function the twin of stages.

    A sparsifier's twin takes (stage, values, draws) and gives the kept values and their ascending positions (int32). A
    quantiser's takes (stage, values, groups, draws) and gives what is read back.
    """

    def enter(twin: Twin) -> Twin:
        TWINS.update(dict.fromkeys(kinds, twin))
        return twin

    return enter


def twin_of(one: stage.Stage) -> Callable[..., Any]:
    """The twin of a stage, or of what it is a kind of.

    Raises:
      TypeError: when none is registered.
    """
    found = next((TWINS[kind] for kind in type(one).__mro__ if kind in TWINS), None)
    if found is None:
        raise TypeError(f"no TensorFlow twin for the stage {one}: register one with processes.encoders.register")
    return found


@register(TopK)
def _top(one: TopK, values: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    top = tf.math.top_k(tf.abs(values), one.kept(values.shape[0])).indices  # of equal ones, the first
    kept = tf.sort(top)
    return tf.gather(values, kept), kept


@register(Threshold)
def _beyond(one: Threshold, values: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    kept = tf.cast(tf.where(tf.abs(values) >= np.float32(one.bound))[:, 0], tf.int32)
    return tf.gather(values, kept), kept


@register(RandomK)
def _random(one: RandomK, values: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    size, kept = values.shape[0], draws["positions"]
    values = tf.gather(values, kept)
    if one.scaled:
        count = one.kept(size)
        edges = np.arange(count + 1, dtype=np.int64) * size // count
        values = values * np.diff(edges).astype(np.float32)
    return values, kept


def _groups(chain: Chain, lengths: Sequence[int], values: tf.Tensor, kept: tf.Tensor | None) -> Groups:
    count = encoder_draws.group_bound(chain, lengths)
    rotated = chain.pipeline.rotate is not None
    if kept is None:
        spans = rotation.blocks(sum(lengths)) if rotated else stage.runs(lengths)
        sizes = [stop - start for start, stop in spans]
        return Groups(tf.constant(np.repeat(np.arange(len(sizes)), sizes), tf.int32), count)
    order = tf.range(tf.shape(values)[0])
    if rotated:
        return Groups(order // stage.GROUP, count)
    edges = np.cumsum([0, *lengths]).astype(np.int32)
    tensor = tf.searchsorted(tf.constant(edges[1:]), kept, side="right")
    first = tf.searchsorted(kept, tf.constant(edges[:-1]))  # how many were kept before each tensor
    rank = order - tf.gather(first, tensor)
    before = np.cumsum([0, *(-(-length // stage.GROUP) for length in lengths)])[:-1].astype(np.int32)
    return Groups(tf.gather(tf.constant(before), tensor) + rank // stage.GROUP, count)


# -- quantisers: round and read back ----------------------------------------


Draws = Mapping[str, tf.Tensor]


@register(stage.Unquantised)
def _as_they_are(one: stage.Unquantised, values: tf.Tensor, groups: Groups, draws: Draws) -> tf.Tensor:
    return values


@register(Quantize)
def _evenly(one: Quantize, values: tf.Tensor, groups: Groups, draws: Draws) -> tf.Tensor:
    return _on_grid(values, groups, one.alphabet - 1, _even_levels(one), draws.get("dither"))


@register(Ternary)
def _ternary(one: Ternary, values: tf.Tensor, groups: Groups, draws: Draws) -> tf.Tensor:
    if not one.stochastic:
        return _codebook(OneBit(unbiased=False), values, groups, draws)

    def grid(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.zeros_like(low), tf.maximum(-low, high)

    return _on_grid(values, groups, 2, grid, draws["dither"])


@register(Float16)
def _half(one: Float16, values: tf.Tensor, groups: Groups, draws: Draws) -> tf.Tensor:
    largest = tf.math.unsorted_segment_max(tf.abs(values), groups.ids, groups.most)
    fits = largest >= 2.0**-100
    exponent = tf.where(fits, _exponent(tf.where(fits, largest, 1.0)) - 15, 0)
    scaled = values * tf.gather(_to_the_power(-exponent), groups.ids)
    return tf.cast(tf.cast(scaled, tf.float16), tf.float32) * tf.gather(_to_the_power(exponent), groups.ids)


@register(BFloat16)
def _upper_half(one: BFloat16, values: tf.Tensor, groups: Groups, draws: Draws) -> tf.Tensor:
    rounded = tf.cast(tf.cast(values, tf.bfloat16), tf.float32)
    return tf.clip_by_value(rounded, -_LARGEST_BFLOAT16, _LARGEST_BFLOAT16)


def _even_levels(quantiser: Quantize) -> Callable:
    """`Quantize._grid` for all groups at once, in float64 as there."""
    top = quantiser.alphabet - 1

    def grid(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = _rounded(low / 2 + high / 2)
        step = 2 * tf.maximum(high - middle, middle - low) / top
        if not quantiser.contraction:
            return middle, step
        spread = tf.where(low < high, high - low, tf.ones_like(low))
        inside = tf.clip_by_value(tf.round(-low / spread * top), 1, top - 1)
        below = tf.where(
            low >= 0, tf.zeros_like(low), tf.where(high <= 0, tf.fill(tf.shape(low), np.float64(top)), inside)
        )
        left = tf.where(low < 0, -low / tf.maximum(below, 1), tf.zeros_like(low))
        right = tf.where(high > 0, high / tf.maximum(top - below, 1), tf.zeros_like(low))
        wide = tf.maximum(left, right)
        zero = -(tf.cast(below - top / 2, tf.float32) * tf.cast(wide, tf.float32))
        anchored = tf.where(wide >= FLAT, tf.cast(zero, tf.float64), middle)
        return tf.where(low < high, anchored, middle), tf.where(low < high, wide, step)

    return grid


def _rounded(values: tf.Tensor) -> tf.Tensor:
    """Float64 values rounded to float32 precision."""
    return tf.cast(tf.cast(values, tf.float32), tf.float64)


def _on_grid(values: tf.Tensor, groups: Groups, top: int, grid: Callable, dither: tf.Tensor | None) -> tf.Tensor:
    """`uniform.round_to_grid` and `uniform.from_grid`."""
    ids, count = groups
    low = tf.cast(tf.math.unsorted_segment_min(values, ids, count), tf.float64)
    high = tf.cast(tf.math.unsorted_segment_max(values, ids, count), tf.float64)
    middle, step = grid(low, high)
    widen = 1 + 2.0**-14 if dither is not None and top > 31 else 1.0
    step = tf.cast(tf.where(step >= FLAT, step * widen, tf.zeros_like(step)), tf.float32)
    middle = tf.gather(tf.cast(middle, tf.float32), ids)
    flat = tf.gather(step, ids) <= 0.0
    inverse = tf.gather(1.0 / tf.where(step > 0.0, step, 1.0), ids)
    level = (values - middle) * inverse + np.float32(top / 2)
    level = level + (0.5 if dither is None else _dither(dither, groups, values))
    symbol = tf.cast(tf.cast(level, tf.int32), tf.float32)
    symbol = tf.where(flat, 0.0, symbol)
    return (symbol - np.float32(top / 2)) * tf.gather(step, ids) + middle


def _dither(dither: tf.Tensor, groups: Groups, values: tf.Tensor) -> tf.Tensor:
    """Each value's random number: every group begins at a multiple of four draws."""
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(groups.ids), groups.ids, groups.most)
    first_value = tf.cumsum(sizes, exclusive=True)
    first_draw = tf.cumsum(-(-sizes // 4) * 4, exclusive=True)
    order = tf.range(tf.shape(values)[0])
    return tf.gather(dither, order + tf.gather(first_draw - first_value, groups.ids))


@register(Eden)
def _codebook(quantiser: Eden, values: tf.Tensor, groups: Groups, draws: Draws) -> tf.Tensor:
    """`codebook.Eden`: the nearest level and one scale per group; sums are taken in float64."""
    ids, count = groups

    def total(of: tf.Tensor) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(tf.cast(of, tf.float64), ids, count)

    levels = quantiser.levels()
    energy = total(values * values)
    filled = energy > 0
    safe = tf.where(filled, energy, tf.ones_like(energy))
    if quantiser.bits == 1:
        symbols = tf.cast(values >= 0, tf.int32)
    else:
        middles = (np.arange(CELLS) + 0.5) * (2 * REACH / CELLS) - REACH
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, middles).astype(np.int32)
        sizes = total(tf.ones_like(values))
        factor = tf.cast(tf.sqrt(sizes / safe) * (CELLS / (2 * REACH)), tf.float32)
        cells = tf.clip_by_value(values * tf.gather(factor, ids) + np.float32(CELLS / 2), 0, CELLS - 1)
        symbols = tf.gather(tf.constant(nearest), tf.cast(cells, tf.int32))
    code = tf.gather(tf.constant(levels), symbols)
    product = total(values * code)
    if quantiser.unbiased:
        scale = energy / tf.where(filled, product, tf.ones_like(product))
    else:
        square = total(code * code)
        scale = product / tf.where(square > 0, square, tf.ones_like(square))
    scale = tf.cast(tf.where(filled, scale, tf.zeros_like(scale)), tf.float32)
    return code * tf.gather(scale, ids)
