"""From the name of a model to the model: the zoo, a user's own function, adapters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import raise_if
from tff_hospitals.models import keras_zoo, objectives, options, user_model
from tff_hospitals.models.functional import FunctionalModel
from tff_hospitals.models.low_rank import LowRankModel


def build_model(name_or_path: str, signature: ModelSignature, **given: Any) -> FunctionalModel:
    """See `tff_hospitals.models.build_model`."""
    raise_if(options.model_problems(name_or_path, signature, **given))
    common = {**options.COMMON_OPTIONS, **{name: given[name] for name in given if name in options.COMMON_OPTIONS}}
    own = {name: given[name] for name in given if name not in options.COMMON_OPTIONS}
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
    return FunctionalModel(builder, signature, **settings)
