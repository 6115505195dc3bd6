"""What the server-side mechanisms with correlated noise share: a strategy over the rounds, and its growing event.

Strategies are numpy's work: they are imported when one is asked for, so that `--help` stays instant.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import TYPE_CHECKING

from tff_hospitals.accounting import MechanismEvent
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan.mechanisms.base import PRIVATE_OPTIONS, HospitalLevel, HospitalSetting
from tff_hospitals.plan.mechanisms.fixed_clip import NOISED_BY_SERVER
from tff_hospitals.plan.parts import PrivacyPlan
from tff_hospitals.plan.planned_events import Events, Release, ReleaseAt

if TYPE_CHECKING:
    import numpy as np

    from tff_hospitals.accounting.strategies import Strategy
    from tff_hospitals.plan.plan import Plan


@dataclasses.dataclass(frozen=True)
class MatrixOverRounds(Release):
    """One matrix mechanism over the rounds, recorded again as it grows.

    Attributes:
      strategy: over all planned rounds.
      period: a hospital takes part at most once in so many rounds in a row.
    """

    strategy: Strategy = dataclasses.field(default_factory=lambda: independent_noise(1))
    period: int = 1

    @property
    def apart(self) -> int:
        """The separation that the sensitivity rests on."""
        return self.period

    def after(self, rounds: int) -> MechanismEvent:
        """Everything that the first `rounds` rounds released, as one event.

        Raises:
          ValueError: beyond the rounds that the strategy was made for.
        """
        if rounds > self.strategy.steps:
            raise ValueError(
                f"round {rounds}: the noise was planned for {self.strategy.steps} rounds, and its sensitivity says "
                "nothing of more. Remedy: plan all rounds before the first."
            )
        sensitivity = sensitivity_over(self.strategy, rounds, self.period)
        return dataclasses.replace(self.event, steps=rounds, sensitivity=sensitivity)

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """The mechanism as it has grown; only the largest counts."""
        return self.after(round_number + 1), 1

    def whole_run(self, rounds: int, steps: int) -> Events:
        """One mechanism."""
        return ((self.after(rounds), 1),)


def independent_noise(rounds: int) -> Strategy:
    """The strategy that takes nothing back."""
    from tff_hospitals.accounting.strategies import identity

    return identity(rounds)


@functools.lru_cache(maxsize=4096)
def sensitivity_over(strategy: Strategy, rounds: int, period: int) -> float:
    """Sensitivity of the first `rounds` rounds of a strategy, for hospitals that come back after `period` rounds."""
    from tff_hospitals.accounting.strategies import sensitivity_of

    begun = dataclasses.replace(strategy, steps=rounds)
    often = -(-rounds // period)
    return sensitivity_of(begun, participations=often, min_separation=period).value


class CorrelatedRounds(HospitalLevel):
    """Fixed clipping at the server with noise that later rounds take back in part.

    Whoever takes part in a round is told by the cohort alone, so that the least number of rounds between two
    participations of a hospital is known in advance: all groups in a cyclic cohort, one round in any other.
    """

    noise_by = "server"
    seen = NOISED_BY_SERVER
    options: tuple[str, ...] = PRIVATE_OPTIONS
    spans_rounds = True

    @abc.abstractmethod
    def strategy(self, privacy: PrivacyPlan, rounds: int, period: int) -> Strategy:
        """The strategy over so many rounds, for hospitals that come back after `period` of them."""

    def strategy_of(self, setting: HospitalSetting) -> Strategy:
        """The strategy of a federation's rounds."""
        return self.strategy(setting.privacy, setting.rounds, setting.period)

    def problems(self, plan: Plan, privacy: PrivacyPlan) -> list[Problem | None]:
        """A server whose momentum the strategy was not made for, a secure sum in front of real-valued noise."""
        found: list[Problem | None] = []
        if privacy.secure_sum:
            bound = (
                f"adds up whole numbers, and the noise of {self.name} is real-valued and added afterwards: the server "
                "would learn the exact total of every round"
            )
            remedy = "drop --secure_sum, or take discrete_gaussian or skellam, whose noise is inside the sum"
            found.append(Problem("secure_sum", True, bound, remedy))
        if plan.server.optimizer == "sgd" and plan.server.momentum:
            bound = f"{self.name} takes noise back as plain steps of the server need it, not as momentum does"
            remedy = "set --server_momentum=0, or take fixed_clip"
            found.append(Problem("server_momentum", plan.server.momentum, bound, remedy))
        return found

    def release_at(self, setting: HospitalSetting, *, counts: bool = True) -> ReleaseAt:
        """One mechanism over all rounds; its sensitivity follows from the strategy and the separation."""
        strategy, period = self.strategy_of(setting), setting.period

        def release(noise_multiplier: float) -> MatrixOverRounds:
            event = MechanismEvent("matrix", noise_multiplier=noise_multiplier, sensitivity=1.0, steps=1, restart=0)
            return MatrixOverRounds(event, shared=True, strategy=strategy, period=period)

        return release

    def sum_variance(self, setting: HospitalSetting, round_number: int, cohort: float) -> float:
        """That of what a round adds, taken back by later ones in part."""
        import numpy as np

        return float(np.square(self.strategy_of(setting).inverse_coefficients(round_number + 1)).sum())

    def warnings(self, setting: HospitalSetting, noise_multiplier: float) -> list[str]:
        """Where independent noise has the smaller expected error."""
        from tff_hospitals.accounting.strategies import expected_error

        often, apart = -(-setting.rounds // setting.period), setting.period
        own, plain = (
            expected_error(one, participations=often, min_separation=apart).rmse
            for one in (self.strategy_of(setting), independent_noise(setting.rounds))
        )
        if own < 0.98 * plain:
            return []
        return [
            f"{self.name}: a hospital takes part in {often} of {setting.rounds} rounds, "
            f"{apart} apart, so that correlated noise has {own / plain:.2g} times the expected error of "
            "independent noise. It pays where a hospital takes part rarely. Remedy: --cohort=cyclic, or fixed_clip."
        ]

    def dependence(self, setting: HospitalSetting, rounds: int) -> np.ndarray:
        """The inverse of the strategy."""
        return self.strategy_of(setting).inverse_matrix(rounds)
