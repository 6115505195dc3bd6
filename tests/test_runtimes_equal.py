"""Every method, on every runtime and strategy, gives the same result, noise included.

The cases are read from the registries: a method, mechanism or server optimiser that is added later is tested here
because it is registered. The noise streams are the project's own, so noised runs are held equal like all others.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import toy
from few_fast import few_fast

from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.mechanisms import MECHANISMS
from tff_hospitals.plan.parts import CLIENT_OPTIMIZERS, SERVER_OPTIMIZERS
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes import build_runtime
from tff_hospitals.training.loop import build_model
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_history import RunHistory

pytestmark = pytest.mark.tensorflow

ROUNDS = 3
BASE = Plan().replace(
    rounds=ROUNDS,
    client={"local_steps": None, "local_epochs": 1, "batch_size": 4, "learning_rate": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)
NOISE = {"dp_sgd": 0.7, "fixed_clip": 0.3, "adaptive_clip": 0.2}


def cases():
    found = {}
    for name, method in METHODS.items():
        if method.kind == "federated" and not method.runs_on:
            plan = method.plan(BASE, 5.0)
            if plan.model.local_layers:
                plan = plan.replace(model={"name": "mlp", "options": {"hidden_units": [6]}})
            if MECHANISMS[plan.privacy.mechanism].private:
                noise = NOISE.get(plan.privacy.mechanism, 0.2)
                plan = plan.replace(privacy={"target_epsilon": None, "noise_multiplier": noise})
            found[f"method {name}"] = plan
    for name in SERVER_OPTIMIZERS:
        found[f"server {name}"] = BASE.replace(server={"optimizer": name, "learning_rate": 0.2})
    for name in CLIENT_OPTIMIZERS:
        found[f"client {name}"] = BASE.replace(client={"optimizer": name, "learning_rate_schedule": "inverse_sqrt"})
    dp = {"mechanism": "dp_sgd", "noise_multiplier": 0.5}
    found["momentum"] = BASE.replace(server={"momentum": 0.9}, client={"momentum": 0.5, "proximal_mu": 0.1})
    found["fixed-size cohort"] = BASE.replace(cohort={"kind": "fixed_size", "hospitals_per_round": 2})
    found["poisson cohort"] = BASE.replace(cohort={"kind": "poisson", "sampling_probability": 0.4})
    found["per-layer clip"] = BASE.replace(privacy={**dp, "clip_style": "per_layer"}, model={"name": "mlp"})
    found["automatic clip"] = BASE.replace(privacy={**dp, "clip_style": "automatic"})
    found["secure sum"] = BASE.replace(privacy={"secure_sum": True})
    zeroing = {"mechanism": "fixed_clip", "noise_multiplier": 0.2, "zeroing": "quantile", "zeroing_norm": 0.05}
    found["secure sum of clipped updates"] = BASE.replace(weighting="equal", privacy={**zeroing, "secure_sum": True})
    tree = {"mechanism": "tree", "noise_multiplier": 0.3, "restart_every": 2}
    found["tree with restarts"] = BASE.replace(weighting="equal", privacy=tree)
    found["mlp"] = BASE.replace(model={"name": "mlp", "options": {"hidden_units": [6]}})
    sparse = METHODS["sparse_ternary"].plan(BASE, None)
    some = {"kind": "poisson", "sampling_probability": 0.6}
    found["encoded, poisson cohort, mlp"] = sparse.replace(cohort=some, model=found["mlp"].model)
    adaptive = {"mechanism": "adaptive_clip", "noise_multiplier": 0.1}
    found["encoded adaptive clip"] = BASE.replace(weighting="equal", privacy=adaptive, upload="rotate,eden:3")
    local = {"mechanism": "local_dp", "noise_multiplier": 0.4}
    found["encoded local noise"] = BASE.replace(weighting="equal", privacy=local, upload="randk:0.5,quantize:6,entropy")
    found["skipped uploads"] = BASE.replace(skip_below=0.35, broadcast="quantize:8")
    return found


CASES = cases()


def run(plan, runtime, **options):
    dataset = toy.hospitals()
    model = build_model(plan, dataset)
    parts = composition.compose(plan, dataset, model)
    noise = noise_plan.make(plan, dataset)
    root = Streams.from_seed(plan.seed)
    weights, frozen = model.initial_weights(root.child("model").key())
    state = parts.initial_state(weights, root, noise.server_multiplier)
    drawer = RoundDrawer(plan, dataset, noise)
    history = RunHistory(plan, dataset, noise, parts.wire_bytes(), (0, 0), 0)
    inputs = [drawer.draw(number) for number in range(plan.rounds)]
    executor = build_runtime(runtime, parts, dataset, frozen, **options)
    state, outputs = executor.run_rounds(state, inputs)
    for one, output in zip(inputs, outputs):
        history.record_round(one, output)
    executor.close()
    return state, outputs, history


@functools.cache
def native(case):
    return run(CASES[case], "native")


def flat(structure):
    import tensorflow as tf

    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in tf.nest.flatten(structure)])


def same(found, expected):
    (state, outputs, history), (their_state, their_outputs, their_books) = found, expected
    for name in ("weights", "aggregator", "finalizer", "hospitals"):
        mine, theirs = (
            flat(getattr(state, name)) if getattr(state, name) else [],
            flat(getattr(their_state, name)) if getattr(their_state, name) else [],
        )
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
    assert int(state.round_number) == int(their_state.round_number) == ROUNDS
    assert history.ledger == their_books.ledger
    assert history.bytes_up == their_books.bytes_up
    assert history.bytes_down == their_books.bytes_down
    for one, other in zip(outputs, their_outputs):
        assert list(one.metrics) == list(other.metrics)  # the same hospitals by id, in the same order
        for hospital, values in one.metrics.items():
            assert values["steps"] == other.metrics[hospital]["steps"]  # counts are exact
            assert values["records"] == other.metrics[hospital]["records"]
            assert values == pytest.approx(other.metrics[hospital], rel=1e-5, abs=1e-6)
        # A norm of an update gathers the 1e-6 that single weights may differ by, above.
        assert dict(one.server) == pytest.approx(dict(other.server), rel=1e-5, abs=5e-6)


# Every case by the strategy that small models get; by the second one case of each kind, by the third the same in the
# slow part. The rest is rare.
ELSEWHERE = {
    "method scaffold",
    "method dp_sgd",
    "method fixed_clip",
    "method blt",
    "momentum",
    "poisson cohort",
    "encoded adaptive clip",
}
# Kin of other cases, which one strategy is enough for: slots that scaffold, mime_lite and fedrep fill too, optimisers
# and a proximal term that have cases of their own.
KIN = {f"method {name}" for name in ("feddyn", "fedprox_adaptive", "agnostic", "fedprox", "fedper")}
KIN |= {f"method fed{name}" for name in ("adam", "adagrad", "yogi", "lamb")}
# What a case beside it computes in nearly the same way (a preset of an own case, one rule or optimiser among many).
LATER = {f"method {name}" for name in ("dp_sgd_per_layer", "dp_sgd_automatic", "multi_krum", "dp_sgd_quantized")}
LATER |= {f"method {name}" for name in ("fixed_clip_quantized", "skellam", "adaptive_clip_zeroing", "trimmed_mean")}
LATER |= {
    "per-layer clip",
    "method dp_sgd_adaptive",
    "server sgd",
    "server adagrad",
    "server yogi",
    "client sgd",
    "client adam",
    "encoded local noise",
}
assert set(CASES) >= LATER | ELSEWHERE | KIN
STRATEGIES = [
    (strategy, case)
    for strategy in ("fused", "scanned", "side_by_side")
    for case in CASES
    if strategy == "fused" or case not in KIN
]
FAST = {(strategy, case) for strategy, case in STRATEGIES if strategy == "fused" and case not in KIN | LATER}
FAST |= {("scanned", case) for case in ELSEWHERE}
SLOW = {("fused", case) for case in LATER} | {("side_by_side", case) for case in ELSEWHERE}


@pytest.mark.parametrize(("strategy", "case"), few_fast(STRATEGIES, FAST, SLOW))
def test_compiled_equals_native(case, strategy):
    same(run(CASES[case], "compiled", strategy=strategy), native(case))


def test_every_mechanism_has_a_method_and_so_a_case():
    assert set(CASES) > ELSEWHERE | KIN
    tested = {plan.privacy.mechanism for plan in CASES.values()}
    assert tested == {name for name, one in MECHANISMS.items() if not one.runs_on}  # the rest: test_tff_rows


def test_rounds_in_one_call_equal_rounds_one_by_one():
    plan = CASES["method adaptive_clip"]
    dataset = toy.hospitals()
    model = build_model(plan, dataset)
    parts = composition.compose(plan, dataset, model)
    noise = noise_plan.make(plan, dataset)
    root = Streams.from_seed(1)
    weights, frozen = model.initial_weights(root.child("model").key())
    state = start = parts.initial_state(weights, root, noise.server_multiplier)
    inputs = [RoundDrawer(plan, dataset, noise).draw(number) for number in range(4)]
    executor = build_runtime("compiled", parts, dataset, frozen)
    together, _ = executor.run_rounds(start, inputs)
    for one in inputs:
        state, _ = executor.run_rounds(state, [one])
    assert flat(together).tolist() == flat(state).tolist()  # bit for bit


def test_the_compiled_runtime_starts_no_process():
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run(CASES["method weighted_mean"], "compiled")
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
