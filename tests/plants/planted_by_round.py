"""Faults in runs whose settings change by round: a round takes those of another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from planting import each_hospital, plant, wrap

# In round 3 of 4 twice the noise of round 1.
BY_ROUND = {"by_round": "noise_multiplier=linear:2.5,clip_norm=linear:0.5"}


@plant("dp_sgd", "round 3 has the noise of round 1", "loudness: noise on records, round 3", changes=BY_ROUND)
def noise_of_another_round(patch: Any) -> None:
    def changed(one: Any, number: int) -> Any:
        return dataclasses.replace(one, noise_multiplier=one.noise_multiplier / 2) if number == 2 else one

    each_hospital(patch, changed)


@plant("fixed_clip", "round 3 has the settings of round 1", "loudness: noise on updates, round 3", changes=BY_ROUND)
def server_settings_of_another_round(patch: Any) -> None:
    import tensorflow as tf

    from tff_hospitals.processes.aggregators.by_round import ByRound

    def around(sound: Callable, self: Any, state: Any) -> Any:
        taken = tf.where(tf.equal(state["round"], 2), tf.zeros_like(state["round"]), state["round"])
        return type(state)(sound(self, type(state)(state, round=taken)), round=state["round"])

    wrap(patch, ByRound, "_now", around)
