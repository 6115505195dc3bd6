"""Data both ways: our hospitals as a TFF simulation set, and any TFF simulation set as our hospitals."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals.foundations.signature import TASKS
from tff_hospitals.foundations.validation import InvalidInput, Problem, raise_if
from tff_hospitals.hospitals import NO_PREPROCESSING, Hospital, HospitalDataset, Part
from tff_hospitals.hospitals.lazy import load_part
from tff_hospitals.tff.data_spec import parts_of


class HospitalClientData(tff.simulation.datasets.ClientData):
    """The hospitals of a data set as clients; an element is `OrderedDict(x=features, y=label)`.

    Args:
      dataset: the hospitals.
      train: their training part, or else their test part; hospitals without records in it are left out.
    """

    def __init__(self, dataset: HospitalDataset, *, train: bool = True):
        sizes = dataset.records(train)
        self._dataset, self._train = dataset, train
        self._ids = sorted(name for name, size in sizes.items() if size)
        label = tf.float32 if dataset.task == "regression" else tf.int64
        self._spec = collections.OrderedDict(
            x=tf.TensorSpec(dataset.feature_shape, tf.float32), y=tf.TensorSpec([], label)
        )

    @property
    def client_ids(self) -> list[str]:
        """Ids of the hospitals that have records, sorted."""
        return self._ids

    @property
    def element_type_structure(self) -> collections.OrderedDict:
        """Specs of a record."""
        return self._spec

    def create_tf_dataset_for_client(self, client_id: str) -> tf.data.Dataset:
        """The records of one hospital, in their order.

        Raises:
          InvalidInput: an unknown id; offers the nearest ones.
        """
        hospital = self._dataset.hospital(client_id)
        part = load_part(hospital.train if self._train else hospital.test)
        return tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=part.features, y=part.labels))

    @property
    def serializable_dataset_fn(self) -> Any:
        """A function from the id as a tensor to the records; it holds all records as constants of its graph."""
        parts = []
        for name in self._ids:
            hospital = self._dataset.hospital(name)
            parts.append(load_part(hospital.train if self._train else hospital.test))
        features = np.concatenate([part.features for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        ends = np.cumsum([part.records for part in parts]).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        ids = self._ids

        @tf.function
        def dataset_of(client_id: tf.Tensor) -> tf.data.Dataset:
            found = tf.where(tf.equal(tf.constant(ids), client_id))[:, 0]
            known = tf.debugging.Assert(tf.equal(tf.size(found), 1), ["no such client:", client_id])
            with tf.control_dependencies([known]):
                place = found[0]
            rows = slice(tf.constant(starts)[place], tf.constant(ends)[place])
            records = collections.OrderedDict(x=tf.constant(features)[rows], y=tf.constant(labels)[rows])
            return tf.data.Dataset.from_tensor_slices(records)

        return dataset_of


def to_client_data(dataset: HospitalDataset, *, train: bool = True) -> tff.simulation.datasets.ClientData:
    """The hospitals as `tff.simulation.datasets.ClientData`, for TFF's client selection and preprocessing.

    Args:
      dataset: the hospitals.
      train: their training records, or else their test records.
    """
    return HospitalClientData(dataset, train=train)


def from_client_data(
    train: tff.simulation.datasets.ClientData,
    test: tff.simulation.datasets.ClientData | None = None,
    *,
    name: str = "client_data",
    task: str | None = None,
    num_classes: int | None = None,
    most_clients: int | None = None,
) -> HospitalDataset:
    """A TFF simulation set as hospitals, such as EMNIST or CIFAR-100 of `tff.simulation.datasets`.

    Args:
      train: training records of each client, unbatched: (features, label), or a mapping with a name for the label.
      test: test records of the same clients, kept at each; a client without them has none.
      name: of the data set.
      task: `binary`, `multiclass` or `regression`; by default from the labels.
      num_classes: by default one more than the largest label.
      most_clients: the first so many by id; None for all.

    Raises:
      InvalidInput: records of another form or of different shapes, labels that do not fit the task.
    """
    raise_if([None if task is None or task in TASKS else Problem("task", task, f"must be one of {TASKS}", "name one")])
    ids = list(train.client_ids)[:most_clients]
    known = set() if test is None else set(test.client_ids)
    arrays = {one: _arrays(train, one) for one in ids}
    tests = {one: _arrays(test, one) if one in known and test is not None else None for one in ids}
    labels = np.concatenate([part[1] for part in (*arrays.values(), *tests.values()) if part is not None])
    task = task or _task_of(labels)
    if num_classes is None:
        num_classes = 1 if task == "regression" else max(2, int(labels.max()) + 1)
    kind = np.float32 if task == "regression" else np.int64
    shape = next(iter(arrays.values()))[0].shape[1:]
    empty = (np.zeros((0, *shape), np.float32), np.zeros(0, kind))

    def part(given: tuple[np.ndarray, np.ndarray] | None) -> Part:
        features, own = empty if given is None else given
        return Part(features, own.astype(kind))

    return HospitalDataset(
        name=name,
        hospitals=tuple(Hospital(one, part(arrays[one]), part(tests[one])) for one in ids),
        task=task,
        num_classes=num_classes,
        feature_shape=tuple(shape),
        feature_names=(),
        provenance=f"a TFF simulation set ({type(train).__name__})",
        licence="that of the set",
        simulated=True,
        partition="as TFF gives it",
        preprocessing=NO_PREPROCESSING,
    )


def _arrays(data: Any, client_id: str) -> tuple[np.ndarray, np.ndarray]:
    dataset = data.create_tf_dataset_for_client(client_id)
    _, labels = parts_of(dataset.element_spec)
    if labels.shape.rank not in (0, None) and labels.shape.num_elements() != 1:
        bound = "must be one number: records come unbatched"
        raise InvalidInput([Problem(f"label of {client_id}", str(labels.shape), bound, "unbatch the client data")])
    records = [parts_of(element) for element in dataset.as_numpy_iterator()]
    if not records:
        bound = "must have at least one record"
        raise InvalidInput([Problem("client", client_id, bound, "leave it out, or filter the client ids")])
    shapes = {np.shape(one) for one, _ in records}
    if len(shapes) > 1:
        bound = f"must have one shape, not {sorted(shapes)[:4]}"
        raise InvalidInput([Problem(f"records of {client_id}", len(records), bound, "preprocess the client data")])
    return (
        np.stack([np.asarray(one, np.float32) for one, _ in records]),
        np.asarray([np.reshape(label, ()) for _, label in records]),
    )


def _task_of(labels: np.ndarray) -> str:
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels)):
        return "regression"
    return "binary" if labels.max(initial=0) <= 1 else "multiclass"
