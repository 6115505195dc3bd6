"""The history of a run: ledger, bytes, metrics and stopping history; what a checkpoint keeps beside the weights."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import Ledger, after_selection
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.byte_counts import ByteCounts
from tff_hospitals.training.evaluation import POOLED
from tff_hospitals.training.metrics import METRICS
from tff_hospitals.training.releases import empty_ledger, enter_round
from tff_hospitals.training.signal_to_noise import SignalToNoise

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.processes.rounds import RoundInput, RoundOutput

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
    "signal_to_noise",
    "staleness",
    "simulated_seconds",
    *(name for name in METRICS if name not in ("loss", "accuracy", "auc")),
)
_ROWS_EVERY_ROUND = 64  # with more hospitals than this, rows per hospital are written at evaluations only


class RunHistory:
    """What was done so far.

    Args:
      plan, dataset, noise: of the run.
      wire_bytes: bytes (down, up) of one hospital in one round.
      dense_bytes: the same for dense float32, the yardstick.
      frozen_bytes: bytes of weights that a hospital fetches once, with its first round.
      side_bytes: the part of `wire_bytes` that goes beside model and update.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        noise: noise_plan.NoisePlan,
        wire_bytes: tuple[int, int],
        dense_bytes: tuple[int, int],
        frozen_bytes: int,
        side_bytes: tuple[int, int] = (0, 0),
    ):
        self._plan, self._noise = plan, noise
        self._ids = dataset.ids
        self.bytes_sent = ByteCounts(plan, wire_bytes, side_bytes, dense_bytes, frozen_bytes)
        self.ledger = empty_ledger(dataset, noise)
        self.bytes_down: dict[str, int] = collections.defaultdict(int)
        self.bytes_up: dict[str, int] = collections.defaultdict(int)
        self.metric_rows: list[dict[str, Any]] = []
        self.monitored: list[float] = []
        self.last_evaluation: dict[str, dict[str, float]] = {}
        self.warnings: list[str] = []  # for people inside: some of them speak of single hospitals
        self.statements: list[str] = []  # for everybody: what belongs to the guarantee
        self.left: dict[str, int] = {}  # hospitals that spent their budget, and the round that they left before
        self.clip_norms: list[float | None] = []  # by round, where updates are clipped
        self.signal = SignalToNoise(plan, dataset, noise, dense_bytes[0] // 4)
        self.simulated_seconds: float | None = None  # at the plan's speeds, since the run's start

    def released(self) -> Ledger:
        """The ledger of what becomes public: where this run was chosen among several, their choice included."""
        if self._plan.privacy.selected_from <= 1:
            return self.ledger
        return after_selection(self.ledger, self._plan.privacy.selected_from)

    def record_round(self, one: RoundInput, output: RoundOutput, attempt: int = 0) -> None:
        """Enters what a finished round released and sent: counts are of what the loop really ran.

        Args:
          one, output: of the round.
          attempt: as in `releases.enter_round`.
        """
        for row in self.bytes_sent.enter(one, output):
            self.bytes_down[row["hospital"]] += row["bytes_down"]
            self.bytes_up[row["hospital"]] += row["bytes_up"]
        names = [hospital.hospital.hospital_id for hospital in one.cohort]
        steps = {name: int(output.metrics[name]["steps"]) for name in names}
        enter_round(self.ledger, self._noise, one.number, steps, attempt)
        self.signal.measure(one, output)
        if one.seconds is not None:
            self.simulated_seconds = (self.simulated_seconds or 0.0) + one.seconds
        if "clip_norm" in output.server:
            missing = one.number - len(self.clip_norms)
            self.clip_norms += [*[None] * missing, float(f"{output.server['clip_norm']:.7g}")]
        if output.server.get("cut_off") and not any("secure_sum_bound" in text for text in self.warnings):
            bound = self._plan.privacy.secure_sum_bound
            self.warnings.append(
                f"round {one.number + 1}: {output.server['cut_off']:g} hospitals had a coordinate beyond "
                f"secure_sum_bound={bound:g}, which was cut off there (the first such round). Remedy: a larger "
                "--secure_sum_bound."
            )

    def epsilon(self, hospital: str, conversion: str | None = None) -> float | None:
        """Epsilon so far of a hospital (`pooled`: the worst one), by default as the plan means it; None without a
        guarantee.
        """
        unit = self._noise.unit
        return None if unit == "none" else self.epsilon_of(unit, hospital, conversion or self.stated_in(self._noise))

    def stated_in(self, part: noise_plan.NoisePlan) -> str:
        """The conversion that a unit's epsilon is stated in: the plan's, or RDP where that one has no figure."""
        if part.unit == "none" or part.conversion == "rdp":
            return "rdp"
        problem = self.released().conversion_problem(part.unit, None, part.conversion)
        return part.conversion if problem is None else "rdp"

    def epsilon_of(self, unit: str, hospital: str, conversion: str) -> float | None:
        """Epsilon so far for one of the run's units; None where the conversion has no analysis of what was released."""
        ledger = self.released()
        of = hospital if ledger.knows(unit, hospital) else None  # None: the worst of all
        if conversion != "rdp" and conversion not in ledger.conversions(unit, of):
            return None
        return ledger.epsilon(unit, of, conversion)

    def why_no_epsilon(self, conversion: str) -> str | None:
        """Why a conversion has no epsilon for the run's (inner) unit; None when it has, or there is no guarantee."""
        unit = self._noise.unit
        if unit == "none" or not math.isfinite(self.epsilon_of(unit, POOLED, "rdp") or 0.0):
            return None
        problem = self.released().conversion_problem(unit, None, conversion)
        return None if problem is None else problem.bound

    def enter_metrics(
        self, one: RoundInput, output: RoundOutput, evaluation: Mapping[str, Mapping[str, float]], rate: float
    ) -> None:
        """Adds the rows of a round to metrics.csv; `evaluation` is empty where nothing was evaluated."""
        scopes: Sequence[str] = (*self._ids, POOLED)
        if len(self._ids) > _ROWS_EVERY_ROUND and not evaluation:
            scopes = (POOLED,)
        scopes = (*scopes, *(scope for scope in evaluation if scope not in scopes))
        ages = {each.hospital.hospital_id: each.staleness for each in one.cohort if each.staleness is not None}
        for scope in scopes:
            row: dict[str, Any] = {
                "round": one.number + 1,
                "hospital": scope,
                "learning_rate": rate,
                "unit": self._noise.unit,
            }
            row.update(evaluation.get(scope, {}))
            row.update(_training_metrics(output, scope))
            row["signal_to_noise"] = self.signal.of_round(one.number + 1, scope)
            row["staleness"] = ages.get(scope)
            if scope == POOLED:
                row["staleness"] = sum(ages.values()) / len(ages) if ages else None
                row["simulated_seconds"] = self.simulated_seconds
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
            self.monitored.append(float(evaluation[POOLED].get(self._plan.stopping.metric, math.nan)))

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return {
            "ledger": self.ledger.to_json(),
            "bytes_down": dict(self.bytes_down),
            "bytes_up": dict(self.bytes_up),
            "metric_rows": self.metric_rows,
            "bytes_sent": self.bytes_sent.to_json(),
            "monitored": self.monitored,
            "last_evaluation": self.last_evaluation,
            "warnings": self.warnings,
            "statements": self.statements,
            "left": self.left,
            "signal": self.signal.to_json(),
            "clip_norms": self.clip_norms,
            "simulated_seconds": self.simulated_seconds,
        }

    def restore(self, value: Mapping[str, Any]) -> None:
        """Takes over what `to_json` gave."""
        self.ledger = Ledger.from_json(value["ledger"])
        self.bytes_down = collections.defaultdict(int, value["bytes_down"])
        self.bytes_up = collections.defaultdict(int, value["bytes_up"])
        self.metric_rows = list(value["metric_rows"])
        self.bytes_sent.restore(value["bytes_sent"])
        self.monitored = list(value["monitored"])
        self.last_evaluation = {
            scope: {name: math.nan if one is None else one for name, one in values.items()}
            for scope, values in value["last_evaluation"].items()
        }
        self.warnings, self.statements = list(value["warnings"]), list(value["statements"])
        self.left = dict(value["left"])
        self.signal.restore(value.get("signal", {}))
        self.clip_norms = list(value.get("clip_norms", ()))
        self.simulated_seconds = value.get("simulated_seconds")


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
