"""The kinds of models that a process can be built of: ours, Keras functions, and TFF's own.

Ours (a name of `models.list_models()`, `package.module:function`, a function that returns a Keras model, or a
`models.FunctionalModel`) train by the same code as in every other runtime. TFF's own (a `FunctionalModel`, or a
function that returns a `VariableModel`) keep TFF's client work; aggregator and finalizer are the plan's. Record-level
privacy needs the first kind: it clips the gradient of every record.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals import models
from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.signature import TASKS, ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.hospitals import HospitalDataset
from tff_hospitals.models import FunctionalModel
from tff_hospitals.models.building import built, outside_graphs
from tff_hospitals.tff.data_spec import parts_of

if TYPE_CHECKING:
    from tff_hospitals.tff.clients import Clients

AnyModel = Union[str, FunctionalModel, tff.learning.models.FunctionalModel, Callable[[], Any]]


# Equal only to itself, as a model is: its first weights are arrays, which have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class TffModel:
    """A model of TFF's, with as much of our models' form as composing a plan asks for.

    Attributes:
      source: a function that returns a `VariableModel`, or a `tff.learning.models.FunctionalModel`.
      input_spec: of a batch, the model's own.
      initial: first weights, trainable and not.
      signature: what can be known of features and task.
    """

    source: Any
    input_spec: Any
    initial: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
    signature: ModelSignature
    name: str = "a TFF model"
    draws_random_numbers = False

    @property
    def identity(self) -> str:
        """What it is known by where noise is drawn: its kind, inputs and first weights."""
        arrays = [one for part in self.initial for one in part]
        digests = [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in arrays]
        return files.fingerprint([type(self.source).__name__, str(self.input_spec), *digests])

    @property
    def functional(self) -> bool:
        """Whether it is a `tff.learning.models.FunctionalModel`."""
        return isinstance(self.source, tff.learning.models.FunctionalModel)

    @property
    def trainable_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Specs of the weights that are trained."""
        return _specs(self.initial[0])

    @property
    def frozen_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Specs of the others."""
        return _specs(self.initial[1])

    @property
    def trainable_names(self) -> tuple[str, ...]:
        """Names for messages."""
        return tuple(f"weight_{number}" for number in range(len(self.initial[0])))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of one record."""
        return self.signature.feature_shape

    @property
    def task(self) -> str:
        """As the clients say, or a guess that nothing depends on."""
        return self.signature.task

    @property
    def num_classes(self) -> int:
        """As `task`."""
        return self.signature.num_classes

    def problems(self, under_dp: bool, records: np.ndarray | None = None) -> list[Problem]:
        """What would keep it from being trained: TFF takes it as it is."""
        return []

    def initial_weights(self, key: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """The weights that the model was made with; the key does not matter."""
        return self.initial


def understood(
    model: AnyModel, clients: Clients | None, *, input_spec: Any, task: str | None, batched: bool
) -> FunctionalModel | TffModel:
    """The model in the form that processes are composed of.

    Args:
      model: of any kind, see the module's text.
      clients: whose data set says shape, classes and task, where it is one.
      input_spec: of the clients' data sets.
      task: of a Keras model; by default from its outputs: one is binary, several are multiclass.
      batched: whether the elements of `input_spec` are batches.

    Raises:
      InvalidInput: none of these kinds, or something about it that is not known.
    """
    if isinstance(model, FunctionalModel):
        return model
    known = ModelSignature.of(clients) if isinstance(clients, HospitalDataset) else None
    if isinstance(model, str):
        if known is None:
            bound = "is a name, and the model of that name takes its shape from the data"
            remedy = "give clients= a HospitalDataset, or a function that returns a Keras model"
            raise InvalidInput([Problem("model", model, bound, remedy)])
        return models.build_model(model, known)
    if isinstance(model, tff.learning.models.FunctionalModel):
        weights = tuple(tuple(np.asarray(one, np.float32) for one in part) for part in model.initial_weights)
        return TffModel(model, model.input_spec, (weights[0], weights[1]), known or _guessed(model.input_spec))
    if isinstance(model, (tf.keras.Model, tff.learning.models.VariableModel)):
        bound = "is a model that was made already, and a process makes its own"
        raise InvalidInput([Problem("model", type(model).__name__, bound, "give a function that returns a new one")])
    if not callable(model):
        bound = "must be a name, a function that returns a Keras model or VariableModel, or a FunctionalModel"
        raise InvalidInput([Problem("model", type(model).__name__, bound, "wrap it in such a function")])
    with tf.Graph().as_default():  # variables of this attempt must not stay
        made = model()
        is_variable_model = isinstance(made, tff.learning.models.VariableModel)
        if is_variable_model:
            _check_metrics(made)
    if is_variable_model:
        return _variable_model(model, known)
    return _keras_function(model, known, input_spec, task, batched)


def _variable_model(source: Callable[[], Any], known: ModelSignature | None) -> TffModel:
    with outside_graphs():
        made = source()
        weights = tff.learning.models.ModelWeights.from_model(made).convert_variables_to_arrays()
        spec = made.input_spec
    initial = (tuple(map(np.asarray, weights.trainable)), tuple(map(np.asarray, weights.non_trainable)))
    return TffModel(source, spec, initial, known or _guessed(spec))


def _check_metrics(made: tff.learning.models.VariableModel) -> None:
    """Metrics that cannot be finalised stop TFF after a page of types: named here."""
    finalizers, local = made.metric_finalizers(), made.report_local_unfinalized_metrics()
    found = []
    for name in sorted(set(finalizers) ^ set(local)):
        word = "is reported and has no finalizer" if name in local else "has a finalizer and is not reported"
        remedy = "let metric_finalizers and report_local_unfinalized_metrics have the same names"
        found.append(Problem("metric of the VariableModel", name, word, remedy))
    found += [
        Problem("finalizer of the metric", name, "must be callable", "give a function of the unfinalised values")
        for name, one in finalizers.items()
        if not callable(one)
    ]
    for name in () if found else finalizers:
        found += _finalizer_problem(name, finalizers[name], local[name])
    if found:
        raise InvalidInput(found)


def _finalizer_problem(name: str, finalizer: Callable[[Any], Any], value: Any) -> list[Problem]:
    """A finalizer that fails on what the model reports, tried as TFF will."""
    tensors = tf.nest.map_structure(tf.convert_to_tensor, value)
    specs = tf.nest.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), tensors)
    try:
        tff.tensorflow.computation(finalizer, tff.types.tensorflow_to_type(specs))
    except Exception as error:  # whatever a user's function does
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        bound = f"fails on what the model reports ({specs}): {type(error).__name__}: {first_line}"
        return [Problem("finalizer of the metric", name, bound, "let it take these unfinalised values")]
    return []


