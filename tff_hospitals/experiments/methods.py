"""The methods that can be compared, by name: each is a change to a plan, never a loop of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tff_hospitals.plan import Plan
from tff_hospitals.validation import one_of, raise_if


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of training together.

    Attributes:
      name: as flags say it.
      label: as tables say it.
      words: one sentence for reports.
      changes: what it changes in the preset plan.
      kind: `federated`, or the baselines `pooled` (all records in one place) and `local` (each hospital alone).
      default: part of the main job without flags.
    """

    name: str
    label: str
    words: str
    changes: Mapping[str, Any]
    kind: str = "federated"
    default: bool = True

    def plan(self, base: Plan, target_epsilon: float | None) -> Plan:
        """The preset plan changed into this method's; private methods take the target when no noise is given."""
        plan = base.replace(method=self.name, **self.changes)
        if plan.privacy.mechanism != "none" and plan.privacy.noise_multiplier is None:
            plan = plan.replace(privacy={"target_epsilon": target_epsilon})
        return plan

    @property
    def private(self) -> bool:
        """Whether the method gives a guarantee."""
        return "privacy" in self.changes


def _server(optimizer: str, rate: float) -> dict[str, Any]:
    return {"server": {"optimizer": optimizer, "learning_rate": rate}}


_EQUAL = {"weighting": "equal"}
METHODS = {
    method.name: method
    for method in (
        Method(
            "pooled",
            "pooled",
            "all training records in one place: what federation gives up, and no privacy between hospitals",
            {"client": {"optimizer": "adam", "learning_rate": 1e-3}},
            kind="pooled",
        ),
        Method(
            "local",
            "local only",
            "each hospital trains alone and is tested on its own patients: what a hospital has without federation",
            {"client": {"optimizer": "adam", "learning_rate": 1e-3}},
            kind="local",
        ),
        Method(
            "weighted_mean", "FedAvg", "federated averaging, weighted by training records (McMahan et al. 2017)", {}
        ),
        Method("mean", "FedAvg, equal weights", "federated averaging, every hospital counts the same", _EQUAL),
        Method(
            "fedprox",
            "FedProx",
            "federated averaging whose local training is held near the broadcast model (Li et al. 2020)",
            {"client": {"proximal_mu": 0.1}},
            default=False,
        ),
        Method("fedadam", "FedAdam", "Adam at the server (Reddi et al. 2021)", _server("adam", 0.1)),
        Method(
            "fedadagrad",
            "FedAdagrad",
            "Adagrad at the server (Reddi et al. 2021)",
            _server("adagrad", 0.1),
            default=False,
        ),
        Method("fedyogi", "FedYogi", "Yogi at the server (Reddi et al. 2021)", _server("yogi", 0.1), default=False),
        Method(
            "dp_sgd",
            "DP-SGD in hospitals",
            "per-record clipping and noise in every local step, calibrated for each hospital's size (Abadi et al. "
            "2016)",
            {"privacy": {"mechanism": "dp_sgd"}},
        ),
        Method(
            "fixed_clip",
            "DP-FedAvg, fixed clip",
            "each hospital's update is clipped to a fixed norm and the server adds noise (McMahan et al. 2018)",
            {**_EQUAL, "privacy": {"mechanism": "fixed_clip"}},
        ),
        Method(
            "adaptive_clip",
            "DP-FedAvg, adaptive clip",
            "fixed clipping whose norm follows a noised quantile of the update norms (Andrew et al. 2021)",
            {**_EQUAL, "privacy": {"mechanism": "adaptive_clip"}},
        ),
    )
}


def default_methods() -> tuple[str, ...]:
    """Names of the methods of the main job."""
    return tuple(name for name, method in METHODS.items() if method.default)


def find_methods(names: tuple[str, ...]) -> tuple[Method, ...]:
    """Methods by name.

    Raises:
      validation.InvalidInput: names every unknown one, with the nearest known ones.
    """
    raise_if([one_of("aggregator", name, METHODS) for name in names])
    return tuple(METHODS[name] for name in names)
