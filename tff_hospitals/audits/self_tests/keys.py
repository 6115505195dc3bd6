"""Cohorts, batches, noise keys and server state of a run, drawn by the code that draws them for a session.

The audit never derives a key itself: what is tested is what a run draws. Nothing is written or charged.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.plan import mechanisms
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_streams import run_streams

if TYPE_CHECKING:
    import numpy as np

    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.plan.noise import NoisePlan
    from tff_hospitals.plan.parts import PrivacyPlan
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.composition import ServerState
    from tff_hospitals.processes.rounds import HospitalRound, RoundInput

_KEPT_ROUNDS = 4096


class Draws:
    """What one run draws.

    Args:
      label: how findings call it, such as "this run" or "seed 43".
      run: whose data, model and history count.
      plan: of the run, or of another one that is put beside it.
      noise: of that plan.
      hospitals: ids of those that are looked at.
    """

    def __init__(self, label: str, run: LoadedRun, plan: Plan, noise: NoisePlan, hospitals: Sequence[str]):
        self.label, self.plan, self.noise, self._hospitals = label, plan, noise, frozenset(hospitals)
        self._run, self._streams = run, run_streams(plan, run.dataset, run.model, run.continues)
        self._drawer = RoundDrawer(plan, run.dataset, self.noise, self._streams)
        self.cohort = self._drawer.cohort
        self.whole_round = functools.lru_cache(maxsize=_KEPT_ROUNDS)(self._drawer.draw)

    def dependence(self, steps: int, hospital: str) -> np.ndarray | None:
        """How the noises of a hospital's steps in a round hang together; None where each step has its own."""
        mechanism = mechanisms.record_level(self.plan.privacy)
        return None if mechanism is None else mechanism.dependence(steps, self.noise.settings[hospital])

    def turns(self, hospital: str) -> int:
        """How many groups of a hospital's records take turns; 1: all records may be in every step."""
        setting = self.noise.settings[hospital]
        mechanism = mechanisms.record_level(setting.privacy)
        if mechanism is None or mechanism.batches_of(setting.privacy) != "cyclic_poisson":
            return 1
        return int(setting.privacy.noise_bands or 1)

    def round(self, number: int) -> RoundInput:
        """The input of a round (0-based), of the hospitals that are looked at."""
        drawn = self.whole_round(number)
        cohort = tuple(one for one in drawn.cohort if one.hospital.hospital_id in self._hospitals)
        return dataclasses.replace(drawn, cohort=cohort)

    def of_hospital(self, number: int, name: str) -> HospitalRound | None:
        """What one hospital brings to a round; None where it does not take part."""
        return self._drawer.draw(number, (name,)).cohort[0] if name in self.cohort(number) else None

    @functools.cached_property
    def start(self) -> ServerState:
        """The server before the first round."""
        run = self._run
        weights, _ = run.model.initial_weights(self._streams.weights())
        return run.composition.initial_state(weights, self._streams.own, self.noise.server_multiplier)

    @functools.cached_property
    def aggregator(self) -> Any:
        """The server's state of the mechanism before the first round, as numpy values."""
        return self._run.composition.aggregator.initial_state(
            self._streams.server_noise(), self.noise.server_multiplier
        )


class Runs:
    """The audited run's draws, and those of runs that must share nothing with it.

    Args:
      run: the run.
      hospitals: ids of those that are looked at.
    """

    def __init__(self, run: LoadedRun, hospitals: Sequence[str]):
        self._run, self.hospitals = run, tuple(hospitals)
        self.own = Draws("this run", run, run.plan, run.noise(), self.hospitals)

    def with_seeds(self, count: int) -> list[Draws]:
        """The run's own draws and those of so many other seeds."""
        return [self.own, *(self._seed(number + 1) for number in range(count))]

    @functools.lru_cache(maxsize=512)  # noqa: B019 (it lives as long as one audit)
    def _seed(self, number: int) -> Draws:
        seed = self._run.plan.seed + number
        return Draws(f"seed {seed}", self._run, self._run.plan.replace(seed=seed), self.own.noise, self.hospitals)

    def other_plan(self) -> Draws:
        """A run of the same seed and data with half the noise."""
        plan = self._run.plan.replace(privacy=_half_as_loud(self.own.noise))
        return Draws("the same seed with half the noise", self._run, plan, self._run.noise(plan), self.hospitals)


def foreign(privacy: PrivacyPlan) -> str:
    """Why what is computed cannot be looked at; empty where it can."""
    names = [mechanism.name for mechanism, _ in mechanisms.layers(privacy) if mechanism.runs_on]
    if not names:
        return ""
    return f"{' and '.join(names)}: another library draws and clips, by an executor that shows no single noise"


def _half_as_loud(noise: NoisePlan) -> dict[str, Any]:
    """Privacy settings of a plan that differs in its noise alone, whatever targets the run's plan names."""
    changed: dict[str, Any] = {"target_epsilon": None, "noise_multiplier": 0.5 * min(noise.multipliers.values())}
    if noise.second is not None:
        changed |= {"outer_target_epsilon": None, "outer_noise_multiplier": 0.5 * noise.second.server_multiplier}
    return changed
