"""Local steps that are corrected by what server or hospital remember of earlier rounds; what is sent beside updates.

Three slots carry it, each a float32 vector of fixed length (0: none):

    told    from the server to every hospital, among the aggregator's parameters
    kept    at each hospital from round to round, in `ServerState.hospitals` and in checkpoints
    sent    beside the update, as the last tensor of `ClientOutput.delta`; the aggregator adds it up like the others

The aggregator's half is in `aggregators.corrected`; what may not stand beside it, `plan.mechanisms.corrected` says.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.processes.noise import Tensors, all_finite, parameter_count, unflatten
from tff_hospitals.processes.registry import Registry


class LocalRound(NamedTuple):
    """A hospital's local training that has ended.

    Attributes:
      delta: initial - final weights.
      element: see `LocalTraining.element_spec`.
      rate: float32 scalar, the learning rate of the round.
      start_loss: computes the mean loss of the broadcast model over the records of the round's batches.
      start_gradient: the same of the gradient.
    """

    delta: Tensors
    element: Mapping[str, Any]
    rate: tf.Tensor
    start_loss: Callable[[], tf.Tensor]
    start_gradient: Callable[[], Tensors]


class Correction:
    """The contract; the base corrects nothing and carries nothing.

    Attributes:
      told, kept, sent: lengths of the vectors in the slots; 0 for none.
      owns: settings of the plan that the correction uses itself, in place of the local optimiser.

    Args:
      specs: of the trainable weights.
    """

    told: int = 0
    kept: int = 0
    sent: int = 0
    owns: tuple[str, ...] = ()

    def __init__(self, specs: Sequence[tf.TensorSpec]):
        self.specs, self.scalars = tuple(specs), parameter_count(specs)

    def element_spec(self) -> collections.OrderedDict:
        """What an element holds beside records and schedule."""
        sizes = (("told", self.told), ("kept", self.kept))
        return collections.OrderedDict((name, tf.TensorSpec([size], tf.float32)) for name, size in sizes if size)

    def corrected(
        self, gradients: Tensors, away: Tensors, element: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Tensors:
        """The gradients of a step as the optimiser takes them.

        Args:
          gradients: of the batch, with penalties.
          away: the weights minus the broadcast ones.
          element: of the hospital and round.
          settings: see `LocalTraining.settings`.
        """
        return gradients

    def beside(self, ended: LocalRound) -> tf.Tensor | None:
        """Float32 [sent], what is sent beside the update."""
        return None

    def next_kept(self, ended: LocalRound) -> tf.Tensor | None:
        """Float32 [kept], what the hospital keeps for its next round."""
        return None

    def kept_after(self, ended: LocalRound) -> tf.Tensor | None:
        """What it keeps; what it had where the update is not finite, which the server leaves out."""
        found = self.next_kept(ended)
        return None if found is None else tf.where(all_finite((found,)), found, ended.element["kept"])

    def shifted(self, gradients: Tensors, shift: tf.Tensor) -> Tensors:
        """Gradients plus a vector of all parameters."""
        return tuple(one + more for one, more in zip(gradients, unflatten(shift, self.specs)))


CORRECTIONS: Registry[type[Correction]] = Registry("correction")


def build_correction(specs: Sequence[tf.TensorSpec], privacy: PrivacyPlan) -> Correction | None:
    """The correction of a plan's hospital-level mechanism; None where it has none.

    Args:
      specs: of the trainable weights.
      privacy: the plan's privacy.

    Raises:
      LookupError: a mechanism that corrects, and whose module registers no correction.
    """
    mechanism = mechanisms.hospital_level(privacy)
    return CORRECTIONS[mechanism.name](specs) if mechanism.corrects else None


def flat(tensors: Tensors) -> tf.Tensor:
    """All parameters in one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


@CORRECTIONS.register("scaffold")
class Scaffold(Correction):
    """Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1 with option II.

    Every step goes along g - c_i + c, with c_i of the hospital and c of the server. After K steps of rate r,
    c_i <- c_i - c + delta / (K r), and the change of c_i is sent.
    """

    def __init__(self, specs: Sequence[tf.TensorSpec]):
        super().__init__(specs)
        self.told = self.kept = self.sent = self.scalars  # c, c_i, and the change of c_i

    def corrected(
        self, gradients: Tensors, away: Tensors, element: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Tensors:
        """See the class."""
        return self.shifted(gradients, element["told"] - element["kept"])

    def beside(self, ended: LocalRound) -> tf.Tensor | None:
        """The change of c_i."""
        steps = tf.cast(ended.element["steps"], tf.float32)
        return flat(ended.delta) / (tf.maximum(steps, 1.0) * ended.rate) - ended.element["told"]

    def next_kept(self, ended: LocalRound) -> tf.Tensor | None:
        """c_i after the round."""
        change = self.beside(ended)
        return None if change is None else ended.element["kept"] + change


@CORRECTIONS.register("feddyn")
class FedDyn(Correction):
    """Acar et al. 2021, arXiv:2111.04263, algorithm 1; alpha is the plan's `proximal_mu`.

    A hospital descends its loss minus <h_i, w> plus alpha / 2 |w - w_0|**2, and then h_i <- h_i + alpha * delta. What
    it keeps is h_i / alpha: the sum of its updates.
    """

    def __init__(self, specs: Sequence[tf.TensorSpec]):
        super().__init__(specs)
        self.kept = self.scalars

    def corrected(
        self, gradients: Tensors, away: Tensors, element: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Tensors:
        """The linear term; the quadratic one is the proximal term of local training."""
        return self.shifted(gradients, -tf.cast(settings["proximal_mu"], tf.float32) * element["kept"])

    def next_kept(self, ended: LocalRound) -> tf.Tensor | None:
        """The sum with this round's update."""
        return ended.element["kept"] + flat(ended.delta)


@CORRECTIONS.register("mime_lite")
class MimeLite(Correction):
    """Karimireddy et al. 2021, arXiv:2008.03606, MimeLite with momentum: local steps along (1 - b) g + b m.

    m is the server's momentum, held still during a round, and b the plan's `client_momentum`. What is sent beside the
    update is the gradient of the broadcast model over the records of the round's batches: all records, in whole epochs.
    """

    owns = ("momentum",)

    def __init__(self, specs: Sequence[tf.TensorSpec]):
        super().__init__(specs)
        self.told = self.sent = self.scalars

    def corrected(
        self, gradients: Tensors, away: Tensors, element: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Tensors:
        """See the class."""
        decay = tf.cast(settings["momentum"], tf.float32)
        return self.shifted(tuple((1.0 - decay) * one for one in gradients), decay * element["told"])

    def beside(self, ended: LocalRound) -> tf.Tensor | None:
        """The gradient of the broadcast model."""
        return flat(ended.start_gradient())


class _TellsLoss(Correction):
    """What is sent beside the update is the loss of the broadcast model at the hospital."""

    sent = 1

    def beside(self, ended: LocalRound) -> tf.Tensor | None:
        """The loss."""
        return tf.reshape(ended.start_loss(), [1])


@CORRECTIONS.register("fedprox_adaptive")
class AdaptiveProximal(_TellsLoss):
    """FedProx whose weight of the distance the server sets from round to round (Li et al. 2020, arXiv:1812.06127)."""

    told = 1
    owns = ("proximal_mu",)

    def corrected(
        self, gradients: Tensors, away: Tensors, element: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Tensors:
        """The proximal term with the server's weight."""
        return tuple(one + element["told"][0] * more for one, more in zip(gradients, away))


CORRECTIONS.register("agnostic")(_TellsLoss)
