"""Banded matrix factorisation inside each hospital: noise that the next steps of a round take back in part."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.clip_styles import ONE_NORM, norm_that_moves
from tff_hospitals.plan.mechanisms.banded_mf import MOST_BANDS
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, RecordLevel, RecordSetting
from tff_hospitals.plan.mechanisms.correlated_rounds import sensitivity_over
from tff_hospitals.plan.mechanisms.dp_sgd import NOISED_INSIDE
from tff_hospitals.plan.mechanisms.registry import register
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.plan.planned_events import EveryTurn, MatrixOverSteps, ReleaseAt

if TYPE_CHECKING:
    import numpy as np

    from tff_hospitals.accounting.strategies import Strategy
    from tff_hospitals.plan.plan import Plan

CYCLIC = "cyclic_poisson"
PASSES = "same_order"
BANDS_AT_A_GIVEN_NOISE = 4
"""Where no target tells which number is best."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a number of bands costs.

    Attributes:
      bands: p; 1 is DP-SGD.
      error: root mean square of the noise on the models of the run, over steps and hospitals, for a clip norm of 1.
    """

    bands: int
    error: float


@register
class DpMfLocal(RecordLevel):
    """Choquette-Choo et al. 2023, arXiv:2306.08153; a new strategy every round, as a hospital keeps nothing between.

    With cyclic Poisson batches each record belongs to one of as many groups as there are bands, and is sampled in its
    group's turn only: a round is, for each record, as many sampled Gaussian mechanisms as its group has turns. With
    passes in one order nothing is amplified, and the sensitivity counts every pass.
    """

    name = "dp_mf_local"
    words = "banded matrix factorisation inside each hospital: per-record clipping, noise that the next steps take back"
    seen = NOISED_INSIDE
    options = (*PRIVATE_OPTIONS, "clip_style", "outer", "records_per_patient", "noise_bands", "record_sampling")
    batches = CYCLIC
    clip_styles = ONE_NORM

    def batches_of(self, privacy: PrivacyPlan) -> str:
        """As the option says."""
        return privacy.record_sampling

    def conversions(self, cohort: CohortPlan) -> tuple[str, ...]:
        """Sampling has no closed form."""
        return ("rdp", "pld")

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """A clip norm that changes from step to step, an optimiser that carries noise on."""
        found: list[Problem | None] = [norm_that_moves(self.name, privacy.clip_style)]
        if plan.client.momentum or plan.client.optimizer != "sgd":
            name = "momentum" if plan.client.momentum else "optimizer"
            bound = "dp_mf_local takes noise back as plain steps of SGD need it"
            remedy = "set --client_momentum=0 and --client_optimizer=sgd, or take dp_sgd"
            found.append(Problem(f"client_{name}", getattr(plan.client, name), bound, remedy))
        return found

    def completed(self, privacy: PrivacyPlan, settings: tuple[RecordSetting, ...], delta: float) -> PrivacyPlan:
        """The number of bands of least expected error, where the plan names none."""
        if privacy.noise_bands is not None:
            return privacy
        if self.batches_of(privacy) == PASSES:
            return dataclasses.replace(privacy, noise_bands=most_bands(settings))
        if privacy.target_epsilon is None:
            return dataclasses.replace(privacy, noise_bands=most_bands(settings, BANDS_AT_A_GIVEN_NOISE))
        best = min(choices(settings, delta), key=lambda one: one.error)
        return dataclasses.replace(privacy, noise_bands=best.bands)

    def error_by_bands(self, settings: tuple[RecordSetting, ...], delta: float) -> dict[str, float]:
        """The planner's table, and what was taken under the name `chosen`."""
        privacy = settings[0].privacy
        if privacy.target_epsilon is None or self.batches_of(privacy) == PASSES:
            return {}
        table = {str(one.bands): one.error for one in choices(settings, delta)}
        return {**table, "chosen": float(privacy.noise_bands or 1)}

    def noise_problems(self, setting: RecordSetting, noise_multiplier: float, hospital: str) -> list[Problem]:
        """More bands than a hospital's batches or steps allow."""
        bands, most = int(setting.privacy.noise_bands or 1), most_bands((setting,), setting.steps)
        if bands <= most:
            return []
        bound = f"must be at most {most}, the steps of a pass or of a round of {hospital}, whichever are fewer"
        remedy = f"give --noise_bands={most} or fewer, a smaller --batch_size, or more local steps"
        return [Problem("noise_bands", bands, bound, remedy)]

    def release_at(self, setting: RecordSetting, *, counts: bool = True) -> ReleaseAt:
        """A sampled Gaussian for every turn of a group, or one matrix mechanism for the passes of a round."""
        privacy, bands = setting.privacy, int(setting.privacy.noise_bands or 1)
        if self.batches_of(privacy) == PASSES:
            period, strategy = setting.steps_per_epoch, strategy_of(bands, setting.longest)

            def by_passes(noise_multiplier: float) -> MatrixOverSteps:
                event = MechanismEvent("matrix", noise_multiplier=noise_multiplier, sensitivity=1.0, steps=1)
                return MatrixOverSteps(event, sensitivity=lambda steps: sensitivity_over(strategy, steps, period))

            return by_passes
        chance = min(1.0, bands * setting.sampling_probability)

        def by_turns(noise_multiplier: float) -> EveryTurn:
            event = MechanismEvent("gaussian", noise_multiplier=noise_multiplier)
            if chance < 1:
                event = dataclasses.replace(event, kind="poisson_gaussian", sampling_probability=chance)
            return EveryTurn(event, groups=bands)

        return by_turns

    def step_variance(self, steps: int, setting: RecordSetting) -> float:
        """What is left of the noise at the end of the steps."""
        import numpy as np

        inverse = strategy_of(setting.privacy.noise_bands, setting.longest).inverse_coefficients(steps)
        return float(np.square(np.cumsum(inverse)).sum())

    def dependence(self, steps: int, setting: RecordSetting) -> np.ndarray:
        """The inverse of the strategy."""
        return strategy_of(setting.privacy.noise_bands, setting.longest).inverse_matrix(steps)


