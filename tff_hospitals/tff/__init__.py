"""At home in TensorFlow Federated: our learning processes for TFF programs, their events, and data both ways.

`build_learning_process` (also `tff_hospitals.build_learning_process`) gives a standard
`tff.learning.templates.LearningProcess` over ordinary `tf.data.Dataset`s. Importing this package loads neither
TensorFlow nor TFF; its functions do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tff_hospitals.foundations import optional

if TYPE_CHECKING:
    from tff_hospitals.tff.client_data import from_client_data, to_client_data
    from tff_hospitals.tff.encoding import encoded_distributor, encoded_sum_factory
    from tff_hospitals.tff.events import LedgerReleaseManager, extract_dp_event, ledger_of
    from tff_hospitals.tff.process import HospitalLearningProcess, build_learning_process, preprocess_fn

__all__ = [
    "HospitalLearningProcess",
    "LedgerReleaseManager",
    "build_learning_process",
    "encoded_distributor",
    "encoded_sum_factory",
    "extract_dp_event",
    "from_client_data",
    "ledger_of",
    "preprocess_fn",
    "to_client_data",
]

_MODULES = {
    "client_data": ("from_client_data", "to_client_data"),
    "encoding": ("encoded_distributor", "encoded_sum_factory"),
    "events": ("LedgerReleaseManager", "extract_dp_event", "ledger_of"),
    "process": ("HospitalLearningProcess", "build_learning_process", "preprocess_fn"),
}
_LAZY = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        optional.need(optional.TFF, f"tff_hospitals.tff.{name}")
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
