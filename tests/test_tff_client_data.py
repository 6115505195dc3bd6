"""Hospitals as a TFF simulation set, and back."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import toy

from tff_hospitals.foundations.validation import InvalidInput

pytestmark = pytest.mark.tensorflow


def test_hospitals_become_clients_and_come_back():
    from tff_hospitals.tff import from_client_data, to_client_data

    dataset = toy.hospitals(classes=3)
    train, test = to_client_data(dataset), to_client_data(dataset, train=False)
    assert train.client_ids == sorted(dataset.ids)
    back = from_client_data(train, test, name="again")
    assert back.ids == dataset.ids
    assert (back.task, back.num_classes, back.feature_shape) == ("multiclass", 3, (5,))
    for one, other in zip(dataset, back):
        for mine, theirs in ((one.train, other.train), (one.test, other.test)):
            np.testing.assert_array_equal(mine.features, theirs.features)
            np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert from_client_data(train).records(train=False) == dict.fromkeys(dataset.ids, 0)


def test_the_function_that_tff_ships_gives_the_same_records():
    import tensorflow as tf

    from tff_hospitals.tff import to_client_data

    dataset = toy.hospitals()
    clients = to_client_data(dataset)
    assert tf.nest.map_structure(lambda spec: spec.shape.as_list(), clients.element_type_structure) == {
        "x": [5],
        "y": [],
    }
    for name in clients.client_ids:
        shipped = list(clients.serializable_dataset_fn(tf.constant(name)).as_numpy_iterator())
        direct = list(clients.create_tf_dataset_for_client(name).as_numpy_iterator())
        assert len(shipped) == len(direct) == dataset.hospital(name).train.records
        np.testing.assert_array_equal(shipped[-1]["x"], direct[-1]["x"])
        assert shipped[-1]["y"] == direct[-1]["y"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="no such client"):
        clients.serializable_dataset_fn(tf.constant("elsewhere"))
    with pytest.raises(InvalidInput, match="did you mean 'site_0'"):
        clients.create_tf_dataset_for_client("site0")
    batched = clients.preprocess(lambda records: records.batch(4))
    assert next(iter(batched.create_tf_dataset_for_client("site_0")))["x"].shape == (4, 5)


def test_preprocessing_makes_the_rounds_of_a_plan():
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.tff import preprocess_fn, to_client_data

    clients = to_client_data(toy.hospitals())

    def sizes(**client):
        plan = Plan().replace(client={"batch_size": 4, "local_steps": None, "local_epochs": None, **client})
        return [len(one["y"]) for one in clients.preprocess(preprocess_fn(plan)).create_tf_dataset_for_client("site_2")]

    assert sizes(local_epochs=2) == [4, 3, 4, 3]
    assert sizes(local_steps=3) == [4, 3, 4]
    dp_sgd = Plan().replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0})
    (first, *_) = clients.preprocess(preprocess_fn(dp_sgd)).create_tf_dataset_for_client("site_2")
    assert first["x"].shape == (5,)


def test_client_data_that_does_not_fit_is_named():
    import tensorflow_federated as tff

    from tff_hospitals.tff import from_client_data

    def of(**clients):
        return tff.simulation.datasets.TestClientData(clients)

    pairs = {"pixels": [[1.0, 2.0]], "label": [3]}
    emnist = from_client_data(of(a=collections.OrderedDict(pairs)))
    assert emnist.num_classes == 4
    with pytest.raises(InvalidInput, match="one is named"):
        from_client_data(of(a={"pixels": [[1.0]], "colour": [3]}))
    with pytest.raises(InvalidInput, match="unbatch the client data"):
        from_client_data(of(a={"x": [[[1.0]]], "y": [[3, 4]]}))
    with pytest.raises(InvalidInput, match="task='colour'"):
        from_client_data(of(a=pairs), task="colour")
    half = from_client_data(of(a={"x": [[1.0]], "y": [0.5]}))
    assert (half.task, half.num_classes) == ("regression", 1)
