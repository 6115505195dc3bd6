"""Numbers of rows that an Embedding's table does not have: found in the data before training.

Uncompiled code stops at such a number with TensorFlow's error; compiled code takes the nearest row for it, and trains a
model of other tokens without a word. What an Embedding is given by the model's input itself can be read from the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import Problem
from tff_hospitals.models import inputs


@dataclasses.dataclass(frozen=True)
class Table:
    """An Embedding that takes some of a record's numbers as they are: `size` of them from `start`, below `rows`."""

    path: str
    rows: int
    start: int
    size: int


def tables(model: Any) -> tuple[Table, ...]:
    """The tables of a functional or sequential model that inputs are looked up in directly; none of other models.

    Args:
      model: a `FunctionalModel`.
    """
    keras = model.keras
    if not getattr(keras, "_is_graph_network", False):
        return ()
    places = inputs.places_of_inputs(keras, model.signature)
    sources = {_key(one): place for one, place in zip(keras.inputs, places) if place is not None}
    return tuple(dict.fromkeys(_tables(keras, sources, "")))


def problems(found: Sequence[Table], features: np.ndarray, names: Sequence[str], where: str) -> list[Problem]:
    r"""One problem for each table that lacks a row for some record.

    >>> table = Table("words", rows=9, start=0, size=2)
    >>> for one in problems([table], np.array([[1.0, 8.0], [3.0, 12.0]]), (), "train part of north"):
    ...     print(one.name, one.value, one.bound, one.remedy, sep="\n")
    column 1 in train part of north
    12
    must be from 0 to 8: the table of layer words has no other rows
    set input_dim of words to 13 or more, or number the values from 0

    Args:
      found: as `tables` gives them.
      features: [records, *feature_shape].
      names: of the columns; their numbers stand where there are none.
      where: whose records these are, for messages.
    """
    if not found or not len(features):
        return []
    flat, made = features.reshape(len(features), -1), []
    for table in found:
        part = flat[:, table.start : table.start + table.size]
        outside = ~((part > -1.0) & (part < table.rows))  # a number is looked up without its fraction
        columns = np.flatnonzero(outside.any(axis=0))
        if not columns.size:
            continue
        values = part[:, columns[0]][outside[:, columns[0]]]
        value = values[np.argmax(np.abs(values))]
        column = table.start + int(columns[0])
        name = names[column] if len(names) == flat.shape[1] else column
        bound = f"must be from 0 to {table.rows - 1}: the table of layer {table.path} has no other rows"
        remedy = "number the values from 0"
        if value >= table.rows:
            remedy = f"set input_dim of {table.path} to {int(value) + 1} or more, or {remedy}"
        made.append(Problem(f"column {name} in {where}", f"{value:g}", bound, remedy))
    return made


def _key(tensor: Any) -> tuple[int, int, int]:
    layer, node, place = tensor._keras_history
    return id(layer), node, place


def _tables(container: Any, sources: dict[Any, tuple[int, int]], prefix: str) -> Iterator[Table]:
    for layer in container.layers:
        for node in layer._inbound_nodes:
            given = [sources.get(_key(one)) for one in node.keras_inputs]
            if not any(given):
                continue
            if type(layer).call is tf.keras.layers.Embedding.call and given[0] is not None:
                yield Table(f"{prefix}{layer.name}", layer.input_dim, *given[0])
            elif getattr(layer, "_is_graph_network", False) and len(given) == len(layer.inputs):
                inside = {_key(one): place for one, place in zip(layer.inputs, given) if place is not None}
                yield from _tables(layer, inside, f"{prefix}{layer.name}/")
