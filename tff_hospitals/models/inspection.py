"""What may not be trained here, found by looking at a model and at its trace.

A model passes when it is a pure function of weights, one record's features and a key; everything else is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import compilation, failures, heads, inputs, layer_tree, mixing, objectives, penalties
from tff_hospitals.models.logits import single, source_operation
from tff_hospitals.models.tracing import converted, plain_python

_BATCH = 4
# Operations that draw unkeyed numbers, call Python or print: what computes with them is not a function of its inputs.
_IMPURE = {
    "EagerPyFunc": "calls Python code at run time",
    "PyFunc": "calls Python code at run time",
    "PyFuncStateless": "calls Python code at run time",
    "Print": "prints at run time",
    "PrintV2": "prints at run time",
    "RandomStandardNormal": "draws random numbers without a key",
    "RandomUniform": "draws random numbers without a key",
    "RandomUniformInt": "draws random numbers without a key",
    "TruncatedNormal": "draws random numbers without a key",
    "Multinomial": "draws random numbers without a key",
    "RandomShuffle": "draws random numbers without a key",
    "RngReadAndSkip": "draws random numbers from a generator with state",
    "StatefulStandardNormalV2": "draws random numbers from a generator with state",
    "StatefulUniform": "draws random numbers from a generator with state",
}
_WRITES = ("Assign", "Scatter", "ResourceScatter")
_WRITES_NOTHING = ("ScatterNd", "ScatterNdNonAliasingAdd")  # which make a new tensor, whatever their names say


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a look at the model showed; `problems` are those that hold with and without privacy."""

    problems: tuple[Problem, ...]
    batch_statistics: tuple[str, ...]  # layers that keep moving averages of batch statistics
    output_activation: str


def problems(model: Any, *, under_dp: bool, records: np.ndarray | None = None) -> list[Problem]:
    """All reasons against training `model`; see `FunctionalModel.problems`."""
    findings: Findings = model.findings
    found = list(findings.problems)
    for name in findings.batch_statistics:
        if under_dp:
            bound = (
                "uses batch statistics, which mix the records of a batch: one record then moves the gradients of all "
                "others, and clipping each gradient no longer bounds what one record does"
            )
        else:
            bound = (
                "keeps moving averages of batch statistics that are not trained by gradients: they never reach the "
                "server, so the shared model would be evaluated with averages of no hospital"
            )
        remedy = "use GroupNormalization or LayerNormalization, or freeze the layer (then it uses its saved averages)"
        found.append(Problem(f"layer {name}", "BatchNormalization", bound, remedy))
    if under_dp and not found:
        seen = mixing.mixing(model, records)
        if seen is not None:
            bound = f"{seen.words}: it depends on other records of its batch, so clipping per record bounds nothing"
            named = ("model", model.name)
            if seen.place is not None and seen.place.path:
                named = (f"layer {seen.place.path}", seen.place.kind)
            found.append(Problem(*named, bound, "compute every record by itself"))
    return found


def inspect_model(model: Any) -> Findings:
    """Traces a model and reports; never raises for what a user's model does."""
    found = _static_problems(model)
    statistics = _batch_statistics(model.keras)
    activation = "linear"
    model.note_activation(activation)
    if not statistics and len(model.keras.outputs or [0]) == 1:
        before = _public_state(model.keras)
        try:
            graph, outputs, raw = _trace(model)
        except InvalidInput as error:
            return Findings((*found, *error.problems), statistics, activation)
        except Exception as error:  # whatever a user's layers do while they are traced
            if found:  # of which this is a consequence, such as another precision
                return Findings(tuple(found), statistics, activation)
            bound = f"cannot be traced as a function of its weights: {_why(model, error)}"
            found.append(Problem("model", model.name, bound, "keep layers free of state, Python effects and branches"))
            return Findings(tuple(found), statistics, activation)
        found += (
            _effects(model, before, _public_state(model.keras)) + _captures(model, graph) + _operations(model, graph)
        )
        activation = {"Sigmoid": "sigmoid", "Softmax": "softmax"}.get(source_operation(raw).type, "linear")
        model.note_activation(activation)
        found += _output_problems(model, outputs, activation)
        if not found:
            found += _probe(model)
        if not found:
            found += heads.problems(model, activation) + list(model.compiled.problems)
        if not found:
            found += objectives.problems(model, int(outputs.shape[1]))
    return Findings(tuple(found), statistics, activation)


