"""What training gives back: a finished run, progress on the way, and why it could not go on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations.validation import Failure, counted, one_of, raise_if
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.evaluation import OwnWeights

if TYPE_CHECKING:
    import pandas

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
      simulated_seconds: so far, at the plan's speeds; None without them.
    """

    round: int
    rounds: int
    loss: float | None = None
    accuracy: float | None = None
    epsilon: float | None = None
    unit: str = "none"
    bytes: int = 0
    simulated_seconds: float | None = None


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
      model: the model that was trained, as functions of its weights.
      metrics: the rows of `metrics.csv`: per round and hospital, `pooled` for all together.
      own: by hospital, trained and frozen weights of its own model; empty where there is one model for all.
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
    metrics: Sequence[Mapping[str, Any]] = ()
    own: OwnWeights = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """A few lines; all fields together are pages of numbers."""
        found = self.summary
        rounds = counted(int(found.get("rounds") or 0), "round")
        lines = [f"{found.get('method', 'run')} on {self.plan.data.name}: {rounds}, seed {self.plan.seed}"]
        names = [name for name in ("accuracy", "auc", "rmse", "loss") if found.get(f"{name}_mean") is not None]
        if names:
            figures = ", ".join(f"{name} {found[f'{name}_mean']:.3g}" for name in names)
            lines.append(f"  mean of the hospitals: {figures}")
        epsilon = found.get("epsilon")
        if epsilon is None:
            lines.append("  no formal guarantee")
        else:
            worst = f", worst hospital {found['worst_hospital']}" if found.get("worst_hospital") else ""
            lines.append(f"  epsilon {epsilon:.3g} per {found.get('unit')} at delta {self.ledger.delta:g}{worst}")
        lines.append(f"  files: {self.directory or 'none were written (run_dir=)'}")
        return "\n".join(lines)

    def keras_model(self, hospital: str | None = None) -> Any:
        """The trained model as a plain `tf.keras.Model`.

        Args:
          hospital: whose own model, where hospitals have them (`local_layers`, `personalisation`); None: the shared
            one, with layers that hospitals keep as they began.

        Raises:
          validation.InvalidInput: a hospital without a model of its own.
        """
        if hospital is None:
            return self.model.keras_model(self.weights, self.frozen)
        raise_if([one_of("hospital", hospital, self.own)])
        return self.model.keras_model(*self.own[hospital])

    def to_frame(self, per: str = "round") -> pandas.DataFrame:
        """The run as a table.

        Args:
          per: `round`: a row for each round and hospital, as `metrics.csv` has it (`pooled`: all test records, the
            worst epsilon); `hospital`: a row for each hospital with its last figures and `epsilon` of the guarantee.

        Returns:
          A `pandas.DataFrame` with the index (round, hospital) or hospital; rounds count from 1. Test figures are exact
          and epsilon is a spent budget: neither belongs to what a private run may publish.

        Raises:
          validation.InvalidInput: another word.

        >>> from tff_hospitals.hospitals import load_dataset
        >>> from tff_hospitals.training.loop import train
        >>> run = train(Plan(rounds=2, seed=1), load_dataset("heart_disease"))
        >>> run.to_frame().loc[(2, "hungary"), "records"]
        89.0
        >>> run.to_frame("hospital").index.tolist()
        ['cleveland', 'hungary', 'switzerland', 'va_long_beach', 'pooled']
        """
        import pandas

        raise_if([one_of("per", per, ("round", "hospital"))])
        frame = pandas.DataFrame([dict(row) for row in self.metrics])
        if per == "round":
            return frame.set_index(["round", "hospital"])
        last = frame.groupby("hospital", sort=False).last().drop(columns=["round", "learning_rate"])
        epsilons = dict(self.summary.get("epsilon_per_hospital") or {})
        return last.assign(epsilon=[epsilons.get(one, self.summary.get("epsilon")) for one in last.index])
