"""Self-tests of a run's mechanism: is the noise as loud, the batches as random, the clipping as tight as the ledger
says?

An attack that fails proves little. These checks look at the parts themselves, with the run's own drawer, client work
and aggregator, and compare them with what the *ledger* declares. Each gives a probability of seeing such a deviation
by chance and fails below `SMALLEST_P`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.processes import composition
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.updates import Replay

if TYPE_CHECKING:
    from tff_hospitals.accounting import Ledger
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.plan.plan import Plan

SMALLEST_P = 1e-6
_ROUNDS = 6
_MOST_HOSPITALS = 6


@dataclasses.dataclass(frozen=True)
class Check:
    """One self-test: what it looked at, whether it passed, and the chance of such a deviation (None: exact)."""

    name: str
    passed: bool
    p_value: float | None
    words: str


def check_mechanism(plan: Plan, dataset: HospitalDataset, model: FunctionalModel, ledger: Ledger) -> list[Check]:
    """Every self-test that applies to the plan; an empty list without a mechanism."""
    found: list[Check] = []
    drawer = RoundDrawer(plan, dataset, noise_plan.make(plan, dataset))
    if "record" in ledger.units() and mechanisms.record_level(plan.privacy) is not None:
        found += check_batches(drawer, dataset, ledger, range(min(plan.rounds, _ROUNDS)))
        found += check_record_noise(plan, dataset, model, drawer, ledger)
        found += [check_record_clipping(plan, dataset, model)]
    if "hospital" in ledger.units():
        found += check_server(plan, dataset, model, ledger)
    return found


def check_batches(drawer: RoundDrawer, dataset: HospitalDataset, ledger: Ledger, rounds: range) -> list[Check]:
    """Whether batches that the ledger declares as Poisson are Poisson: every record by itself, with its probability.

    Shuffled or fixed-size batches have the right mean, but vary too little from step to step; passes in order also use
    every record equally often.
    """
    worst: dict[str, tuple[float, str]] = {}
    repeated = ""
    for hospital in dataset.hospitals[:_MOST_HOSPITALS]:
        one = hospital.hospital_id
        known = (event.sampling_probability for event, _ in ledger.events("record", one))
        declared = [chance for chance in known if chance is not None]
        if not declared:
            continue
        q = max(declared)
        sizes, uses, steps = [], np.zeros(hospital.train.records), 0
        for number in rounds:
            schedules = [h.schedule for h in drawer.draw(number).cohort if h.hospital.hospital_id == one]
            for schedule in schedules:
                chosen = np.zeros((schedule.indices.shape[0], hospital.train.records))
                step = np.repeat(np.arange(len(chosen)), schedule.indices.shape[1]).reshape(schedule.indices.shape)
                used = schedule.mask > 0
                np.add.at(chosen, (step[used], schedule.indices[used]), 1)
                if chosen.max(initial=0) > 1:
                    repeated = f"{one}: a record twice in one step"
                sizes.extend(chosen.sum(axis=1))
                uses += chosen.sum(axis=0)
                steps += len(chosen)
        if not steps:
            continue
        for name, p in _binomial_p_values(np.array(sizes), uses, steps, q).items():
            worst[name] = min(worst.get(name, (2.0, "")), (p, f"{one}, {steps} steps, q = {q:.4g}"))
    found = [
        Check(f"batches: {name}", p * len(dataset.ids) > SMALLEST_P, p, f"{where}: p = {p:.2g}")
        for name, (p, where) in worst.items()
    ]
    if worst:
        found.append(Check("batches: no record twice", not repeated, None, repeated or "no step holds a record twice"))
    return found


def _binomial_p_values(sizes: np.ndarray, uses: np.ndarray, steps: int, q: float) -> dict[str, float]:
    """Chance of the mean, of the spread of batch sizes, and of the spread of records' uses, under Poisson sampling."""
    from scipy import stats

    records = len(uses)
    total = int(sizes.sum())
    mean = float(stats.binomtest(total, records * steps, q).pvalue)
    found = {"as many records as declared": mean}
    if q < 1.0:
        found["sizes vary as declared"] = _spread_p_value(sizes, records, q)
        found["records vary as declared"] = _spread_p_value(uses, steps, q)
    return found