def _static_problems(model: Any) -> list[Problem]:
    found = []
    if not model.trainable_specs:
        found.append(
            Problem("model", model.name, "has no trainable weights", "set trainable on some layer or its mask")
        )
    for names, specs in ((model.trainable_names, model.trainable_specs), (model.frozen_names, model.frozen_specs)):
        for name, spec in zip(names, specs):
            if spec.dtype.is_floating and spec.dtype != tf.float32:
                found.append(
                    Problem(f"weight {name}", spec.dtype.name, "must be float32", "build the layer with float32")
                )
    for layer, path in layer_tree.layer_paths(model.keras).items():
        compute = layer.compute_dtype
        if compute in ("float16", "bfloat16", "float64") or layer.dtype_policy.name.startswith("mixed"):
            bound = "only float32 is computed here: clipping bounds and noise are set in float32"
            found.append(Problem(f"layer {path}", layer.dtype_policy.name, bound, "drop dtype= and mixed precision"))
        if penalties.others(layer) or getattr(layer, "activity_regularizer", None) is not None:
            bound = "has a regularizer of what it puts out, which would be left out: those of weights are added"
            found.append(Problem(f"layer {path}", type(layer).__name__, bound, "drop it, or regularize the kernel"))
        for variable in layer_tree.own_variables(layer):
            if getattr(variable, "constraint", None) is not None:
                name = variable.name.split(":")[0].rpartition("/")[2]
                bound = f"has a {name}_constraint, which the server's update would break"
                found.append(Problem(f"layer {path}", type(layer).__name__, bound, "drop it or norm inside the layer"))
    outputs = list(model.keras.outputs or [])
    if len(outputs) > 1:
        names = ", ".join(getattr(model.keras, "output_names", None) or [one.name for one in outputs])
        bound = f"has {len(outputs)} outputs ({names}); must have one output tensor"
        found.append(Problem("model", model.name, bound, "return one of them: tf.keras.Model(inputs, output)"))
    found += inputs.problems(model.keras, model.signature, model.name) + compilation.own_steps(model.keras)
    return found


def _batch_statistics(keras_model: tf.keras.Model) -> tuple[str, ...]:
    # Every batch normalization of Keras (plain, synchronised, version 1) inherits from one base class.
    base = next(
        kind for kind in tf.keras.layers.BatchNormalization.__mro__ if kind.__name__ == "BatchNormalizationBase"
    )
    paths = layer_tree.layer_paths(keras_model)
    return tuple(path for layer, path in paths.items() if isinstance(layer, base) and layer.trainable)


def _trace(model: Any) -> tuple[Any, Any, Any]:
    """The graph of a training step's prediction, its logits, and what the Keras model itself put out."""
    raw: list[Any] = []
    original = model.keras.call

    @plain_python
    def listen(*arguments: Any, **keywords: Any) -> Any:
        raw.append(converted(original)(*arguments, **keywords))
        return raw[-1]

    kept: list[Any] = []

    def run(trainable: Any, frozen: Any, features: Any, key: Any) -> Any:
        outputs = model.predict(
            trainable, frozen, features, training=True, key=key, overrides=lambda: [(model.keras, "call", listen)]
        )
        kept.append(outputs)
        return outputs

    features = tf.TensorSpec([_BATCH, *model.feature_shape], tf.float32)
    function = tf.function(run, autograph=False)
    concrete = function.get_concrete_function(
        model.trainable_specs, model.frozen_specs, features, tf.TensorSpec([2], tf.int64)
    )
    extra = len(model.keras.losses) - sum(len(layer._callable_losses) for layer in model.keras._flatten_layers())
    if extra:
        bound = f"adds {extra} losses of its own (add_loss), which would be left out"
        remedy = "drop them: penalties on weights go into a regularizer, the loss of a record into --loss"
        raise InvalidInput([Problem("model", model.name, bound, remedy)])
    return concrete.graph, kept[-1], single(raw[-1])


def _public_state(keras_model: tf.keras.Model) -> dict[tuple[str, str], Any]:
    """Attributes that a user's layer may change while it is called; Keras' own begin with an underscore."""
    state: dict[tuple[str, str], Any] = {}
    for layer, path in {keras_model: "", **layer_tree.layer_paths(keras_model)}.items():
        if type(layer).__module__.startswith("keras."):
            continue
        for attribute, value in vars(layer).items():
            if attribute.startswith("_") or attribute in ("built", "input_spec"):
                continue
            size = len(value) if isinstance(value, (list, dict, set)) else 0
            state[path, attribute] = (id(value), size)
    return state


