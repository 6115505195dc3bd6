"""Runs with canaries: the guesses from which `canaries` bounds epsilon.

Nothing of a mechanism is imitated. Batches come from the run's own `RoundDrawer`, updates from the composition's own
client work, sums and noise from its own aggregator; only which records (or hospital) take part is decided by coins. A
canary that is left out is masked out of the batches that were drawn, which is what removing one record means when
batches are Poisson.

* `one_run` (Steinke et al. 2023, arXiv:2305.08846): one training of the run's own plan in which half of the records of
every
  hospital are canaries with a wrong label, each in or out by its own coin; the curious server guesses.
* `repeated_record`, `repeated_hospital`: many short runs with and without one worst-case record or hospital (Nasr et
al.
  2021, arXiv:2101.04535): the attacker chooses all data, which the promise allows.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.audits import canaries
from tff_hospitals.audits.per_record import RecordGradients
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import raise_if, whole_number
from tff_hospitals.hospitals import Hospital, HospitalDataset, Part
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes import composition
from tff_hospitals.processes.rounds import HospitalRound
from tff_hospitals.runtimes import build_runtime
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.updates import Replay

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.plan.plan import Plan


def without(one: HospitalRound, left_out: np.ndarray) -> HospitalRound:
    """The hospital's round with records masked out of every batch.

    Args:
      one: as it was drawn.
      left_out: [records], whether the record is left out.
    """
    schedule = one.schedule
    mask = np.where(left_out[schedule.indices], np.float32(0.0), schedule.mask)
    return dataclasses.replace(one, schedule=dataclasses.replace(schedule, mask=mask))


@dataclasses.dataclass(frozen=True)
class OneRun:
    """A one-run audit: for all hospitals' canaries together, and what each coin and score was.

    Attributes:
      guesses: counts and the lower bound on epsilon of the worst hospital.
      scores, included, hospital: [canaries].
    """

    guesses: canaries.Guesses
    scores: np.ndarray
    included: np.ndarray
    hospital: np.ndarray


def one_run(
    plan: Plan,
    dataset: HospitalDataset,
    model: FunctionalModel,
    *,
    delta: float,
    confidence: float = 0.95,
    share: float = 0.5,
) -> OneRun:
    """Trains once with canaries and bounds epsilon by the guesses of a curious server.

    The attacker knows every record, and that an update is about the sum of the gradients of those that took part. It
    solves for the coins by ridge regression over all rounds, with gradients taken half way between broadcast and
    update.

    Args:
      plan: of the run to audit, noise and all.
      dataset, model: of that run.
      delta: of the promise.
      confidence: of the bound.
      share: of each hospital's training records that become canaries.
    """
    root = Streams.from_seed(plan.seed).child("audit", "one_run")
    changed, chosen, coins = _with_canaries(dataset, root, share)
    parts = composition.compose(plan, changed, model)
    noise = noise_plan.make(plan, changed)
    weights, frozen = model.initial_weights(root.child("model").key())
    state = parts.initial_state(weights, root, noise.server_multiplier)
    drawer = RoundDrawer(plan.replace(seed=_seed(root.child("rounds"))), changed, noise)
    replay, gradients = Replay(parts, frozen), RecordGradients(model, frozen)
    solvers = {one: _Solver(int(chosen[one].sum())) for one in changed.ids}
    runtime = build_runtime("compiled", parts, changed, frozen)
    try:
        for number in range(plan.rounds):
            drawn = drawer.draw(number)
            left_out = {one: chosen[one] & ~coins[one] for one in changed.ids}
            cohort = tuple(without(h, left_out[h.hospital.hospital_id]) for h in drawn.cohort)
            altered = dataclasses.replace(drawn, cohort=cohort)
            received = parts.at_hospitals(state, drawn.broadcast_key)
            for h in altered.cohort:
                one, part = h.hospital.hospital_id, h.hospital.train
                update = replay(received, number, h)
                half = tuple(weight - part / 2 for weight, part in zip(received, update))
                rows = gradients.matrix(half, part.features, part.labels)
                solvers[one].add(rows, chosen[one], np.concatenate([p.ravel() for p in update]), _Local(plan, h, noise))
            state, _ = runtime.run_rounds(state, [altered])
    finally:
        runtime.close()
    settled = [solvers[one].scores() for one in changed.ids]
    included = np.concatenate([coins[one][chosen[one]] for one in changed.ids])
    hospital = np.concatenate([np.full(int(chosen[one].sum()), one) for one in changed.ids])
    found = canaries.guess_and_bound(np.concatenate(settled), included, delta=delta, confidence=confidence)
    return OneRun(found, np.concatenate(settled), included, hospital)


class _Local:
    """What the attacker knows of local training: how much each record counts, and how loud the noise is."""

    def __init__(self, plan: Plan, one: HospitalRound, noise: noise_plan.NoisePlan):
        rate, size = plan.client.learning_rate, one.hospital.train.records
        self.private = noise.unit == "record"
        self.clip_norm = float(plan.privacy.clip_norm) if self.private else np.inf
        steps = one.schedule.indices.shape[0]
        self.scale = rate * steps / size  # each record is in so many steps' means, on average
        per_step = rate * one.noise_multiplier * self.clip_norm / one.schedule.expected_batch if self.private else 0.0
        self.variance = steps * per_step**2


class _Solver:
    """Ridge regression of one hospital's updates on its canaries' gradients, accumulated over rounds."""

    def __init__(self, canaries_here: int):
        self._gram = np.zeros((canaries_here, canaries_here))
        self._product = np.zeros(canaries_here)

    def add(self, rows: np.ndarray, chosen: np.ndarray, update: np.ndarray, local: _Local) -> None:
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows * np.minimum(1.0, local.clip_norm / np.maximum(norms, 1e-12)) * local.scale
        mine = rows[chosen]
        left = update - rows[~chosen].sum(axis=0) - mine.sum(axis=0) / 2
        # What the approximation misses is noise too: a tenth of what the canaries themselves add.
        variance = local.variance + 0.1 * float((mine**2).sum()) / mine.shape[1] + 1e-30
        self._gram += mine @ mine.T / variance
        self._product += mine @ left / variance

    def scores(self) -> np.ndarray:
        """Expected coin of each canary minus one half."""
        return np.linalg.solve(self._gram + 4.0 * np.eye(len(self._gram)), self._product)


def _with_canaries(
    dataset: HospitalDataset, root: Streams, share: float
) -> tuple[HospitalDataset, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The data set with wrong labels at the canaries, which records they are, and their coins."""
    made, chosen, coins = [], {}, {}
    for h in dataset:
        draws = root.child("canaries", h.hospital_id).generator().random((2, h.train.records))
        count = max(1, round(share * h.train.records))
        mine = np.zeros(h.train.records, bool)
        mine[np.argsort(draws[0], kind="stable")[:count]] = True
        labels = h.train.labels.copy()
        if dataset.task == "regression":
            labels[mine] = labels.max() + labels.min() - labels[mine]
        else:
            labels[mine] = (labels[mine] + 1) % dataset.num_classes
        made.append(Hospital(h.hospital_id, Part(h.train.features, labels), h.test, h.scaler))
        chosen[h.hospital_id], coins[h.hospital_id] = mine, draws[1] < 0.5
    return dataclasses.replace(dataset, hospitals=tuple(made)), chosen, coins


