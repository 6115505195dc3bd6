"""What every federation has beside its plan, as flags; and making the folders of a test federation."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import train_command

if TYPE_CHECKING:
    from tff_hospitals.deployment.engines import Engine
    from tff_hospitals.foundations.validation import Problem

FLAGS = flags.FLAGS


def define_federation_flags() -> None:
    """What every federation has beside its plan."""
    flags.DEFINE_list("hosts", ["localhost", "127.0.0.1"], "names or addresses under which hospitals reach the server")
    flags.DEFINE_float("days", 90.0, "days until certificates and agreement are over")
    flags.DEFINE_float("deadline_seconds", 120.0, "seconds that a hospital has for an answer")
    flags.DEFINE_integer("fewest_hospitals", None, "hospitals below which a round is repeated (default: two thirds)")
    flags.DEFINE_bool("share_test_metrics", True, "hospitals tell the metrics of their own test records")
    flags.DEFINE_bool("test_mode", False, "all noise follows from the data's key, as in a simulation: protects nobody")


def define_engine_flags() -> None:
    """What carries the messages: the same at the server and at every hospital."""
    flags.DEFINE_string("engine", "grpc", "what carries the messages: grpc or flower")
    flags.DEFINE_string("flower_environments", None, "folder of Flower's environment, made there if need be")


def engine_problem() -> Problem | None:
    """Whether there is no such engine."""
    from tff_hospitals.deployment.engines import ENGINES
    from tff_hospitals.foundations.validation import one_of

    return one_of("engine", FLAGS.engine, ENGINES)


def engine() -> Engine:
    """The engine that the flags name; Flower's environment is made if it is not there."""
    from tff_hospitals.deployment import engines

    return engines.engine(FLAGS.engine, pathlib.Path(FLAGS.flower_environments) if FLAGS.flower_environments else None)


def engine_flags() -> list[str]:
    """The same for a process of this federation."""
    where = FLAGS.flower_environments
    return [f"--engine={FLAGS.engine}", *([f"--flower_environments={pathlib.Path(where).absolute()}"] if where else [])]


def settings() -> dict[str, object]:
    """The agreement's settings that the flags name."""
    found = {"deadline_seconds": FLAGS.deadline_seconds, "share_test_metrics": FLAGS.share_test_metrics}
    return found if FLAGS.fewest_hospitals is None else {**found, "fewest_hospitals": FLAGS.fewest_hospitals}


def make() -> None:
    """Makes the folders that the flags describe."""
    from tff_hospitals.deployment import founding
    from tff_hospitals.experiments import baselines
    from tff_hospitals.foundations.validation import Problem, raise_if

    if not FLAGS.folder:
        raise_if([Problem("--folder", None, "must name a new folder", "write --folder=federation")])
    plan = train_command.plan_from_flags()
    dataset = baselines.load(plan.data)
    folder = pathlib.Path(FLAGS.folder)
    made = founding.found(
        folder,
        plan,
        dataset,
        name=folder.name,
        hosts=FLAGS.hosts,
        days=FLAGS.days,
        test_mode=FLAGS.test_mode,
        settings=settings(),
    )
    print(f"agreement {made.digest.hex()[:16]} of {len(made.hospital_keys)} hospitals, valid until {made.valid_until}")
    for name in ("server", *made.ids):
        print(f"  {name}: {founding.folder_of(folder, name)}")
    print("give each its folder, over a way that you trust; keep authority/ca.key off all of these machines")
