"""Learning rates, momenta, clip norms and noise are inputs of compiled programs: a sweep over them compiles once."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import toy
from few_fast import few_fast

from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.mechanisms import MECHANISMS
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.processes.aggregators import fixed_clip
from tff_hospitals.processes.record_level import dp_sgd
from tff_hospitals.runtimes.compiled import runtime as compiled
from tff_hospitals.training.loop import build_model, train

pytestmark = pytest.mark.tensorflow

PLAN = Plan().replace(
    rounds=3,
    client={"local_steps": None, "local_epochs": 1, "batch_size": 4, "learning_rate": 0.1},
    privacy={"clip_norm": 0.5, "delta": 1e-2},
)


def cases():
    """Pairs of plans that differ in numbers alone: every method, and the optimisers with all their settings."""
    found = {}
    for name, method in METHODS.items():
        if method.kind != "federated" or method.runs_on:
            continue
        plan = method.plan(PLAN, 5.0)
        if plan.model.local_layers:  # a head of its own needs a body that travels
            plan = plan.replace(model={"name": "mlp", "options": {"hidden_units": [6]}})
        other = {"client": {"learning_rate": 0.03}, "server": {"learning_rate": 0.7}}
        if mechanisms.hospital_level(plan.privacy).tells == "loss":  # the rule itself is made of the hospitals' rate
            del other["client"]
        if MECHANISMS[plan.privacy.mechanism].private:
            plan = plan.replace(privacy={"target_epsilon": None, "noise_multiplier": 0.2})
            other["privacy"] = {"noise_multiplier": 0.15, "clip_norm": 0.3}
        found[name] = plan, plan.replace(**other)
    found["momenta"] = (
        PLAN.replace(client={"momentum": 0.5, "proximal_mu": 0.1}, server={"momentum": 0.9}),
        PLAN.replace(client={"momentum": 0.7, "proximal_mu": 0.4}, server={"momentum": 0.2}),
    )
    decay = {"client": {"optimizer": "adamw", "weight_decay": 0.1}}
    found["decay"] = PLAN.replace(**decay), PLAN.replace(client={**decay["client"], "weight_decay": 0.3})
    for name in ("adam", "adagrad", "yogi", "lamb"):
        one = {"optimizer": name, "learning_rate": 0.2}
        other = {"optimizer": name, "learning_rate": 0.1, "epsilon": 1e-2}
        betas = {} if name == "adagrad" else {"beta_1": 0.8, "beta_2": 0.9}
        found[f"server {name}"] = PLAN.replace(server=one), PLAN.replace(server={**other, **betas})
    zeroing = {"mechanism": "fixed_clip", "noise_multiplier": 0.2, "zeroing": "fixed", "zeroing_norm": 0.5}
    plan = PLAN.replace(weighting="equal", privacy=zeroing)
    found["zeroing"] = plan, plan.replace(privacy={"zeroing_norm": 0.2})
    return found


CASES = cases()
QUICK = {"adaptive_clip", "momenta", "server adam"}  # one of each kind
SLOW = {"weighted_mean", "scaffold", "dp_sgd", "tree"}  # and of further kinds


@pytest.fixture
def programs(monkeypatch):
    kept: collections.OrderedDict = collections.OrderedDict()
    monkeypatch.setattr(compiled, "_programs", kept)
    return kept


def traces(kept):
    found = {}
    for key, program in kept.items():
        for name in ("_call", "_chunk", "_whole", "_prepare", "_runs", "_rounds", "_scan"):
            function = getattr(program, name, None)
            if function is not None:
                found[key, name] = function.experimental_get_tracing_count()
    return found


@pytest.mark.parametrize("name", few_fast(CASES, QUICK, SLOW))
def test_other_numbers_take_the_same_program_and_give_what_their_own_would(name, programs):
    first, second = CASES[name]
    dataset = toy.hospitals()
    model = build_model(first, dataset)
    alone = train(second, dataset, model=model)
    programs.clear()
    train(first, dataset, model=model)
    before = traces(programs)
    shared = train(second, dataset, model=model)
    assert traces(programs) == before  # nothing was traced or compiled for the second plan
    assert sum(before.values()) > 0
    for mine, theirs in zip(shared.weights, alone.weights):
        np.testing.assert_array_equal(mine, theirs)
    assert shared.ledger == alone.ledger


def test_what_another_s_code_reads_of_a_plan_is_part_of_its_program():
    """A rule or an aggregator of somebody else may read the clip norm itself: two norms are two programs then."""
    dataset = toy.hospitals()
    for mechanism, weighting in (("dp_sgd", "records"), ("fixed_clip", "equal")):
        plans = [
            PLAN.replace(
                weighting=weighting, privacy={"mechanism": mechanism, "noise_multiplier": 1.0, "clip_norm": norm}
            )
            for norm in (0.1, 0.2)
        ]
        model = build_model(plans[0], dataset)
        assert len({composition.compose(plan, dataset, model).signature for plan in plans}) == 1
        kind = dp_sgd.DpSgdSteps if mechanism == "dp_sgd" else fixed_clip.FixedClip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "__module__", "somebody.else")
            assert len({composition.compose(plan, dataset, model).signature for plan in plans}) == 2
            rates = [plans[0].replace(client={"learning_rate": rate}) for rate in (0.1, 0.2)]
            two_rates = 1 if mechanism == "dp_sgd" else 2  # an aggregator is told the rate of the first round
            assert len({composition.compose(plan, dataset, model).signature for plan in rates}) == two_rates


def test_a_sweep_over_many_settings_keeps_one_program(programs):
    dataset = toy.hospitals()
    model = build_model(PLAN, dataset)
    runs = [
        train(
            PLAN.replace(
                privacy={"mechanism": "dp_sgd", "noise_multiplier": noise, "clip_norm": clip},
                client={"learning_rate": rate},
            ),
            dataset,
            model=model,
        )
        for rate in (0.01, 0.1)
        for clip in (0.1, 1.0)
        for noise in (0.5, 2.0)
    ]
    assert len({run.weights[0].tobytes() for run in runs}) == 8
    assert len(programs) == 1
    assert set(traces(programs).values()) <= {0, 1}


@pytest.mark.slow
def test_models_of_one_shape_that_compute_other_things_share_nothing(programs):
    """Weights of the same shapes do not make two models the same program."""
    import tensorflow as tf

    from tff_hospitals.models import FunctionalModel, ModelSignature

    def built(activation):
        layers = tf.keras.layers

        def model():
            return tf.keras.Sequential(
                [tf.keras.Input((5,)), layers.Dense(4, activation=activation, name="a"), layers.Dense(1, name="b")]
            )

        return FunctionalModel(model, ModelSignature((5,), 2, "binary"))

    class Own(tf.keras.Model):
        def __init__(self, sign):
            super().__init__()
            self.sign, self.dense = sign, tf.keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(self.sign * inputs)

    def own(sign):
        return FunctionalModel(lambda: Own(sign), ModelSignature((5,), 2, "binary"))

    dataset = toy.hospitals()
    for one, other in ((built("relu"), built("tanh")), (own(1.0), own(-1.0))):
        programs.clear()
        alone = train(PLAN, dataset, model=other)
        programs.clear()
        train(PLAN, dataset, model=one)
        after = train(PLAN, dataset, model=other)
        for mine, theirs in zip(after.weights, alone.weights):
            np.testing.assert_array_equal(mine, theirs)
    programs.clear()
    train(PLAN, dataset, model=built("relu"))
    train(PLAN, dataset, model=built("relu"))
    assert len(programs) == 1
