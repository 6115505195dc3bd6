"""Clipped gradient sums with one backward pass and no per-record gradients (ghost clipping with book-keeping).

Sources: Goodfellow 2015 (arXiv:1510.01799); Li, Tramer, Liang, Hashimoto 2022 (arXiv:2110.05679); Bu, Mao, Xu 2022
(arXiv:2205.10683); Bu, Wang, Zha, Karypis 2023 (arXiv:2210.00038). Layers without a rule of their own get per-record
gradients of that layer alone, from its input and its output's gradient (`vectorizing`).

One backward pass over a batch gives each record's own gradient only where no layer and no loss looks at other records.
That is known of Keras' own kinds (`mixing`); with a part of a user's own the gradient of the whole model is computed
record by record instead, where no other record is there to be looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_hospitals.models import building, layer_tree, mixing
from tff_hospitals.models.ghost import parts
from tff_hospitals.models.ghost.parts import Part
from tff_hospitals.models.ghost.rule import Rule, Seen, unchanged
from tff_hospitals.models.ghost.rules import RULES
from tff_hospitals.models.randomness import Rows
from tff_hospitals.models.tracing import converted, plain_python
from tff_hospitals.models.vectorizing import of_each_record

_BATCH = 3


@dataclasses.dataclass(frozen=True)
class Unit:
    """A layer that is handled as a whole: by a rule, or (rule None) by vectorised gradients of this layer alone."""

    layer: Any
    path: str
    rule: Rule | None
    positions: tuple[int, ...]  # of its weights among the model's trainable weights


@dataclasses.dataclass(frozen=True)
class GhostPlan:
    """Which layers are handled how; `obstacle` says why the model as a whole needs vectorised gradients, if it does."""

    units: tuple[Unit, ...]
    obstacle: str | None

    def describe(self) -> str:
        """One line for a run record.

        Example: "ghost norms: dense_1, output; per-record gradients: attention".
        """
        kinds = {"ghost norms": True, "per-record gradients": False}
        parts = []
        for words, ghost in kinds.items():
            names = [unit.path for unit in self.units if (unit.rule is not None) == ghost]
            if names:
                parts.append(f"{words}: {', '.join(names)}")
        return "; ".join(parts)


def ghost_plan(model: Any) -> GhostPlan:
    """Decides how each layer of a `FunctionalModel` is handled; computed once per model."""
    with model.lock:
        if model.ghost is None:
            units = _units(model)
            with building.outside_graphs():
                obstacle = _uncovered(model, units) or _obstacle(model, units) or mixing.unknown_part(model)
                model.ghost = GhostPlan(units, obstacle)
        return model.ghost


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one forward and one backward pass left behind: for each unit that was called what it saw and the gradient of
    what it put out; and the loss of each record.
    """

    units: tuple[tuple[Unit, Seen, tf.Tensor], ...]
    losses: tf.Tensor


