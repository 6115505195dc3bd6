"""Two hospitals, one round, both runtimes: the smallest proof that an installation can train.

Run as a program (`python -m tff_hospitals.installation.smoke`) by the doctor, in a process of its own, because what is
wrong with an installation may crash or hang rather than raise. It prints one line of JSON.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from typing import Any

from tff_hospitals.foundations import quiet

TOLERANCE = 1e-5
_USED = (
    *("tensorflow", "tensorflow_federated", "tensorflow_privacy", "dp_accounting", "sklearn", "scipy"),
    *("pandas", "pyarrow.parquet", "yaml", "matplotlib", "jinja2", "zstandard", "tqdm"),
)


def import_everything() -> None:
    """Imports what the package uses: a version may be the wanted one and yet not work with its neighbours."""
    for name in _USED:
        importlib.import_module(name)


def native_mean() -> float:
    """The mean of 1 and 3, computed by TFF's own executor at two hospitals."""
    import numpy as np
    import tensorflow_federated as tff

    from tff_hospitals.runtimes.native.context import native_context

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def mean(values: Any) -> Any:
        return tff.federated_mean(values)

    with native_context():
        return float(mean([1.0, 3.0]))


def smoke_round() -> float:
    """Trains one round at two embedded hospitals in either runtime.

    Returns:
      The largest difference between any weight of the two results.
    """
    import numpy as np

    from tff_hospitals.hospitals import load_dataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.training.loop import train

    dataset = load_dataset("heart_disease")
    pair = dataclasses.replace(dataset, hospitals=dataset.hospitals[:2])
    plan = Plan(rounds=1, seed=1)
    compiled, native = (train(plan, pair, runtime=name).weights for name in ("compiled", "native"))
    return max(float(np.abs(one - other).max()) for one, other in zip(compiled, native))


def main() -> None:
    """Prints {"seconds": ..., "mean": ..., "difference": ...}."""
    quiet.be_quiet()
    quiet.allow_deep_protocol_buffers()
    start = time.monotonic()
    import_everything()
    mean = native_mean()
    difference = smoke_round()
    json.dump({"seconds": time.monotonic() - start, "mean": mean, "difference": difference}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
