"""Planted faults: small patches of the running code, each with the self-test that must notice it.

    python -m pytest -m "slow or rare" tests/plants --junitxml=plants.xml
    python tests/plants/catalogue.py plants.xml         prints the table of docs/audits.md

A plant is put in before a run is trained, and is still there when the run is audited: the audit asks the code that
runs. `only_training` marks faults that are gone when the audit looks: those that nothing but the run itself shows.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import planted_by_round
import planting
from planting import CYCLIC, PLANTS, SITE, SITE_BATCH, Plant, each_hospital, keys_without, plant, quieter, wrap

__all__ = ["PLANTS", "Plant", "planted_by_round"]

# -------------------------------------------------------------------------------------------- noise inside hospitals


@plant("dp_sgd", "no noise at one hospital", "loudness: noise on records", hospital=SITE)
def no_noise_at_one_hospital(patch: Any) -> None:
    def changed(one: Any, number: int) -> Any:
        return dataclasses.replace(one, noise_multiplier=0.0) if one.hospital.hospital_id == SITE else one

    each_hospital(patch, changed)


@plant("dp_sgd", "noise off after round 8", "loudness: noise on records, round 9", changes={"rounds": 10})
def noise_off_after_round_8(patch: Any) -> None:
    each_hospital(patch, lambda one, number: dataclasses.replace(one, noise_multiplier=0.0) if number >= 8 else one)


@plant("dp_sgd", "no noise on one layer", "loudness: noise on records, ")
def no_noise_on_one_layer(patch: Any) -> None:
    from tff_hospitals.processes.record_level.base import ClippedSteps

    def around(sound: Callable, self: Any, total: Any, batch: Any, noise: Any, scale: Any) -> Any:
        noised = sound(self, total, batch, noise, scale)
        return (*noised[:-1], total[-1] / batch.expected)

    wrap(patch, ClippedSteps, "noised", around)


def _quiet(method: str, ratio: float, test: str) -> None:
    def patch_noise(patch: Any) -> None:
        quieter(patch, ratio)

    patch_noise.__name__ = f"noise_of_{ratio:g}_in_{method}".replace(".", "_")
    plant(method, f"noise at {ratio:g} of what is declared", test)(patch_noise)


for _method in ("dp_sgd", "dp_sgd_adaptive", "dp_ftrl_local", "dp_mf_local"):
    _quiet(_method, 0.6, "loudness: noise on records")
_quiet("dp_sgd_per_layer", 0.9, "loudness: noise on records")
_quiet("dp_sgd_automatic", 1.1, "loudness: noise on records")


@plant("dp_sgd", "uniform noise of the right deviation", "shape: noise on records is normal")
def uniform_noise(patch: Any) -> None:
    import tensorflow as tf

    from tff_hospitals.processes import noise

    def around(sound: Callable, *args: Any, **names: Any) -> Any:
        return (12**0.5 / 2) * tf.math.erf(sound(*args, **names) / 2**0.5)

    wrap(patch, noise, "unit_normals", around)


@plant("dp_sgd", "the same noise in every round", "independence: noise on records, hospitals and rounds")
def same_noise_every_round(patch: Any) -> None:
    keys_without(patch, round_number=True)


@plant("dp_sgd", "the same noise at every hospital", "independence: noise on records, hospitals and rounds")
def same_noise_at_every_hospital(patch: Any) -> None:
    keys_without(patch, hospital=True)


@plant("dp_sgd", "the same noise in every step of a round", "independence: noise on records, steps")
def same_noise_every_step(patch: Any) -> None:
    import tensorflow as tf

    from tff_hospitals.processes.record_level.base import ClippedSteps

    def around(sound: Callable, self: Any, key: Any, block: Any) -> Any:
        drawn = sound(self, key, block)
        return tf.zeros_like(drawn) + drawn[..., :1, :]

    wrap(patch, ClippedSteps, "noise_block", around)


@plant("dp_sgd", "runs of one seed share their noise, whatever their plan", "independence: noise on records, runs")
def noise_shared_by_plans(patch: Any) -> None:
    from tff_hospitals.training import run_streams

    wrap(patch, run_streams, "release_name", lambda sound, plan, *args, **names: f"{plan.seed:032x}")


@plant("dp_sgd", "all seeds of a plan share their noise", "independence: noise on records, seeds")
def noise_shared_by_seeds(patch: Any) -> None:
    from tff_hospitals.training import run_streams

    wrap(patch, run_streams, "release_name", lambda sound, plan, *a, **n: sound(plan.replace(seed=1), *a, **n))


@plant("dp_ftrl_local", "independent noise where a tree is declared", "covariance: noise on records, steps")
def no_tree_inside_hospitals(patch: Any) -> None:
    from tff_hospitals.processes.record_level.dp_ftrl_local import TreeSteps

    def around(sound: Callable, self: Any, privacy: Any, steps: int) -> Any:
        import numpy as np

        tree = sound(self, privacy, steps)
        loudness = np.linalg.norm(tree, axis=1)
        return np.eye(*tree.shape, dtype=np.float32) * loudness[:, np.newaxis].astype(np.float32)

    wrap(patch, TreeSteps, "matrix", around)


@plant("dp_sgd_adaptive", "the count of unclipped records has no noise", "counts: count of unclipped records")
def count_of_records_without_noise(patch: Any) -> None:
    from tff_hospitals.processes.record_level.dp_sgd import AdaptiveSteps

    def around(sound: Callable, self: Any, multiplier: Any) -> Any:
        values, count = sound(self, multiplier)
        return values, 0.0 * count

    wrap(patch, AdaptiveSteps, "_split", around)


# ----------------------------------------------------------------------------------------- clipping inside hospitals


def _clipped_sums(patch: Any, around: Callable) -> None:
    from tff_hospitals.processes.record_level.base import ClippedSteps

    wrap(patch, ClippedSteps, "clipped_sum", around)


@plant("dp_sgd", "no clipping at one hospital", "clipping: records", hospital=SITE)
def no_clipping_at_one_hospital(patch: Any) -> None:
    import tensorflow as tf

    def around(sound: Callable, self: Any, weights: Any, batch: Any, clip_norm: Any) -> Any:
        here = tf.abs(batch.expected - SITE_BATCH) < 0.01
        return sound(self, weights, batch, tf.where(here, 1e9, clip_norm))

    _clipped_sums(patch, around)


@plant("dp_sgd", "records are clipped to twice the norm", "clipping: records")
def clipped_to_twice_the_norm(patch: Any) -> None:
    _clipped_sums(patch, lambda sound, self, weights, batch, norm: sound(self, weights, batch, 2 * norm))


@plant("dp_sgd", "the sum of a batch is clipped, not each record", "clipping: records")
def clipped_as_a_batch(patch: Any) -> None:
    import tensorflow as tf

    def around(sound: Callable, self: Any, weights: Any, batch: Any, clip_norm: Any) -> Any:
        total, norms, losses = sound(self, weights, batch, 1e9)
        return tf.clip_by_global_norm(total, clip_norm * tf.reduce_sum(batch.mask))[0], norms, losses

    _clipped_sums(patch, around)


@plant("dp_ftrl_local", "DP-FTRL without clipping", "clipping: records")
def ftrl_without_clipping(patch: Any) -> None:
    _clipped_sums(patch, lambda sound, self, weights, batch, norm: sound(self, weights, batch, 1e9))


# -------------------------------------------------------------------------------------------------- batches and keys


def _poisson(patch: Any, drawn: Callable) -> None:
    """Other batches under the name of Poisson batches: `drawn(sound, stream, records, q, steps)`."""
    from tff_hospitals.hospitals import batches

    def around(sound: Callable, stream: Any, records: int, *, sampling_probability: float, local_steps: int) -> Any:
        made = drawn(sound, stream, records, sampling_probability, local_steps)
        return dataclasses.replace(made, sampling="poisson", expected_batch=records * sampling_probability)

    wrap(patch, batches, "poisson", around)


@plant("dp_sgd", "shuffled batches under the name of Poisson batches", "batches: sizes vary as declared")
def shuffled_batches(patch: Any) -> None:
    from tff_hospitals.hospitals import batches

    _poisson(
        patch,
        lambda sound, stream, n, q, steps: batches.shuffled_steps(
            stream, n, batch_size=round(n * q), local_steps=steps
        ),
    )


@plant("dp_sgd", "records are sampled at 1.2 of the declared rate", "batches: as many records as declared")
def sampled_too_often(patch: Any) -> None:
    _poisson(
        patch,
        lambda sound, stream, n, q, steps: sound(stream, n, sampling_probability=1.2 * q, local_steps=steps),
    )


@plant("dp_sgd", "the same batches in every round", "batches: records vary as declared")
def same_batches_every_round(patch: Any) -> None:
    from tff_hospitals.training.run_streams import RunStreams

    wrap(patch, RunStreams, "batches", lambda sound, self, name, number: sound(self, name, 0))


@plant("dp_ftrl_local", "passes of DP-FTRL reshuffled", "batches: passes in one order")
def passes_reshuffled(patch: Any) -> None:
    from tff_hospitals.hospitals import batches
    from tff_hospitals.processes import hospital_draws

    patch.setattr(
        hospital_draws,
        "_same_order",
        lambda stream, n, size, steps: batches.shuffled_steps(stream, n, batch_size=size, local_steps=steps),
    )


_BANDED = {"privacy": {"noise_bands": 2}}


@plant("dp_mf_local", "groups of records do not take turns", "batches: groups in turn", changes=_BANDED)
def groups_out_of_turn(patch: Any) -> None:
    from tff_hospitals.hospitals import batches

    def around(sound: Callable, stream: Any, n: int, *, sampling_probability: float, groups: int, **names: Any) -> Any:
        made = batches.poisson(stream, n, sampling_probability=sampling_probability, **names)
        return dataclasses.replace(made, sampling="cyclic_poisson" if groups > 1 else "poisson")

    wrap(patch, batches, "cyclic_poisson", around)


# ------------------------------------------------------------------------------------------------- noise of the server


for _method in ("fixed_clip", "tree", "blt", "banded_mf", "local_dp"):
    _quiet(_method, 0.6, "loudness: noise on updates")


@plant("discrete_gaussian", "noise at 0.6 of what is declared", "loudness: noise on updates")
def noise_of_0_6_in_discrete_gaussian(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.noise_shares import DiscreteGaussian

    wrap(patch, DiscreteGaussian, "sample", lambda sound, self, key, shape, size: sound(self, key, shape, 0.6 * size))


@plant("skellam", "noise at 0.6 of what is declared", "loudness: noise on updates")
def noise_of_0_6_in_skellam(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.noise_shares import Skellam

    wrap(patch, Skellam, "sample", lambda sound, self, key, shape, size: sound(self, key, shape, 0.6 * size))


@plant("fixed_clip", "no noise on one layer at the server", "loudness: noise on updates, ")
def no_server_noise_on_one_layer(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.fixed_clip import FixedClip

    def around(sound: Callable, self: Any, total: Any, scale: Any, noise: Any) -> Any:
        return (*sound(self, total, scale, noise)[:-1], total["delta"][-1] / self.setting.divisor(total["count"]))

    wrap(patch, FixedClip, "noised_mean", around)


@plant(
    "fixed_clip", "no noise of the server after round 8", "loudness: noise on updates, round 9", changes={"rounds": 10}
)
def server_noise_off_after_round_8(patch: Any) -> None:
    import tensorflow as tf

    from tff_hospitals.processes.aggregators.fixed_clip import FixedClip

    def around(sound: Callable, self: Any, state: Any) -> Any:
        noise, loud = sound(self, state), tf.cast(tf.convert_to_tensor(state["round"]) < 8, tf.float32)[..., tf.newaxis]
        return type(noise)((name, draw * loud) for name, draw in noise.items())

    wrap(patch, FixedClip, "server_noise", around)


def _same_position(patch: Any, aggregator: Any) -> None:
    def around(sound: Callable, self: Any, state: Any) -> Any:
        import tensorflow as tf

        return sound(self, type(state)(state, round=tf.zeros_like(state["round"])))

    wrap(patch, aggregator, "server_noise", around)


@plant("fixed_clip", "the same noise of the server in every round", "covariance: noise on updates, rounds")
def same_server_noise_every_round(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.fixed_clip import FixedClip

    _same_position(patch, FixedClip)


@plant("tree", "the same tree noise in every round", "covariance: noise on updates, rounds")
def same_tree_noise_every_round(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.tree import TreeAggregation

    _same_position(patch, TreeAggregation)


@plant("blt", "a wrong coefficient of the buffers", "covariance: noise on updates, rounds", changes=CYCLIC)
def wrong_coefficient_of_buffers(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.correlated import BufferedNoise

    def around(sound: Callable, self: Any, setting: Any) -> None:
        sound(self, setting)
        self._scales = 0.5 * self._scales

    wrap(patch, BufferedNoise, "__init__", around)


def _not_carried_on(patch: Any, aggregator: Any) -> None:
    wrap(patch, aggregator, "correlated", lambda sound, self, kept, normals: (sound(self, kept, normals)[0], 0 * kept))


@plant("blt", "noise that is not carried on to the next rounds", "covariance: noise on updates, rounds", changes=CYCLIC)
def buffers_not_carried_on(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.correlated import BufferedNoise

    _not_carried_on(patch, BufferedNoise)


@plant(
    "banded_mf",
    "noise that is not carried on to the next rounds",
    "covariance: noise on updates, rounds",
    changes=CYCLIC,
)
def bands_not_carried_on(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.correlated import BandedNoise

    _not_carried_on(patch, BandedNoise)


@plant("banded_mf", "bands beyond the separation, charged as if apart", "ledger: noise of ", changes=CYCLIC)
def bands_beyond_the_separation(patch: Any) -> None:
    import numpy as np

    from tff_hospitals.accounting.strategies import square_root
    from tff_hospitals.plan.mechanisms import banded_mf, correlated_rounds

    def beyond(self: Any, privacy: Any, rounds: int, period: int) -> Any:
        return square_root(rounds, min(rounds, 4 * period))

    def as_if_apart(strategy: Any, rounds: int, period: int) -> float:
        return float(np.linalg.norm(strategy.coefficients(rounds)) * np.sqrt(-(-rounds // period)))

    patch.setattr(banded_mf.BandedMf, "strategy", beyond)
    patch.setattr(correlated_rounds, "sensitivity_over", as_if_apart)


@plant("banded_mf", "hospitals come back before their turn", "batches: order and period of the cohorts", changes=CYCLIC)
def separation_violated(patch: Any) -> None:
    from tff_hospitals.hospitals.cohorts import Cohorts
    from tff_hospitals.training.separation import Separation

    patch.setattr(Separation, "check", lambda self, inputs: None)  # which would refuse the round before it runs
    wrap(patch, Cohorts, "__call__", lambda sound, self, streams, number: sound(self, streams, number * number))


@plant("local_dp", "all hospitals add the same noise", "independence: share of the noise, rounds of many seeds")
def same_local_noise_at_every_hospital(patch: Any) -> None:
    keys_without(patch, hospital=True)


# ---------------------------------------------------------------------------- clipping, counts, cohorts of the server

_COUNTED = {"privacy": {"clipped_count_stddev": 6.0}}


@plant(
    "adaptive_clip",
    "the count of unclipped hospitals has no noise",
    "counts: count of hospitals below the clip norm",
    changes=_COUNTED,
)
def count_of_hospitals_without_noise(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.adaptive_clip import AdaptiveClip

    def around(sound: Callable, self: Any, state: Any) -> Any:
        noise = sound(self, state)
        return type(noise)(noise, below=0.0 * noise["below"])

    wrap(patch, AdaptiveClip, "server_noise", around)


@plant(
    "adaptive_clip_zeroing",
    "the count of hospitals below the zeroing bound has no noise",
    "counts: count of hospitals below the zeroing bound",
    changes=_COUNTED,
)
def count_of_zeroing_without_noise(patch: Any) -> None:
    from tff_hospitals.processes.aggregators.zeroing import Zeroing

    def around(sound: Callable, self: Any, state: Any) -> Any:
        noise = sound(self, state)
        return type(noise)(noise, below_zeroing=0.0 * noise["below_zeroing"])

    wrap(patch, Zeroing, "server_noise", around)


@plant("fixed_clip", "updates are not clipped", "clipping: updates")
def updates_not_clipped(patch: Any) -> None:
    from tff_hospitals.processes.aggregators import fixed_clip
    from tff_hospitals.processes.noise import global_norm

    patch.setattr(fixed_clip, "clip_by_global_norm", lambda delta, norm: (delta, global_norm(delta)))


@plant("local_dp", "updates are clipped to twice the norm", "clipping: updates")
def local_updates_clipped_to_twice_the_norm(patch: Any) -> None:
    from tff_hospitals.processes.aggregators import local_dp

    wrap(patch, local_dp, "clip_by_global_norm", lambda sound, delta, norm: sound(delta, 2 * norm))


@plant(
    "fixed_clip",
    "hospitals take part more often than declared",
    "batches: as many hospitals as declared",
    changes={"cohort": {"kind": "poisson", "sampling_probability": 0.5}},
)
def hospitals_sampled_too_often(patch: Any) -> None:
    from tff_hospitals.hospitals.cohorts import Cohorts

    def around(sound: Callable, self: Any, streams: Any, number: int) -> Any:
        return sound(dataclasses.replace(self, probability=0.6), streams, number)

    wrap(patch, Cohorts, "__call__", around)


# ------------------------------------------------------------------------------------------------- ledger and replay


def _half_the_ledger(patch: Any) -> None:
    from tff_hospitals.training import run_history, write_ahead

    def around(sound: Callable, ledger: Any, noise: Any, number: int, *args: Any, **names: Any) -> None:
        if number % 2 == 0:
            sound(ledger, noise, number, *args, **names)

    for module in (run_history, write_ahead):
        wrap(patch, module, "enter_round", around)


@plant("dp_sgd", "half the ledger", "ledger: events of every round, record level", only_training=True)
def half_the_ledger_of_records(patch: Any) -> None:
    _half_the_ledger(patch)


@plant("fixed_clip", "half the ledger", "ledger: events of every round, hospital level", only_training=True)
def half_the_ledger_of_hospitals(patch: Any) -> None:
    _half_the_ledger(patch)


@plant("dp_sgd", "half of the steps are charged", "ledger: events of every round, record level", only_training=True)
def half_of_the_steps_are_charged(patch: Any) -> None:
    from tff_hospitals.plan.planned_events import EveryStep

    def around(sound: Callable, self: Any, number: int, steps: int, cohort: int) -> Any:
        event, count = sound(self, number, steps, cohort)
        return event, max(1, count // 2)

    wrap(patch, EveryStep, "in_round", around)


@plant("dp_sgd", "the published model was made with less noise", "replay: the published model", only_training=True)
def model_of_less_noise(patch: Any) -> None:
    quieter(patch, 0.5)


@plant("blt", "the published model was made with less noise", "replay: the published model", only_training=True)
def model_of_less_server_noise(patch: Any) -> None:
    quieter(patch, 0.9)


if __name__ == "__main__":
    print("\n".join(planting.table(planting.figures(sys.argv[1:]))))
