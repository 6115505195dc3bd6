"""What a user's model was compiled with: its loss is used, and what cannot be used is refused by name.

Training here is federated averaging of the plan, so optimiser and metrics of `compile()` have no place in it; the loss
has, as a function of one record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.validation import Problem

_OWN_STEPS = ("train_step", "compute_loss", "make_train_function", "fit")
_CROSSENTROPIES = {
    "binary": ("binary_crossentropy",),
    "multiclass": ("sparse_categorical_crossentropy", "categorical_crossentropy"),
    "regression": (),
}
_SQUARED_ERRORS = ("mean_squared_error",)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is taken over from `compile()`.

    Attributes:
      function: of (labels, outputs) to the loss of each record; None: that of the task.
      factor: that the loss is multiplied by.
      name: of the loss; empty: there is none.
      problems: what cannot be taken over.
      notes: what is left out, in words.
    """

    function: Callable[[Any, Any], Any] | None = None
    factor: float = 1.0
    name: str = ""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def own_steps(keras: tf.keras.Model) -> list[Problem]:
    """Methods in which a user's model says itself how it is trained."""
    found = []
    for name in _OWN_STEPS:
        defined = next(kind for kind in type(keras).__mro__ if name in vars(kind))
        if defined.__module__.partition(".")[0] != "keras":
            bound = f"{defined.__name__} has its own {name}, which would be left out: the plan says how it is trained"
            remedy = "drop it, and state the loss of a record by --loss=package.module:function"
            found.append(Problem("model", name, bound, remedy))
    return found


def compiled(keras: tf.keras.Model, task: str, classes: int, activation: str) -> Compiled:
    """Reads what a model was compiled with.

    Args:
      keras: the model.
      task, classes: of the data.
      activation: what the model ends in: "linear", "sigmoid" or "softmax".
    """
    if not getattr(keras, "_is_compiled", False):
        return Compiled()
    optimizer = type(keras.optimizer).__name__
    notes = [
        f"the model was compiled with {optimizer}: optimiser and rate of training are the plan's "
        "(--client_optimizer, --client_learning_rate), and metrics those of the table"
    ]
    losses = [one for one in tf.nest.flatten(keras.loss) if one is not None]
    if not losses:
        return Compiled(notes=tuple(notes))
    if len(losses) > 1:
        bound = "has several compiled losses, and one output here"
        return Compiled(problems=(Problem("model", f"{len(losses)} losses", bound, "compile it with one loss"),))
    found, name, refusal = _function_of(losses[0], task, classes, activation)
    if refusal is not None:
        remedy = "mend compile(loss=...), leave it out, or state --loss=package.module:function"
        return Compiled(problems=(Problem("compiled loss", name, refusal, remedy),))
    factor = _factor(keras)
    words = f"the model's compiled loss ({name}) is what is trained, record by record"
    notes.append(words + (f", times its loss weight {factor:g}" if factor != 1.0 else ""))
    return Compiled(found, factor, name, (), tuple(notes))


def _factor(keras: tf.keras.Model) -> float:
    weights = tf.nest.flatten(getattr(keras.compiled_loss, "_user_loss_weights", None))
    return float(weights[0]) if len(weights) == 1 and weights[0] is not None else 1.0


def _function_of(loss: Any, task: str, classes: int, activation: str) -> tuple[Any, str, str | None]:
    """A compiled loss as a function of labels and logits; its name; why it cannot be used."""
    try:
        loss = tf.keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        return None, str(loss), f"is unknown to Keras: {' '.join(str(error).split())[:100]}"
    inner = getattr(loss, "fn", loss)  # Keras wraps its own functions in classes
    name = str(getattr(inner, "__name__", None) or type(loss).__name__)
    settings = dict(getattr(loss, "_fn_kwargs", {}))
    if getattr(loss, "reduction", "auto") == "sum":
        return None, name, "has reduction='sum', and a step takes the mean over its records"
    takes_logits = bool(settings.get("from_logits", False))
    logits = activation == "linear"
    usual_form = "crossentropy" in name and inner.__module__.startswith("keras.") and task != "regression"
    if usual_form and takes_logits != logits:
        wants, gets = ("logits", f"ends in a {activation}") if takes_logits else ("probabilities", "puts out logits")
        return None, name, f"takes {wants} (from_logits={takes_logits}), and the model {gets}"
    changed = {key: value for key, value in settings.items() if key not in ("from_logits", "axis", "ignore_class")}
    usual = _CROSSENTROPIES[task] if task != "regression" else _SQUARED_ERRORS
    if name in usual and not any(changed.values()) and settings.get("ignore_class") is None:
        return None, name, None  # the loss of the task, which is computed from logits

    one_hot = inner.__module__.startswith("keras.") and task == "multiclass" and not name.startswith("sparse")
    call = loss.call if isinstance(loss, tf.keras.losses.Loss) else loss

    whole_numbers = task == "multiclass" or name.startswith("sparse")
    undo = {"sigmoid": tf.sigmoid, "softmax": tf.nn.softmax}.get("linear" if task == "regression" else activation)

    def per_record(labels: Any, outputs: Any) -> Any:
        shown = outputs if undo is None else undo(outputs)  # what the Keras model itself puts out
        if one_hot or (task == "binary" and outputs.shape[-1] == 2 and not name.startswith("sparse")):
            return call(tf.one_hot(labels, classes), shown)
        truth = labels[:, None]
        return call(truth if whole_numbers else tf.cast(truth, outputs.dtype), shown)

    return per_record, name, None
