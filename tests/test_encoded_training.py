"""Training with encoders: bytes are those of real payloads, state resumes bit-equal, and there is less to send."""

from __future__ import annotations

import collections
import csv
import json

import numpy as np
import pytest
import toy

from tff_hospitals.communication import parse_chain
from tff_hospitals.communication.bits import pack, unpack
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.models import build_model
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.processes import encoded_transfer as exchanges
from tff_hospitals.training import loop
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

PLAN = Plan().replace(
    rounds=5,
    checkpoint_every=2,
    client={"local_steps": 4, "batch_size": 4, "learning_rate": 0.2},
    model={"name": "mlp", "options": {"hidden_units": [6]}},
)
SPARSE = PLAN.replace(
    broadcast="delta,topk:0.2,ternary:mean,entropy", upload="topk:0.1,ternary:mean,entropy", error_feedback=True
)


@pytest.fixture(scope="module")
def dataset():
    return toy.hospitals()


@pytest.fixture(scope="module")
def model(dataset):
    return loop.build_model(PLAN, dataset)


def flat(weights):
    return np.concatenate([np.ravel(weight) for weight in weights])


def rows_of(run, name="bytes.csv"):
    with (run.directory / name).open() as file:
        return list(csv.DictReader(file))


def dense_size(model):
    return 4 * model.parameters


def test_lossless_chains_train_bit_for_bit_as_dense_float32(dataset, model, tmp_path):
    plain = train(PLAN, dataset, model=model, runtime="compiled")
    lossless = train(PLAN.replace(broadcast="entropy", upload="entropy"), dataset, model=model)
    np.testing.assert_allclose(flat(lossless.weights), flat(plain.weights), rtol=1e-5, atol=1e-7)


