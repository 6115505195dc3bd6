"""Runtimes: `native` (TFF's own executor, the reference), `compiled` (in this process, at the machine's limit) and
`cluster` (on the machines of a Ray cluster).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.processes.composition import Composition
    from tff_hospitals.runtimes.base import Runtime

RUNTIMES = ("compiled", "native", "cluster")


def build_runtime(
    name: str, composition: Composition, dataset: HospitalDataset, frozen: tuple, **options: Any
) -> Runtime:
    """The runtime of that name for a composed plan.

    Raises:
      validation.InvalidInput: when the name is unknown.
    """
    from tff_hospitals.foundations.validation import one_of, raise_if

    raise_if([one_of("runtime", name, RUNTIMES)])
    if name == "native":
        from tff_hospitals.runtimes.native.runtime import NativeRuntime

        return NativeRuntime(composition, dataset, frozen, **options)
    if name == "cluster":
        from tff_hospitals.runtimes.cluster.runtime import ClusterRuntime

        return ClusterRuntime(composition, dataset, frozen, **options)
    from tff_hospitals.runtimes.compiled.runtime import CompiledRuntime

    return CompiledRuntime(composition, dataset, frozen, **options)