def _keras_function(
    source: Callable[[], Any], known: ModelSignature | None, input_spec: Any, task: str | None, batched: bool
) -> FunctionalModel:
    name = getattr(source, "__name__", "a function")
    if task is not None and task not in TASKS:
        raise InvalidInput([Problem("task", task, f"must be one of {', '.join(TASKS)}", "name the kind of labels")])
    if known is None:
        known = _keras_signature(source, name, input_spec, task, batched)
    elif task is not None and task != known.task:
        bound = f"must be {known.task!r}, that of clients="
        raise InvalidInput([Problem("task", task, bound, "leave it out: the data set says it")])
    return FunctionalModel(source, known, name=name)


def _keras_signature(
    source: Callable[[], Any], name: str, input_spec: Any, task: str | None, batched: bool
) -> ModelSignature:
    given = None if input_spec is None else parts_of(input_spec)[0].shape.as_list()[1 if batched else 0 :]
    model = source() if given is None else built(source, ModelSignature(_whole(given, name), 2, "binary"), name)
    if not isinstance(model, tf.keras.Model):
        bound = f"returned {type(model).__name__}, no Keras model and no VariableModel"
        raise InvalidInput([Problem("model", name, bound, "return a tf.keras.Model")])
    shape = _whole(given if given is not None else list(model.input_shape[1:]) if model.inputs else [None], name)
    units = int(model.output_shape[-1])
    task = task or ("binary" if units == 1 else "multiclass")
    classes = {"binary": 2, "regression": 1}.get(task, units)
    return ModelSignature(shape, classes, task)


def _whole(shape: Sequence[int | None], name: str) -> tuple[int, ...]:
    """A shape without gaps.

    Raises:
      InvalidInput: a size that is not known.
    """
    sizes = tuple(int(size) for size in shape if size is not None)
    if len(sizes) < len(shape):
        bound = "does not say the shape of its features"
        raise InvalidInput([Problem("model", name, bound, "begin it with tf.keras.Input(shape), or give input_spec=")])
    return sizes


def _guessed(spec: Any) -> ModelSignature:
    """Shape of the first tensor; nothing depends on classes and task, which TFF's models keep to themselves."""
    first = tf.nest.flatten(spec)[0]
    sizes = [] if first.shape.rank is None else first.shape.as_list()[1:]
    return ModelSignature(tuple(int(size or 1) for size in sizes), 2, "binary")


def _specs(weights: Sequence[np.ndarray]) -> tuple[tf.TensorSpec, ...]:
    return tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in weights)


def initial_weights(model: FunctionalModel | TffModel, seed: int) -> tuple[tuple, tuple]:
    """First weights of a run with that seed, the same ones as in every runtime."""
    return model.initial_weights(Streams.from_seed(seed).child("model").key())
