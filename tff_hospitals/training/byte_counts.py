"""What a run sent: measured bytes per hospital, round and direction, seconds on the stated link, and drift.

| column of bytes.csv | what it counts |
|---|---|
| bytes_down, bytes_up | what must be sent in this plan: payloads as they were encoded, and what goes beside them |
| wire_bytes_down, wire_bytes_up | the same in the form of the runtime in use |
| dense_bytes_down, dense_bytes_up | dense float32, the yardstick |
| link_seconds | on the stated link, transfer and two delays; training not included |

With `delta` in the broadcast, a hospital that missed rounds fetches the payloads that it missed, or the model as it is,
whichever is smaller; so does a hospital that comes for the first time. Frozen weights are fetched once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.communication import parse_chain
from tff_hospitals.communication.bandwidth import Link, classic_bytes
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.processes.rounds import RoundInput, RoundOutput

BYTES_COLUMNS = (
    "round",
    "hospital",
    "bytes_down",
    "bytes_up",
    "dense_bytes_down",
    "dense_bytes_up",
    "wire_bytes_down",
    "wire_bytes_up",
    "link_seconds",
)
DRIFT_COLUMNS = ("round", "hospitals", "drift", "update_norm_mean", "update_norm_largest", "mean_update_norm")


class ByteCounts:
    """Bytes and drift so far.

    Args:
      plan: of the run.
      wire_bytes: (down, up) of one hospital in one round when nothing is encoded.
      side_bytes: the part of them that goes beside model and update: weights, counts, clip norms.
      dense_bytes: (down, up) of model and update as float32.
      frozen_bytes: of weights that a hospital fetches once.
    """

    def __init__(
        self,
        plan: Plan,
        wire_bytes: tuple[int, int],
        side_bytes: tuple[int, int],
        dense_bytes: tuple[int, int],
        frozen_bytes: int,
    ):
        self._plan, self._wire, self._side = plan, wire_bytes, side_bytes
        self._dense, self._frozen = dense_bytes, frozen_bytes
        self._catches_up = parse_chain(plan.broadcast).needs_reference
        self._link = None
        if plan.link.stated:
            self._link = Link(plan.link.uplink_mbps or 0.0, plan.link.downlink_mbps or 0.0, plan.link.latency_ms)
        self.rows: list[dict[str, Any]] = []
        self.drift_rows: list[dict[str, Any]] = []
        self._held: dict[str, int] = {}  # the last round whose model a hospital holds
        self._payloads: list[int] = []  # of the broadcast, by round; the whole model where there was none
        self.skipped = 0
        self.seconds: list[float] = []  # on the link, of the slowest hospital, by round

    def enter(self, one: RoundInput, output: RoundOutput) -> list[dict[str, Any]]:
        """Adds a finished round; returns its rows of bytes.csv."""
        bytes_sent = output.bytes_sent
        encoded = bytes_sent.broadcast_bytes if bytes_sent is not None else None
        self._payloads.append(self._dense[0] if encoded is None else encoded)
        rows: list[dict[str, Any]] = []
        for hospital in one.cohort:
            name = hospital.hospital.hospital_id
            down, up = self._wire
            if bytes_sent is not None:
                if self._plan.broadcast:
                    down = self._side[0] + self._model_bytes(name, one.number)
                if name in bytes_sent.upload_bytes:
                    payload = bytes_sent.upload_bytes[name]
                    self.skipped += payload is None
                    up = 0 if payload is None else self._side[1] + payload
            if name not in self._held:
                down += self._frozen
            wire = output.wire_bytes or (down, up)
            self._held[name] = one.number
            rows.append(
                {
                    "round": one.number + 1,
                    "hospital": name,
                    "bytes_down": down,
                    "bytes_up": up,
                    "dense_bytes_down": self._dense[0],
                    "dense_bytes_up": self._dense[1],
                    "wire_bytes_down": wire[0],
                    "wire_bytes_up": wire[1],
                    "link_seconds": None if self._link is None else self._link.round_seconds(down, up),
                }
            )
        self.rows.extend(rows)
        if self._link is not None:
            self.seconds.append(max((float(row["link_seconds"]) for row in rows), default=0.0))
        self._enter_drift(one, output)
        return rows

    def _model_bytes(self, name: str, round_number: int) -> int:
        """Of the model on its way to one hospital, by what that hospital holds."""
        if not self._catches_up:
            return self._payloads[-1]
        if name not in self._held:
            return self._dense[0]
        return min(sum(self._payloads[self._held[name] + 1 : round_number + 1]), self._dense[0])

    def _enter_drift(self, one: RoundInput, output: RoundOutput) -> None:
        """How far the hospitals' models are from their weighted mean; only where each of them is known anyway."""
        privacy = self._plan.privacy
        mean = output.server.get("update_norm")
        if (
            not one.cohort
            or mean is None
            or mechanisms.hospital_level(privacy).private
            or mechanisms.summed_securely(privacy)
        ):
            return
        decoded = output.bytes_sent.norms if output.bytes_sent is not None else {}
        weights, norms = [], []
        for hospital in one.cohort:
            name = hospital.hospital.hospital_id
            weights.append(hospital.weight)
            norms.append(decoded.get(name, output.metrics[name]["update_norm"]))
        square = sum(weight * norm * norm for weight, norm in zip(weights, norms)) / sum(weights)
        self.drift_rows.append(
            {
                "round": one.number + 1,
                "hospitals": len(norms),
                "drift": math.sqrt(max(0.0, square - mean * mean)),
                "update_norm_mean": sum(norms) / len(norms),
                "update_norm_largest": max(norms),
                "mean_update_norm": mean,
            }
        )

    def summary(self, hospitals: int) -> dict[str, Any]:
        """Measured bytes beside the classic formula, and time on the link, for summary.json.

        Args:
          hospitals: that there are, whether they took part or not.
        """
        up, down = (sum(row[f"bytes_{way}"] for row in self.rows) for way in ("up", "down"))
        rounds = len(self._payloads)
        share = len(self.rows) / (hospitals * rounds) if rounds else 0.0
        dense = [len(self.rows) * one for one in self._dense]
        classic = classic_bytes(self._dense[0], self._dense[1], hospitals, share, rounds)
        return {
            "broadcast": self._plan.broadcast or "none",
            "upload": self._plan.upload or "none",
            "dense_bytes_up": dense[1],
            "dense_bytes_down": dense[0],
            "times_fewer_up": dense[1] / up if up else None,
            "times_fewer_down": dense[0] / down if down else None,
            "wire_bytes_up": sum(row["wire_bytes_up"] for row in self.rows),
            "wire_bytes_down": sum(row["wire_bytes_down"] for row in self.rows),
            "classic_bytes": classic,
            "measured_bytes": up + down,
            "difference": self._difference(up + down - classic),
            "skipped_uploads": self.skipped,
            "link_seconds_per_round": sum(self.seconds) / len(self.seconds) if self.seconds else None,
            "drift_mean": _mean([row["drift"] for row in self.drift_rows]),
        }

    def _difference(self, difference: float) -> str:
        """Why the measurement is not what the formula says."""
        if difference == 0:
            return "none: dense float32 and nothing beside it"
        parts = []
        if self._plan.broadcast or self._plan.upload:
            parts.append("payloads are encoded, the formula counts float32")
        if self._catches_up:
            parts.append("hospitals that hold no earlier model fetch it as it is")
        if self.skipped:
            parts.append(f"{self.skipped} uploads were skipped")
        if any(self._side):
            parts.append("weights, counts and clip norms travel beside model and update")
        if mechanisms.hospital_level(self._plan.privacy).corrects:
            parts.append("so does what corrects local steps")
        if self._frozen:
            parts.append("frozen weights are fetched once by each hospital")
        return f"{difference:+,.0f} bytes: " + "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return {
            "rows": self.rows,
            "drift_rows": self.drift_rows,
            "held": self._held,
            "payloads": self._payloads,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }

    def restore(self, value: Mapping[str, Any]) -> None:
        """Takes over what `to_json` gave."""
        self.rows, self.drift_rows = list(value["rows"]), list(value["drift_rows"])
        self._held, self._payloads = dict(value["held"]), list(value["payloads"])
        self.skipped, self.seconds = int(value["skipped"]), list(value["seconds"])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
