"""Records that come into memory by chunks: the same result, bounded memory, very unequal sites, refusals by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toy

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import Part, load_dataset
from tff_hospitals.hospitals.lazy import PartStore, lazy_hospital
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes.compiled import device_data
from tff_hospitals.runtimes.compiled.scanned import ScannedProgram
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.round_inputs import RoundDrawer

pytestmark = pytest.mark.tensorflow

SIZES = (3, 40, 1, 400, 8, 120, 2)
PLAN = Plan(rounds=2, evaluate_every=2).replace(
    client={"local_steps": None, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.1}
)
DP = {"mechanism": "dp_sgd", "noise_multiplier": 0.5, "delta": 1e-3}
CNN = {"name": "cnn", "options": {"filters": [2], "dense_units": 4}}


def sites(lazy, features=6, sizes=SIZES):
    return load_dataset("synthetic", sites=len(sizes), records_per_site=sizes, features=features, lazy=lazy)


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


@pytest.mark.parametrize(
    ("changes", "features"),
    [
        ({}, 6),
        pytest.param({"privacy": DP}, 6, marks=pytest.mark.slow),
        ({"upload": "quantize:8"}, 6),
        ({"model": CNN}, (8, 8, 1)),
    ],
    ids=["scanned", "scanned with noise", "encoded", "side by side"],
)
def test_streamed_sites_give_what_resident_ones_give(changes, features, common_noise):
    plan = PLAN.replace(**changes)
    streamed, kept = train(plan, sites(True, features)), train(plan, sites(False, features))
    np.testing.assert_allclose(flat(streamed.weights), flat(kept.weights), rtol=1e-5, atol=1e-6)
    assert streamed.ledger == kept.ledger
    assert list(streamed.evaluation) == list(kept.evaluation)
    for scope, metrics in streamed.evaluation.items():
        assert metrics == pytest.approx(kept.evaluation[scope], rel=1e-5, abs=1e-6, nan_ok=True)


def test_chunks_of_any_bound_give_the_same_bits(monkeypatch):
    dataset = sites(True)
    whole = train(PLAN, dataset).weights
    monkeypatch.setattr(device_data, "KEPT_BYTES", 0)
    monkeypatch.setattr(PartStore, "get", lambda self, name, make: make())
    assert flat(train(PLAN, dataset).weights).tolist() == flat(whole).tolist()


def test_only_chunks_are_held():
    dataset = sites(True, sizes=(50,) * 40)
    bytes_each = 50 * device_data.record_bytes(dataset)
    data = device_data.StreamedData(dataset, kept_bytes=3 * bytes_each)
    for hospital in dataset.hospitals:
        chunk = data.of((hospital,))
        assert chunk.features.shape == (50, 6)
        assert data.kept_bytes <= 3 * bytes_each
    np.testing.assert_array_equal(chunk.features.numpy(), dataset.hospitals[-1].train.features)


def test_what_is_too_large_to_be_resident_is_streamed():
    dataset = sites(False)
    total = sum(SIZES) * device_data.record_bytes(dataset)
    assert device_data.record_bytes(dataset) == 6 * 4 + 8
    assert isinstance(device_data.load(dataset, resident_bytes=total), device_data.ResidentData)
    assert isinstance(device_data.load(dataset, resident_bytes=total - 1), device_data.StreamedData)
    assert isinstance(device_data.load(sites(True)), device_data.StreamedData)


def cohort(sizes):
    dataset = toy.hospitals(sizes)
    plan = PLAN.replace(data={"name": "toy"})
    return RoundDrawer(plan, dataset, noise_plan.make(plan, dataset), Streams.from_seed(0)).draw(0).cohort


def test_pieces_are_alike_in_size_and_lose_nobody():
    found = [[one.schedule.records for one in piece] for piece in device_data.pieces(cohort(SIZES), 3, 32)]
    assert sorted(size for piece in found for size in piece) == sorted(SIZES)
    # One step of 8 for 1, 2, 3 and 8 records; 5, 15 and 50 steps for 40, 120 and 400.
    assert found == [[3, 1, 8], [2], [40, 120], [400]]


def test_pieces_of_equal_sites_keep_their_order_and_their_bound(monkeypatch):
    equal = cohort((10, 12, 10, 12, 10))
    assert [len(piece) for piece in device_data.pieces(equal, 2, 32)] == [2, 2, 1]
    assert [one for piece in device_data.pieces(equal, 2, 32) for one in piece] == list(equal)
    monkeypatch.setattr(device_data, "CHUNK_BYTES", 22 * 32)
    assert [len(piece) for piece in device_data.pieces(equal, 5, 32)] == [2, 2, 1]
    assert list(device_data.pieces((), 5, 32)) == []


def test_rooms_waste_less_than_four_times():
    for rows in (1, 63, 65, 500, 4_000, 99_999, 100_000):
        assert rows <= device_data.room_for(rows, 100_000) <= max(64, 4 * rows + 4)


def test_very_unequal_sites_are_not_padded_to_the_largest():
    assert device_data.is_uneven(toy.hospitals((400, *(5,) * 9)))
    assert not device_data.is_uneven(toy.hospitals((40, *(20,) * 9)))


@pytest.mark.parametrize("client", [{}, {"local_epochs": None, "local_steps": 20}], ids=["an epoch", "20 steps"])
def test_small_sites_are_not_padded_to_the_batches_of_large_ones(client):
    dataset = toy.hospitals((2, 3, 500, 600, 4, 40))
    plan = PLAN.replace(client={"batch_size": 64, **client}, model={"name": "mlp"})
    model = build_model(plan, dataset)
    program = ScannedProgram(composition.compose(plan, dataset, model))
    one = RoundDrawer(plan, dataset, noise_plan.make(plan, dataset)).draw(0)
    chunks = program.chunks(one, device_data.record_bytes(dataset))
    assert chunks[0].ids == ("site_0", "site_1", "site_4")  # the three smallest
    assert sorted(name for chunk in chunks for name in chunk.ids) == list(dataset.ids)
    for chunk in chunks:
        for hospital in chunk.cohort:
            assert chunk.sizes["capacity"] <= device_data.MOST_PADDING * hospital.schedule.capacity
            assert chunk.sizes["steps"] <= device_data.MOST_PADDING * hospital.schedule.steps


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_float_types_other_than_float32_are_refused_by_name(dtype):
    whole = toy.hospitals()
    site = whole.hospitals[1]
    wrong = dataclasses.replace(site, train=Part(site.train.features.astype(dtype), site.train.labels))
    with pytest.raises(InvalidInput, match=rf"(?s)train part of site_1.*{np.dtype(dtype).name}"):
        dataclasses.replace(whole, hospitals=(whole.hospitals[0], wrong))


def test_a_lazy_site_that_breaks_its_word_is_refused_by_name_in_training():
    dataset = sites(True)

    def short(site, word):
        return Part(np.zeros((5, 6), np.float32), np.zeros(5, np.int64))

    liar = lazy_hospital("north", 9, 5, short, PartStore(), ModelSignature((6,), 2, "binary"))
    with pytest.raises(InvalidInput, match="train part of north=5: must be 9"):
        train(PLAN, dataclasses.replace(dataset, hospitals=(*dataset.hospitals, liar)))
