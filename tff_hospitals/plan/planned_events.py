"""What a mechanism releases in a round, and over a whole run: the events that the ledger is made of.

Beside the mechanisms, so that what is done and what is accounted for stay in one place; light to import, so that a plan
is checked without TensorFlow.

>>> from tff_hospitals.plan.parts import PrivacyPlan
>>> tree = hospital_release(PrivacyPlan(mechanism="tree", restart_every=4), CohortPlan(), 10, rounds=6)
>>> event, count = tree(2.0).in_round(5, steps=1, cohort=10)  # the second round of the second tree
>>> event.steps, event.restart, count
(2, 1, 1)
>>> [(event.steps, count) for event, count in tree(2.0).whole_run(6, steps=1)]
[(4, 1), (2, 1)]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tff_hospitals.accounting import MechanismEvent, split_adaptive_noise
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan.discretisation import discretise
from tff_hospitals.plan.parts import DISTRIBUTED, CohortPlan, PrivacyPlan

Events = tuple[tuple[MechanismEvent, int], ...]


@dataclasses.dataclass(frozen=True)
class Release:
    """The releases of one mechanism at one noise multiplier.

    Attributes:
      event: of one step or one round.
      per_step: whether every local step is a release of its own.
      shared: whether one release touches every hospital alike; else each hospital that takes part has its own.
      tree: "" or over the steps of a round ("steps") or over rounds ("rounds").
      rounds_per_tree: of a tree over rounds.
      shares: whether the noise comes in one share per hospital of the round.
      every: a hospital takes part in one of so many rounds, in turn.
    """

    event: MechanismEvent
    per_step: bool = False
    shared: bool = False
    tree: str = ""
    rounds_per_tree: int = 1
    shares: bool = False
    every: int = 1

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """The event of a round and how often it happens there.

        Args:
          round_number: 0-based.
          steps: local steps that the hospital takes.
          cohort: hospitals that take part.
        """
        event = self.event
        if self.per_step:
            return event, steps
        if self.tree == "steps":
            return dataclasses.replace(event, steps=max(1, steps)), int(steps > 0)
        if self.tree == "rounds":
            tree, position = divmod(round_number, self.rounds_per_tree)
            return dataclasses.replace(event, steps=position + 1, restart=tree), 1
        if self.shares:  # a hospital that stays away brings no noise
            return dataclasses.replace(event, shares=max(1, cohort)), 1
        return event, 1

    def whole_run(self, rounds: int, steps: int) -> Events:
        """Everything that `rounds` rounds of `steps` steps release."""
        if self.per_step:
            return ((self.event, rounds * steps),)
        if self.tree == "steps":
            return ((dataclasses.replace(self.event, steps=steps), rounds),)
        if self.tree == "rounds":
            trees, rest = divmod(rounds, self.rounds_per_tree)
            whole = ((dataclasses.replace(self.event, steps=self.rounds_per_tree), trees),) if trees else ()
            return (*whole, (dataclasses.replace(self.event, steps=rest), 1)) if rest else whole
        return ((self.event, -(-rounds // self.every)),)


ReleaseAt = Callable[[float], Release]
"""The releases of a mechanism whose noise multiplier is still open."""


def record_release(privacy: PrivacyPlan, *, sampling_probability: float, steps_per_epoch: int, steps: int) -> ReleaseAt:
    """What the client work of one hospital releases about its records.

    Args:
      privacy: a record-level mechanism.
      sampling_probability: chance of each record to be in a step (Poisson batches of DP-SGD).
      steps_per_epoch: steps after which a record comes back (DP-FTRL).
      steps: of one round.
    """
    if privacy.mechanism == "dp_ftrl_local":
        period = steps_per_epoch if steps > steps_per_epoch else None  # None: at most once per tree

        def tree(noise_multiplier: float) -> Release:
            event = MechanismEvent("tree", noise_multiplier=noise_multiplier, steps=steps, period=period)
            return Release(event, tree="steps")

        return tree

    def step(noise_multiplier: float) -> Release:
        event = MechanismEvent(
            "poisson_gaussian", noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
        )
        if privacy.clip_style == "adaptive" and noise_multiplier > 0:
            count_stddev = privacy.record_count_stddev(noise_multiplier)
            event = _with_counts(event, noise_multiplier, count_stddev)
        return Release(event, per_step=True)

    return step


def _with_counts(event: MechanismEvent, noise_multiplier: float, count_stddev: float) -> MechanismEvent:
    """An event whose noise is split between values and noised counts."""
    return MechanismEvent(
        "adaptive_clip",
        noise_multiplier=split_adaptive_noise(noise_multiplier, bit_noise_stddev=count_stddev),
        bit_noise_stddev=count_stddev,
        sampling_probability=event.sampling_probability,
    )


def hospital_release(
    privacy: PrivacyPlan, cohort: CohortPlan, hospitals: int, *, rounds: int, parameters: int = 1
) -> ReleaseAt:
    """What a round releases about the hospitals.

    Args:
      privacy: a hospital-level mechanism.
      cohort: who takes part, out of `hospitals`.
      hospitals: how many there are.
      rounds: of the whole run.
      parameters: of the model (distributed mechanisms only).
    """
    expected, period = cohort.expected_size(hospitals), cohort.period(hospitals)
    shared = period == 1  # in a cyclic cohort a round is nothing to those whose turn it is not

    def release(noise_multiplier: float) -> Release:
        if privacy.mechanism == "tree":
            per_tree = min(rounds, privacy.restart_every or rounds)
            event = MechanismEvent("tree", noise_multiplier=noise_multiplier, steps=1, period=period)
            return Release(event, shared=True, tree="rounds", rounds_per_tree=per_tree)
        if privacy.mechanism in DISTRIBUTED:
            event = _distributed(privacy, noise_multiplier, round(expected), parameters)
            return Release(event, shared=shared, shares=True, every=period)
        if privacy.mechanism == "local_dp":  # whoever sends an update shows that it takes part: nothing is amplified
            return Release(MechanismEvent("gaussian", noise_multiplier=noise_multiplier), every=period)
        if cohort.kind == "poisson":
            event = MechanismEvent(
                "poisson_gaussian", noise_multiplier=noise_multiplier, sampling_probability=cohort.sampling_probability
            )
        else:
            event = MechanismEvent("gaussian", noise_multiplier=noise_multiplier)
        if privacy.counts and 0 < noise_multiplier < 2 * privacy.joint_count_stddev(expected):
            event = _with_counts(event, noise_multiplier, privacy.joint_count_stddev(expected))
        return Release(event, shared=shared, every=period)

    return release


def _distributed(privacy: PrivacyPlan, noise_multiplier: float, shares: int, parameters: int) -> MechanismEvent:
    grid = discretise(
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        modulus_bits=privacy.modulus_bits,
        shares=shares,
        parameters=parameters,
    )
    if grid is None:
        raise InvalidInput([overflow_problem(privacy, noise_multiplier, shares, parameters)])
    return MechanismEvent(
        privacy.mechanism,
        local_stddev=grid.local_stddev,
        shares=shares,
        l2_sensitivity=grid.l2_sensitivity,
        l1_sensitivity=grid.l1_sensitivity,
        dimension=grid.dimension if privacy.mechanism == "discrete_gaussian" else None,
    )


def overflow_problem(privacy: PrivacyPlan, noise_multiplier: float, shares: int, parameters: int) -> Problem:
    """Why a modulus is too small, and the smallest that would do."""
    from tff_hospitals.plan.discretisation import LARGEST_BITS, enough_bits

    enough = enough_bits(
        clip_norm=privacy.clip_norm, noise_multiplier=noise_multiplier, shares=shares, parameters=parameters
    )
    remedy = f"set --modulus_bits={enough} or more" if enough else "take fewer hospitals per round or less noise"
    return Problem(
        "modulus_bits",
        privacy.modulus_bits,
        f"overflows: the sum of {shares} hospitals with its noise (multiplier {noise_multiplier:.3g}) needs "
        + (f"at least {enough} bits" if enough else f"more than {LARGEST_BITS} bits")
        + f" for {parameters:,} parameters",
        remedy,
    )
