"""Compare ways in which hospitals train one model together, at the same verified privacy.

Importing the package is instant: sub-packages load on first use, and TensorFlow only with the ones that need it.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {"build_learning_process": "tff_hospitals.tff"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
