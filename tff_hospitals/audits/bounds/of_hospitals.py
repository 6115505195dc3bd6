"""Rounds of the server with and without one hospital that always sends the same far-reaching update.

The other hospitals send nothing, which the attacker knows; the hospital that is left out keeps its place and sends
nothing either. Clipping, sum, noise, counts and the next clip norm are the run's own aggregator's, on a model of two
weights (where the noise depends on the model's size: on the run's model). The score is the logarithm of the likelihood
ratio of everything that was seen over all rounds.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals import models
from tff_hospitals.audits.self_tests import noise_of_rounds, rig
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.zeroing import ZEROING
from tff_hospitals.processes import composition as composition_lib

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.self_tests.keys import Runs

_ROUNDS_PER_CALL = 50_000
_NOTHING, _BLANK, _FAR = 0.0, 1.0, 2.0  # what a hospital does in a round: it is away, sends nothing, reaches far


@dataclasses.dataclass(frozen=True)
class Target:
    """Which hospital is looked for.

    Attributes:
      hospital: its id.
      event: what the ledger declares of a round.
      rounds: that were run.
    """

    hospital: str
    event: MechanismEvent
    rounds: int


class Rounds:
    """The run's aggregator, thousands of runs in one compiled call.

    Args:
      run: the run.
      multiplier: of the noise.

    Attributes:
      numbers: of noise that a hospital adds in a round, where each is drawn by itself; 0 where they come in one call.
    """

    def __init__(self, run: LoadedRun, multiplier: float):
        import tensorflow as tf

        self.plan, self._multiplier, self.hospitals = run.plan, multiplier, len(run.dataset.hospitals)
        self.mechanism = mechanisms.hospital_level(run.plan.privacy)
        settings = mechanisms.hospital_settings(run.plan.privacy)
        signature = models.ModelSignature((1,), 2, "binary")
        tiny = models.build_model("logistic_regression", signature, init="zeros")
        plan = rig.plain_plan(run.plan, "hospital", multiplier, local_steps=1, keyed=True)
        model = run.model if self.mechanism.needs_size else tiny
        self._aggregator = composition_lib.compose(plan, run.dataset, model).aggregator
        self._specs = model.trainable_specs
        self._reach = 1.5 if ZEROING[settings.zeroing].active else 100.0  # clip norms
        in_shares = not self._aggregator.draws_together
        drawn = self._aggregator.no_hospital_noise().values() if in_shares else ()
        self.numbers = max((int(np.prod(one.shape)) for one in drawn), default=0)
        self._noises = tf.function(self._draw, autograph=False) if in_shares else None
        self._seen = tf.function(self._see, jit_compile=True, autograph=False)

    def _draw(self, state: Any, key: Any, count: Any) -> Any:
        aggregator: Any = self._aggregator
        return aggregator.hospital_noises(aggregator.parameters(state), key, count)

    def _see(self, keys: Any, does: Any, others: Any, noises: Any) -> tuple:
        """What each run shows: the first weight's sum and the clip norms around it, [runs, rounds] each."""
        import tensorflow as tf

        aggregator, (runs, rounds) = self._aggregator, does.shape
        nothing = tuple(tf.zeros(spec.shape) for spec in self._specs)
        one = tf.constant(1.0)

        def contribution(state: Any, delta: Any, run: Any, number: Any, place: Any) -> Any:
            parameters = aggregator.parameters(state)
            if noises:
                at = (run * rounds + number) * tf.reduce_max(others + 1) + place
                # What both sides draw from a public key must be drawn in the same program: floats differ under XLA.
                public = aggregator.server_noise(state)
                noise = type(noises)((name, public.get(name, draws[at])) for name, draws in noises.items())
            else:
                noise = aggregator.hospital_noise(parameters, keys[run, number])
            return aggregator.prepare(parameters, delta, one, noise)

        def silent_sum(state: Any, run: Any, number: Any) -> Any:
            silent = others[number]
            first = contribution(state, nothing, run, number, 1)
            if not noises:  # all alike
                return tf.nest.map_structure(lambda part: part * tf.cast(silent, part.dtype), first)

            def add(place: Any, total: Any) -> tuple:
                return place + 1, tf.nest.map_structure(tf.add, total, contribution(state, nothing, run, number, place))

            start = (tf.constant(1), tf.nest.map_structure(tf.zeros_like, first))
            return tf.while_loop(lambda place, _: place <= silent, add, start)[1]

        def one_round(run: Any, number: Any, state: Any, *rows: Any) -> tuple:
            norm = state["clip_norm"]
            what = does[run, number]
            first = tf.reshape(tf.one_hot(0, nothing[0].shape.num_elements()), nothing[0].shape)
            far = (first * self._reach * norm * tf.cast(what > _BLANK, tf.float32), *nothing[1:])
            sent = contribution(state, far, run, number, 0)
            # Who is blanked out keeps its place and adds to no count but that of places.
            in_counts = tf.cast(what > _BLANK, tf.float32)
            sent = type(sent)(
                (name, part * tf.cast(in_counts, part.dtype) if "below" in name else part)
                for name, part in sent.items()
            )
            total = tf.nest.map_structure(lambda part: part * tf.cast(what > _NOTHING, part.dtype), sent)
            total = tf.nest.map_structure(tf.add, total, silent_sum(state, run, number))
            update, state, _ = aggregator.finish(state, total, aggregator.server_noise(state))
            found = (tf.reshape(update[0], [-1])[0], norm, state["clip_norm"])
            return run, number + 1, state, *(row.write(number, value) for row, value in zip(rows, found))

        def one_run(run: Any, *tables: Any) -> tuple:
            state = self._state(keys[run, 0])
            rows = [tf.TensorArray(tf.float32, rounds, element_shape=[]) for _ in tables]
            start = (run, tf.constant(0), state, *rows)
            _, _, _, *rows = tf.while_loop(lambda run, number, *_: number < rounds, one_round, start)
            return run + 1, *(table.write(run, row.stack()) for table, row in zip(tables, rows))

        tables = [tf.TensorArray(tf.float32, runs, element_shape=[rounds]) for _ in range(3)]
        _, *tables = tf.while_loop(lambda run, *_: run < runs, one_run, (tf.constant(0), *tables))
        return tuple(table.stack() for table in tables)

    def _state(self, key: Any) -> Any:
        """The first state, with a key of its own."""
        import tensorflow as tf

        state = self._aggregator.initial_state(np.zeros(2, np.int64), self._multiplier)
        state = tf.nest.map_structure(tf.constant, state)
        return type(state)((name, key if name == "key" else value) for name, value in state.items())

    def deviation(self, event: MechanismEvent, others: np.ndarray) -> np.ndarray:
        """Declared deviation of the noise on the sum over the clip norm, float64 [rounds]."""
        if event.local_stddev is None:
            return np.full(len(others), float(event.noise_multiplier or 0.0))
        state = self._aggregator.initial_state(np.zeros(2, np.int64), self._multiplier)
        return np.sqrt(others + 1.0) * event.local_stddev / float(state["scale"]) / float(state["clip_norm"])

    def __call__(self, generator: np.random.Generator, does: np.ndarray, others: np.ndarray) -> tuple:
        """Numpy arrays of `_see`.

        Args:
          generator: of the noise keys.
          does: float32 [runs, rounds], what the hospital does.
          others: int32 [rounds], how many others are there.
        """
        import tensorflow as tf

        keys = generator.integers(-(2**62), 2**62, (*does.shape, 2))
        noises: Any = ()
        if self._noises is not None:
            # The rotation is public and the same for all: runs differ in their shares.
            keys[:] = keys[:1, :1]
            count = int(does.size * (others.max() + 1))
            key = tf.constant(generator.integers(-(2**62), 2**62, 2))
            noises = self._noises(self._state(tf.constant(keys[0, 0])), key, count)
        seen = self._seen(tf.constant(keys), tf.constant(does, tf.float32), tf.constant(others, tf.int32), noises)
        return tuple(one.numpy().astype(np.float64) for one in seen)


