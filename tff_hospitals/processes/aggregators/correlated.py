"""Noise at the server that later rounds take back in part: a strategy over the rounds (`accounting.strategies`).

Round t adds row t of C^-1 z, where z are the unit normals of all rounds. A strategy of buffers carries the rest of z
on in a few vectors of the model's size (McMahan, Xu and Zhang 2024, arXiv:2408.08868); a banded one needs what was
added in the last rounds, one vector for each band but the first (Choquette-Choo et al. 2023, arXiv:2306.08153). Both
are in the state, and so in the checkpoint. Drawing past noise again instead would cost more in every round, because the
inverse of a banded matrix reaches back to the first one, and could not be done with noise of the operating system.
"""

from __future__ import annotations

import abc
import collections

import numpy as np
import tensorflow as tf

from tff_hospitals.accounting.strategies import Strategy
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.mechanisms.base import HospitalSetting
from tff_hospitals.plan.mechanisms.correlated_rounds import CorrelatedRounds
from tff_hospitals.processes.aggregators.base import Setting, Structure, with_changes
from tff_hospitals.processes.aggregators.fixed_clip import FixedClip
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors, parameter_count


class CorrelatedNoise(FixedClip):
    """Fixed clipping with the noise of a strategy over the rounds."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        mechanism = mechanisms.named(setting.privacy.mechanism)
        if not isinstance(mechanism, CorrelatedRounds):
            raise TypeError(f"{mechanism.name} has no strategy over the rounds")
        self.strategy: Strategy = mechanism.strategy_of(
            HospitalSetting(setting.privacy, setting.rounds, setting.cohort, setting.hospitals)
        )
        self._stddevs = np.sqrt(np.cumsum(np.square(self.strategy.inverse_coefficients()))).astype(np.float32)

    @property
    @abc.abstractmethod
    def kept(self) -> int:
        """Vectors of the model's size that the state keeps."""

    @abc.abstractmethod
    def correlated(self, kept: tf.Tensor, normals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The unit noise of this round, and what is kept after it.

        Args:
          kept: float32 [kept, parameters].
          normals: float32 [parameters], this round's row of z.
        """

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """As fixed clipping, with nothing kept yet."""
        state = super().initial_state(key, noise_multiplier)
        state["kept_noise"] = np.zeros([self.kept, parameter_count(self.specs)], np.float32)
        return state

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """The mean with this round's noise, and what the next rounds take back of it."""
        added, kept = self.correlated(state["kept_noise"], noise["delta"])
        scale = state["noise_multiplier"] * state["clip_norm"]
        update = self.noised_mean(total, scale, collections.OrderedDict(delta=added))
        place = tf.minimum(state["round"], len(self._stddevs) - 1)
        deviation = scale * tf.gather(tf.constant(self._stddevs), place) / self.setting.divisor(total["count"])
        measured = self.measured(update, deviation, state["clip_norm"])
        return update, with_changes(state, round=state["round"] + 1, kept_noise=kept), measured


@register("blt")
class BufferedNoise(CorrelatedNoise):
    """Buffers B_j that decay: the noise is z + sum_j scale_j B_j, then B_j becomes decay_j B_j + z.

    Where decays are complex it is the real part of that sum, and such a buffer is kept as two vectors.
    """

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self._decays, self._scales = (np.asarray(one, np.complex128) for one in self.strategy.inverse_buffers())

    @property
    def kept(self) -> int:
        """One vector for each buffer that decays, two for one that turns."""
        return len(self._decays) + int(np.count_nonzero(self._decays.imag))

    def correlated(self, kept: tf.Tensor, normals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class; buffers are added in order, so that the sum has the same bits everywhere."""
        added, after, at = normals, [], 0
        for decay, scale in zip(self._decays.tolist(), self._scales.tolist()):
            real = kept[at]
            if not decay.imag:
                added = added + scale.real * real
                after.append(decay.real * real + normals)
            else:
                turned = kept[at + 1]
                added = added + (scale.real * real - scale.imag * turned)
                after.append(decay.real * real - decay.imag * turned + normals)
                after.append(decay.imag * real + decay.real * turned)
            at = len(after)
        return added, tf.stack(after)


@register("banded_mf")
class BandedNoise(CorrelatedNoise):
    """What was added in the last rounds: the noise y solves sum_j c_j y_(t-j) = z_t."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self._bands = np.asarray(self.strategy.numerator, np.float32)

    @property
    def kept(self) -> int:
        """One vector for each band but the first."""
        return len(self._bands) - 1

    def correlated(self, kept: tf.Tensor, normals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class; row j - 1 of `kept` is what was added j rounds ago."""
        rest = normals
        for at in range(self.kept):
            rest = rest - self._bands[at + 1] * kept[at]
        added = rest / self._bands[0]
        if not self.kept:
            return added, kept
        return added, tf.concat([added[tf.newaxis], kept[:-1]], axis=0)
