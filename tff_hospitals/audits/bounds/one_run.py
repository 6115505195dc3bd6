"""One training with canaries, from whose guesses `guesses` bounds epsilon.

Nothing of a mechanism is imitated. Batches come from the run's own `RoundDrawer`, updates from the composition's own
client work, sums and noise from its own aggregator; only which records take part is decided by coins. Half of the
records of every hospital are canaries with a wrong label, each in or out by its own coin, and the curious server
guesses. A canary that is left out is masked out of the batches that were drawn, which is what removing one record means
when batches are Poisson (Steinke, Nasr and Jagielski 2023, arXiv:2305.08846).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tff_hospitals.audits.bounds import guesses as guesses_lib
from tff_hospitals.audits.per_record import RecordGradients
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.hospitals import Hospital, HospitalDataset, Part
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes import composition
from tff_hospitals.processes.rounds import HospitalRound
from tff_hospitals.runtimes import build_runtime
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.updates import Replay

if TYPE_CHECKING:
    from tff_hospitals.accounting.loss_shapes import Composition
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

    guesses: guesses_lib.Guesses
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
    promised: Composition | None = None,
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
      promised: releases whose trade-off curve the guesses are held against; None: nothing is promised.
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
                sent = replay(received, number, h, parts.remembered(state, one))
                update = tuple(tensor / np.float32(h.factor or 1.0) for tensor in sent)
                start = parts.start_of(state, one, received)
                half = tuple(weight - part / 2 for weight, part in zip(start, update))
                rows = gradients.matrix(half, part.features, part.labels)
                solvers[one].add(rows, chosen[one], np.concatenate([p.ravel() for p in update]), _Local(plan, h, noise))
            state, _ = runtime.run_rounds(state, [altered])
    finally:
        runtime.close()
    settled = [solvers[one].scores() for one in changed.ids]
    included = np.concatenate([coins[one][chosen[one]] for one in changed.ids])
    hospital = np.concatenate([np.full(int(chosen[one].sum()), one) for one in changed.ids])
    found = guesses_lib.guess_and_bound(
        np.concatenate(settled), included, delta=delta, confidence=confidence, promised=promised
    )
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
