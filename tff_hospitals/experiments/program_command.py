"""Trains one plan as a federated program of TFF's, with its managers, our ledger and a certificate.

    tff-hospitals program --aggregator=dp_sgd --target_epsilon=2 --rounds=3 --run_dir=runs/program

The plan is that of `tff-hospitals train` with the same flags; TFF draws the batches, in a worker of its own. The same
command goes on with a folder that it began.
"""

from __future__ import annotations

import math
import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import command, train_command
from tff_hospitals.foundations import files
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan import review

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.plan import Plan
    from tff_hospitals.tff.program import ProgramResult

FLAGS = flags.FLAGS
_SHOWN = ("loss", "accuracy", "rmse")


def define_flags() -> None:
    """Flags of a program: those of a plan."""
    flags.DEFINE_string("run_dir", None, "folder for everything that is left behind (required)")
    flags.DEFINE_bool("progress", True, "show progress")
    flags.DEFINE_bool("audit", False, "put the promise to the test afterwards; the exit code is that of an audit")
    train_command.define_method_flags()


def run() -> None:
    """Runs the program that the flags describe."""
    from tff_hospitals.foundations import optional
    from tff_hospitals.foundations.validation import raise_if

    command.need_run_dir()
    optional.need(optional.TFF, "tff-hospitals program")
    plan = train_command.plan_from_flags()
    raise_if(review.problems(plan))
    from tff_hospitals.experiments import baselines

    dataset = baselines.load(plan.data)
    raise_if(review.problems(plan, dataset))
    from tff_hospitals.tff.program import run_program

    def shown(number: int, pooled: dict[str, float]) -> None:
        if FLAGS.progress:
            print(f"round {number} of {plan.rounds}: loss {pooled['loss']:.4g}", flush=True)

    result = run_program(plan, dataset, FLAGS.run_dir, shown)
    for name, metrics in result.evaluation.items():
        known = [(metric, metrics[metric]) for metric in _SHOWN if metrics.get(metric, math.nan) == metrics.get(metric)]
        print(f"{name}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in known))
    for unit, epsilon in result.epsilon.items():
        library = result.certificates[unit]["library"]
        print(
            f"epsilon per {unit} at delta {noise_plan.delta_of(plan, dataset):g}: {epsilon:.4g}, certified by {library}"
        )
    if not result.epsilon:
        print("no guarantee: nothing in this plan adds noise that is accounted for")
    code = audited(plan, dataset, result, FLAGS.run_dir) if FLAGS.audit else 0
    print(f"results: {FLAGS.run_dir}")
    if code:
        sys.exit(code)


def audited(plan: Plan, dataset: HospitalDataset, result: ProgramResult, folder: str) -> int:
    """Self-tests and bounds of the parts that the process was composed of, in inside/audit.json; the exit code.

    Args:
      plan, dataset: of the program.
      result: what it came to.
      folder: of the program.
    """
    from tff_hospitals.audits import promise
    from tff_hospitals.audits.loading import LoadedRun
    from tff_hospitals.audits.options import AuditOptions
    from tff_hospitals.training.published_fields import INSIDE

    trainable, frozen = result.weights
    drawn = "TFF drew batches and noise of its clients in its own worker"
    run = LoadedRun(
        folder=None,
        plan=plan,
        dataset=dataset,
        model=result.model,
        weights=trainable,
        frozen=frozen,
        ledger=result.ledger,
        summary={},
        rounds=result.rounds,
        drawn_elsewhere=drawn,
    )
    found = promise.examine(run, AuditOptions(parts=("promise",)))
    files.write_json(pathlib.Path(folder) / INSIDE / "audit.json", found)
    print(found["words"])
    for one in found["not_tested"]:
        print(f"NOT TESTED: {one['name']}: {one['reason']}")
    return int(found["exit_code"])
