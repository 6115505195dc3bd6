"""Runs of a hospital's steps with and without one worst-case record, seen step by step.

The attacker chooses all data, which the promise allows: every other record is masked out, and the gradient of the
canary is longer than the clip norm in every step that it is in. What clips and adds noise is the run's own rule of
steps, on a model of two weights; which steps the canary is in is drawn by the run's own batches. The score is the
logarithm of the likelihood ratio of everything that was seen: no attacker can do better (Neyman and Pearson 1933).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals import models
from tff_hospitals.accounting.sampled_gaussian import mixture_loss
from tff_hospitals.audits.self_tests import batches
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.processes.record_level.base import Batch
from tff_hospitals.processes.record_level.building import build_step_rule

if TYPE_CHECKING:
    from tff_hospitals.accounting import MechanismEvent
    from tff_hospitals.audits.self_tests.keys import Draws, Runs
    from tff_hospitals.plan.parts import PrivacyPlan

_NUMBERS_PER_CALL = 2_000_000  # steps of all runs of a call
_FAR = 1e3  # the canary's feature over the clip norm


@dataclasses.dataclass(frozen=True)
class Target:
    """Whose record is looked for.

    Attributes:
      hospital: its id.
      event: what the ledger declares of a step (of a round, where steps hang together).
      records: of the hospital.
      steps: of one round.
      rounds: that were run.
      expected_batch, noise_multiplier: of its steps.
      turns: groups of records that take turns; 1 where all may be in every step.
      dependence: how the noises of its steps hang together; None where each step has its own.
    """

    hospital: str
    event: MechanismEvent
    records: int
    steps: int
    rounds: int
    expected_batch: float
    noise_multiplier: float
    turns: int = 1
    dependence: np.ndarray | None = None

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.steps * self.rounds


class Steps:
    """The run's rule of steps on a model of two weights.

    Args:
      privacy: of the run.
      steps: of one round.
      longest: steps of the hospital that takes the most.
    """

    def __init__(self, privacy: PrivacyPlan, steps: int, longest: int):
        import tensorflow as tf

        signature = models.ModelSignature((1,), 2, "binary")
        self._model = models.build_model("logistic_regression", signature, init="zeros")
        self._clip_norm = privacy.clip_norm
        keyed = dataclasses.replace(privacy, secure_noise=False)  # compiled code cannot call the operating system
        self._rule = build_step_rule(self._model, keyed, longest)
        self._steps = steps
        self._seen = tf.function(self._see, jit_compile=True, autograph=False)

    def _see(self, keys: Any, taken: Any, expected: Any, multiplier: Any) -> Any:
        """What each round shows: gradients [rounds, steps, 2] times the batch size, and clip norms [rounds, steps]."""
        import tensorflow as tf

        rule, rounds, block = self._rule, keys.shape[0], self._rule.block
        feature = tf.constant([[_FAR * max(1.0, self._clip_norm)]])
        weights = tuple(tf.zeros(spec.shape) for spec in self._model.trainable_specs)

        def one_step(step: Any, start: Any, noise: Any, mask: Any, clip_norm: Any, rows: Any, norms: Any) -> tuple:
            label, present = tf.constant([1], tf.int64), mask[step][tf.newaxis]
            batch = Batch(feature, label, present, (), None, expected, multiplier, tf.constant(self._clip_norm))
            gradients, _, following = rule.gradients(weights, batch, noise[step - start], clip_norm)
            row = expected * tf.concat([tf.reshape(one, [-1]) for one in gradients], axis=0)
            return step + 1, following, rows.write(step, row), norms.write(step, clip_norm)

        def one_round(number: Any, rows_of_all: Any, norms_of_all: Any) -> tuple:
            arrays = (
                tf.TensorArray(tf.float32, self._steps, element_shape=[2]),
                tf.TensorArray(tf.float32, self._steps, element_shape=[]),
            )

            def one_block(start: Any, clip_norm: Any, rows: Any, norms: Any) -> tuple:
                noise = rule.noise_block(keys[number], start // block)
                end = tf.minimum(start + block, self._steps)
                _, clip_norm, rows, norms = tf.while_loop(
                    lambda step, *_: step < end,
                    lambda step, *carry: one_step(step, start, noise, taken[number], *carry),
                    (start, clip_norm, rows, norms),
                )
                return end, clip_norm, rows, norms

            first = (tf.constant(0), tf.constant(self._clip_norm, tf.float32), *arrays)
            _, _, rows, norms = tf.while_loop(lambda start, *_: start < self._steps, one_block, first)
            return number + 1, rows_of_all.write(number, rows.stack()), norms_of_all.write(number, norms.stack())

        everything = (
            tf.constant(0),
            tf.TensorArray(tf.float32, rounds, element_shape=[self._steps, 2]),
            tf.TensorArray(tf.float32, rounds, element_shape=[self._steps]),
        )
        _, rows, norms = tf.while_loop(lambda number, *_: number < rounds, one_round, everything)
        return rows.stack(), norms.stack()

    def __call__(self, keys: np.ndarray, taken: np.ndarray, target: Target, multiplier: float) -> tuple:
        """Numpy arrays of `_see`.

        Args:
          keys: int64 [rounds, 2].
          taken: float32 [rounds, steps], whether the canary is in a step.
          target: whose batch size counts.
          multiplier: of the noise.
        """
        import tensorflow as tf

        seen = self._seen(
            tf.constant(keys),
            tf.constant(taken, tf.float32),
            tf.constant(target.expected_batch, tf.float32),
            tf.constant(multiplier, tf.float32),
        )
        return tuple(one.numpy().astype(np.float64) for one in seen)


def scores(steps: Steps, target: Target, privacy: PrivacyPlan, runs: Runs, count: int, seed: int) -> tuple:
    """Scores of runs with the canary and without it, float64 [count] each.

    Args:
      steps: the rule.
      target: whose record.
      privacy: of the run.
      runs: draws of the run's plan: of its own seed and of others.
      count: runs with, and as many without.
      seed: of the noise keys.
    """
    generator = np.random.default_rng(seed)
    direction = _direction(steps, target)
    at_once = max(1, _NUMBERS_PER_CALL // target.total_steps)
    drawn = _takes_part(runs, target)
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for start in range(0, count, at_once):
        size = min(at_once, count - start)
        taken = [next(drawn) for _ in range(size)]
        known = np.array([table for _, table in taken]).reshape(-1, target.steps)
        groups = np.repeat([record % target.turns for record, _ in taken], target.rounds)
        for present in (True, False):
            keys = generator.integers(-(2**62), 2**62, (len(known), 2))
            padded = np.zeros([at_once * target.rounds, target.steps], np.float32)
            padded[: len(known)] = known if present else 0.0
            more = generator.integers(-(2**62), 2**62, (len(padded) - len(known), 2))
            rows, norms = steps(np.concatenate([keys, more]), padded, target, target.noise_multiplier)
            ratios = _ratios(rows[: len(known)] @ direction, norms[: len(known)], known, groups, target, privacy)
            found[present].append(ratios.reshape(size, target.rounds).sum(axis=1))
    return np.concatenate(found[True]), np.concatenate(found[False])


def _direction(steps: Steps, target: Target) -> np.ndarray:
    """Where the canary's clipped gradient points, of length 1."""
    rounds = 1
    rows, _ = steps(np.zeros([rounds, 2], np.int64), np.ones([rounds, target.steps], np.float32), target, 0.0)
    return np.asarray(rows[0, 0] / max(float(np.linalg.norm(rows[0, 0])), 1e-30))


