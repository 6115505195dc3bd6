"""How loud the noise of a round was beside the update that it covered, measured from what is released anyway.

The norm of a *noised* update and the expected norm of its noise are public; the norm of the update alone is not. Their
difference in squares estimates it, so the measured ratio costs no privacy:

>>> round(ratio(update_norm=5.0, noise_norm=4.0), 3)  # an update of about 3 under noise of 4
0.75
>>> ratio(update_norm=3.9, noise_norm=4.0)
0.0
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.plan import mechanisms, schedules
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.checks.own_models import head_steps
from tff_hospitals.plan.mechanisms.base import RecordLevel, RecordSetting
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.evaluation import POOLED

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.processes.rounds import RoundInput, RoundOutput

SWAMPED = (0.1, 0.25, 0.5)
"""Bounds that the warning names; below the last, four fifths and more of a noised update's squared norm are noise."""
SWAMPS = "noise swamps the update: "
"""How the warning begins: a comparison replaces those of its seeds by one."""


def ratio(update_norm: float, noise_norm: float) -> float | None:
    """Estimated norm of the update over that of its noise; None without noise."""
    if not noise_norm > 0 or not math.isfinite(update_norm):
        return None
    return math.sqrt(max(0.0, (update_norm / noise_norm) ** 2 - 1.0))


def swamped_words(medians: Mapping[str, float], over: str = "rounds") -> list[str]:
    """One sentence for all whose ratio is below a bound of `SWAMPED`; none when no one's is.

    It names bounds and not digits: the figures are in the summary and, for every round, in metrics.csv.

    Args:
      medians: of the measured ratios, by hospital id or `pooled`.
      over: what they are medians over.

    >>> swamped_words({"north": 0.3, "south": 2.0})[0].split(". ")[0]
    'noise swamps the update: measured signal-to-noise ratio (median over rounds) of north below 0.5'
    """
    swamped: dict[float, list[str]] = {}
    for scope, value in medians.items():
        bound = next((bound for bound in SWAMPED if value < bound), None)
        if bound is not None:
            swamped.setdefault(bound, []).append("the aggregated update" if scope == POOLED else scope)
    if not swamped:
        return []
    whose = "; ".join(f"{_some(names)} below {bound:g}" for bound, names in sorted(swamped.items()))
    return [
        f"{SWAMPS}measured signal-to-noise ratio (median over {over}) of {whose}. Remedy: more epsilon, fewer rounds, "
        "more records or hospitals, a smaller model."
    ]


class SignalToNoise:
    """The measured ratios of a run, by round and by `pooled` (the aggregated update) or hospital id.

    Args:
      plan, dataset, noise: of the run.
      parameters: of the model.
    """

    def __init__(self, plan: Plan, dataset: HospitalDataset, noise: noise_plan.NoisePlan, parameters: int):
        self._plan, self._noise, self._parameters = plan, noise, parameters
        self._records = dataset.records()
        self._latest: dict[str, float] = {}
        self._round = 0
        self._measured: dict[str, list[float]] = {}

    def measure(self, one: RoundInput, output: RoundOutput) -> None:
        """Takes up a finished round."""
        self._round, self._latest = one.number + 1, {}
        if "noise_norm" in output.server:
            self._enter(POOLED, ratio(output.server["update_norm"], output.server["noise_norm"]))
        # Where the hospital is protected too, what it sends is not public: the ratio would give its norm away.
        alone = self._noise.unit == "record" and self._noise.second is None
        if alone and self._plan.client.optimizer == "sgd" and not self._plan.client.momentum:
            for hospital, metrics in output.metrics.items():
                expected = self._noise_of(hospital, one.number, int(metrics["steps"]))
                self._enter(hospital, ratio(metrics["update_norm"], expected))

    def _noise_of(self, hospital: str, round_number: int, steps: int) -> float:
        """Expected norm of the noise in a hospital's update after so many plain gradient steps."""
        from tff_hospitals.processes.client_optimizers import learning_rate_at

        plan = self._plan
        batch = self._records[hospital] * noise_plan.sampling_probability(plan, self._records[hospital])
        norm = plan.privacy.clip_norm * schedules.factor(plan.by_round, "clip_norm", plan.rounds, round_number)
        multiplier = self._noise.multipliers[hospital] * noise_plan.multiplier_factor(plan, "record", round_number)
        scale = multiplier * norm / batch
        mechanism = mechanisms.record_level(plan.privacy)
        setting, alone = self._noise.settings[hospital], head_steps(plan.client.head_share or 0.0, steps)
        draws = 0.0 if mechanism is None else _variance(mechanism, setting, steps, alone)
        by = schedules.factor(plan.by_round, "client_learning_rate", plan.rounds, round_number)
        return by * float(learning_rate_at(plan.client, round_number)) * scale * math.sqrt(draws * self._parameters)

    def _enter(self, scope: str, value: float | None) -> None:
        if value is not None:
            self._latest[scope] = value
            self._measured.setdefault(scope, []).append(value)

    def of_round(self, number: int, scope: str) -> float | None:
        """The ratio of the round that was measured last, if that is round `number` (1-based)."""
        return self._latest.get(scope) if number == self._round else None

    def medians(self) -> dict[str, float]:
        """The median ratio over the rounds, by `pooled` or hospital id; empty where nothing was measured."""
        return {scope: statistics.median(values) for scope, values in self._measured.items()}

    def warnings(self) -> list[str]:
        """One sentence for all whose noise swamps their update."""
        return swamped_words(self.medians())

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"measured": self._measured, "latest": self._latest, "round": self._round}

    def restore(self, value: Mapping[str, Any]) -> None:
        """Takes over what `to_json` gave."""
        self._measured = {scope: list(values) for scope, values in value.get("measured", {}).items()}
        self._latest, self._round = dict(value.get("latest", {})), int(value.get("round", 0))


def _variance(mechanism: RecordLevel, setting: RecordSetting, steps: int, alone: int) -> float:
    """Of the noise in what travels: the first steps of a round may train the local layers alone."""
    if not alone:
        return mechanism.step_variance(steps, setting)
    dependence = mechanism.dependence(steps, setting)
    if dependence is None:
        return float(steps - alone)
    return float(np.square(dependence[alone:].sum(axis=0)).sum())


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