def test_counted_bytes_are_those_of_the_payloads_that_trained(dataset, model, tmp_path, monkeypatch):
    sent = []
    original = exchanges.EncodedTransfer.send_upload

    def spy(self, update, key, residual):
        upload = original(self, update, key, residual)
        again = self.upload.encode(self.named(update), key, want_decoded=False).payload
        assert all((a == b).all() for a, b in zip(self.upload.decode(again, self.shapes, key), upload.update))
        sent.append(len(again))
        return upload

    monkeypatch.setattr(exchanges.EncodedTransfer, "send_upload", spy)
    run = train(PLAN.replace(upload="rotate,quantize:3"), dataset, model=model, run_dir=tmp_path / "run")
    rows = rows_of(run)
    assert len(rows) == len(sent) == 15
    assert sorted(int(row["bytes_up"]) - 4 for row in rows) == sorted(sent)  # 4 bytes: the hospital's weight
    assert run.summary["bytes_up"] == sum(sent) + 15 * 4
    assert {int(row["dense_bytes_up"]) for row in rows} == {dense_size(model)}
    assert run.summary["communication"]["times_fewer_up"] == pytest.approx(15 * dense_size(model) / (sum(sent) + 60))


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_error_feedback_and_the_held_model_resume_bit_equal(dataset, model, tmp_path, stop_after):
    whole = train(SPARSE, dataset, model=model, run_dir=tmp_path / "whole")

    def die(progress):
        if progress.round == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SPARSE, dataset, model=model, run_dir=tmp_path / "run", on_round=die)
    resumed = train(SPARSE, dataset, model=model, run_dir=tmp_path / "run")
    assert flat(resumed.weights).tolist() == flat(whole.weights).tolist()
    for name in ("metrics.csv", "bytes.csv", "drift.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_error_feedback_sends_later_what_was_left_out(dataset, model):
    steady = PLAN.replace(rounds=12, client={"learning_rate": 0.05})
    dense = flat(train(steady, dataset, model=model).weights)
    start = flat(model.initial_weights(Streams.from_seed(steady.seed).child("model").key())[0])
    errors = {}
    for feedback in (True, False):
        plan = steady.replace(upload="topk:0.05", error_feedback=feedback)
        errors[feedback] = np.linalg.norm(flat(train(plan, dataset, model=model).weights) - dense)
    assert errors[True] < 0.7 * errors[False]
    assert errors[False] < np.linalg.norm(start - dense)


def test_a_hospital_below_the_threshold_sends_nothing(dataset, model, tmp_path):
    start = flat(model.initial_weights(Streams.from_seed(PLAN.seed).child("model").key())[0])
    silent = train(PLAN.replace(skip_below=1e6), dataset, model=model, run_dir=tmp_path / "silent")
    assert flat(silent.weights).tolist() == start.tolist()
    assert silent.summary["bytes_up"] == 0
    assert silent.summary["communication"]["skipped_uploads"] == 15
    assert "15 uploads were skipped" in silent.summary["communication"]["difference"]
    loud = train(PLAN.replace(skip_below=1e-6), dataset, model=model)
    assert loud.summary["communication"]["skipped_uploads"] == 0
    some = train(PLAN.replace(skip_below=0.35), dataset, model=model)
    assert 0 < some.summary["communication"]["skipped_uploads"] < 15


def test_a_hospital_that_missed_rounds_fetches_what_it_missed(dataset, model, tmp_path):
    plan = PLAN.replace(rounds=8, broadcast="delta,quantize:8", cohort={"kind": "fixed_size", "hospitals_per_round": 1})
    run = train(plan, dataset, model=model, run_dir=tmp_path / "run")
    payload = len(
        parse_chain("delta,quantize:8")
        .encode(
            [
                (name, np.ones(spec.shape, np.float32))
                for name, spec in zip(model.trainable_names, model.trainable_specs)
            ],
            np.array([1, 2]),
            reference=[np.zeros(spec.shape, np.float32) for spec in model.trainable_specs],
        )
        .payload
    )
    last = {}
    for row in rows_of(run):
        number, name, down = int(row["round"]), row["hospital"], int(row["bytes_down"]) - 4
        missed = number - last[name] if name in last else None
        assert down == (dense_size(model) if missed is None else min(missed * payload, dense_size(model)))
        last[name] = number
    assert len(last) > 1


def test_all_hospitals_decode_the_same_model_and_errors_do_not_add_up(model):
    shapes = [spec.shape.as_list() for spec in model.trainable_specs]
    transfer = exchanges.build_encoded_transfer("delta,rotate,quantize:4", "", model.trainable_names, shapes)
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    held = transfer.no_broadcast()["held"]
    errors = []
    for number in range(30):
        sent = transfer.send_broadcast(weights, held, number == 0, np.array([number, 1]))
        held = sent.held
        errors.append(np.linalg.norm(flat(held) - flat(weights)))
        weights = [w + 0.01 * generator.standard_normal(w.shape).astype(np.float32) for w in weights]
    assert errors[0] == 0  # the first model is fetched as it is
    assert max(errors[1:]) < 4 * min(errors[1:])  # what one payload leaves out, the next one carries


@pytest.mark.parametrize("mechanism", ["fixed_clip", "adaptive_clip", "tree"])
def test_no_encoder_moves_the_sum_by_more_than_the_clip_norm(dataset, model, mechanism):
    import tensorflow as tf

    plan = PLAN.replace(
        weighting="equal",
        upload="rotate,quantize:1",  # stretches vectors more than any other
        privacy={"mechanism": mechanism, "clip_norm": 0.3, "noise_multiplier": 0.1, "delta": 1e-2},
    )
    parts = composition.compose(plan, dataset, model)
    state = parts.aggregator.initial_state(np.array([1, 2]), 0.1)
    parameters = parts.aggregator.parameters(tf.nest.map_structure(tf.constant, state))
    generator = np.random.default_rng(1)
    stretched = 0
    for number in range(20):
        update = tuple(
            tf.constant(10.0 ** generator.integers(-3, 3) * generator.standard_normal(spec.shape), tf.float32)
            for spec in model.trainable_specs
        )
        prepared = parts.aggregator.prepare(parameters, update, tf.constant(1.0), parts.aggregator.no_hospital_noise())
        sent = parts.transfer.send_upload(prepared["delta"], np.array([number, 3]), None)
        stretched += exchanges.norm_of(sent.update) > 0.3001
        decoded = tuple(tf.constant(part) for part in sent.update)
        used = parts.aggregator.received(parameters, prepared, decoded, tf.constant(1.0))
        assert exchanges.norm_of([part.numpy() for part in used["delta"]]) <= 0.3 * (1 + 1e-5)
        if mechanism == "adaptive_clip":  # the bit is of the update, not of what an encoder made of it
            norm = exchanges.norm_of([part.numpy() for part in update])
            assert float(used["below"]) == (0.5 if norm <= 0.3 else -0.5)
    assert stretched > 5  # or the second clip would not have been tried


def test_a_payload_that_is_not_what_tff_used_ends_the_run(dataset, model, monkeypatch):
    from tff_hospitals.processes import tff_encoded_transfer
    from tff_hospitals.runtimes.native.encoded_transfer import PayloadMismatch

    original = tff_encoded_transfer.encoders.transcode
    monkeypatch.setattr(tff_encoded_transfer.encoders, "transcode", lambda *given: 1.5 * original(*given))
    with pytest.raises(PayloadMismatch, match=r"round 1: the upload of 'site_0'"):
        train(PLAN.replace(upload="rotate,quantize:4", rounds=1), dataset, model=model, runtime="native")


def test_whole_numbers_of_a_secure_sum_are_counted_without_gaps(dataset, model):
    privacy = {"mechanism": "skellam", "clip_norm": 1.0, "noise_multiplier": 0.5, "delta": 1e-2, "modulus_bits": 16}
    parts = composition.compose(PLAN.replace(weighting="equal", privacy=privacy), dataset, model)
    numbers = np.random.default_rng(0).integers(2**16, size=parts.aggregator.dimension + 1).astype(np.uint16)
    packed = pack(numbers, 16)
    assert (unpack(packed.tobytes(), numbers.size, 16) == numbers).all()
    assert parts.wire_bytes()[1] == packed.nbytes


# -- less to send -------------------------------------------------------------


def test_only_the_layers_of_a_mask_travel_and_frozen_ones_are_fetched_once(dataset, tmp_path):
    plan = PLAN.replace(model={"options": {"hidden_units": [6], "trainable": ["output"]}})
    run = train(plan, dataset, run_dir=tmp_path / "run")
    output, hidden = 4 * (6 * 1 + 1), 4 * (5 * 6 + 6)
    for row in rows_of(run):
        first = hidden if row["round"] == "1" else 0
        assert int(row["bytes_down"]) == output + 4 + first
        assert int(row["bytes_up"]) == output + 4
    before = run.model.keras_model(*run.model.initial_weights(Streams.from_seed(42).child("model").key()))
    after = run.keras_model()
    assert (after.get_layer("dense_1").kernel.numpy() == before.get_layer("dense_1").kernel.numpy()).all()
    assert (after.get_layer("output").kernel.numpy() != before.get_layer("output").kernel.numpy()).any()
    with pytest.raises(InvalidInput, match=r"the layers are: dense_1, output"):
        build_model("mlp", dataset, hidden_units=[6], trainable="ouput")


def test_low_rank_adapters_train_and_merge_back_into_the_plain_model(dataset, tmp_path):
    import tensorflow as tf

    options = {"hidden_units": [16, 16], "lora_rank": 2}
    plan = PLAN.replace(model={"options": options}, upload="rotate,quantize:8")
    run = train(plan, dataset, run_dir=tmp_path / "run")
    model = run.model
    # dense_1 5x16 and dense_2 16x16 are adapted; for 16x1 adapters would be larger, so the output trains whole
    assert sorted(model.trainable_names) == [
        "dense_1/lora_a",
        "dense_1/lora_b",
        "dense_2/lora_a",
        "dense_2/lora_b",
        "output/bias",
        "output/kernel",
    ]
    assert model.parameters == 2 * (5 + 16) + 2 * (16 + 16) + 17
    features = dataset.hospitals[0].test.features
    merged = run.keras_model()
    expected = model.predict(run.weights, run.frozen, features, training=False).numpy()
    np.testing.assert_allclose(merged(features).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not any("plain Keras cannot load" in text for text in run.summary["warnings"])
    assert not (tmp_path / "run" / "model.weights.h5").exists()
    loaded = tf.keras.models.load_model(tmp_path / "run" / "model.keras")
    assert [type(layer).__name__ for layer in loaded.layers] == ["InputLayer", "Dense", "Dense", "Dense"]
    np.testing.assert_allclose(loaded(features).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert int(rows_of(run)[0]["dense_bytes_up"]) == 4 * model.parameters
    change = merged.get_layer("dense_2").kernel.numpy() - run.frozen[list(model.frozen_names).index("dense_2/kernel")]
    assert np.linalg.matrix_rank(change, tol=1e-5) == 2


def test_adapters_begin_as_the_pretrained_model_and_train_under_dp(dataset, tmp_path):
    from tff_hospitals.models import save_keras

    plain = build_model("mlp", dataset, hidden_units=[16])
    weights, frozen = plain.initial_weights(np.array([5, 6]))
    save_keras(plain.keras_model(weights, frozen), tmp_path / "start.keras")
    adapted = build_model("mlp", dataset, hidden_units=[16], lora_rank=1, pretrained=str(tmp_path / "start.keras"))
    features = dataset.hospitals[0].test.features
    before = plain.predict(weights, frozen, features, training=False).numpy()
    after = adapted.predict(*adapted.initial_weights(np.array([0, 1])), features, training=False).numpy()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    private = PLAN.replace(
        rounds=2,
        model={"options": {"hidden_units": [16], "lora_rank": 1, "pretrained": str(tmp_path / "start.keras")}},
        privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-2},
    )
    run = train(private, dataset)
    assert run.summary["epsilon"] > 0
    other = str(tmp_path / "start.keras")
    with pytest.raises(InvalidInput, match=r"\(5, 16\) in the file and \(5, 8\) here"):
        build_model("mlp", dataset, hidden_units=[8], lora_rank=1, pretrained=other)


@pytest.mark.parametrize(("rank", "words"), [(0, "must be"), (50, r"no dense layer of mlp \(dense_1 \(5, 6\)")])
def test_a_rank_that_saves_nothing_is_refused(dataset, rank, words):
    with pytest.raises(InvalidInput, match=words):
        build_model("mlp", dataset, hidden_units=[6], lora_rank=rank)


def test_digits_learnt_elsewhere_are_a_start_for_other_digits_across_sites(tmp_path):
    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.models import save_keras

    client = {"local_steps": None, "local_epochs": 15, "batch_size": 16, "learning_rate": 0.1}
    public = PLAN.replace(rounds=1, model={"options": {"hidden_units": [32]}}, client=client)
    there = train(public, load_dataset("digits", sites=1, labels=[0, 1, 2, 3, 4]))
    save_keras(there.keras_model(), tmp_path / "start.keras")
    sites = load_dataset("digits", sites=5, labels=[5, 6, 7, 8, 9])
    assert set(sites.pooled_test().labels) == {5, 6, 7, 8, 9}
    options = {"hidden_units": [32], "pretrained": str(tmp_path / "start.keras"), "trainable": "output", "lora_rank": 4}
    plan = PLAN.replace(rounds=15, model={"options": options}, client={**client, "local_epochs": 2})
    tuned = train(plan.replace(upload="rotate,quantize:4", broadcast="delta,rotate,quantize:4"), sites)
    dense = train(plan.replace(model={"options": {"hidden_units": [32]}}), sites)
    assert tuned.evaluation["pooled"]["accuracy"] > dense.evaluation["pooled"]["accuracy"] - 0.05
    assert tuned.summary["bytes_up"] < dense.summary["bytes_up"] / 12
    assert tuned.summary["bytes_down"] < dense.summary["bytes_down"] / 5  # the pretrained layers are fetched once


# -- what is written down -----------------------------------------------------


def test_stored_rounds_begin_with_the_model_that_hospitals_decoded(dataset, model, tmp_path):
    plan = PLAN.replace(rounds=2, broadcast="quantize:2")
    train(plan, dataset, model=model, run_dir=tmp_path / "run", store_updates=1)
    with np.load(tmp_path / "run" / "updates" / "round_000001.npz") as stored:
        for key in [name for name in stored.files if name.startswith("weight_")]:
            assert len(np.unique(stored[key])) <= 4


def test_drift_is_the_distance_of_the_hospitals_models_from_their_mean(dataset, model, tmp_path):
    run = train(PLAN.replace(rounds=2), dataset, model=model, run_dir=tmp_path / "run", store_updates=1)
    for row in rows_of(run, "drift.csv"):
        with np.load(tmp_path / "run" / "updates" / f"round_{int(row['round']):06d}.npz") as stored:
            names = [str(one) for one in stored["hospitals"]]
            deltas = np.stack(
                [
                    flat([stored[key] for key in sorted(stored.files) if key.startswith(f"delta_{k:06d}")])
                    for k in range(len(names))
                ]
            )
        weights = np.array([dataset.hospital(name).train.records for name in names], np.float64)
        mean = (weights[:, None] * deltas).sum(axis=0) / weights.sum()
        expected = np.sqrt((weights * np.square(deltas - mean).sum(axis=1)).sum() / weights.sum())
        assert float(row["drift"]) == pytest.approx(expected, rel=1e-3)


def test_more_local_work_drifts_further(dataset, model):
    drift = {}
    for epochs in (1, 8):
        plan = PLAN.replace(rounds=1, client={"local_steps": None, "local_epochs": epochs})
        drift[epochs] = train(plan, dataset, model=model).summary["communication"]["drift_mean"]
    assert drift[8] > 2 * drift[1]


def test_hospital_level_privacy_keeps_drift_out_of_the_files(dataset, model, tmp_path):
    privacy = {"mechanism": "fixed_clip", "clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-2}
    run = train(PLAN.replace(weighting="equal", privacy=privacy), dataset, model=model, run_dir=tmp_path / "run")
    assert not (run.directory / "drift.csv").exists()
    assert not [path for path in run.directory.glob("**/drift.csv") if len(path.read_text().splitlines()) > 1]


def test_time_on_the_link_and_the_classic_formula(dataset, model, tmp_path):
    link = {"uplink_mbps": 0.001, "downlink_mbps": 0.01, "latency_ms": 100.0}
    run = train(PLAN.replace(link=link), dataset, model=model, run_dir=tmp_path / "run")
    size = dense_size(model)
    expected = 8 * (size + 4) / 1000 + 8 * (size + 4) / 10000 + 0.2
    assert [float(row["link_seconds"]) for row in rows_of(run)] == pytest.approx([expected] * 15)
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["communication"]
    assert told["classic_bytes"] == 2 * size * 3 * 5
    assert told["measured_bytes"] == 2 * (size + 4) * 3 * 5
    assert told["difference"] == "+120 bytes: weights, counts and clip norms travel beside model and update"
    assert told["link_seconds_per_round"] == pytest.approx(expected)


def test_an_encoder_of_another_key_is_not_understood_as_this_one(model):
    shapes = [spec.shape.as_list() for spec in model.trainable_specs]
    transfer = exchanges.build_encoded_transfer("", "rotate,onebit", model.trainable_names, shapes)
    update = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in shapes]
    one, other = (transfer.send_upload(update, np.array(key), None) for key in ([1, 2], [1, 3]))
    assert flat(one.update).tolist() != flat(other.update).tolist()
    assert collections.Counter([one.payload_bytes, other.payload_bytes])[one.payload_bytes] == 2
