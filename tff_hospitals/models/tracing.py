"""Who converts Python control flow while a model is traced: Keras that of a user's layers, nobody ours."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx

# Marks functions that autograph must leave as they are, whoever traces them.
plain_python = tf.autograph.experimental.do_not_convert


def autograph_enabled() -> Any:
    """A context in which Keras converts the Python control flow of a user's layers, as it does in `fit`."""
    return ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED)


def converted(call: Any) -> Any:
    """What Keras would make of a layer's `call` while it builds a graph."""
    if tf.executing_eagerly():
        return call
    with autograph_enabled() as status:
        return tf.__internal__.autograph.tf_convert(call, status)
