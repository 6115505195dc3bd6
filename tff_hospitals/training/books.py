"""The books of a run: ledger, bytes, metrics and stopping history; what a checkpoint keeps beside the weights."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals import noise_plan
from tff_hospitals.accounting import Ledger
from tff_hospitals.plan import Plan
from tff_hospitals.training.evaluation import POOLED

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.runtimes.base import RoundInput, RoundOutput

METRIC_COLUMNS = (
    "round",
    "hospital",
    "loss",
    "accuracy",
    "auc",
    "records",
    "train_loss",
    "steps",
    "learning_rate",
    "unit",
    "epsilon_rdp",
    "epsilon_pld",
    "delta",
    "bytes_down",
    "bytes_up",
)
BYTES_COLUMNS = ("round", "hospital", "bytes_down", "bytes_up", "dense_bytes_down", "dense_bytes_up")
_ROWS_EVERY_ROUND = 64  # with more hospitals than this, rows per hospital are written at evaluations only


class Books:
    """What was done so far.

    Args:
      plan, dataset, noise: of the run.
      wire_bytes: bytes (down, up) of one hospital in one round.
      dense_bytes: the same for dense float32, the yardstick.
      frozen_bytes: bytes of weights that a hospital fetches once, with its first round.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        noise: noise_plan.NoisePlan,
        wire_bytes: tuple[int, int],
        dense_bytes: tuple[int, int],
        frozen_bytes: int,
    ):
        self._plan, self._noise = plan, noise
        self._ids = dataset.ids
        self._wire, self._dense, self._frozen = wire_bytes, dense_bytes, frozen_bytes
        adjacency = noise_plan.ADJACENCY.get(noise.unit, noise_plan.ADJACENCY["record"])
        self.ledger = Ledger(delta=noise.delta, adjacency=adjacency)
        if noise.unit == "record":
            self.ledger.expect("record", dataset.ids)
        self.bytes_down: dict[str, int] = collections.defaultdict(int)
        self.bytes_up: dict[str, int] = collections.defaultdict(int)
        self.metric_rows: list[dict[str, Any]] = []
        self.bytes_rows: list[dict[str, Any]] = []
        self.history: list[float] = []
        self.last_evaluation: dict[str, dict[str, float]] = {}
        self.warnings: list[str] = []
        self.left: dict[str, int] = {}  # hospitals that spent their budget, and the round that they left before
        for hospital, released in noise_plan.preprocessing_events(dataset, noise.unit).items():
            for event, count in released:
                self.ledger.record(noise.unit, hospital, 0, event, count)

    def planned(self, one: str, steps: int) -> list[tuple[Any, int]]:
        """The events that the next round would add for a hospital."""
        return [(self._noise.events[one], steps if self._noise.unit == "record" else 1)]

    def record_round(self, one: RoundInput, output: RoundOutput) -> None:
        """Enters what a finished round released and sent."""
        unit = self._noise.unit
        for hospital in one.cohort:
            name = hospital.hospital.hospital_id
            first = name not in self.bytes_down
            down, up = self._wire[0] + (self._frozen if first else 0), self._wire[1]
            self.bytes_down[name] += down
            self.bytes_up[name] += up
            self.bytes_rows.append(
                {
                    "round": one.number + 1,
                    "hospital": name,
                    "bytes_down": down,
                    "bytes_up": up,
                    "dense_bytes_down": self._dense[0],
                    "dense_bytes_up": self._dense[1],
                }
            )
            if unit == "record":
                steps = int(output.metrics[name]["steps"])  # what the loop really ran, not what was asked for
                self.ledger.record(
                    unit=unit,
                    hospital_id=name,
                    round_number=one.number + 1,
                    event=self._noise.events[name],
                    count=steps,
                )
        if unit == "hospital":
            event = next(iter(self._noise.events.values()))
            self.ledger.record(unit=unit, hospital_id=None, round_number=one.number + 1, event=event, count=1)

    def epsilon(self, hospital: str, conversion: str) -> float | None:
        """Epsilon so far of a hospital (`pooled`: the worst one); None without a guarantee."""
        unit = self._noise.unit
        if unit == "none" or conversion not in self.ledger.conversions(unit):
            return None
        if hospital == POOLED or unit == "hospital":
            return self.ledger.worst_epsilon(unit, conversion)[0]
        return self.ledger.epsilon(unit, hospital, conversion)

    def enter_metrics(
        self, one: RoundInput, output: RoundOutput, evaluation: Mapping[str, Mapping[str, float]], rate: float
    ) -> None:
        """Adds the rows of a round to metrics.csv; `evaluation` is empty where nothing was evaluated."""
        scopes: Sequence[str] = (*self._ids, POOLED)
        if len(self._ids) > _ROWS_EVERY_ROUND and not evaluation:
            scopes = (POOLED,)
        scopes = (*scopes, *(scope for scope in evaluation if scope not in scopes))
        for scope in scopes:
            row: dict[str, Any] = {
                "round": one.number + 1,
                "hospital": scope,
                "learning_rate": rate,
                "unit": self._noise.unit,
            }
            row.update(evaluation.get(scope, {}))
            row.update(_training_metrics(output, scope))
            if scope in self._ids or scope == POOLED:
                row["bytes_down"] = sum(self.bytes_down.values()) if scope == POOLED else self.bytes_down.get(scope, 0)
                row["bytes_up"] = sum(self.bytes_up.values()) if scope == POOLED else self.bytes_up.get(scope, 0)
                if self._noise.unit != "none":
                    row["epsilon_rdp"] = self.epsilon(scope, "rdp")
                    row["epsilon_pld"] = self.epsilon(scope, "pld") if evaluation else None
                    row["delta"] = self._noise.delta
            self.metric_rows.append({name: _finite(value) for name, value in row.items()})
        if evaluation:
            self.last_evaluation = {scope: dict(values) for scope, values in evaluation.items()}
            self.history.append(float(evaluation[POOLED][self._plan.stopping.metric]))

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return {
            "ledger": self.ledger.to_json(),
            "bytes_down": dict(self.bytes_down),
            "bytes_up": dict(self.bytes_up),
            "metric_rows": self.metric_rows,
            "bytes_rows": self.bytes_rows,
            "history": self.history,
            "last_evaluation": self.last_evaluation,
            "warnings": self.warnings,
            "left": self.left,
        }

    def restore(self, value: Mapping[str, Any]) -> None:
        """Takes over what `to_json` gave."""
        self.ledger = Ledger.from_json(value["ledger"])
        self.bytes_down = collections.defaultdict(int, value["bytes_down"])
        self.bytes_up = collections.defaultdict(int, value["bytes_up"])
        self.metric_rows = list(value["metric_rows"])
        self.bytes_rows = list(value["bytes_rows"])
        self.history = list(value["history"])
        self.last_evaluation = {
            scope: {name: math.nan if one is None else one for name, one in values.items()}
            for scope, values in value["last_evaluation"].items()
        }
        self.warnings = list(value["warnings"])
        self.left = dict(value["left"])


def _training_metrics(output: RoundOutput, scope: str) -> dict[str, Any]:
    chosen = output.metrics.values() if scope == POOLED else [output.metrics[scope]] if scope in output.metrics else []
    records = sum(metrics["records"] for metrics in chosen)
    steps = sum(int(metrics["steps"]) for metrics in chosen)
    found: dict[str, Any] = {"steps": steps}
    if records:
        found["train_loss"] = sum(metrics["loss_sum"] for metrics in chosen) / records
    return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
