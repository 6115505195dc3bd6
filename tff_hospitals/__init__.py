"""Compare ways in which hospitals train one model together, at the same verified privacy.

Importing the package is instant: sub-packages load on first use, and TensorFlow only with the ones that need it. It
asks TensorFlow for one thread an operation (TF_NUM_INTRAOP_THREADS=1, unless the environment says otherwise), so that
hospitals share the cores.

>>> import tff_hospitals as th
>>> found = th.compare(["weighted_mean", "dp_sgd"], "heart_disease", target_epsilon=1, seeds=1, rounds=1, local_steps=5)
>>> list(found.to_frame()["unit"])
['none', 'record']
"""

from __future__ import annotations

import importlib
from typing import Any

from tff_hospitals.foundations import quiet as _quiet

__version__ = "0.1.0"

_LAZY = {
    "build_learning_process": "tff_hospitals.tff",
    "compare": "tff_hospitals.experiments.api",
    "train": "tff_hospitals.experiments.api",
    "audit": "tff_hospitals.experiments.api",
    "Compared": "tff_hospitals.experiments.api_results",
    "Plan": "tff_hospitals.plan",
    "load_dataset": "tff_hospitals.hospitals",
    "HospitalDataset": "tff_hospitals.hospitals",
}
_MODULES = {"figures": "tff_hospitals.reports.figures"}


_quiet.one_thread_per_operation()  # or rounds from a user's own Python take half as long again as from a script


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_MODULES])
