"""A plan's aggregator for processes whose clients nobody hands a key.

The runtimes give every hospital a key of its own; TFF gives its clients nothing. So a client draws a key of its
operating system for the noise and the rounding that it adds itself. The server's noise follows from the state, as
everywhere.
"""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Aggregator, Structure
from tff_hospitals.processes.noise import Tensors
from tff_hospitals.tff.encoding import KEY_BYTES, GraphCodec, flat_of, packed_as
from tff_hospitals.tff.sampling import system_key

_BYTES = "payload_bytes"


class WithOwnKeys(Aggregator):
    """An aggregator whose clients draw their own keys, and encode what they send where a codec is given.

    Args:
      inner: the plan's aggregator.
      key: int64 [2], of the server's noise.
      noise_multiplier: of the server's noise.
      codec: encodes uploads; None sends them as they are.
    """

    def __init__(self, inner: Aggregator, key: np.ndarray, noise_multiplier: float, codec: GraphCodec | None):
        super().__init__(inner.setting)
        self._inner, self._codec = inner, codec
        self._initial = inner.initial_state(key, noise_multiplier)
        self.modulus_bits = inner.modulus_bits

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The state of a real start, whatever key it is asked with."""
        return self._initial

    def parameters(self, state: Structure) -> Structure:
        """As the plan's."""
        return self._inner.parameters(state)

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The contribution, with noise from the client's own key."""
        inner, key = self._inner, system_key()
        noise = inner.hospital_noise(parameters, key) if inner.draws_at_hospital else inner.no_hospital_noise()
        if self._codec is None:
            return inner.prepare(parameters, delta, weight, noise)
        prepared = inner.prepare(parameters, delta, tf.constant(1.0), noise)
        update = tuple(prepared["delta"])
        decoded, payload = self._codec.transcode(flat_of(update), system_key())
        contribution = inner.received(parameters, prepared, packed_as(update, decoded, self._codec), weight)
        payload += KEY_BYTES if self._codec.chain.needs_key else 0
        return collections.OrderedDict(contribution, **{_BYTES: tf.cast(payload, tf.float32)})

    def server_noise(self, state: Structure) -> Structure:
        """As the plan's."""
        return self._inner.server_noise(state)

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """As the plan's; measurements also hold the bytes of all uploads of the round, where they are encoded."""
        total = collections.OrderedDict(total)
        payload = total.pop(_BYTES, None)
        update, after, measured = self._inner.finish(state, total, noise)
        if payload is not None and self._codec is not None:
            measured = collections.OrderedDict(measured, **{f"{self._codec.measured}_up": payload})
        return update, after, measured
