"""The letters of a Keras `EinsumDense` layer: which axis of its input, kernel and output is which."""

from __future__ import annotations

import string
from typing import Any, NamedTuple


class Letters(NamedTuple):
    """One letter for each axis; the first of `inputs` and `outputs` is that of the records."""

    inputs: str
    kernel: str
    outputs: str


def letters(layer: Any) -> Letters | None:
    """The letters of a built layer, without dots; None where records are not its first axis, or are not kept apart.

    How many axes dots stand for is known of layers in functional models.

    >>> import tensorflow as tf
    >>> layer = tf.keras.layers.EinsumDense("...x,xy->...y", 4, bias_axes="y")
    >>> outputs = layer(tf.keras.Input((5, 3)))
    >>> letters(layer)
    Letters(inputs='ABx', kernel='xy', outputs='ABy')
    """
    operands, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    hidden = ""
    if "..." in inputs:
        ranks = {len(node.input_shapes) for node in layer._inbound_nodes}
        if len(ranks) != 1:
            return None
        unused = [letter for letter in string.ascii_uppercase if letter not in layer.equation]
        hidden = "".join(unused[: ranks.pop() - len(inputs.replace("...", ""))])
    found = Letters(inputs.replace("...", hidden), kernel, outputs.replace("...", hidden))
    records = found.inputs[0]
    apart = found.outputs[0] == records and records not in found.kernel
    return found if apart and all(len(set(part)) == len(part) for part in found) else None
