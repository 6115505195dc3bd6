"""Low-rank adapters (LoRA): dense layers whose kernel stays as it is and whose change has a small rank.

A dense layer computes x W + b; adapted, it computes x W + (x A) B + b, where A [inputs, rank] and B [rank, units] are
trained and W and b are frozen. Only A and B travel between server and hospitals: rank * (inputs + units) numbers
instead of inputs * units. B begins at zero, so the adapted model begins as the model that it adapts. `keras_model()`
gives back the plain architecture, with W + A B in place of W.

Source: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.models import building, layer_tree, saving
from tff_hospitals.models.functional import FunctionalModel


class LowRankDense(tf.keras.layers.Layer):
    """A dense layer with frozen kernel and bias and a trained change of low rank.

    Args:
      dense: the layer to adapt; its name, activation and sizes are kept.
      rank: of the change.
    """

    def __init__(self, dense: tf.keras.layers.Dense, rank: int):
        super().__init__(name=dense.name)
        self.rank, self.units, self.use_bias = rank, dense.units, dense.use_bias
        self.activation = dense.activation

    def build(self, input_shape: Any) -> None:
        """Makes the weights."""
        inputs = int(input_shape[-1])
        self.kernel = self.add_weight("kernel", [inputs, self.units], trainable=False)
        self.bias = self.add_weight("bias", [self.units], trainable=False) if self.use_bias else None
        # The scale of A does not matter to the model at the start (B is zero) but to the first gradient of B.
        self.lora_a = self.add_weight("lora_a", [inputs, self.rank], initializer="he_uniform")
        self.lora_b = self.add_weight("lora_b", [self.rank, self.units], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """X W + (x A) B + b, then the activation."""
        outputs = tf.matmul(inputs, self.kernel) + tf.matmul(tf.matmul(inputs, self.lora_a), self.lora_b)
        if self.bias is not None:
            outputs = outputs + self.bias
        return self.activation(outputs) if self.activation is not None else outputs


class LowRankModel(FunctionalModel):
    """A functional model that trains adapters of its dense layers; see `FunctionalModel` for the arguments.

    Dense layers for which adapters would be no smaller than the kernel are trained whole, and so are the layers that
    `trainable` names; everything else is frozen.

    Args:
      rank: of the adapters.

    Raises:
      InvalidInput: no dense layer for which adapters of this rank are smaller, or a model that cannot be adapted.
    """

    def __init__(
        self,
        builder: Any,
        signature: ModelSignature,
        *,
        rank: int,
        name: str = "model",
        trainable: tuple[str, ...] | None = None,
        pretrained: Any = None,
        keep_initial: bool = False,
        **loss: Any,
    ):
        self._plain_builder, whole = builder, trainable or ()

        def adapted() -> tf.keras.Model:
            return adapt(building.built(builder, signature, name), rank, whole, name)

        super().__init__(adapted, signature, name=name, pretrained=pretrained, keep_initial=keep_initial, **loss)

    def _load_weights(self, model: tf.keras.Model, path: Any) -> None:
        """Loads weights of the plain architecture; the adapters keep theirs."""
        plain = self._plain()
        saving.load_weights(plain, path)
        if self.target_scale is not None:
            super()._unscale(plain, path)
        own = _layers_by_path(model)
        for path_of_layer, layer in _layers_by_path(plain).items():
            _copy(layer, own[path_of_layer])

    def _unscale(self, model: tf.keras.Model, pretrained: Any) -> None:
        """Done on the plain architecture, by `_load_weights`."""

    def saved_architecture(self) -> tf.keras.Model:
        """The plain architecture: adapters are merged before anything is saved."""
        return self._plain()

    def _plain(self) -> tf.keras.Model:
        return building.build_under_key(self._plain_builder, self.signature, building.FIXED_KEY, name=self.name)

    def _filled(self, trainable: Any, frozen: Any) -> tf.keras.Model:
        """A new plain Keras model: adapters are merged into the kernels."""
        with building.outside_graphs():
            adapted = super()._filled(trainable, frozen)
            plain, own = self._plain(), _layers_by_path(adapted)
            for path, layer in _layers_by_path(plain).items():
                trained = own[path]
                if isinstance(trained, LowRankDense):
                    layer.kernel.assign(trained.kernel + tf.matmul(trained.lora_a, trained.lora_b))
                    if layer.use_bias:
                        layer.bias.assign(trained.bias)
                else:
                    _copy(trained, layer)
        return plain


def adapt(model: tf.keras.Model, rank: int, whole: tuple[str, ...], name: str) -> tf.keras.Model:
    """A copy of a built functional or sequential model with adapters in its dense layers.

    Args:
      model: what to adapt.
      rank: of the adapters.
      whole: names or patterns of layers to train whole instead.
      name: how messages call the model.
    """
    chosen = layer_tree.chosen_layers(model, whole) if whole else set()
    paths = layer_tree.layer_paths(model)
    dense = [layer for layer in paths if type(layer) is tf.keras.layers.Dense]  # in the order of the model
    sizes = {layer: tuple(layer.kernel.shape) for layer in dense}
    smaller = {layer for layer in dense if rank * sum(sizes[layer]) < sizes[layer][0] * sizes[layer][1]}
    if not smaller:
        found = ", ".join(f"{paths[layer]} {sizes[layer]}" for layer in dense) or "none"
        bound = f"adapters of this rank are smaller than no dense layer of {name} ({found})"
        raise InvalidInput([Problem("lora_rank", rank, bound, "lower the rank, or use --trainable instead")])

    left_out = [layer for layer in smaller - chosen if layer.kernel_regularizer or layer.bias_regularizer]
    if left_out:
        bound = f"leaves out the regularizer of {', '.join(paths[layer] for layer in left_out)}"
        raise InvalidInput([Problem("lora_rank", rank, bound, "drop it; --l2 regularizes the adapters")])

    def clone(layer: Any) -> Any:
        if layer in smaller and layer not in chosen:
            return LowRankDense(layer, rank)
        return layer.__class__.from_config(layer.get_config())

    try:
        copy = tf.keras.models.clone_model(model, clone_function=clone)
    except (ValueError, TypeError, RuntimeError) as error:
        bound = f"{name} cannot be adapted: {str(error).strip()[:200]}"
        remedy = "use a functional or sequential Keras model, or --trainable instead of --lora_rank"
        raise InvalidInput([Problem("lora_rank", rank, bound, remedy)]) from error
    own = _layers_by_path(copy)
    for layer, path in paths.items():
        _copy(layer, own[path])
        trained = layer in chosen or layer in dense
        if layer_tree.own_variables(layer) and not trained:
            own[path].trainable = False
    return copy


def _layers_by_path(model: tf.keras.Model) -> dict[str, Any]:
    return {path: layer for layer, path in layer_tree.layer_paths(model).items()}


def _copy(source: Any, target: Any) -> None:
    """Gives a layer the weights of the one that it stands for; adapters keep their own."""
    if isinstance(target, LowRankDense) and not isinstance(source, LowRankDense):
        target.kernel.assign(source.kernel)
        if target.bias is not None:
            target.bias.assign(source.bias)
        return
    for own, other in zip(layer_tree.own_variables(target), layer_tree.own_variables(source)):
        own.assign(other)
