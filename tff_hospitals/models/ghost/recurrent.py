"""Recurrent layers of Keras: LSTM, GRU and SimpleRNN, alone or inside Bidirectional.

A cell computes z_t = x_t W + b + h_(t-1) U in each step. What does not depend on the step before, p_t = x_t W + b, is
computed for all steps at once before the loop, and p is what is watched: the gradient that reaches p_t is that of z_t.
So one backward pass through the loop gives all that is needed, and the gradients of record i are sums over steps as of
a dense layer on a sequence: of x_t and dz_t for W, of h_(t-1) and dz_t for U. In a GRU the candidate is r_t (h_(t-1) U)
or (r_t h_(t-1)) U, with the reset gate r_t, and the loop puts out r_t beside h_t.

A masked step leaves the state as it was, and the gradient of its p_t is zero.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_hospitals.models.ghost.parts import Part, beside, formed, product_over_steps
from tff_hospitals.models.ghost.rule import Rule, Seen, Watch, unchanged
from tff_hospitals.models.swapping import Override
from tff_hospitals.models.tracing import converted, plain_python

layers = tf.keras.layers


class Recurrent(Rule):
    """One kind of recurrent layer of Keras with its own cell."""

    weights = ("kernel", "recurrent_kernel", "bias")
    takes_mask = True
    kind: Any
    cell_kind: Any
    draws = 1  # masks that the cell draws for dropout: one for each gate

    def handles(self, layer: Any) -> bool:
        if not unchanged(layer, self.kind, "call", "get_initial_state"):
            return False
        same = unchanged(layer.cell, self.cell_kind, "call", "get_initial_state")
        return same and not (layer.stateful or layer.time_major) and self.one_mask(layer.cell)

    def one_mask(self, cell: Any) -> bool:
        """Whether all gates see the same input and state: not where dropout is drawn for each gate by itself."""
        apart = getattr(cell, "implementation", 2) == 1
        return not cell.recurrent_dropout and not (apart and cell.dropout)

    def owner(self, layer: Any) -> Any:
        return layer.cell

    def overrides(self, layer: Any, seen: Seen, watch: Watch) -> list[Override]:
        @plain_python
        def listening(inputs: tf.Tensor, mask: Any = None, training: Any = None, initial_state: Any = None) -> Any:
            if initial_state is not None:
                raise ValueError("a state to begin with makes this more than one tensor of records")
            return self._call(layer, inputs, mask, training, seen, watch)

        return [(layer, "call", listening)]

    def _call(self, layer: Any, inputs: tf.Tensor, mask: Any, training: Any, seen: Seen, watch: Watch) -> Any:
        cell, units = layer.cell, layer.cell.units
        states = layer.get_initial_state(inputs)
        layer._maybe_reset_cell_dropout_mask(cell)
        dropped = _first(cell.get_dropout_mask_for_cell(inputs[:, 0], training, count=self.draws))
        state_dropped = _first(cell.get_recurrent_dropout_mask_for_cell(states[0], training, count=self.draws))
        if dropped is not None:
            inputs = inputs * dropped[:, None]
        projected = tf.tensordot(inputs, cell.kernel, axes=1)
        if cell.use_bias:
            projected = projected + self.input_bias(cell)
        watch(projected)

        @plain_python
        def step(now: tf.Tensor, before: Any) -> Any:
            return self.step(cell, now, before, state_dropped)

        _, outputs, ended = tf.keras.backend.rnn(
            step,
            projected,
            states,
            go_backwards=layer.go_backwards,
            mask=mask,
            unroll=layer.unroll,
            input_length=inputs.shape[1],
            return_all_outputs=True,
        )
        hidden = outputs[..., :units]  # of all steps, in the order in which they were taken
        previous = tf.concat([states[0][:, None], hidden[:, :-1]], axis=1)
        if state_dropped is not None:
            previous = previous * state_dropped[:, None]
        beside_hidden = outputs[..., units:]
        if layer.go_backwards:
            previous, beside_hidden = tf.reverse(previous, [1]), tf.reverse(beside_hidden, [1])
        seen.note(watch, (inputs, previous, beside_hidden), projected)
        if mask is not None and layer.zero_output_for_mask:
            taken = tf.reverse(mask, [1]) if layer.go_backwards else mask
            hidden = tf.where(tf.cast(taken, tf.bool)[..., None], hidden, 0.0)
        shown = hidden if layer.return_sequences else hidden[:, -1]
        return [shown, *ended] if layer.return_state else shown

    def input_bias(self, cell: Any) -> tf.Tensor:
        """What is added to the projected inputs."""
        return cell.bias

    def step(self, cell: Any, projected: tf.Tensor, states: Any, dropped: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One step from its projected inputs [batch, gates * units]: the new state with what `parts` needs, states."""
        raise KeyError(type(cell))

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        inputs, previous, _ = seen.remembered
        gradient = tf.ensure_shape(gradient, seen.watched.shape)
        return {
            "kernel": product_over_steps(inputs, gradient),
            "recurrent_kernel": product_over_steps(previous, gradient),
            "bias": formed(tf.reduce_sum(gradient, axis=1)),
        }