def _takes_part(runs: Runs, target: Target) -> Iterator[tuple[int, np.ndarray]]:
    """A record and its steps, float32 [rounds, steps]: every record of the hospital in turn, seed after seed."""
    number = 0
    while True:
        draws = runs.with_seeds(number)[-1]
        table = _table(draws, target)
        for record in range(target.records):
            yield record, table[:, :, record]
        number += 1


def _table(draws: Draws, target: Target) -> np.ndarray:
    table = np.zeros([target.rounds, target.steps, target.records], np.float32)
    for number in range(target.rounds):
        one = draws.of_hospital(number, target.hospital)
        if one is not None:
            table[number] = batches.marks(one.schedule)
    return table


def _ratios(
    seen: np.ndarray,
    norms: np.ndarray,
    known: np.ndarray,
    groups: np.ndarray,
    target: Target,
    privacy: PrivacyPlan,
) -> np.ndarray:
    """Logarithm of the likelihood ratio of each round, float64 [rounds].

    Args:
      seen: [rounds, steps], noised sums along the canary's gradient.
      norms: [rounds, steps], clip norms.
      known: [rounds, steps], in which steps the canary would be; only used where that is no secret.
      groups: [rounds], whose turns are the canary's.
    """
    event, dependence = target.event, target.dependence
    multiplier = float(event.noise_multiplier or 0.0)
    over = seen / norms
    q = event.sampling_probability
    if q is None:  # the order is no secret: nothing is claimed for it
        covariance = np.eye(target.steps) if dependence is None else dependence @ dependence.T
        weights = np.linalg.solve(covariance, known.T).T
        shift = (weights * known).sum(axis=1)
        return np.asarray(((weights * over).sum(axis=1) - shift / 2) / multiplier**2)
    if dependence is not None:
        return _of_turns(over, groups, q, multiplier, target)
    if not CLIP_STYLES[privacy.clip_style].follows:
        return np.asarray(mixture_loss(over, (1 - q, q), multiplier).sum(axis=1))
    # With the canary the sum moves by one, and the count by one half down.
    share = privacy.clip_quantile - np.diff(np.log(norms), axis=1) / privacy.clip_learning_rate
    counts = np.zeros_like(over)
    counts[:, :-1] = (share - 0.5) * target.expected_batch
    stddev = float(event.bit_noise_stddev or np.inf)
    last = np.ones(target.steps)
    last[-1] = 0.0  # the count of the last step is never used
    joint = (over - 0.5) / multiplier**2 - (counts / 2 + 0.125) / stddev**2 * last
    return np.asarray(np.logaddexp(np.log1p(-q), np.log(q) + joint).sum(axis=1))


def _of_turns(over: np.ndarray, groups: np.ndarray, q: float, multiplier: float, target: Target) -> np.ndarray:
    """Logarithm of the likelihood ratio of rounds in which the noises of steps hang together, float64 [rounds].

    With the dependence taken out, a record moves a step and the next ones by a column of the strategy. Its turns are
    as far apart as the columns are long, so that each of them is seen by itself.
    """
    strategy = np.linalg.inv(np.asarray(target.dependence))
    apart = over @ strategy.T
    found = np.zeros(len(over))
    for group in range(target.turns):
        mine = groups == group
        for turn in range(group, target.steps, target.turns):
            column = strategy[:, turn]
            length = float(np.linalg.norm(column))
            moved = apart[mine] @ column / length**2
            found[mine] += mixture_loss(moved, (1 - q, q), multiplier / length)
    return found
