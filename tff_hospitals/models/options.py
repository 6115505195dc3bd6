"""Names and options of the models, checked without TensorFlow."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from tff_hospitals.foundations.signature import TASKS, ModelSignature
from tff_hospitals.foundations.validation import Problem, in_range, one_of, whole_number

# name -> {option: default}. The builders in `keras_zoo` take exactly these.
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "logistic_regression": {"init": "glorot"},
    "mlp": {"hidden_units": (64,), "activation": "relu", "dropout": 0.0},
    "cnn": {"filters": (16, 32), "norm": "group", "groups": 8, "dense_units": 128, "dropout": 0.0},
}
# Options of every model, a user's own included.
COMMON_OPTIONS: dict[str, Any] = {
    "trainable": None,
    "pretrained": None,
    "keep_initial": False,
    "lora_rank": None,
    "loss": None,
    "class_weights": None,
    "target_scaling": "bounds",
    "l2": 0.0,
    "local_layers": None,
}
_ACTIVATIONS = ("elu", "gelu", "relu", "selu", "sigmoid", "swish", "tanh")
_INITS = ("fan_in_uniform", "glorot", "zeros")


def list_models() -> tuple[str, ...]:
    """Names of the zoo, sorted."""
    return tuple(sorted(MODEL_OPTIONS))


def model_problems(name_or_path: str, signature: Any, **options: Any) -> list[Problem]:
    """All clashes that can be seen without building the model (and without TensorFlow)."""
    signature = ModelSignature.of(signature)
    found: list[Problem | None] = [one_of("task", signature.task, TASKS)]
    own = is_path(name_or_path)
    if not own and name_or_path not in MODEL_OPTIONS:
        near = difflib.get_close_matches(str(name_or_path), MODEL_OPTIONS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? Your own Keras model: " if near else "for your own Keras model give "
        bound = f"must be one of {', '.join(list_models())} or package.module:function"
        found.append(Problem("model", name_or_path, bound, f"{hint}--model=package.module:function"))
        return [problem for problem in found if problem is not None]
    known = {**({} if own else MODEL_OPTIONS[name_or_path]), **COMMON_OPTIONS}
    for name in sorted(set(options) - set(known)):
        bound = f"{name_or_path} has no such option"
        found.append(Problem(name, options[name], bound, f"its options are {', '.join(sorted(known))}"))
    found += _value_problems({**known, **{name: options[name] for name in options if name in known}})
    found.append(_class_weights_problem(options.get("class_weights"), signature))
    if name_or_path == "cnn" and not _is_image(signature.feature_shape):
        bound = "a CNN needs images of [height, width] or [height, width, channels], 8x8 or larger"
        found.append(Problem("feature_shape", signature.feature_shape, bound, "choose --model=mlp"))
    return [problem for problem in found if problem is not None]


def is_path(name_or_path: str) -> bool:
    """Whether a model's name means a function of the user's own, `package.module:function`."""
    return ":" in str(name_or_path)


def masks(trainable: Any) -> tuple[str, ...] | None:
    """The patterns of an option such as `trainable` as a tuple; a string may hold several, separated by commas."""
    if trainable is None:
        return None
    if isinstance(trainable, str):
        return tuple(part.strip() for part in trainable.split(",") if part.strip())
    return tuple(str(part) for part in trainable)


def accepted_keywords(function: Any, offered: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The part of `offered` that `function` takes by keyword, and the names it needs but is not offered."""
    taken: dict[str, Any] = {}
    missing: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            taken.update(offered)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        elif parameter.name in offered and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            taken[parameter.name] = offered[parameter.name]
        elif parameter.default is inspect.Parameter.empty:
            missing.append(parameter.name)
    return taken, missing


def _class_weights_problem(given: Any, signature: ModelSignature) -> Problem | None:
    if given is None or given == "":
        return None
    remedy = f"give {signature.num_classes} public numbers such as {','.join(['1'] * signature.num_classes)}"
    if signature.task == "regression":
        return Problem("class_weights", given, "are for classes, and the target is a number", "drop them")
    try:
        numbers = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError):
        bound = "must be numbers that are stated: counted from the records they would tell of them"
        return Problem("class_weights", given, bound, remedy)
    if len(numbers) != signature.num_classes:
        return Problem(
            "class_weights", given, f"must be one number for each of {signature.num_classes} classes", remedy
        )
    if not all(0.0 <= number < float("inf") for number in numbers) or not any(numbers):
        return Problem("class_weights", given, "must be finite, 0 or more, and not all 0", remedy)
    return None


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3) and min(shape[:2]) >= 8


def _value_problems(options: dict[str, Any]) -> list[Problem | None]:
    found: list[Problem | None] = []
    for name in ("hidden_units", "filters"):
        if name in options:
            found += _sizes(name, options[name])
    if "dense_units" in options:
        found.append(whole_number("dense_units", options["dense_units"], low=1, remedy="give a size such as 128"))
    if "groups" in options:
        found.append(
            whole_number("groups", options["groups"], low=1, remedy="give a number of channel groups such as 8")
        )
    if "dropout" in options:
        remedy = "give a rate such as 0.2, or 0 for none"
        found.append(in_range("dropout", options["dropout"], low=0.0, high=1.0, high_open=True, remedy=remedy))
    if "activation" in options:
        found.append(one_of("activation", options["activation"], _ACTIVATIONS))
    if "init" in options:
        found.append(one_of("init", options["init"], _INITS))
    if "norm" in options:
        remedy = "choose group or none"
        if "batch" in str(options["norm"]):
            remedy = "choose norm=group: batch statistics mix records and their moving averages never reach the server"
        found.append(one_of("norm", options["norm"], ("group", "none"), remedy=remedy))
    if options.get("pretrained") is not None and options.get("keep_initial"):
        bound = "cannot be combined with pretrained: both say where the first weights come from"
        found.append(Problem("keep_initial", True, bound, "drop one of the two"))
    if options.get("lora_rank") is not None:
        found.append(whole_number("lora_rank", options["lora_rank"], low=1, remedy="give a small rank such as 4"))
    if "target_scaling" in options:
        found.append(one_of("target_scaling", options["target_scaling"], ("bounds", "none")))
    if "l2" in options:
        found.append(in_range("l2", options["l2"], low=0.0, remedy="give a small factor such as 1e-4, or 0 for none"))
    for name in ("trainable", "local_layers"):
        if masks(options.get(name)) == ():
            remedy = "give layer names or patterns such as dense_*"
            found.append(Problem(name, options[name], "names no layer", remedy))
    if options.get("local_layers") and options.get("lora_rank") is not None:
        bound = "cannot be combined with lora_rank, whose adapters all travel"
        found.append(Problem("local_layers", options["local_layers"], bound, "drop one of the two"))
    return found


def _sizes(name: str, value: Any) -> list[Problem | None]:
    remedy = "give one or more sizes such as 64, or 200+100 on the command line"
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        return [Problem(name, value, "must be a sequence of whole numbers", remedy)]
    return [whole_number(name, size, low=1, remedy=remedy) for size in value]
