"""Keras models as pure functions of their weights.

Importing this package is instant; TensorFlow loads when a model is built.

>>> list_models()
('cnn', 'logistic_regression', 'mlp')
>>> [problem.name for problem in model_problems("mpl", ModelSignature((13,), 2, "binary"))]
['model']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.models.options import list_models, model_problems

if TYPE_CHECKING:
    from tff_hospitals.models.functional import FunctionalModel
    from tff_hospitals.models.per_record import clipped_gradient_sum
    from tff_hospitals.models.saving import save_keras

__all__ = [
    "FunctionalModel",
    "ModelSignature",
    "build_model",
    "clipped_gradient_sum",
    "list_models",
    "model_problems",
    "save_keras",
]

_LAZY = {
    "FunctionalModel": "tff_hospitals.models.functional",
    "clipped_gradient_sum": "tff_hospitals.models.per_record",
    "save_keras": "tff_hospitals.models.saving",
}


def build_model(name_or_path: str, dataset_signature: Any, **options: Any) -> FunctionalModel:
    """Builds a model of the zoo, or a user's own, as a `FunctionalModel`.

    Args:
      name_or_path: a name of `list_models()` or `package.module:function`.
      dataset_signature: what the model must fit: a `ModelSignature` or anything with its three attributes, such as a
        `HospitalDataset`.
      **options: options of that model (`options.MODEL_OPTIONS`) and those of every model (`options.COMMON_OPTIONS`).

    Raises:
      InvalidInput: all at once: unknown name or option, a value out of range, a mask that matches no layer, a function
        that cannot be imported or does not return a Keras model, pretrained weights of another shape.
    """
    from tff_hospitals.models import catalogue

    return catalogue.build_model(name_or_path, ModelSignature.of(dataset_signature), **options)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
