"""A user's own Keras model, named as `package.module:function`."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from tff_hospitals.foundations.extensions import import_module
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models.options import accepted_keywords


def load_builder(path: str, signature: ModelSignature) -> Callable[[], Any]:
    """Imports `package.module:function` and binds what it takes of feature_shape, num_classes and task.

    Example of such a function: `def build(feature_shape, num_classes): return tf.keras.Sequential([...])`.

    Raises:
      InvalidInput: no such module or attribute (with the nearest names), not a function, or one that needs more.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise _invalid(path, "must be package.module:function", "write for example --model=my_models:build")
    module = import_module(module_name, "model", path)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise _no_attribute(path, target, module_name, part)
        target = getattr(target, part)
    if not callable(target) or hasattr(type(target), "trainable_variables"):  # a Keras model can be called, too
        bound = f"{attribute} is {_kind(target)}, not a function that returns a tf.keras.Model"
        raise _invalid(path, bound, f"write `def build(): return ...` in {module_name}")
    offered = offered_arguments(signature)
    if inspect.isclass(target) and target.__init__.__module__.partition(".")[0] == "keras":
        return functools.partial(target)  # a subclass without arguments of its own: Keras' take none of these
    try:
        taken, missing = accepted_keywords(target, offered)
    except (TypeError, ValueError) as error:
        raise _invalid(path, f"its parameters cannot be read ({error})", "give a plain Python function") from error
    if missing:
        bound = f"{attribute}{inspect.signature(target)} needs {', '.join(missing)}, which nobody gives it"
        raise _invalid(path, bound, f"take only {', '.join(offered)}, or give the others a default")
    return functools.partial(target, **taken)


def offered_arguments(signature: ModelSignature) -> dict[str, Any]:
    """The keyword arguments that are offered to a user's function."""
    return {
        "feature_shape": signature.feature_shape,
        "num_classes": signature.num_classes,
        "task": signature.task,
    }


def _no_attribute(path: str, owner: Any, module_name: str, part: str) -> InvalidInput:
    names = [name for name in vars(owner) if not name.startswith("_")] if hasattr(owner, "__dict__") else []
    near = difflib.get_close_matches(part, names, n=3, cutoff=0.4)
    functions = sorted(name for name in names if inspect.isfunction(getattr(owner, name)))
    if near:
        remedy = f"did you mean {' or '.join(repr(name) for name in near)}?"
    else:
        remedy = f"it has: {', '.join(functions[:10]) or 'no functions'}"
    where = getattr(owner, "__file__", None) or module_name
    return _invalid(path, f"{where} has no {part!r}", remedy)


def _kind(value: Any) -> str:
    return f"of type {type(value).__module__}.{type(value).__qualname__}"


def _invalid(path: str, bound: str, remedy: str) -> InvalidInput:
    return InvalidInput([Problem("model", path, bound, remedy)])
