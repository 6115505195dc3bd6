"""More rounds for a finished run.

The same plan with more rounds goes on from the last weights, with the noise that was calibrated for the rounds before:
what was released cannot be taken back, and a quieter rest would not be the same mechanism. So epsilon grows. It is
stated before anything is trained; where the plan has a target it must be raised to what results, or the run is refused.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import Problem
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.noise import NoisePlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.run_record import fullest, plan_differences
from tff_hospitals.training.run_streams import release_name

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel

_TARGETS = ("target_epsilon", "outer_target_epsilon")
_RAISED = ("rounds", *(f"privacy.{name}" for name in _TARGETS))


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a run was before it was extended.

    Attributes:
      plan: as it was.
      done: rounds that were run; fewer than planned where the run stopped early.
    """

    plan: Plan
    done: int

    def record(self) -> dict[str, Any]:
        """What record.json keeps of it: the fields that an extension raises."""
        privacy = {name: getattr(self.plan.privacy, name) for name in _TARGETS}
        return {"rounds": self.plan.rounds, "privacy": privacy, "done": self.done}

    @classmethod
    def from_record(cls, plan: Plan, fields: Mapping[str, Any]) -> Stage:
        """The stage of an extended `plan` that `record` wrote."""
        return cls(plan.replace(rounds=fields["rounds"], privacy=fields["privacy"]), fields["done"])


@dataclasses.dataclass(frozen=True)
class Extension:
    """A run that goes on for more rounds than its noise was calibrated for.

    Attributes:
      stages: what it was before, the first one first; its noise is that of all of them.
      new: whether it is extended now (else it was, and goes on).
    """

    stages: tuple[Stage, ...]
    new: bool

    @property
    def calibrated(self) -> Plan:
        """The plan that the noise belongs to."""
        return self.stages[0].plan

    @property
    def first_round(self) -> int:
        """The first round that is not of the stages before, 0-based."""
        return self.stages[-1].done

    def releases(self, dataset: HospitalDataset, model: FunctionalModel) -> list[str]:
        """Names of what was released before, the first one first."""
        names: list[str] = []
        for stage in self.stages:
            names.append(release_name(stage.plan, dataset, model, names))
        return names

    def layout_problems(self, plan: Plan) -> list[Problem]:
        """Why the run may not go on at all: noise that was laid out for fewer rounds."""
        rounds = self.calibrated.rounds
        if plan.by_round:
            bound = f"changes settings by round, which were laid out for {rounds} rounds ({plan.by_round})"
            return [Problem("rounds", plan.rounds, bound, "train a new run")]
        spans = mechanisms.hospital_level(plan.privacy).spans_rounds
        if not spans or (plan.privacy.restart_every or plan.rounds) <= rounds:
            return []
        bound = f"its noise was laid out as a whole for the {rounds} rounds that were planned, and cannot grow"
        remedy = "train a new run; a tree with --restart_every of its planned rounds or fewer can be extended"
        return [Problem("rounds", plan.rounds, bound, remedy)]

    def problems(self, plan: Plan, noise: NoisePlan, after: Ledger) -> list[Problem]:
        """Why the run may not go on to a target: it would be exceeded.

        Args:
          plan: the extended one.
          noise: of the run.
          after: what will have been released at its end.
        """
        found = []
        rounds = self.calibrated.rounds
        targets = (plan.privacy.target_epsilon, plan.privacy.outer_target_epsilon)
        for part, target, name in zip(noise.parts, targets, _TARGETS):
            if target is not None:
                epsilon = after.epsilon(part.unit, None, part.conversion)
                if epsilon > target:
                    bound = (
                        f"would reach epsilon {epsilon:.6g} per {part.unit}, beyond the target of {target:g}: the "
                        f"noise was calibrated for {rounds} rounds"
                    )
                    remedy = (
                        f"accept it with --{name}={_rounded_up(epsilon)}, or train a new run of {plan.rounds} rounds"
                    )
                    found.append(Problem("rounds", plan.rounds, bound, remedy))
        return found

    def statements(self, plan: Plan, noise: NoisePlan, before: Ledger, after: Ledger) -> list[str]:
        """What a reader must know of the extension, one sentence for each unit of privacy."""
        how = f"extended from {self.first_round} to {plan.rounds} rounds"
        if not noise.parts:
            return [how]
        return [
            f"{how} with the noise that was calibrated for {self.calibrated.rounds}: epsilon per {part.unit} was "
            f"{before.epsilon(part.unit, None, part.conversion):.4g}, and is "
            f"{after.epsilon(part.unit, None, part.conversion):.4g} at the end (delta {after.delta:g}; "
            f"{part.conversion})"
            for part in noise.parts
        ]


def _rounded_up(epsilon: float) -> str:
    return f"{epsilon * (1 + 1e-6) + 5e-5:.4f}"


def extension(plan: Plan, run_dir: pathlib.Path | None) -> Extension | None:
    """How a plan extends the finished run in `run_dir`, or that an extended run goes on there; None for neither."""
    if run_dir is None or not (run_dir / "plan.json").exists():
        return None
    there = Plan.from_json(files.read_json(run_dir / "plan.json"))
    past = files.read_json(fullest(run_dir, "record.json")).get("extended_from", [])
    stages = tuple(Stage.from_record(there, fields) for fields in past)
    raised = plan_differences(there.to_json(), plan.to_json())
    new = plan.rounds > there.rounds and all(one.split(" ")[0] in _RAISED for one in raised)
    if new and (run_dir / "summary.json").exists():
        done = files.read_json(run_dir / "summary.json")["rounds"]
        return Extension((*stages, Stage(there, done)), True)
    return Extension(stages, False) if stages and not raised else None