class SimpleRNN(Recurrent):
    """One gate."""

    kind, cell_kind = layers.SimpleRNN, layers.SimpleRNNCell

    def one_mask(self, cell: Any) -> bool:
        return True

    def step(self, cell: Any, projected: tf.Tensor, states: Any, dropped: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        before = states[0] if dropped is None else states[0] * dropped
        after = projected + tf.matmul(before, cell.recurrent_kernel)
        if cell.activation is not None:
            after = converted(cell.activation)(after)
        return after, [after]


class LSTM(Recurrent):
    """Four gates: input, forget, candidate, output (Hochreiter and Schmidhuber 1997)."""

    kind, cell_kind, draws = layers.LSTM, layers.LSTMCell, 4

    def handles(self, layer: Any) -> bool:
        own = ("_compute_carry_and_output_fused", "_compute_carry_and_output")
        return super().handles(layer) and unchanged(layer.cell, self.cell_kind, *own)

    def step(self, cell: Any, projected: tf.Tensor, states: Any, dropped: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        activation, gate = converted(cell.activation), converted(cell.recurrent_activation)
        before, carry = states
        put_in, keep, candidate, put_out = tf.split(projected + tf.matmul(before, cell.recurrent_kernel), 4, axis=1)
        carry = gate(keep) * carry + gate(put_in) * activation(candidate)
        after = gate(put_out) * activation(carry)
        return after, [after, carry]


class GRU(Recurrent):
    """Three gates: update, reset, candidate (Cho et al. 2014, arXiv:1406.1078)."""

    kind, cell_kind, draws = layers.GRU, layers.GRUCell, 3

    def input_bias(self, cell: Any) -> tf.Tensor:
        return cell.bias[0] if cell.reset_after else cell.bias

    def step(self, cell: Any, projected: tf.Tensor, states: Any, dropped: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        activation, gate = converted(cell.activation), converted(cell.recurrent_activation)
        (before,), units = states, cell.units
        update, reset, candidate = tf.split(projected, 3, axis=1)
        if cell.reset_after:
            inner = tf.matmul(before, cell.recurrent_kernel)
            inner = inner + cell.bias[1] if cell.use_bias else inner
            more, again, last = tf.split(inner, 3, axis=1)
            update, reset = gate(update + more), gate(reset + again)
            candidate = activation(candidate + reset * last)
        else:
            more, again = tf.split(tf.matmul(before, cell.recurrent_kernel[:, : 2 * units]), 2, axis=1)
            update, reset = gate(update + more), gate(reset + again)
            candidate = activation(candidate + tf.matmul(reset * before, cell.recurrent_kernel[:, 2 * units :]))
        after = update * before + (1.0 - update) * candidate
        return tf.concat([after, reset], axis=1), [after]

    def parts(self, layer: Any, seen: Seen, gradient: tf.Tensor) -> dict[str, Part]:
        found = super().parts(layer, seen, gradient)
        _, previous, reset = seen.remembered
        units = layer.cell.units
        gates, candidate = gradient[..., : 2 * units], gradient[..., 2 * units :]
        if not layer.cell.reset_after:
            both = [product_over_steps(previous, gates), product_over_steps(reset * previous, candidate)]
            return {**found, "recurrent_kernel": beside(both)}
        inner = tf.concat([gates, reset * candidate], axis=2)
        biases = [tf.reduce_sum(one, axis=1) for one in (gradient, inner)]
        return {
            **found,
            "recurrent_kernel": product_over_steps(previous, inner),
            "bias": formed(tf.stack(biases, axis=1)),
        }


def _first(masks: Any) -> Any:
    """The mask of all gates of those that a cell drew: of a list the first, as Keras' cells take it."""
    return masks[0] if isinstance(masks, (list, tuple)) else masks
