"""The stages of a chain, each with the form in which it is written: a file here that registers one is a new encoder."""

from __future__ import annotations

import importlib
import pkgutil

from tff_hospitals.communication.forms import FORMS

__all__ = ["FORMS"]

for _name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_name}")
