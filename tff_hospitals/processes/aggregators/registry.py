"""The aggregators by the name of their mechanism: every one is a class that is made from a `base.Setting`."""

from __future__ import annotations

from tff_hospitals.processes.aggregators.base import Aggregator
from tff_hospitals.processes.registry import Registry

AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregator")
register = AGGREGATORS.register
