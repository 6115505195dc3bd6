"""A Keras model as pure functions of its weights: what every process and runtime computes with."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations import files
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import (
    building,
    compilation,
    group_norm,
    identity,
    inputs,
    inspection,
    layer_tree,
    losses,
    mixing,
    notes,
    objectives,
    penalties,
    saving,
    target,
    tokens,
)
from tff_hospitals.models.logits import as_logits, hides_logits, single
from tff_hospitals.models.randomness import MissingKey, Rows
from tff_hospitals.models.swapping import Override, Slots
from tff_hospitals.models.tracing import autograph_enabled, plain_python

Weights = Sequence[Any]


class FunctionalModel:
    """Predictions and losses of a Keras model as functions of (trainable, frozen) weights.

    No variable is read or written while a method is traced: the methods work eagerly, in `tf.function`, in
    `tf.while_loop`, under XLA and in `tf.vectorized_map`. Weights are tuples in the order of `trainable_names` and
    `frozen_names`. `predict` returns logits also for a model that ends in a sigmoid or softmax (`output_activation`
    names it): the losses computed from them are exact where those computed from probabilities overflow.

    >>> from tff_hospitals.models import ModelSignature, build_model
    >>> model = build_model("logistic_regression", ModelSignature((2,), 2, "binary"), init="zeros")
    >>> trainable, frozen = model.initial_weights(np.array([1, 2]))
    >>> outputs = model.predict(trainable, frozen, [[3.0, 4.0]], training=False)
    >>> model.scores(outputs).numpy(), model.per_record_loss(outputs, [1]).numpy().round(4)
    (array([0.5], dtype=float32), array([0.6931], dtype=float32))

    Args:
      builder: returns a new Keras model at each call.
      signature: shape, classes and task of the data.
      name: how messages call the model.
      trainable: names or patterns of the layers to train; None: as the model says.
      pretrained: path of saved weights to start from (.keras, .h5, .weights.h5).
      keep_initial: start from the weights that the builder's model has, whatever the key.
      loss: a function of (labels, outputs) to the loss of each record; None: what the model was compiled with, or the
        loss of the task. Outputs are logits, or for regression in the unit of `target_scale`, and so are labels.
      class_weights: factor of each class's records in the loss.
      target_scaling: "bounds" learns a regression on the scale of its public bounds, "none" as it is.
      l2: factor of the sum of squares of the trained weights, which is added to the loss.
      local_layers: names or patterns of the layers that every hospital keeps and trains for itself; they are frozen
        here, and `whole` trains them.

    Raises:
      InvalidInput: the model cannot be built, a pattern matches no layer, or pretrained weights have other shapes.
    """

    def __init__(
        self,
        builder: Callable[[], Any],
        signature: ModelSignature,
        *,
        name: str = "model",
        trainable: tuple[str, ...] | None = None,
        pretrained: os.PathLike[str] | str | None = None,
        keep_initial: bool = False,
        loss: Callable[[Any, Any], Any] | None = None,
        class_weights: tuple[float, ...] | None = None,
        target_scaling: str = "bounds",
        l2: float = 0.0,
        local_layers: tuple[str, ...] = (),
    ):
        self.name, self.signature = name, signature
        self.task, self.num_classes, self.feature_shape = signature.task, signature.num_classes, signature.feature_shape
        self._builder, self._mask, self.local_layers = builder, trainable, local_layers
        self._target_scaling = target_scaling
        # Two threads may trace at the same time; the swapped attributes belong to one of them.
        self.lock = threading.RLock()
        self._written: tf.keras.Model | None = None
        self.keras = self._build(building.FIXED_KEY)
        self._trainable_variables, self._frozen_variables = _split(self.keras)
        self._own_loss, self._class_weights, self._l2 = loss, class_weights, l2
        self.penalties = penalties.Penalties(self.keras, self._trainable_variables, l2)
        self.target_scale = self._scale_of_target(target_scaling)
        self._arranged = inputs.arrangement(self.keras, signature)
        variables = (*self._trainable_variables, *self._frozen_variables)
        names = _names(self.keras, variables)
        split = len(self._trainable_variables)
        self.trainable_names, self.frozen_names = names[:split], names[split:]
        self.trainable_specs, self.frozen_specs = _specs(variables[:split]), _specs(variables[split:])
        norms = [layer for layer in layer_tree.layer_paths(self.keras) if group_norm.handles(layer)]
        faster = [(layer, "call", group_norm.fast_call(layer)) for layer in norms]
        self._slots = Slots(self.keras, variables, faster)
        self._initial: dict[bytes, tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]] = {}
        self._given: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]] | None = None
        with building.outside_graphs():
            if pretrained is not None:
                self._load_weights(self.keras, pretrained)
            if (pretrained is not None or keep_initial) and self.target_scale is not None:
                self._unscale(self.keras, pretrained)
            if pretrained is not None or keep_initial:
                self._given = self._values(self.keras)
        self._findings: inspection.Findings | None = None
        self._tables: tuple[tokens.Table, ...] | None = None
        self.mixing: dict[str, mixing.Mixing | None] = {}  # what `mixing.mixing` saw, by the records that it was shown
        self._activation: str | None = None
        self._objective: objectives.Objective | None = None
        # How clipped gradients are computed, decided on first use by `ghost.ghost_plan` and `per_record.method_for`.
        self.ghost: Any = None
        self.clipping_method: tuple[str, str] | None = None

    from_logits = True

    def _build(self, key: np.ndarray) -> tf.keras.Model:
        return building.build_under_key(
            self._builder, self.signature, key, name=self.name, trainable=self._mask, local=self.local_layers
        )

    def _scale_of_target(self, scaling: str) -> target.TargetScale | None:
        bounds = self.signature.target_bounds
        if self.task != "regression" or bounds is None or scaling == "none":
            return None
        return target.TargetScale.of(bounds, positive=target.never_negative(self.keras))

    def _unscale(self, model: tf.keras.Model, pretrained: Any) -> None:
        """Weights that were given put out original units; what is learnt is scaled."""
        if self.target_scale is not None and not self.target_scale.unscale(model):
            bound = "ends in no dense layer that could take the scale of the target out of given weights"
            remedy = "end in Dense(1) without activation, or set --target_scaling=none"
            raise InvalidInput([Problem("pretrained", pretrained, bound, remedy)])

    def _load_weights(self, model: tf.keras.Model, path: os.PathLike[str] | str) -> None:
        saving.load_weights(model, path)

    def _values(self, model: tf.keras.Model) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        trainable, frozen = _split(model)
        values = tuple(variable.numpy() for variable in trainable), tuple(variable.numpy() for variable in frozen)
        shapes = [value.shape for part in values for value in part]
        expected = [tuple(spec.shape) for spec in (*self.trainable_specs, *self.frozen_specs)]
        if shapes != expected:
            bound = f"gives weights of shapes {shapes[:8]} now and of {expected[:8]} before"
            raise InvalidInput([Problem("model", self.name, bound, "return the same architecture at every call")])
        return values

    def initial_weights(self, seed_key: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """First weights as a function of a key: the same key, the same weights; another key, others.

        Pretrained weights, and those of `keep_initial`, do not depend on the key.

        Args:
          seed_key: int64 [2], for example `Streams.from_seed(seed).child("model").key()`.

        Returns:
          (trainable, frozen), tuples of numpy arrays.
        """
        if self._given is None:
            name = np.asarray(seed_key, np.int64).tobytes()
            if name not in self._initial:
                if len(self._initial) >= 8:
                    self._initial.clear()
                with building.outside_graphs():
                    self._initial[name] = self._values(self._build(seed_key))
            values = self._initial[name]
        else:
            values = self._given
        return tuple(value.copy() for value in values[0]), tuple(value.copy() for value in values[1])

    @plain_python
    def predict(
        self,
        trainable: Weights,
        frozen: Weights,
        features: Any,
        *,
        training: bool,
        key: Any = None,
        rows: Rows | None = None,
        overrides: Callable[[], Sequence[Override]] | None = None,
    ) -> tf.Tensor:
        """Logits (for regression: predictions) of a batch.

        Args:
          trainable: tensors in the order of `trainable_specs`.
          frozen: tensors in the order of `frozen_specs`.
          features: [batch, *feature_shape].
          training: whether dropout and its like are active.
          key: int64 [2], needed when `training` and a layer draws random numbers.
          rows: which records of a larger batch these are, so that they get the noise they would get there.
          overrides: called when the weights are in place; returns attributes of layers to replace during the call, for
            methods that look inside.

        Returns:
          float32 [batch, units].
        """
        try:
            with self.computing(trainable, frozen, key, rows, overrides):
                outputs = self.keras(self._arranged(tf.convert_to_tensor(features)), training=bool(training))
        except MissingKey as error:
            bound = "a layer draws random numbers in training and needs a key"
            raise InvalidInput([Problem("key", None, bound, "give key=, an int64 array of shape [2]")]) from error
        outputs = single(outputs)
        if not hides_logits(outputs, self.task) or self.output_activation == "linear":
            return as_logits(outputs, self.task)
        # Only a graph shows what a sigmoid of TensorFlow's was computed from.
        again = tf.function(
            lambda: self.predict(
                trainable, frozen, features, training=training, key=key, rows=rows, overrides=overrides
            ),
            autograph=False,
        )
        return again()

    @contextlib.contextmanager
    def computing(
        self,
        trainable: Weights,
        frozen: Weights,
        key: Any = None,
        rows: Rows | None = None,
        overrides: Callable[[], Sequence[Override]] | None = None,
    ) -> Iterator[None]:
        """While this is open, the layers of `self.keras` compute with these weights and this key."""
        expected = len(self.trainable_specs) + len(self.frozen_specs)
        if len(trainable) + len(frozen) != expected:
            remedy = "give the tuples of initial_weights in their order"
            raise InvalidInput(
                [Problem("weights", len(trainable) + len(frozen), f"must be {expected} tensors", remedy)]
            )
        tensors = [tf.convert_to_tensor(weight) for weight in (*trainable, *frozen)]
        key = None if key is None else tf.cast(key, tf.int64)
        with self.lock, self._slots.swapped(tensors, key, rows, overrides), autograph_enabled():
            yield

    def per_record_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The loss that is trained, of each record: float32 [batch].

        Cross-entropy in nats, or the squared error on the scale of the target, unless the model has a loss of its own.
        """
        return self.objective(outputs, labels)

    @property
    def objective(self) -> objectives.Objective:
        """The loss of a record as a function of its own."""
        with self.lock:
            if self._objective is None:
                given = self.compiled
                own = self._own_loss
                self._objective = objectives.Objective(
                    self.task,
                    given.function if own is None else own,
                    given.name if own is None else str(getattr(own, "__name__", "loss")),
                    self._class_weights,
                    given.factor if own is None else 1.0,
                    self.target_scale,
                )
            return self._objective

    @functools.cached_property
    def compiled(self) -> compilation.Compiled:
        """What the Keras model was compiled with."""
        activation = self.output_activation if getattr(self.keras, "_is_compiled", False) else "linear"
        return compilation.compiled(self.keras, self.task, self.num_classes, activation)

    def correct(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """1.0 where the most probable class is the label, else 0.0 (NaN for regression): float32 [batch]."""
        return losses.correct(self.task, outputs, labels)

    def scores(self, outputs: tf.Tensor) -> tf.Tensor:
        """Probability of class 1 [batch] (binary), of each class [batch, classes], or the prediction [batch]."""
        found = losses.scores(self.task, outputs)
        return found if self.target_scale is None else self.target_scale.restore(found)

    def saved_architecture(self) -> tf.keras.Model:
        """A model of the layers that the saved one has; its weights mean nothing."""
        return self.keras

    def keras_model(self, trainable: Weights, frozen: Weights) -> tf.keras.Model:
        """A new plain Keras model with these weights; it ends in the activation that the builder gave it, and puts out
        original units.
        """
        with building.outside_graphs():
            model = self._filled(trainable, frozen)
            return model if self.target_scale is None else self.target_scale.model(model)

    def save_trained(self, trainable: Weights, frozen: Weights, folder: pathlib.Path, builder: str) -> list[str]:
        """Writes the trained model; see `saving.save_trained`.

        Seeds of one model are written into the same Keras object one after the other: building it anew takes longer
        than writing it.
        """
        if type(self) is not FunctionalModel or self.target_scale is not None:
            return saving.save_trained(self.keras_model(trainable, frozen), folder, builder)
        with self.lock, building.outside_graphs():
            if self._written is None:
                self._written = self._build(building.FIXED_KEY)
            _fill(self._written, trainable, frozen)
            return saving.save_trained(self._written, folder, builder)

    def _filled(self, trainable: Weights, frozen: Weights) -> tf.keras.Model:
        with building.outside_graphs():
            model = self._build(building.FIXED_KEY)
            _fill(model, trainable, frozen)
        return model

    def weights_of_file(self, path: os.PathLike[str] | str) -> tuple[np.ndarray, ...]:
        """The trained weights of a model that `keras_model` made and that was saved."""
        with building.outside_graphs():
            model = self._build(building.FIXED_KEY)
            self._load_weights(model, path)
            if self.target_scale is not None:
                self._unscale(model, path)
            return self._values(model)[0]

    def problems(self, under_dp: bool, records: np.ndarray | None = None) -> list[Problem]:
        """All reasons why this model cannot be trained here; empty when fit.

        Args:
          under_dp: with a privacy mechanism.
          records: some of the features that it will see, for the probe that looks for mixed records.
        """
        return inspection.problems(self, under_dp=under_dp, records=records)

    def token_problems(self, features: np.ndarray, names: Sequence[str], where: str) -> list[Problem]:
        """Numbers that an Embedding of this model has no row for; see `tokens.problems`."""
        with self.lock:
            if self._tables is None:
                self._tables = tokens.tables(self)
        return tokens.problems(self._tables, features, names, where)

    @property
    def findings(self) -> inspection.Findings:
        """What tracing the model showed; computed on first use."""
        with self.lock:
            if self._findings is None:
                with building.outside_graphs():
                    self._findings = inspection.inspect_model(self)
            return self._findings

    @property
    def mixes_records(self) -> bool:
        """Whether a record's output was seen to depend on the other records of its batch."""
        return mixing.mixing(self) is not None

    @functools.cached_property
    def learning(self) -> str:
        """A digest of what the model learns: its loss, and what changes it."""
        keras_loss = [getattr(self.keras, "loss", None), self.compiled.factor]
        return identity.learning(self, keras_loss, self._own_loss, self._class_weights, self.target_scale, self._l2)

    @functools.cached_property
    def program(self) -> str:
        """A digest of what the model computes: its code and configuration, whatever its weights."""
        return self._program[0]

    @functools.cached_property
    def _program(self) -> tuple[str, bool]:
        return identity.program(self, self._builder)

    @functools.cached_property
    def identity(self) -> str:
        """A digest of the model: of `program`, and of the weights that it starts from whatever the key."""
        with building.outside_graphs():
            return files.fingerprint([self.program, identity.digest_of_weights(self._weights_of_its_own())])

    def _weights_of_its_own(self) -> list[np.ndarray]:
        if self._given is not None:
            return [value for part in self._given for value in part]
        if not self._program[1]:
            return []  # the zoo's models have none
        one, other = (self._values(self._build(key)) for key in (building.FIXED_KEY, building.FIXED_KEY + 1))
        # What a user's function reads from a file, or adapts to data, is the same under every key.
        pairs = zip((*one[0], *one[1]), (*other[0], *other[1]))
        return [value for value, again in pairs if np.array_equal(value, again, equal_nan=True)]

    @functools.cached_property
    def whole(self) -> FunctionalModel:
        """What a hospital trains: this model with the layers that it keeps; the model itself where it keeps none.

        Weights have the same names in both.
        """
        if not self.local_layers:
            return self
        return FunctionalModel(
            self._builder,
            self.signature,
            name=self.name,
            trainable=self._mask,
            loss=self._own_loss,
            class_weights=self._class_weights,
            target_scaling=self._target_scaling,
            l2=self._l2,
        )

    @property
    def output_activation(self) -> str:
        """What the Keras model ends in: "linear", "sigmoid" or "softmax" (`predict` returns logits for each)."""
        if self._activation is None:
            self._activation = self.findings.output_activation
        return self._activation

    def note_activation(self, activation: str) -> None:
        """Tells what the graph shows the model to end in, before anything is computed with it."""
        self._activation = activation

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever trains this model must know of how it is taken, one sentence each."""
        return notes.of(self)

    @property
    def draws_random_numbers(self) -> bool:
        """Whether a layer draws random numbers in training, so that `predict` needs a key."""
        return self._slots.draws_random_numbers

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(int(np.prod(spec.shape)) for spec in self.trainable_specs)


def _split(model: tf.keras.Model) -> tuple[tuple[tf.Variable, ...], tuple[tf.Variable, ...]]:
    trainable = tuple(model.trainable_variables)
    chosen = {id(variable) for variable in trainable}
    return trainable, tuple(variable for variable in model.variables if id(variable) not in chosen)


def _fill(model: tf.keras.Model, trainable: Weights, frozen: Weights) -> None:
    own_trainable, own_frozen = _split(model)
    for variable, value in zip((*own_trainable, *own_frozen), (*trainable, *frozen)):
        variable.assign(value)


def _specs(variables: Sequence[tf.Variable]) -> tuple[tf.TensorSpec, ...]:
    return tuple(tf.TensorSpec(variable.shape, variable.dtype) for variable in variables)


def _names(model: tf.keras.Model, variables: Sequence[tf.Variable]) -> tuple[str, ...]:
    """Layer path and variable name, made unique: `encoder/dense_1/kernel`."""
    owners: dict[int, str] = {}
    for layer, path in layer_tree.layer_paths(model).items():
        for variable in layer_tree.own_variables(layer):
            owners.setdefault(id(variable), path)
    names: list[str] = []
    for variable in variables:
        short = variable.name.split(":")[0].rsplit("/", 1)[-1]
        owner = owners.get(id(variable))
        name = f"{owner}/{short}" if owner else short
        count = sum(1 for other in names if other == name or other.startswith(f"{name}#"))
        names.append(f"{name}#{count}" if count else name)
    return tuple(names)
