"""Runtimes: what executes a composed plan. Each is registered here and nowhere else; `base` states the contract.

A new one is a class of `base.Runtime` in a module of its own and an entry in `RUNTIMES`; flags, checks, the training
loop and the tests of equality find it there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import optional
from tff_hospitals.foundations.validation import one_of, raise_if
from tff_hospitals.runtimes.base import Registered, Runtime

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.processes.composition import Composition

DEFAULT = "compiled"
RUNTIMES: dict[str, Registered] = {
    "compiled": Registered(
        "tff_hospitals.runtimes.compiled.runtime:CompiledRuntime",
        "in this process, at the machine's limit",
        equality="rounding",
        options=("strategy", "expected_records"),
    ),
    "native": Registered(
        "tff_hospitals.runtimes.native.runtime:NativeRuntime",
        "TFF's own executor, the reference",
        equality="reference",
        draws_system_noise=False,  # its worker cannot call numpy
        package=optional.TFF,
    ),
    "cluster": Registered(
        "tff_hospitals.runtimes.cluster.runtime:ClusterRuntime",
        "the machines of a Ray cluster",
        equality="bits",
        draws_rounds=True,
        needs_plan=True,
        options=("strategy", "address", "time_limit_seconds", "hospitals_per_chunk", "workers"),
    ),
    "deployed": Registered(
        "tff_hospitals.deployment.runtime:DeployedRuntime",
        "real hospitals, each with its own records",
        equality="rounding",
        options=("federation",),
        holds_records=False,
    ),
}


def build_runtime(
    name: str,
    composition: Composition,
    dataset: HospitalDataset,
    frozen: tuple,
    *,
    plan: Plan | None = None,
    **options: Any,
) -> Runtime:
    """The runtime of that name for a composed plan.

    Args:
      name: one of `RUNTIMES`.
      composition: the composed plan.
      dataset: its hospitals.
      frozen: weights that do not travel.
      plan: for a runtime that composes the process again elsewhere; others do without.
      options: see the runtime's class.

    Raises:
      validation.InvalidInput: when the name is unknown, an option is not the runtime's, or it cannot be started.
    """
    raise_if([one_of("runtime", name, RUNTIMES)])
    registered = RUNTIMES[name]
    raise_if([*registered.missing(name), *registered.problems(tuple(options))])
    module, _, kind = registered.path.partition(":")
    given = {"plan": plan, **options} if registered.needs_plan else options
    built: Runtime = getattr(importlib.import_module(module), kind)(composition, dataset, frozen, **given)
    return built