def _effects(model: Any, before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]) -> list[Problem]:
    changed = sorted(name for name in after if after[name] != before.get(name))
    found = []
    for path, attribute in changed:
        bound = f"calling it changes its attribute {attribute!r}, which happens only while it is traced, not per step"
        found.append(Problem(f"layer {path or model.name}", attribute, bound, "compute only from inputs and weights"))
    return found


def _captures(model: Any, graph: Any) -> list[Problem]:
    """Variables that the trace still reads: they hide where the swap cannot see them."""
    captured = {id(tensor) for tensor in graph.external_captures}
    handles = {id(variable.handle): variable for variable in model.keras.variables}
    found = []
    for handle in captured & set(handles):
        name = handles[handle].name
        bound = "is read from a place where it cannot be replaced (a closure or an object that is no layer)"
        found.append(Problem(f"weight {name}", model.name, bound, "keep it in an attribute, list or dict of its layer"))
    others = [tensor for tensor in graph.external_captures if tensor.dtype == tf.resource and id(tensor) not in handles]
    if others:
        bound = f"reads {len(others)} variables or tables that are not among its weights"
        found.append(Problem("model", model.name, bound, "make them weights with add_weight, or constants"))
    return found


def _operations(model: Any, graph: Any) -> list[Problem]:
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    found: dict[str, Problem] = {}
    for node in nodes:
        reason = _IMPURE.get(node.op)
        if reason is None and node.op.startswith(_WRITES) and node.op not in _WRITES_NOTHING:
            reason = "writes to a variable"
        if reason is not None and node.op not in found:
            where = node.name.split("/StatefulPartitionedCall")[0]
            remedy = (
                "use Keras' own layers for randomness (their noise is keyed here) and no state, prints or Python calls"
            )
            found[node.op] = Problem(f"operation {where}", node.op, reason, remedy)
    return list(found.values())


def _output_problems(model: Any, outputs: tf.Tensor, activation: str) -> list[Problem]:
    shape = outputs.shape
    if shape.rank != 2 or shape[0] != _BATCH or shape[1] is None:
        bound = f"puts out shape {tuple(shape)} for {_BATCH} records; must be [batch, units]"
        return [Problem("model", model.name, bound, "end in a Dense layer or Flatten")]
    units = int(shape[1])
    allowed = {"binary": (1, 2), "regression": (1,), "multiclass": (model.num_classes,)}[model.task]
    remedy = f"end in Dense({allowed[0]}) without activation"
    if units not in allowed:
        bound = f"a {model.task} task needs {' or '.join(str(size) for size in allowed)} outputs"
        return [Problem("model outputs", units, bound, remedy)]
    if model.task != "regression" and (activation == "softmax") != (units > 1) and activation != "linear":
        bound = f"{activation} does not fit {units} output{'s' if units > 1 else ''} of a {model.task} task"
        return [Problem("model output activation", activation, bound, remedy)]
    return []


def _probe(model: Any) -> list[Problem]:
    """Runs the model on random records, twice."""
    generator = np.random.default_rng(0)
    trainable, frozen = model.initial_weights(np.array([1, 2], np.int64))
    # Off the initial weights, which may be all zero and hide what a layer does.
    moved = [np.asarray(value + 0.05 * generator.standard_normal(value.shape), np.float32) for value in trainable]
    features = generator.uniform(0.0, 1.0, (_BATCH, *model.feature_shape)).astype(np.float32)
    key = np.array([3, 4], np.int64)

    def outputs(training: bool) -> np.ndarray:
        return np.asarray(model.predict(moved, frozen, features, training=training, key=key))

    together = outputs(False)
    found = []
    if not np.all(np.isfinite(together)):
        bound = "puts out NaN or infinity for features between 0 and 1"
        found.append(Problem("model", model.name, bound, "check its layers for divisions and logarithms"))
    for training in (False, True):
        if not np.allclose(outputs(training), outputs(training), rtol=1e-3, atol=1e-4, equal_nan=True):
            bound = (
                "puts out something else when it is called again: Python's or numpy's random numbers, or a count that "
                "is kept outside of the model, would be frozen when training is compiled"
            )
            remedy = "use Keras' own layers for randomness (their noise is keyed here), and keep no state"
            found.append(Problem("model", model.name, bound, remedy))
            break
    return found


def _why(model: Any, error: Exception) -> str:
    """Which layer cannot be traced, on what, and why."""
    weights, frozen = model.initial_weights(np.array([1, 2], np.int64))
    features = np.zeros((_BATCH, *model.feature_shape), np.float32)
    key = np.array([3, 4], np.int64)
    found = failures.failing_layer(model, weights, frozen, features, training=True, key=key)
    return found or failures.reason(error)
