"""The random draws of a chain of encoders as plain arrays, so that a graph can compute with the codec's own bits.

The codec draws its bits from numpy's raw generators, which TensorFlow does not have. Both ends of a channel derive them
from one key anyway: here they are derived on the host and handed to the graph.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_hospitals.communication import Chain, shared_randomness, stage
from tff_hospitals.communication.stages import rotation

Draws = collections.OrderedDict


def group_bound(chain: Chain, lengths: Sequence[int]) -> int:
    """The most groups of values that can share scales, whatever the values are."""
    pipeline, size = chain.pipeline, sum(lengths)
    if pipeline.sparsifier is None:
        return len(rotation.blocks(size) if pipeline.rotate else stage.runs(lengths))
    if pipeline.rotate:
        return len(stage.runs([pipeline.size(stage.Context(tuple(lengths)))]))
    return len(stage.runs(lengths))


def draw_shapes(chain: Chain, lengths: Sequence[int]) -> Draws:
    """(shape, dtype) of the arrays that `draw` gives."""
    pipeline = chain.pipeline
    size = pipeline.size(stage.Context(tuple(lengths)))
    found: Draws = collections.OrderedDict()
    if pipeline.rotate is not None:
        found["signs"] = ((size,), np.float32)
    sparsifier = pipeline.sparsifier
    if sparsifier is not None and not sparsifier.positions_travel:
        found["positions"] = ((sparsifier.kept(size),), np.int32)
    if pipeline.quantiser.dithered:
        found["dither"] = ((size + 4 * group_bound(chain, lengths),), np.float32)
    return found


def draw(chain: Chain, lengths: Sequence[int], key: Any) -> Draws:
    """The draws of one payload.

    Args:
      chain: the chain of encoders.
      lengths: values of each tensor.
      key: int64 [2], the payload's key.

    Returns:
      By name, where the chain needs it: `signs` of the rotation divided by the root of the block size; `positions` of
      `randk`; `dither` in [0, 1), of which a group of g values takes the next g and leaves the rest up to a multiple
      of four.

    >>> from tff_hospitals.communication import parse_chain
    >>> found = draw(parse_chain("rotate,quantize:4"), [3], np.array([1, 2]))
    >>> {name: array.shape for name, array in found.items()}
    {'signs': (4,), 'dither': (8,)}
    """
    shapes = draw_shapes(chain, lengths)
    if not shapes:
        return collections.OrderedDict()
    words = shared_randomness.checked_key(key)
    context = stage.Context(tuple(lengths), words)
    found: Draws = collections.OrderedDict()
    if "signs" in shapes:
        found["signs"] = np.concatenate(list(rotation.block_signs(rotation.blocks(context.size), context)))
    sparsifier = chain.pipeline.sparsifier
    if sparsifier is not None and "positions" in shapes:
        found["positions"] = sparsifier.positions(chain.pipeline.size(context), context).astype(np.int32)
    if "dither" in shapes:
        count = shapes["dither"][0][0]
        generator = shared_randomness.private_generator(words, shared_randomness.DITHER)
        bits = generator.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
        found["dither"] = bits.astype(np.float32) * np.float32(2.0**-16)
    return found