def _spread_p_value(counts: np.ndarray, trials: int, q: float) -> float:
    """Chance of the sum of squared deviations of independent Binomial(trials, q) counts, by its first two moments."""
    from scipy import stats

    variance = trials * q * (1 - q)
    kurtosis = (1 - 6 * q * (1 - q)) / variance
    statistic = float(((counts - trials * q) ** 2).sum()) / variance
    spread = math.sqrt(len(counts) * (2 + kurtosis))
    # A scaled chi-squared with these moments has the right skew, which a normal lacks for few counts.
    factor = spread**2 / (2 * len(counts))
    tail = float(stats.chi2.cdf(statistic / factor, len(counts) / factor))
    return 2 * min(tail, 1 - tail)


def check_record_noise(
    plan: Plan, dataset: HospitalDataset, model: FunctionalModel, drawer: RoundDrawer, ledger: Ledger
) -> list[Check]:
    """Whether local noise is as loud as the ledger says, and its own at every hospital and in every round.

    Client work runs on batches whose records are masked out: what is left of its update is the noise.
    """
    simple = plan.replace(
        client={
            "optimizer": "sgd",
            "momentum": 0.0,
            "learning_rate": 1.0,
            "learning_rate_schedule": "constant",
            "proximal_mu": 0.0,
        }
    )
    parts = composition.compose(simple, dataset, model)
    frozen = model.initial_weights(np.zeros(2, np.int64))[1]
    replay = Replay(parts, frozen)
    zeros = tuple(np.zeros(spec.shape, np.float32) for spec in model.trainable_specs)
    draws: dict[tuple[str, int], np.ndarray] = {}
    for number in range(min(plan.rounds, 4)):
        for one in drawer.draw(number).cohort:
            name = one.hospital.hospital_id
            if name not in dataset.ids[:_MOST_HOSPITALS]:
                continue
            silent = dataclasses.replace(one.schedule, mask=np.zeros_like(one.schedule.mask))
            delta = replay(zeros, number, dataclasses.replace(one, schedule=silent))
            declared = _declared_multiplier(ledger, "record", name)
            steps = one.schedule.indices.shape[0]
            scale = declared * plan.privacy.clip_norm * math.sqrt(steps) / one.schedule.expected_batch
            draws[name, number] = np.concatenate([part.ravel() for part in delta]) / max(scale, 1e-30)
    found = [_independence(draws)]
    if "record_noise" in mechanisms.of(plan.privacy).self_tests(plan.privacy):
        found.insert(0, _loudness("noise of the hospitals", np.concatenate(list(draws.values()))))
    return found


def _declared_multiplier(ledger: Ledger, unit: str, hospital_id: str | None) -> float:
    known = [event.noise_multiplier for event, _ in ledger.events(unit, hospital_id) if event.noise_multiplier]
    return float(max(known)) if known else 0.0


def _loudness(name: str, standardised: np.ndarray) -> Check:
    """A chi-squared test that draws have deviation 1: noise that is too loud costs accuracy, and is wrong too."""
    from scipy import stats

    total, count = float((standardised.astype(np.float64) ** 2).sum()), len(standardised)
    p = 2 * min(float(stats.chi2.cdf(total, count)), float(stats.chi2.sf(total, count)))
    ratio = math.sqrt(total / count)
    words = f"{ratio:.3f} of what the ledger declares, over {count} draws: p = {p:.2g}"
    return Check(f"{name} is as loud as declared", p > SMALLEST_P, p, words)


def _independence(draws: dict[tuple[str, int], np.ndarray]) -> Check:
    """A correlation test between all pairs of hospitals and rounds, corrected for their number."""
    from scipy import stats

    worst, where, pairs = 1.0, "", 0
    for (first, a), (second, b) in itertools.combinations(draws.items(), 2):
        pairs += 1
        x, y = a - a.mean(), b - b.mean()
        size = float(np.sqrt((x**2).sum() * (y**2).sum()))
        r = float(np.clip((x * y).sum() / max(size, 1e-30), -1.0, 1.0))
        freedom = len(a) - 2
        t = abs(r) * math.sqrt(freedom / max(1e-12, 1 - r * r))
        p = 2 * float(stats.t.sf(t, freedom))
        if p < worst:
            worst, where = p, f"{first[0]} round {first[1] + 1} and {second[0]} round {second[1] + 1}: r = {r:.3f}"
    p = min(1.0, worst * max(1, pairs))
    return Check(
        "noise differs by hospital and round", p > SMALLEST_P, p, f"closest pair, {where or 'none'}: p = {p:.2g}"
    )


