"""Another aggregator whose clip norm and noise change from round to round.

The state of the inner one keeps both at factor 1; every function of it is shown what they are in this round.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tff_hospitals.processes.aggregators.base import Aggregator, Structure, with_changes
from tff_hospitals.processes.noise import Tensors
from tff_hospitals.processes.settings_by_round import Factors, at_round


class ByRound(Aggregator):
    """An aggregator with a number of the round in its state, and settings that follow it.

    Args:
      inner: fixed clipping.
      factors: of `clip_norm` and `noise_multiplier`, float64 [rounds] each; what does not change is left out.
    """

    def __init__(self, inner: Aggregator, factors: Factors):
        super().__init__(inner.setting)
        self.inner, self.factors = inner, dict(factors)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """The inner aggregator's."""
        return self.inner.initial_state(key, noise_multiplier)

    def _now(self, state: Structure) -> Structure:
        changed = {
            name: tf.cast(tf.cast(state[name], tf.float64) * at_round(by, state["round"]), tf.float32)
            for name, by in self.factors.items()
        }
        return with_changes(state, **changed)

    def parameters(self, state: Structure) -> Structure:
        """The inner aggregator's, of this round."""
        return self.inner.parameters(self._now(state))

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The inner aggregator's."""
        return self.inner.prepare(parameters, delta, weight, noise)

    def received(self, parameters: Structure, prepared: Structure, decoded: Tensors, weight: tf.Tensor) -> Structure:
        """The inner aggregator's."""
        return self.inner.received(parameters, prepared, decoded, weight)

    def resolutions(self, parameters: Structure, steps: float) -> Structure:
        """The inner aggregator's."""
        return self.inner.resolutions(parameters, steps)

    def server_noise(self, state: Structure) -> Structure:
        """Unit noise of the inner aggregator: `finish` scales it, so that many rounds may be drawn at once."""
        return self.inner.server_noise(state)

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The inner aggregator's update of this round; the settings go back to factor 1."""
        update, after, measured = self.inner.finish(self._now(state), total, noise)
        return update, with_changes(after, **{name: state[name] for name in self.factors}), measured
