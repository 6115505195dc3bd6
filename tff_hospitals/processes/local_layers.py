"""Layers that never travel: a shared body, and a head that every hospital keeps and trains for itself.

Arivazhagan et al. 2019, arXiv:1912.00818 (FedPer) trains both together; Collins et al. 2021, arXiv:2102.07078 (FedRep)
trains the head first and then the body, with the head held still. What travels is a model whose head is frozen: the
server and everybody else hold the head that the seed gives. What a hospital keeps from round to round is how far its
own head is from that one, in `ServerState.hospitals` and in checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tff_hospitals.processes.noise import Tensors, all_finite, parameter_count, unflatten

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel


class LocalLayers:
    """How the weights of a hospital's model are made of what travels and what it keeps.

    Attributes:
      size: numbers that a hospital keeps.
      travels: for each weight that a hospital trains, whether it travels.

    Args:
      model: that travels; its `whole` is what hospitals train.
    """

    def __init__(self, model: FunctionalModel):
        whole = model.whole
        shared = {name: number for number, name in enumerate(model.trainable_names)}
        still = {name: number for number, name in enumerate(model.frozen_names)}
        self.travels = tuple(name in shared for name in whole.trainable_names)
        self._places = tuple(shared.get(name, still.get(name, 0)) for name in whole.trainable_names)
        self._frozen = tuple(still[name] for name in whole.frozen_names)
        self._specs = tuple(spec for spec, out in zip(whole.trainable_specs, self.travels) if not out)
        self._own = tuple(place for place, out in zip(self._places, self.travels) if not out)
        self.size = parameter_count(self._specs)

    @classmethod
    def of(cls, model: Any) -> LocalLayers | None:
        """None for a model of which all travels."""
        return cls(model) if getattr(model, "local_layers", ()) else None

    def own_frozen(self, frozen: Sequence[Any], kept: Any) -> tuple:
        """The frozen weights of the model that travels, with the hospital's own layers in their places.

        Args:
          frozen: as the seed gives them.
          kept: float32 [size], of the hospital.
        """
        found = list(frozen)
        for place, moved in zip(self._own, unflatten(kept, self._specs)):
            found[place] = found[place] + moved
        return tuple(found)

    def joined(self, weights: Tensors, frozen: tuple) -> tuple[Tensors, tuple]:
        """Trained and frozen weights of `whole`, of what travels and `own_frozen`."""
        pairs = zip(self.travels, self._places)
        return tuple(weights[at] if out else frozen[at] for out, at in pairs), tuple(frozen[at] for at in self._frozen)

    def travelling(self, trained: Tensors) -> Tensors:
        """Of weights that a hospital trained, those that travel, in the order of the model's."""
        found = {at: one for one, out, at in zip(trained, self.travels, self._places) if out}
        return tuple(found[number] for number in range(len(found)))

    def kept(self, trained: Tensors, frozen: tuple, before: tf.Tensor) -> tf.Tensor:
        """What the hospital keeps after a round; what it had, where a weight is not finite.

        Args:
          trained: weights of `whole` after the round.
          frozen: as the seed gives them.
          before: float32 [size], what it had.
        """
        own = [one for one, out in zip(trained, self.travels) if not out]
        moved = [tf.reshape(one - frozen[place], [-1]) for one, place in zip(own, self._own)]
        return tf.where(all_finite(trained), tf.concat(moved, axis=0), before)
