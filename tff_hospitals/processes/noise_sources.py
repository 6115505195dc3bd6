"""Where a mechanism's noise comes from: keys that follow from the root seed, or the operating system.

Research mode draws from keys, so that a run can be repeated and every runtime sees the same noise. `--secure_noise`
takes every number from fresh bytes of the operating system's cryptographic source. Public randomness (the signs of a
rotation) always comes from keys: server and hospitals must agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes import discrete_noise, noise, system_noise


class Source:
    """Noise from keys: the same key, stream and position, the same numbers, in every runtime."""

    def normals(self, key: Any, shape: Sequence[int], *, stream: Any = 0, position: Any = 0) -> tf.Tensor:
        """float32 unit normals [..., *shape] for int64 keys [..., 2]; see `noise.unit_normals`."""
        return noise.unit_normals(key, shape, stream=stream, position=position)

    def uniforms(self, key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """float32 in [0, 1)."""
        return tf.random.stateless_uniform(shape, seed=key, alg="philox")

    def discrete_gaussian(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """int32 discrete Gaussian numbers."""
        return discrete_noise.discrete_gaussian(key, shape, stddev)

    def skellam(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """int32 Skellam numbers."""
        return discrete_noise.skellam(key, shape, stddev)


class SystemSource(Source):
    """Noise from the operating system; keys only say how many draws are asked for.

    The numbers are drawn by numpy in this process: TFF's worker process cannot call it, so that the native runtime
    refuses such plans.
    """

    def normals(self, key: Any, shape: Sequence[int], *, stream: Any = 0, position: Any = 0) -> tf.Tensor:
        """float32 unit normals [..., *shape]."""
        whole = [*noise.draws_asked(key, stream, position), *shape]
        return _drawn(lambda: system_noise.normals(whole), whole, tf.float32)

    def uniforms(self, key: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """float32 in [0, 1): multiples of 2**-24."""
        drawn = _drawn(lambda: system_noise.uniforms(shape), shape, tf.float64)
        return tf.cast(tf.floor(drawn * 2.0**24) * 2.0**-24, tf.float32)

    def discrete_gaussian(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """int32 discrete Gaussian numbers."""

        def uniforms(_: tf.Tensor, of: Sequence[int]) -> tf.Tensor:
            return _drawn(lambda: system_noise.uniforms(of), of, tf.float64)

        return discrete_noise.discrete_gaussian(key, shape, stddev, uniforms=uniforms)

    def skellam(self, key: tf.Tensor, shape: Sequence[int], stddev: tf.Tensor) -> tf.Tensor:
        """int32 Skellam numbers."""
        return _drawn(lambda one: system_noise.skellam(shape, float(one)), shape, tf.int32, stddev)


def source_of(privacy: PrivacyPlan) -> Source:
    """The source that a plan asks for."""
    return SystemSource() if privacy.secure_noise else Source()


def _drawn(draw: Any, shape: Sequence[int], dtype: tf.DType, *inputs: Any) -> tf.Tensor:
    """The numpy function `draw` as an operation that is run anew each time, never folded into a constant."""
    values = tf.numpy_function(lambda *given: np.asarray(draw(*given)), inputs, dtype, stateful=True)
    return tf.reshape(tf.ensure_shape(values, shape), shape) if math.prod(shape) else tf.zeros(shape, dtype)