def scores(rounds: Rounds, target: Target, runs: Runs, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of runs with the hospital and without it, float64 [count] each.

    Args:
      rounds: the aggregator.
      target: which hospital.
      runs: draws of the run's plan.
      count: runs with, and as many without.
      seed: of the noise keys.
    """
    generator = np.random.default_rng(seed)
    cohorts = [runs.own.cohort(number) for number in range(target.rounds)]
    sampled = target.event.sampling_probability
    alone = rounds.mechanism.noise_by == "hospital"  # every upload is seen by itself
    others = np.array([0 if alone else len(set(cohort) - {target.hospital}) for cohort in cohorts], np.int32)
    in_turn = rounds.plan.cohort.kind == "cyclic"
    takes = np.array([target.hospital in cohort or not in_turn for cohort in cohorts])
    at_once = min(count, max(1, _ROUNDS_PER_CALL // target.rounds))
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for _ in range(0, count, at_once):
        for present in (True, False):
            shape = (at_once, target.rounds)
            if sampled is None:
                does = np.where(takes, _FAR if present else _BLANK, _NOTHING) * np.ones(shape)
            else:
                does = np.where(generator.random(shape) < sampled, _FAR if present else _NOTHING, _NOTHING)
            update, norm, after = rounds(generator, does, others)
            places = others + (does > _NOTHING)
            divisors = np.vectorize(lambda cohort: _divisor(rounds, cohort))(places)
            over = update * divisors / norm
            found[present].append(_ratios(rounds, target, over, np.log(after / norm), divisors, others, takes))
    return np.concatenate(found[True])[:count], np.concatenate(found[False])[:count]


def _divisor(rounds: Rounds, cohort: int) -> float:
    return noise_of_rounds.divisor(rounds.plan, rounds.hospitals, cohort)


def _ratios(
    rounds: Rounds,
    target: Target,
    over: np.ndarray,
    moved: np.ndarray,
    divisors: np.ndarray,
    others: np.ndarray,
    takes: np.ndarray,
) -> np.ndarray:
    """Logarithm of the likelihood ratio of each run, float64 [runs].

    Args:
      over: [runs, rounds], sums over the clip norm along the hospital's update.
      moved: [runs, rounds], logarithm of the factor by which the clip norm moved.
      divisors: [runs, rounds], of the sums.
      others: [rounds], silent hospitals.
      takes: [rounds], in which rounds the hospital would take part.
    """
    event, deviation = target.event, rounds.deviation(target.event, others)
    taken = takes.astype(np.float64)
    dependence = noise_of_rounds.dependence_of(rounds.plan, rounds.hospitals, target.rounds)
    if dependence is not None:
        weights = np.linalg.solve(dependence @ dependence.T, taken)
        return np.asarray((over @ weights - taken @ weights / 2) / deviation[0] ** 2)
    each = (over - 0.5) / deviation**2 * taken
    settings = mechanisms.hospital_settings(rounds.plan.privacy)
    if rounds.mechanism.counts and settings.clip_learning_rate:
        share = settings.clip_quantile - moved / settings.clip_learning_rate
        counts = (share - 0.5) * divisors - others / 2
        stddev = noise_of_rounds.count_stddev(rounds.plan, event)
        each = each - (counts / 2 + 0.125) / stddev**2 * taken
    if event.sampling_probability is not None:
        q = event.sampling_probability
        each = np.logaddexp(np.log1p(-q), np.log(q) + each) if q < 1 else each
    return np.asarray(each.sum(axis=1))
