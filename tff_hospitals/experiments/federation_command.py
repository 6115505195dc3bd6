"""Makes and runs a federation: keys and agreement (make), all of it here (up), its server alone (serve).

    ./run scripts/federation.py up --hospitals=4 --dataset=heart_disease --rounds=5 --run_dir=runs/federation
    ./run scripts/make_federation.py --folder=federation --dataset=heart_disease --aggregator=dp_sgd --target_epsilon=4
    ./run scripts/federation.py serve --folder=server --listen=0.0.0.0:8443 --run_dir=runs/federation

`up` starts server and hospitals as processes of their own, each with its own folder only, and stops all of them at the
end. The flags of the plan are those of `tff-hospitals train`. `make` gives the server and each hospital
a folder of its own, without any record (a real federation makes every signing key where it stays: docs/deployment.md).
`serve` needs the folder of a server; each hospital starts `tff-hospitals hospital` where its records are.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from tff_hospitals.experiments import command, federation_making, train_command

if TYPE_CHECKING:
    from tff_hospitals.training.results import Progress

FLAGS = flags.FLAGS
POSITIONAL = ("action",)
_ACTIONS = ("make", "up", "serve")


def define_flags() -> None:
    """Flags of a plan, of the federation, and of where it runs."""
    train_command.define_flags()
    federation_making.define_federation_flags()
    federation_making.define_engine_flags()
    flags.DEFINE_string("action", None, "make, up or serve (required; or the first argument)")
    flags.DEFINE_integer("hospitals", None, "up: how many hospitals the data set must have")
    flags.DEFINE_float("budget", None, "up: the epsilon that every hospital approves")
    flags.DEFINE_string("folder", None, "make: new folder for everything; serve: folder of the server")
    flags.DEFINE_string("listen", "127.0.0.1:8443", "serve: host:port to listen on; port 0 takes a free one")
    flags.DEFINE_float("wait_seconds", 300.0, "serve: how long to wait for hospitals to present themselves")
    flags.DEFINE_bool("insecure", False, "without TLS, on the loopback interface only: for trying out")


def run() -> None:
    """Does what the first argument names."""
    from tff_hospitals.foundations.validation import one_of, raise_if

    raise_if([one_of("action", FLAGS.action, _ACTIONS), federation_making.engine_problem()])
    if FLAGS.action == "make":
        federation_making.make()
        return
    command.need_run_dir()
    if FLAGS.insecure:
        red, plain = "\033[31m", "\033[0m"
        print(f"{red}WITHOUT TLS: for trying out on this machine alone{plain}", file=sys.stderr)
    (_up if FLAGS.action == "up" else _serve)()


def _up() -> None:
    from tff_hospitals.deployment import founding, launch
    from tff_hospitals.deployment.transport import DeploymentError
    from tff_hospitals.experiments import baselines
    from tff_hospitals.foundations import files
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.plan import review
    from tff_hospitals.reports import progress

    plan = train_command.plan_from_flags()
    if FLAGS.hospitals is not None and plan.data.sites is None and plan.data.name == "synthetic":
        plan = plan.replace(data={"sites": FLAGS.hospitals})
    raise_if(review.problems(plan))
    dataset = baselines.load(plan.data)
    if FLAGS.hospitals not in (None, len(dataset.hospitals)):
        bound = f"is not the number of hospitals in {dataset.name}, which has {len(dataset.hospitals)}"
        raise_if([Problem("--hospitals", FLAGS.hospitals, bound, f"give --hospitals={len(dataset.hospitals)}")])
    run_dir = pathlib.Path(FLAGS.run_dir)
    federation_making.engine()  # where an environment has to be made, that is before anything starts
    with launch.PassingFolder() as folder:
        agreement = founding.found(
            folder, plan, dataset, test_mode=FLAGS.test_mode, settings=federation_making.settings()
        )
        launch.prepare(folder, dataset)
        with launch.Local(folder, agreement) as local:
            more = federation_making.engine_flags()
            output = local.start(run_dir, budget=FLAGS.budget, insecure=FLAGS.insecure, extra=more)
            said: list[str] = []

            def on_line(line: str) -> None:
                said.append(line)
                if FLAGS.progress:
                    print(line, flush=True)

            code = local.wait(output, on_line)
            failures = local.failures()
        for name, why in failures.items():
            print(f"warning: {name}: {why}", file=sys.stderr)
        if code:
            reasons = [line for line in said if line.strip()][-8:]
            raise DeploymentError(f"the server ended with exit code {code}: " + "\n".join(reasons))
    if not FLAGS.progress:
        print(progress.run_summary(files.read_json(run_dir / "summary.json")))
        print(f"results: {run_dir}")


def _serve() -> None:
    from tff_hospitals.deployment import launch, server
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.reports import progress

    if not FLAGS.folder:
        raise_if([Problem("--folder", None, "must name the server's folder", "write --folder=federation/server")])

    def on_round(state: Progress) -> None:
        print(f"round {state.round}/{state.rounds}: {progress.round_words(state)}", flush=True)

    run = server.run_server(
        pathlib.Path(FLAGS.folder),
        FLAGS.listen,
        pathlib.Path(FLAGS.run_dir),
        engine=federation_making.engine(),
        insecure=FLAGS.insecure,
        wait_seconds=FLAGS.wait_seconds,
        on_listening=lambda address: print(f"{launch.LISTENING}{address}", flush=True),
        on_round=on_round,
    )
    print(progress.run_summary(run.summary))
    print(f"results: {FLAGS.run_dir}")