def most_bands(settings: tuple[RecordSetting, ...], most: int = MOST_BANDS) -> int:
    """The most bands for which no record comes back within them at any hospital."""
    return min([most, *(min(one.steps, one.steps_per_epoch) for one in settings)])


def strategy_of(bands: int | None, longest: int) -> Strategy:
    """The strategy of a round of `longest` steps; a hospital that takes fewer uses the beginning of it.

    It has the least error at the end of the round: that is what stays in the model of all later rounds.
    """
    from tff_hospitals.accounting.strategies import optimised_banded

    return optimised_banded(longest, min(longest, int(bands or 1)), goal="max_error")


def choices(settings: tuple[RecordSetting, ...], delta: float) -> tuple[Choice, ...]:
    """What 1, 2, 4, ... bands cost at the plan's target, cyclic Poisson batches assumed.

    Args:
      settings: every hospital's rounds, with the plan's target in their settings.
      delta: of the target.

    Raises:
      validation.InvalidInput: when no noise reaches the target.
    """
    privacy = settings[0].privacy
    sizes = tuple(sorted({(one.rounds, one.steps, one.steps_per_epoch, one.longest) for one in settings}))
    conversion = privacy.conversion or DpMfLocal.conversion
    return _choices(sizes, float(privacy.target_epsilon or 0.0), delta, conversion, most_bands(settings))


@functools.lru_cache(maxsize=64)
def _choices(
    sizes: tuple[tuple[int, int, int, int], ...], target: float, delta: float, conversion: str, most: int
) -> tuple[Choice, ...]:
    import numpy as np

    from tff_hospitals.accounting.strategies import amplified_noise, row_variances
    from tff_hospitals.accounting.strategies.workload import Workload

    found = []
    for bands in sorted({1 << power for power in range(most.bit_length())} | {most}):
        total = 0.0
        for rounds, steps, per_epoch, longest in sizes:
            noise = amplified_noise(
                steps=rounds * -(-steps // bands) * bands,  # the turns of one group, and as many of all others
                sampling_probability=1 / per_epoch,
                bands=bands,
                target_epsilon=target,
                delta=delta,
                conversion=conversion,
            )
            variances = row_variances(strategy_of(bands, longest), Workload())[:steps]
            # A round adds what is left at its end to all later ones.
            total += noise**2 * float((rounds - 1) / 2 * variances[-1] + np.mean(variances))
        found.append(Choice(bands, (total / len(sizes)) ** 0.5))
    return tuple(found)