def _seed(streams: Streams) -> int:
    return int(streams.generator().integers(2**31))


def repeated_record(
    plan: Plan,
    dataset: HospitalDataset,
    hospital_id: str,
    *,
    noise_multiplier: float,
    runs: int,
    rounds: int | None = None,
    delta: float,
    confidence: float = 0.95,
) -> canaries.RepeatedRuns:
    """Many runs of one hospital with and without one worst-case record.

    All records but the canary are blank, and a logistic regression whose gradients cannot shrink stands for the model:
      the promise of DP-SGD covers every data set and model, so its mechanism (sampling, clipping, noise, steps) is
      what is put to the test. The score is the part of the final model that only the canary can have moved.

    Args:
      plan: of the run; its sampling, clipping, steps and rounds are kept.
      dataset: its hospitals.
      hospital_id: whose promise is tested.
      noise_multiplier: of that hospital.
      runs: how many with, and how many without the record.
      rounds: rounds that were really run; default the plan's.
      delta, confidence: of the promise and the bound.
    """
    from tff_hospitals import models

    raise_if([whole_number("audit_runs", runs, low=4, remedy="repeat 4 runs or more")])
    size = dataset.hospital(hospital_id).train.records
    features = np.zeros((size, 4), np.float32)
    features[0] = (30.0, 0.0, 0.0, 0.0)
    labels = np.zeros(size, np.int64)
    labels[0] = 1
    part = Part(features, labels)
    blank = dataclasses.replace(
        dataset,
        hospitals=(Hospital(hospital_id, part, part),),
        task="binary",
        num_classes=2,
        feature_shape=(4,),
        feature_names=(),
        schema=None,
    )
    simple = plan.replace(
        rounds=plan.rounds if rounds is None else rounds,
        model={"name": "logistic_regression", "options": {"init": "zeros"}},
        client={
            "optimizer": "sgd",
            "momentum": 0.0,
            "learning_rate": 1e-4,
            "learning_rate_schedule": "constant",
            "proximal_mu": 0.0,
        },
        server={"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0},
        cohort={"kind": "all", "hospitals_per_round": None, "sampling_probability": None},
        privacy={"target_epsilon": None, "noise_multiplier": float(noise_multiplier), "delta": delta},
        broadcast="",
        upload="",
        error_feedback=False,
        skip_below=None,
    )
    simple = simple.replace(
        privacy={"outer": "none", "outer_noise_multiplier": None, "outer_target_epsilon": None},
        stopping={"outer_max_epsilon": None},
    )
    model = models.build_model("logistic_regression", blank, init="zeros")
    parts = composition.compose(simple, blank, model)
    noise = noise_plan.make(simple, blank)
    runtime = build_runtime("compiled", parts, blank, ())
    canary = np.zeros(size, bool)
    canary[0] = True
    scores: dict[bool, list[float]] = {True: [], False: []}
    root = Streams.from_seed(plan.seed).child("audit", "repeated_record", hospital_id)
    weights, _ = model.initial_weights(root.key())
    try:
        for run in range(2 * runs):
            present = run % 2 == 0
            drawer = RoundDrawer(simple.replace(seed=_seed(root.child(run))), blank, noise)
            inputs = [drawer.draw(number) for number in range(simple.rounds)]
            if not present:
                inputs = [
                    dataclasses.replace(one, cohort=tuple(without(h, canary) for h in one.cohort)) for one in inputs
                ]
            state = parts.initial_state(weights, root.child(run), 0.0)
            state, _ = runtime.run_rounds(state, inputs)
            scores[present].append(float(np.asarray(state.weights[0])[0, 0]))  # the canary's own feature
    finally:
        runtime.close()
    return canaries.repeated_run_lower_bound(
        np.array(scores[True]), np.array(scores[False]), delta=delta, confidence=confidence
    )


def repeated_hospital(
    plan: Plan,
    dataset: HospitalDataset,
    model: FunctionalModel,
    *,
    runs: int,
    rounds: int | None = None,
    delta: float,
    confidence: float = 0.95,
) -> canaries.RepeatedRuns:
    """Many runs of the server's side with and without one hospital that always sends the same far-reaching update.

    The other hospitals send nothing, which the attacker knows; a hospital that is left out sends zeros. Cohorts,
    clipping, sum, noise and the next clip norm are the composition's own.

    Args:
      plan, dataset, model: of the run.
      runs: how many with, and how many without the hospital.
      rounds: rounds that were really run; default the plan's.
      delta, confidence: of the promise and the bound.
    """
    import tensorflow as tf

    raise_if([whole_number("audit_runs", runs, low=4, remedy="repeat 4 runs or more")])
    parts = composition.compose(plan, dataset, model)
    noise = noise_plan.make(plan, dataset)
    aggregator, specs = parts.aggregator, model.trainable_specs
    root = Streams.from_seed(plan.seed).child("audit", "repeated_hospital")
    total_rounds = plan.rounds if rounds is None else rounds
    first = np.zeros(specs[0].shape, np.float32).ravel()
    first[0] = 1.0
    direction = [first.reshape(specs[0].shape), *(np.zeros(spec.shape, np.float32) for spec in specs[1:])]
    far = tuple(tf.constant(100.0 * plan_clip_norm(plan) * part) for part in direction)
    nothing = tuple(tf.zeros(spec.shape) for spec in specs)

    def one_round(state: Any, takes_part: Any, silent: Any, keys: Any) -> tuple:
        parameters = aggregator.parameters(state)
        weight = tf.constant(1.0)
        sent = tuple(tf.where(takes_part > 0, a, b) for a, b in zip(far, nothing))
        total = aggregator.prepare(parameters, sent, weight, aggregator.hospital_noise(parameters, keys[0]))
        total = tf.nest.map_structure(lambda a, b: tf.where(silent >= 0, a, b), total, parts.zero_contribution())

        def add(number: Any, total: Any) -> tuple:
            other = aggregator.prepare(
                parameters, nothing, weight, aggregator.hospital_noise(parameters, keys[number + 1])
            )
            return number + 1, tf.nest.map_structure(tf.add, total, other)

        _, total = tf.while_loop(lambda number, _: number < silent, add, (tf.constant(0), total))
        update, state, measured = aggregator.finish(state, total, aggregator.server_noise(state))
        norm = tf.cast(measured.get("clip_norm", plan_clip_norm(plan)), tf.float32)
        return state, tf.reshape(update[0], [-1])[0] / norm

    def whole_run(state: Any, present: Any, silent: Any, keys: Any) -> Any:
        def body(number: Any, state: Any, score: Any) -> tuple:
            state, value = one_round(state, present[number], silent[number], keys[number])
            return number + 1, state, score + value

        start = (tf.constant(0), state, tf.constant(0.0))
        return tf.while_loop(lambda number, *_: number < total_rounds, body, start)[2]

    compiled = tf.function(whole_run, autograph=False)
    scores: dict[bool, list[float]] = {True: [], False: []}
    canary = dataset.ids[0]
    for run in range(2 * runs):
        present, own = run % 2 == 0, root.child(run)
        drawer = RoundDrawer(plan.replace(seed=_seed(own)), dataset, noise)
        cohorts = [drawer.cohort(number) for number in range(total_rounds)]
        inside = np.array([canary in cohort for cohort in cohorts])
        silent = np.array([len(cohort) - 1 for cohort in cohorts], np.int32)
        keys = own.child("hospitals").generator().integers(-(2**62), 2**62, (total_rounds, len(dataset.ids) + 1, 2))
        state = aggregator.initial_state(own.child("server", "noise").key(), noise.server_multiplier)
        score = compiled(
            tf.nest.map_structure(tf.constant, state),
            tf.constant((inside & present).astype(np.float32)),
            tf.constant(silent),
            tf.constant(keys, tf.int64),
        )
        scores[present].append(float(score))
    return canaries.repeated_run_lower_bound(
        np.array(scores[True]), np.array(scores[False]), delta=delta, confidence=confidence
    )


def plan_clip_norm(plan: Plan) -> float:
    """The clip norm of a plan's hospital-level mechanism."""
    return float(mechanisms.hospital_settings(plan.privacy).clip_norm)
