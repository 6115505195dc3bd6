"""What training gives back: a finished run, progress on the way, and why it could not go on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations.validation import Failure
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel


class TrainingError(Failure):
    """Training cannot go on; the message names round, hospital, cause and remedy. Checkpoints written so far stay."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress display is told after every round.

    Attributes:
      round, rounds: done so far, and planned.
      loss, accuracy: on all test records together at the last evaluation.
      epsilon: so far, of the worst hospital; None without a guarantee.
      unit: of privacy.
      bytes: so far, both directions, all hospitals.
    """

    round: int
    rounds: int
    loss: float | None = None
    accuracy: float | None = None
    epsilon: float | None = None
    unit: str = "none"
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      plan: what was done.
      summary: the row that comparison tables are made of (see `run_summary.summary_row`).
      ledger: the only source of epsilon.
      weights, frozen: final weights, as numpy arrays.
      evaluation: metrics by hospital id and `pooled` of the final weights.
      directory: where the files are, None when nothing was written.
      already_finished: True when the directory held this run, finished, and nothing was done.
    """

    plan: Plan
    summary: Mapping[str, Any]
    ledger: Ledger
    weights: tuple[np.ndarray, ...]
    frozen: tuple[np.ndarray, ...]
    evaluation: Mapping[str, Mapping[str, float]]
    directory: pathlib.Path | None
    already_finished: bool
    model: FunctionalModel

    def keras_model(self) -> Any:
        """The trained model as a plain `tf.keras.Model`."""
        return self.model.keras_model(self.weights, self.frozen)