def traced(
    model: Any, trainable: Sequence[Any], frozen: Sequence[Any], features: Any, labels: Any, keep: Any, key: Any
) -> Trace:
    """One forward and one backward pass over the records that `keep` keeps."""
    units = ghost_plan(model).units
    seen = [Seen() for _ in units]
    with model.lock:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            outputs = _predict(model, units, seen, tape, trainable, frozen, features, key)
            losses = tf.where(keep, model.per_record_loss(outputs, labels), 0.0)
            total = tf.reduce_sum(losses)
        called = [(unit, one) for unit, one in zip(units, seen) if one.calls]
        gradients = tape.gradient(
            total, [one.watched for _, one in called], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    return Trace(tuple((*one, gradient) for one, gradient in zip(called, gradients)), losses)


def parts_of(model: Any, trace: Trace, trainable: Sequence[Any], frozen: Sequence[Any], key: Any) -> list[Part]:
    """A part for each trainable weight."""
    made: list[Part | None] = [None] * len(model.trainable_specs)
    with model.lock:
        for unit, seen, gradient in trace.units:
            if unit.rule is None:
                found = _generic_parts(model, unit, seen, gradient, trainable, frozen, key)
            else:
                by_name = unit.rule.parts(unit.layer, seen, gradient)
                found = [by_name[name] for name in _weight_names(unit)]
            for position, part in zip(unit.positions, found):
                made[position] = part
    specs = model.trainable_specs
    return [parts.nothing(trace.losses, spec) if part is None else part for part, spec in zip(made, specs)]


def _predict(
    model: Any,
    units: Sequence[Unit],
    seen: Sequence[Seen],
    tape: tf.GradientTape,
    trainable: Sequence[Any],
    frozen: Sequence[Any],
    features: Any,
    key: Any,
) -> tf.Tensor:
    def overrides() -> list[Any]:
        # Made when the weights are in place: rules read tensors, not variables, from the layers.
        made: list[Any] = []
        for unit, one in zip(units, seen):
            if unit.rule is None:
                made += _generic_overrides(unit, one, tape.watch)
            else:
                made += unit.rule.overrides(unit.layer, one, tape.watch)
        return made

    return model.predict(trainable, frozen, features, training=True, key=key, overrides=overrides)


def _weight_names(unit: Unit) -> list[str]:
    if unit.rule is None:
        return []
    owner, own = unit.rule.owner(unit.layer), {id(variable) for variable in unit.layer.trainable_variables}
    return [name for name in unit.rule.weights if id(getattr(owner, name, None)) in own]


def _generic_overrides(unit: Unit, seen: Seen, watch: Any) -> list[Any]:
    call = unit.layer.call

    @plain_python
    def listening(inputs: Any, *rest: Any, **keywords: Any) -> Any:
        outputs = converted(call)(inputs, *rest, **keywords)
        seen.note(watch if tf.is_tensor(outputs) else lambda _: None, (inputs, rest, keywords), outputs)
        return outputs

    return [(unit.layer, "call", listening)]


def _generic_parts(
    model: Any, unit: Unit, seen: Seen, gradient: tf.Tensor, trainable: Sequence[Any], frozen: Sequence[Any], key: Any
) -> list[Part]:
    inputs, _, keywords = seen.remembered
    batch = tf.shape(inputs)[0]
    of_records = {name: value for name, value in keywords.items() if tf.is_tensor(value)}
    watched = [trainable[position] for position in unit.positions]

    def of_one(item: Any) -> Any:
        record, cotangent, index, own = item
        weights = list(trainable)
        for position, tensor in zip(unit.positions, watched):
            weights[position] = tensor
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            with model.computing(weights, frozen, key, Rows(index[None], batch)):
                outputs = unit.layer(record[None], **{**keywords, **{name: one[None] for name, one in own.items()}})
        gradients = tape.gradient(
            outputs, watched, output_gradients=cotangent[None], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [tf.convert_to_tensor(one) for one in gradients]

    each = of_each_record(of_one, (inputs, gradient, tf.range(batch), of_records))
    shapes = [model.trainable_specs[position].shape for position in unit.positions]
    return [parts.formed(tf.ensure_shape(one, [None, *shape])) for one, shape in zip(each, shapes)]


def _units(model: Any) -> tuple[Unit, ...]:
    """Goes down through containers to the layers that compute with weights."""
    position = {id(variable): index for index, variable in enumerate(model.keras.trainable_variables)}
    paths = layer_tree.layer_paths(model.keras)
    found: dict[int, Unit] = {}

    def visit(container: Any) -> None:
        for layer in container._flatten_layers(recursive=False, include_self=False):
            weights = layer.trainable_variables
            if not weights or id(layer) in found:
                continue
            rule = next((rule for rule in RULES if rule.handles(layer)), None)
            own = layer_tree.own_variables(layer if rule is None else rule.owner(layer))
            if rule is not None and len(own) != len(layer.variables):
                rule = None  # an activation with weights of its own, for example
            opaque = isinstance(layer, (tf.keras.layers.RNN, tf.keras.layers.Wrapper))
            opaque = opaque and not unchanged(layer, tf.keras.layers.Bidirectional, "call")  # which calls two layers
            if rule is None and not own and not opaque:
                visit(layer)
                continue
            positions = tuple(position[id(variable)] for variable in weights)
            unit = Unit(layer, paths[layer], rule, positions)
            if rule is not None:
                names = _weight_names(unit)
                positions = tuple(position[id(getattr(rule.owner(layer), name))] for name in names)
                unit = dataclasses.replace(unit, positions=positions)
            found[id(layer)] = unit

    visit(model.keras)
    return tuple(found.values())


def _uncovered(model: Any, units: Sequence[Unit]) -> str | None:
    owners: dict[int, list[str]] = {}
    for unit in units:
        for position in unit.positions:
            owners.setdefault(position, []).append(unit.path)
    for position, name in enumerate(model.trainable_names):
        holders = owners.get(position, [])
        if len(holders) != 1:
            return f"weight {name} belongs to {' and '.join(holders) or 'no layer that is called by itself'}"
    return None


def _obstacle(model: Any, units: Sequence[Unit]) -> str | None:
    """Traces the model once and checks that each weight is used in one call of its own layer, on one tensor."""
    seen = [Seen() for _ in units]
    inside: dict[int, set[str]] = {index: set() for index in range(len(units))}
    reasons: list[str] = []

    def trace(trainable: Any, frozen: Any, features: Any, key: Any) -> Any:
        outer = tf.compat.v1.get_default_graph()

        def watched_calls() -> list[Any]:
            made: list[Any] = []
            for index, (unit, one) in enumerate(zip(units, seen)):
                # As generic units: what counts here is how the layer is called, not what it computes.
                ((layer, name, call),) = _generic_overrides(unit, one, lambda tensor: None)
                made.append((layer, name, _noting_operations(call, outer, inside[index], reasons, unit.path)))
            return made

        outputs = model.predict(trainable, frozen, features, training=True, key=key, overrides=watched_calls)
        for index, unit in enumerate(units):
            for position in unit.positions:
                users = {operation.name for operation in trainable[position].consumers()}
                if not users <= inside[index]:
                    reasons.append(f"weight {model.trainable_names[position]} is also used outside its layer's call")
        return outputs

    features = tf.TensorSpec([_BATCH, *model.feature_shape], tf.float32)
    tf.function(trace, autograph=False).get_concrete_function(
        model.trainable_specs, model.frozen_specs, features, tf.TensorSpec([2], tf.int64)
    )
    for unit, one in zip(units, seen):
        if one.calls > 1:
            reasons.append(f"layer {unit.path} is used {one.calls} times")
        elif one.calls == 1 and not _one_tensor_in_and_out(unit, one):
            reasons.append(f"layer {unit.path} takes or gives more than one tensor of records")
    return reasons[0] if reasons else None


def _noting_operations(call: Any, outer: Any, names: set[str], reasons: list[str], path: str) -> Any:
    @plain_python
    def noting(*arguments: Any, **keywords: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        if graph is not outer:
            reasons.append(f"layer {path} is called inside a loop or branch")
        before = {operation.name for operation in graph.get_operations()}
        outputs = call(*arguments, **keywords)
        names.update({operation.name for operation in graph.get_operations()} - before)
        return outputs

    return noting


def _one_tensor_in_and_out(unit: Unit, seen: Seen) -> bool:
    """Beside it there may be the mask of a sequence, and behind it states that a recurrent layer puts out."""
    inputs, rest, keywords = seen.remembered
    tensors = [inputs, *tf.nest.flatten(seen.watched)]
    if unit.rule is None and len(tensors) > 2:
        return False
    for name, value in keywords.items():
        if name == "mask" and tf.is_tensor(value) and (unit.rule is None or unit.rule.takes_mask):
            tensors.append(value)
        elif not (value is None or isinstance(value, (bool, int, float, str))):
            return False
    if any(value is not None for value in rest):
        return False
    return all(tf.is_tensor(one) and one.shape.rank is not None and one.shape[:1] == [_BATCH] for one in tensors)