def check_record_clipping(plan: Plan, dataset: HospitalDataset, model: FunctionalModel, most: int = 24) -> Check:
    """Whether one record can move one step's sum by no more than the clip norm, on the run's own model and records."""
    from tff_hospitals.audits.probe import Probe

    weights, frozen = model.initial_weights(np.array([plan.seed, 1], np.int64))
    plain = plan.replace(
        privacy={"outer": "none", "outer_noise_multiplier": None, "outer_target_epsilon": None},
        stopping={"outer_max_epsilon": None},
    )
    probe = Probe(plain, dataset, model, weights, frozen, learning_rate=1.0)
    norms = []
    for number in range(most):
        part = dataset.hospitals[number % len(dataset.hospitals)].train
        at = slice(number % part.records, number % part.records + 1)
        seen = probe(part.features[at] * 10.0, part.labels[at], number=number, noise_multiplier=0.0)
        norms.append(math.sqrt(sum(float((one.astype(np.float64) ** 2).sum()) for one in seen.gradient)))
    largest, bound = max(norms), plan.privacy.clip_norm
    words = f"largest of {most} enlarged records: {largest:.6g}, bound {bound:g}"
    return Check("records are clipped", largest <= bound * (1 + 1e-4), None, words)


def check_server(plan: Plan, dataset: HospitalDataset, model: FunctionalModel, ledger: Ledger) -> list[Check]:
    """Whether a hospital's contribution is clipped, and the server's noise as loud as declared and new in every round.

    Noise that comes in shares or from a tree is left to the repeated runs.
    """
    import tensorflow as tf

    from tff_hospitals.audits.canary_runs import plan_clip_norm
    from tff_hospitals.foundations.random_streams import Streams

    parts = composition.compose(plan, dataset, model)
    aggregator = parts.aggregator
    noise = noise_plan.make(plan, dataset)
    key = Streams.from_seed(plan.seed).child("server", "noise").key()
    state: Any = tf.nest.map_structure(tf.constant, aggregator.initial_state(key, noise.server_multiplier))
    far = tuple(tf.fill(spec.shape, 100.0) for spec in model.trainable_specs)
    clip_norm = plan_clip_norm(plan)
    asked = mechanisms.hospital_level(plan.privacy).self_tests(plan.privacy)
    found = []
    if "update_clipping" in asked:
        parameters = aggregator.parameters(state)
        sent = aggregator.prepare(parameters, far, tf.constant(1.0), aggregator.no_hospital_noise())["delta"]
        size = float(tf.linalg.global_norm(list(sent)))
        words = f"a far-reaching update arrives with norm {size:.6g}, bound {clip_norm:g}"
        found.append(Check("updates are clipped", size <= clip_norm * (1 + 1e-4), None, words))
    if "server_noise" not in asked:
        return found
    declared = _declared_multiplier(ledger, "hospital", None if not ledger.hospital_ids("hospital") else dataset.ids[0])
    draws: dict[tuple[str, int], np.ndarray] = {}
    zero = parts.zero_contribution()
    divisor = float(aggregator.setting.divisor(tf.constant(0.0)))
    for number in range(max(_ROUNDS, 400 // parts.client_work.scalars)):
        norm = float(state["clip_norm"])
        update, state, _ = aggregator.finish(state, zero, aggregator.server_noise(state))
        flat = np.concatenate([np.asarray(part).ravel() for part in update])
        draws["the server", number] = flat * divisor / max(declared * norm, 1e-30)
    everything = np.concatenate(list(draws.values()))
    few = dict(list(draws.items())[:_ROUNDS])
    return [*found, _loudness("noise of the server", everything), _independence(few)]
