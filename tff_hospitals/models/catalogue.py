"""From the name of a model to the model: the zoo, a user's own function, adapters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.models import keras_zoo, objectives, options, user_model
from tff_hospitals.models.functional import FunctionalModel
from tff_hospitals.models.low_rank import LowRankModel


def build_model(name_or_path: str, signature: ModelSignature, **given: Any) -> FunctionalModel:
    """See `tff_hospitals.models.build_model`."""
    raise_if(options.model_problems(name_or_path, signature, **given))
    common = {**options.COMMON_OPTIONS, **{name: given[name] for name in given if name in options.COMMON_OPTIONS}}
    # A list as a tuple: it is the same model, and must be known as the same.
    own = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name not in options.COMMON_OPTIONS
    }
    builder: Callable[[], tf.keras.Model]
    if options.is_path(name_or_path):
        builder = user_model.load_builder(name_or_path, signature)
    else:
        builder = functools.partial(keras_zoo.BUILDERS[name_or_path], signature, **own)
    settings: dict[str, Any] = {
        "name": name_or_path,
        "trainable": options.masks(common["trainable"]),
        "pretrained": common["pretrained"],
        "keep_initial": common["keep_initial"],
        "loss": None if not common["loss"] else objectives.load_loss(common["loss"]),
        "class_weights": objectives.class_weights_of(common["class_weights"]),
        "target_scaling": common["target_scaling"],
        "l2": float(common["l2"]),
    }
    if common["lora_rank"] is not None:
        return LowRankModel(builder, signature, rank=int(common["lora_rank"]), **settings)
    model = FunctionalModel(builder, signature, local_layers=options.masks(common["local_layers"]) or (), **settings)
    raise_if(_local_layers_problems(model))
    return model


def _local_layers_problems(model: FunctionalModel) -> list[Problem]:
    """Layers to keep that hold nothing to train, or all that there is."""
    if not model.local_layers:
        return []
    value, trained = ",".join(model.local_layers), set(model.whole.trainable_names)
    if trained == set(model.trainable_names):
        bound = "has no weights that are trained"
        return [Problem("local_layers", value, bound, "name layers that train, or leave it out")]
    if not model.trainable_names:
        layers = list(dict.fromkeys(name.rpartition("/")[0] for name in model.whole.trainable_names))
        bound = f"is all that {model.name} trains: nothing would travel, and nobody would learn from another"
        remedy = "take a deeper model, such as --model=mlp with --local_layers=output"
        if len(layers) > 1:
            remedy = f"name some of its layers: {', '.join(layers)[:600]}"
        return [Problem("local_layers", value, bound, remedy)]
    return []
