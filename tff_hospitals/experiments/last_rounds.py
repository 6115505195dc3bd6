"""Whether a method had come to its end: the slope of its last rounds, with its uncertainty.

A method that still gets better is not at its best, and ranking it beside one that is says more about the number of
rounds than about the methods. Only figures that the table shows anyway are looked at (test records at the evaluated
rounds, which stay inside); nothing is stopped or chosen by them.

>>> rising = [[{"round": r, "loss_mean": 0.9 - 0.02 * r + 0.001 * seed} for r in range(1, 16)] for seed in range(3)]
>>> print(still_rising(rising, "accuracy"))
loss still falls by 0.080 (95 % interval 0.080 to 0.080) in 4 rounds
>>> still_rising([[{"round": r, "loss_mean": 0.5} for r in range(1, 16)]], "accuracy") is None
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.spread import Interval, mean, sample_sd, t_interval
from tff_hospitals.reports.wording import significant
from tff_hospitals.training import stopping
from tff_hospitals.training.metrics import METRICS, Metric

Curve = Sequence[Mapping[str, Any]]

FEWEST_POINTS = 4
"""Evaluated rounds below which nothing is known of the end of a training."""
_SHARE = 1 / 3  # of the evaluated rounds are the last ones
_SEEDS_THAT_TELL = 3  # from so many on the spread between seeds is the uncertainty
WORTH = 0.005
"""A gain that counts: half a point of a share."""
RELATIVE_WORTH = 0.01
"""The same of a figure without an upper bound, relative to it; twice that of a loss that only stands in for another."""


def known(curves: Sequence[Curve]) -> bool:
    """Whether every run was evaluated often enough to see how it ended."""
    return bool(curves) and all(len(curve) >= FEWEST_POINTS for curve in curves)


def still_rising(curves: Sequence[Curve], headline: str) -> str | None:
    """In which figure a method still gets better, in words; None where it has come to its end, or nothing is known.

    It does where the slope of the last third of the rounds is one of improvement beyond its 95 % interval, and would,
    in as many more rounds, gain something that counts: of the headline figure, or of the loss, which still falls where
    the other one only jumps from time to time. Of several seeds each gives a slope, and the interval is Student's over
    them; of fewer than three the changes from round to round give it.

    Args:
      curves: of each seed, evaluated rounds in order, with `round` and `{metric}_mean`.
      headline: the metric that methods are ranked by.
    """
    if not known(curves):
        return None
    for name in dict.fromkeys((headline, "loss")):
        metric = METRICS[name]
        found = _gain(curves, metric)
        if found is None:
            continue
        centre, interval, rounds, level = found
        relative = RELATIVE_WORTH if name == headline else 2 * RELATIVE_WORTH
        worth = WORTH if metric.high is not None else relative * abs(level)
        if interval.low > 0 and centre > worth:
            verb = "rises" if metric.higher_is_better else "falls"
            return f"{metric.label} still {verb} by {_words(metric, centre, interval)} in {rounds} rounds"
    return None


def _gain(curves: Sequence[Curve], metric: Metric) -> tuple[float, Interval, int, float] | None:
    """What the last rounds gained (more is better), its interval, how many rounds they span, and the last level."""
    slopes, tails = [], []
    for curve in curves:
        points = [(one["round"], one.get(f"{metric.name}_mean")) for one in curve]
        values = [(at, value) for at, value in points if value is not None and math.isfinite(value)]
        if len(values) < FEWEST_POINTS:
            return None
        last = values[-max(FEWEST_POINTS, math.ceil(_SHARE * len(values))) :]
        rounds, figures = np.array(last, float).T
        slopes.append(float(np.polyfit(rounds, figures, 1)[0]))
        tails.append((rounds, figures))
    sign = 1.0 if metric.higher_is_better else -1.0
    span = int(tails[0][0][-1] - tails[0][0][0])
    if len(slopes) >= _SEEDS_THAT_TELL:
        interval = t_interval(mean(slopes), sample_sd(slopes), len(slopes))
    else:
        changes = np.concatenate([np.diff(figures) / np.diff(rounds) for rounds, figures in tails]).tolist()
        interval = t_interval(mean(slopes), sample_sd(changes), len(changes))
    if interval is None:
        return None
    ends = sorted(sign * span * end for end in interval)
    level = float(np.mean([figures[-1] for _, figures in tails]))
    return sign * span * float(np.mean(slopes)), Interval(*ends), span, level


def _words(metric: Metric, centre: float, interval: Interval) -> str:
    if metric.percent:
        return f"{100 * centre:.1f} points (95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f})"
    ends = " to ".join(significant(end, 2) for end in interval)
    return f"{significant(centre, 2)} (95 % interval {ends})"


def remedy(plan: Plan, stop_reason: str) -> str:
    """What takes a method that still gets better to its end."""
    named = "server" if plan.server.optimizer != "sgd" else "client"
    rate = getattr(plan, named).learning_rate
    faster = f"a larger --{named}_learning_rate (now {rate:g})"
    if stop_reason.startswith(stopping.BUDGET_SPENT):
        return f"{faster}, or a larger budget"
    if stop_reason.startswith("plateau"):
        return f"a larger --patience (now {plan.stopping.patience}), or {faster}"
    return f"more --rounds (now {plan.rounds}), or {faster}"
