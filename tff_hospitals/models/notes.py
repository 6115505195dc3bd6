"""What whoever trains a model must know of how it is taken: said before training, once, and kept with the run."""

from __future__ import annotations

from typing import Any

from tff_hospitals.models import saving


def of(model: Any) -> tuple[str, ...]:
    """One sentence for each; none for a model that is taken as it is.

    Args:
      model: a `FunctionalModel`.
    """
    found = list(model.compiled.notes)
    objective = model.objective
    if model.task != "regression" and model.output_activation != "linear":
        found.append(
            f"the model ends in a {model.output_activation}: what is trained are the logits before it, and the saved "
            "model keeps it"
        )
    if objective.name and objective.name != model.compiled.name:
        found.append(f"the loss of each record is {objective.name}: the column loss shows it")
    if objective.class_weights is not None:
        numbers = ", ".join(f"{one:g}" for one in objective.class_weights)
        found.append(
            f"the loss of a record is multiplied by the weight of its class ({numbers}): numbers that were chosen, and "
            "that no record may have had a part in, since no epsilon covers that choice"
        )
    if objective.target is not None:
        found.append(
            f"the target is learnt as (target - {objective.target.centre:g}) / {objective.target.scale:g}, from its "
            "public bounds: the loss is on that scale, RMSE, MAE and the saved model in original units"
        )
    if model.penalties:
        found.append(
            "penalties on the weights (regularizers, l2) are added after clipping and noise, since they depend on no "
            "record; the column loss is without them"
        )
    if model.mixes_records:
        found.append(
            "a layer mixes the records of a batch: a hospital's test records are evaluated together, one hospital "
            "after the other, and its last batch of an epoch is filled up with repeated records"
        )
    if model.local_layers:
        found.append(
            f"the layers {', '.join(model.local_layers)} never travel: the saved model holds them as they began, and a "
            "hospital's own model is what is tested on its records; it lies in inside/own_models/"
        )
    obstacles = saving.loading_obstacles(model.saved_architecture())
    if obstacles:
        found.append(saving.cannot_load(obstacles))
    return tuple(found)
