"""The layers inside a Keras model: their paths, their own weights, and those that names or patterns mean."""

from __future__ import annotations

import fnmatch
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem


def chosen_layers(model: tf.keras.Model, patterns: tuple[str, ...], option: str = "trainable") -> set[Any]:
    """The layers with weights that names or patterns mean; a name of an outer layer means everything inside it.

    Args:
      model: a built Keras model.
      patterns: names, paths or patterns of them.
      option: where they were given, for messages.

    Raises:
      InvalidInput: patterns that match no layer, with the layers that there are.
    """
    paths = layer_paths(model)
    owners = [(layer, path) for layer, path in paths.items() if own_variables(layer)]

    def matches(path: str, pattern: str) -> bool:
        parts = path.split("/")
        prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        return any(fnmatch.fnmatchcase(text, pattern) for text in (*prefixes, parts[-1]))

    unmatched = [pattern for pattern in patterns if not any(matches(path, pattern) for _, path in owners)]
    if unmatched:
        names = ", ".join(path for _, path in owners)
        remedy = f"the layers are: {names[:600]}"
        if option == "local_layers" and len(owners) == 1:
            remedy = f"there is one layer, {names}, and one must travel: take a deeper model, such as --model=mlp"
        raise InvalidInput([Problem(option, pattern, "matches no layer with weights", remedy) for pattern in unmatched])
    return {layer for layer, path in owners if any(matches(path, pattern) for pattern in patterns)}


def layer_paths(model: tf.keras.Model) -> dict[Any, str]:
    """All layers inside a model, outer before inner, with paths of names such as `encoder/dense_1`."""
    paths: dict[Any, str] = {}

    def visit(layer: Any, prefix: str) -> None:
        for inner in layer._flatten_layers(recursive=False, include_self=False):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            path = f"{prefix}{inner.name}"
            paths[inner] = path
            visit(inner, f"{path}/")

    seen: set[int] = {id(model)}
    visit(model, "")
    return paths


def own_variables(layer: Any) -> list[tf.Variable]:
    """Variables that a layer made itself, without those of the layers inside it."""
    return [*layer._trainable_weights, *layer._non_trainable_weights]
