"""What a model ends in: whether its outputs can be the logits, or the predictions, that the loss takes them for.

A sigmoid or softmax that the graph shows is taken off again: its inputs are the logits. Any other end that keeps the
outputs within bounds (a sigmoid written by hand or clipped, tanh, relu) would be mistaken for a logit: everybody then
is more likely ill than not. Such an end is found by what the model puts out for features and weights far apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.models.target import last_dense

_WEIGHT_SPREADS = (0.05, 1.0, 3.0, 3.0)
_FEATURE_SPREADS = (1.0, 10.0, 100.0)
_MOST_NUMBERS, _MOST_RECORDS = 2**16, 48
_SPAN = 0.8  # of bounds this far apart, reached by extreme inputs, chance is no explanation


def problems(model: Any, activation: str) -> list[Problem]:
    """Why the outputs cannot be taken for logits (regression: for predictions); empty when they can.

    Args:
      model: a `FunctionalModel`.
      activation: what its graph shows it to end in.
    """
    if activation != "linear" and model.task != "regression":
        return []
    if last_dense(model.keras) is not None:
        return []
    found = _extreme_outputs(model)
    if found is None:
        return []
    words = _regression(model, found) if model.task == "regression" else _classification(found)
    if words is None:
        return []
    what, remedy = words
    return [Problem("model", model.name, what, remedy)]


def _classification(outputs: np.ndarray) -> tuple[str, str] | None:
    low, high = outputs.min(), outputs.max()
    drop = f"end in Dense({outputs.shape[1]}) without activation, so that logits come out"
    sums_to_one = outputs.shape[1] > 1 and np.allclose(outputs.sum(axis=1), 1.0, atol=1e-4)
    if low >= -1e-6 and high <= 1 + 1e-6 and (high - low > _SPAN or sums_to_one):
        bound = (
            "puts out probabilities in a way that hides the logits they come from: its outputs never leave 0 to 1, and "
            "taken for logits they would call every record more likely positive than not"
        )
        return bound, f"{drop}, or in Keras' own sigmoid or softmax, which is recognised"
    if low >= -1 - 1e-6 and high <= 1 + 1e-6 and high - low > 2 * _SPAN:
        return "puts out numbers that never leave -1 to 1, as tanh does: no probability could leave 0.27 to 0.73", drop
    if outputs.shape[1] == 1 and low >= 0.0 and high > 1.0:
        return "puts out nothing negative, as relu and softplus do: no probability could be below one half", drop
    if outputs.shape[1] == 1 and high <= 0.0 and low < -1.0:
        return "puts out nothing positive: no probability could be above one half", drop
    return None


def _regression(model: Any, outputs: np.ndarray) -> tuple[str, str] | None:
    low, high, scale = outputs.min(), outputs.max(), model.target_scale
    remedy = "end in Dense(1) without activation"
    inside = next((end for end in (0.0, -1.0) if low >= end - 1e-6 and high <= 1 + 1e-6), None)
    if inside is not None and high - low > _SPAN * (1.0 - inside):
        if scale is None:
            bound = f"puts out numbers that never leave {inside:g} to 1, and nothing says that the target lies there"
            return bound, f"{remedy}, or state the target's public bounds (low and high in the schema)"
        if (inside == 0.0) != scale.positive:
            bound = f"puts out numbers that never leave {inside:g} to 1, where the target is scaled to other bounds"
            return bound, remedy
    elif low >= 0.0 and high > 1.0 and scale is not None and not scale.positive:
        bound = "puts out nothing negative, where the target is scaled to -1 to 1"
        return bound, f"{remedy}, or in a layer with activation='relu' or 'softplus', which is recognised"
    return None


def _extreme_outputs(model: Any) -> np.ndarray | None:
    """Outputs [.., units] for features and weights far apart; None where the model takes none of them."""
    generator = np.random.default_rng(0)
    trainable, frozen = model.initial_weights(np.array([1, 2], np.int64))
    size = int(np.prod(model.feature_shape))
    records = max(2, min(_MOST_RECORDS, _MOST_NUMBERS // max(1, size)))

    @tf.function(autograph=False)
    def predict(weights: Any, features: Any) -> Any:
        return model.predict(weights, frozen, features, training=False)

    found = []
    for spread in _WEIGHT_SPREADS:
        moved = tuple(np.asarray(one + spread * generator.standard_normal(one.shape), np.float32) for one in trainable)
        wide = generator.standard_normal((records, *model.feature_shape))
        wide *= np.resize(_FEATURE_SPREADS, records).reshape(-1, *[1] * len(model.feature_shape))
        narrow = generator.uniform(0.0, 1.0, (records, *model.feature_shape))
        for features in (wide, narrow):
            try:
                outputs = predict(moved, features.astype(np.float32)).numpy()
            except Exception:  # such as a table of embeddings, which takes small whole numbers alone
                continue
            found.append(outputs[np.isfinite(outputs).all(axis=1)])
    whole = np.concatenate(found) if found else np.zeros([0, 1])
    return whole if len(whole) else None
