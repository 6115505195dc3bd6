"""The plan of a run: frozen data, its checks, its noise and the events that it emits. No TensorFlow."""

from __future__ import annotations

from tff_hospitals.plan.plan import Plan

__all__ = ["Plan"]
