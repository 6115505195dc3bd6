"""What the data sets of a process's clients look like, and what is wrong with those that do not look so.

TFF's own message about a data set of another type is a page of types. Here it is one line that names the client, the
part and the remedy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if

LABEL_NAMES = ("y", "label", "labels", "target", "targets")
_BATCH = "dataset.batch(...)"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The elements of a client's data set.

    Attributes:
      element: the structure of `tf.TensorSpec`s: a pair (features, labels), or a mapping of two with a name for the
        labels such as `y`.
      feature_shape: of one record.
      batched: whether an element is a batch of records; else it is one record.
    """

    element: Any
    feature_shape: tuple[int, ...]
    batched: bool

    def parts(self, element: Any) -> tuple[Any, Any]:
        """(features, labels) of an element, or of a structure of the same form."""
        return parts_of(element)

    def problems(self, datasets: Sequence[Any]) -> list[Problem]:
        """What is wrong with a round's data sets, client by client; what is no `tf.data.Dataset` is left to TFF."""
        found = []
        for number, dataset in enumerate(datasets):
            if isinstance(dataset, tf.data.Dataset):
                found += self._problems_of(f"data set of client {number}", dataset)
        return found

    def _problems_of(self, name: str, dataset: tf.data.Dataset) -> list[Problem]:
        if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
            return [Problem(name, "endless", "must end: a round takes all of it", "use repeat(n) or take(n)")]
        given, spec = dataset.element_spec, self.element
        if not _same_form(given, spec):
            bound = f"must have elements of the form {_form(spec)}"
            return [Problem(name, _form(given), bound, "map it to that form, or give input_spec= when building")]
        features, labels = parts_of(given)
        expected_features, expected_labels = parts_of(spec)
        problem = self._shape_problem(name, features.shape)
        if problem is not None:
            return [problem]
        found = []
        for word, one, other in (("features", features, expected_features), ("labels", labels, expected_labels)):
            if one.dtype != other.dtype or not other.shape.is_compatible_with(one.shape):
                bound = f"must be {other.dtype.name} of shape {_shape(other.shape)}"
                remedy = "cast or reshape them in dataset.map, or give input_spec= when building"
                found.append(Problem(f"{word} in the {name}", f"{one.dtype.name} {_shape(one.shape)}", bound, remedy))
        return found

    def _shape_problem(self, name: str, given: tf.TensorShape) -> Problem | None:
        if given.rank is None:
            return None
        own = tf.TensorShape(self.feature_shape)
        is_record = given.rank == own.rank and own.is_compatible_with(given)
        is_batch = given.rank == own.rank + 1 and own.is_compatible_with(given[1:])
        if self.batched and is_record:
            return Problem(name, f"features {_shape(given)}", "has no batch dimension", f"call {_BATCH} on it")
        if not self.batched and is_batch:
            bound = "is batched, and record-level privacy draws its batches itself, from single records"
            return Problem(name, f"features {_shape(given)}", bound, f"give it without {_BATCH}, or call unbatch()")
        if not (is_batch if self.batched else is_record):
            wanted = tf.TensorShape([None]).concatenate(own) if self.batched else own
            bound = f"must have features of shape {_shape(wanted)}, as the model takes them"
            return Problem(name, f"features {_shape(given)}", bound, "reshape them in dataset.map")
        return None


def build(input_spec: Any, feature_shape: Sequence[int] | None, label_type: tf.DType, *, batched: bool) -> DataSpec:
    """The spec that was given, or the usual one: (float32 features, labels).

    Args:
      input_spec: `dataset.element_spec` of the clients' data sets; None for the usual one.
      feature_shape: of one record, as the model takes it; None to read it from `input_spec`.
      label_type: of the usual labels.
      batched: whether elements are batches.

    Raises:
      InvalidInput: neither of the two is known, the form is none of those that are understood, or it does not fit.
    """
    if input_spec is None:
        if feature_shape is None:
            bound = "is needed: nothing else says which shape the features have"
            raise_if([Problem("input_spec", None, bound, "give input_spec=dataset.element_spec, or clients=")])
        lead = [None] if batched else []
        shape = [*lead, *(feature_shape or ())]
        usual = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec(lead, label_type))
        return DataSpec(usual, tuple(feature_shape or ()), batched)
    features, _ = parts_of(input_spec)
    if feature_shape is None:
        if features.shape.rank is None or (batched and features.shape.rank < 1):
            bound = "must say the shape of the features"
            raise_if(
                [Problem("input_spec", _form(input_spec), bound, "give dataset.element_spec of a batched data set")]
            )
        feature_shape = features.shape.as_list()[1 if batched else 0 :]
    spec = DataSpec(_any_batch_size(input_spec) if batched else input_spec, tuple(feature_shape), batched)
    raise_if([spec._shape_problem("input_spec", features.shape)])
    return spec


def parts_of(element: Any) -> tuple[Any, Any]:
    """(features, labels) of a pair, or of a mapping of two of which one has a name for labels.

    Raises:
      InvalidInput: another form.
    """
    if isinstance(element, Mapping):
        labels = [name for name in element if str(name).lower() in LABEL_NAMES]
        if len(element) == 2 and len(labels) == 1:
            (features,) = (name for name in element if name != labels[0])
            return element[features], element[labels[0]]
    elif isinstance(element, (tuple, list)) and len(element) == 2:
        return element[0], element[1]
    bound = f"must be (features, labels), or two entries of which one is named {', '.join(LABEL_NAMES)}"
    raise InvalidInput([Problem("elements of the data", _form(element), bound, "map the data sets to such pairs")])


def _any_batch_size(spec: Any) -> Any:
    """Batches may be of any size: the last one of a data set is often smaller."""
    return tf.nest.map_structure(lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), spec)


def _same_form(given: Any, spec: Any) -> bool:
    if isinstance(spec, Mapping):
        return isinstance(given, Mapping) and list(given) == list(spec)
    return isinstance(given, (tuple, list)) and len(given) == len(spec)


def _form(spec: Any) -> str:
    if isinstance(spec, Mapping):
        return f"OrderedDict({', '.join(f'{name}={_form(one)}' for name, one in spec.items())})"
    if isinstance(spec, (tuple, list)):
        return f"({', '.join(map(_form, spec))})"
    return f"{spec.dtype.name} {_shape(spec.shape)}" if hasattr(spec, "dtype") else type(spec).__name__


def _shape(shape: tf.TensorShape) -> str:
    return "?" if shape.rank is None else f"[{', '.join('?' if n is None else str(n) for n in shape.as_list())}]"
