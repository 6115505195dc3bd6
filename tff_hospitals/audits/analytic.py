"""Analytic recovery of records from the gradient of a dense first layer.

A dense unit computes w.x + b, so a record adds (dL/dz) x to the unit's row of the kernel's gradient and (dL/dz) to its
bias's. Their quotient *is* the record whenever one record alone moved the unit: always for a batch of one, and for
every record of a batch that some unit responds to alone.

>>> import numpy as np
>>> record = np.array([64.0, 1.0, 144.0])
>>> kernel, bias = np.outer(record, [0.25, 0.0]), np.array([0.25, 0.0])
>>> candidates(kernel, bias).tolist()
[[64.0, 1.0, 144.0]]

Source: Phong et al. 2018, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 13(5);
Geiping et al. 2020, arXiv:2003.14053, proposition 3.1. The planted layer: Fowl et al. 2022, "Robbing the Fed",
arXiv:2110.13057.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.gradients import Tensors, first_dense_layer
from tff_hospitals.foundations.validation import InvalidInput, Problem

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel

EXACT = 1e-3  # largest error, relative to the record's largest feature, that counts as exact
_SILENT = 1e-9


def candidates(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One candidate record per unit that moved: the rows of kernel / bias.

    Args:
      kernel: [features, units], gradient (or update) of the kernel.
      bias: [units], of the bias.

    Returns:
      [candidates, features], float64.
    """
    kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
    moved = np.abs(bias) > _SILENT * max(1e-30, float(np.abs(bias).max(initial=0.0)))
    return (kernel[:, moved] / bias[moved]).T


def one_record(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The record [features] of a batch of one: all units agree, and are averaged by how much they moved."""
    kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
    return kernel @ bias / max(float(bias @ bias), 1e-300)


def recover(model: FunctionalModel, gradient: Tensors) -> np.ndarray:
    """Candidate records [candidates, *feature_shape] from a gradient, or an update, of the whole model.

    Raises:
      validation.InvalidInput: the model has no trained dense first layer with a bias.
    """
    layer = first_dense_layer(model)
    return candidates(gradient[layer.kernel], gradient[layer.bias]).reshape(-1, *model.feature_shape)


def recover_one(model: FunctionalModel, gradient: Tensors) -> np.ndarray:
    """The record [*feature_shape] behind a gradient of a batch of one.

    Raises:
      validation.InvalidInput: the model has no trained dense first layer with a bias.
    """
    layer = first_dense_layer(model)
    return one_record(gradient[layer.kernel], gradient[layer.bias]).reshape(model.feature_shape)


def best_matches(found: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each true record the nearest candidate and its largest absolute error.

    Only who holds the records can tell which candidate is right; an attacker holds the candidates.

    Args:
      found: [candidates, ...].
      records: [records, ...].

    Returns:
      (position of the nearest candidate [records], its largest error [records]); errors are infinite without
      candidates.
    """
    records = np.asarray(records, np.float64).reshape(len(records), -1)
    found = np.asarray(found, np.float64).reshape(len(found), -1)
    if not len(found):
        return np.zeros(len(records), int), np.full(len(records), np.inf)
    errors = np.stack([np.abs(found - record).max(axis=1) for record in records])
    return errors.argmin(axis=1), errors.min(axis=1)


def share_recovered(found: np.ndarray, records: np.ndarray) -> float:
    """Share of the records that some candidate equals (`EXACT`)."""
    _, errors = best_matches(found, records)
    scale = np.maximum(1.0, np.abs(records.reshape(len(records), -1)).max(axis=1))
    return float((errors < EXACT * scale).mean())


def plant(model: FunctionalModel, weights: Tensors, reference: np.ndarray) -> Tensors:
    """Weights that a malicious server broadcasts: a first layer that sorts records into bins by one measure.

    Every unit measures the same thing (the mean of the standardised features) against a threshold of its own; the
    thresholds are quantiles of what the server expects. Neighbouring units then differ by the records of one bin, and
    a bin with one record gives it away, however large the batch.

    Args:
      model: needs a dense first layer followed by a rectifier and a dense layer.
      weights: trainable weights to change.
      reference: features [records, ...] of records that the server knows, for the quantiles.

    Raises:
      validation.InvalidInput: the model lacks these layers.
    """
    from tff_hospitals.audits.gradients import dense_layers

    layer, layers = first_dense_layer(model), dense_layers(model)
    if len(layers) < 2 or layer.units < 2:
        bound = "has no hidden dense layer to plant bins in"
        raise InvalidInput([Problem("model", model.name, bound, "attack a model such as mlp")])
    rows = np.asarray(reference, np.float64).reshape(len(reference), -1)
    spread = rows.std(axis=0)
    direction = np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 0.0)
    # Unequal parts keep records with the same few binary columns apart.
    direction = direction * np.linspace(0.5, 1.5, len(direction)) / len(direction)
    levels = np.quantile(rows @ direction, np.linspace(0.0, 1.0, layer.units + 1)[:-1])
    changed = [np.array(weight, np.float32) for weight in weights]
    changed[layer.kernel][:] = direction[:, np.newaxis]
    changed[layer.bias][:] = -levels
    following = layers[1]
    # Equal weights behind every unit (a difference of neighbours then cancels), small and different between outputs.
    changed[following.kernel][:] = 1e-3 * np.linspace(1.0, 2.0, following.units, dtype=np.float32)
    changed[following.bias][:] = 0.0
    return tuple(changed)


def recover_planted(model: FunctionalModel, gradient: Tensors) -> np.ndarray:
    """Candidate records [candidates, *feature_shape] from the update of a planted layer: one per bin that moved."""
    layer = first_dense_layer(model)
    kernel = np.asarray(gradient[layer.kernel], np.float64)
    bias = np.asarray(gradient[layer.bias], np.float64)
    kernel = kernel - np.concatenate([kernel[:, 1:], np.zeros((len(kernel), 1))], axis=1)
    bias = bias - np.concatenate([bias[1:], [0.0]])
    moved = np.abs(bias) > 1e-6 * max(1e-30, float(np.abs(bias).max(initial=0.0)))
    return (kernel[:, moved] / bias[moved]).T.reshape(-1, *model.feature_shape)
