"""How each kind of layer gives the norms and the weighted sum of per-record gradients without making the gradients.

A layer's call is replaced by one that remembers what the rule needs (mostly the layer's input) and watches the value z
before the activation. One backward pass gives g = d(sum of record losses)/dz; records do not mix, so row i of g belongs
to record i. For a dense layer the gradient of record i is the outer product of its input a_i and g_i: its squared norm
is |a_i|^2 |g_i|^2 (Goodfellow 2015, arXiv:1510.01799), and the sum weighted by c is a^T (c g), one matrix product and
no second backward pass (book-keeping: Bu, Wang, Zha, Karypis 2023, arXiv:2210.00038).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_hospitals.models.ghost.parts import Part
from tff_hospitals.models.swapping import Override
from tff_hospitals.models.tracing import converted, plain_python

Watch = Callable[[Any], None]


@dataclasses.dataclass
class Seen:
    """What a layer's replaced call left behind in one trace."""

    remembered: Any = None
    watched: Any = None
    calls: int = 0

    def note(self, watch: Watch, remembered: Any, outputs: Any) -> None:
        """Watches what a layer put out (a tensor or several) and keeps it with what its rule needs."""
        watch(outputs)
        self.remembered, self.watched, self.calls = remembered, outputs, self.calls + 1


class Rule:
    """One kind of layer. `weights` names the attributes of its weights; `parts` may know of more.

    `takes_mask` says whether its call may be given the mask of a padded sequence, bool [batch, steps].
    """

    weights: tuple[str, ...] = ()
    takes_mask = False

    def handles(self, layer: Any) -> bool:
        """Whether this rule knows exactly what the layer computes (a subclass may have a call of its own)."""
        raise KeyError(type(layer))

    def owner(self, layer: Any) -> Any:
        """What holds the weights: the layer, or a cell of its own."""
        return layer

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
        """The attributes to replace while the model is traced."""
        raise KeyError(type(layer))

    def parts(self, layer: Any, seen: Seen, gradient: Any) -> dict[str, Part]:
        """What each of the layer's weights contributes; `gradient` is that of `seen.watched`."""
        raise KeyError(type(layer))


class BeforeActivation(Rule):
    """Layers that end in an activation: the value before it is watched."""

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
        call, activation = layer.call, layer.activation

        @plain_python
        def listening(inputs: tf.Tensor) -> tf.Tensor:
            outputs = call(inputs)
            seen.note(watch, inputs, outputs)
            return outputs if activation is None else converted(activation)(outputs)

        return [(layer, "activation", None), (layer, "call", listening)]


def unchanged(layer: Any, kind: Any, *methods: str) -> bool:
    """Whether a layer computes with the methods of one of Keras' classes: a subclass may have some of its own."""
    own = type(layer)
    return all(getattr(own, name, None) is getattr(kind, name) for name in methods) and "call" not in vars(layer)


def steps_of(values: tf.Tensor) -> tf.Tensor:
    """Values [batch, ..., width] as [batch, steps, width]."""
    known = values.shape[1:-1].num_elements()
    return tf.reshape(values, [tf.shape(values)[0], -1 if known is None else known, values.shape[-1]])
