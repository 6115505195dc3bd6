"""The plan of a run: frozen data, its mechanisms, its review, its noise and the events that it emits. No TensorFlow."""

from __future__ import annotations

from tff_hospitals.plan.plan import Plan

__all__ = ["Plan"]
