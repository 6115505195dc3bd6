"""Rounds and simulated seconds to a target accuracy for every algorithm without privacy, at unlike hospitals.

    ./run benchmarks/algorithms.py --json=FILE [--algorithms=weighted_mean,scaffold] [--seeds=5] [--rounds=60]

scikit-learn's digits over ten simulated sites by Dirichlet(0.1), logistic regression, ten local epochs of batch 20 a
round, all sites in every round, equal weights. What counts is the first round after which the broadcast model has the
target accuracy on all test records together; a run that has not got there by the last round counts as one round more.
Simulated seconds are those of local steps at speeds that each site draws once (log-normal, the same for all
algorithms): a synchronous round waits for its slowest site. A round of FedBuff is a step of the server after five
answers, of which it may take twice as many.

Settings are chosen for each algorithm by the same grid: four rates of the hospitals, times two values of the one
number that is its own, where it has one. They are chosen by rounds to the target on another division of the digits,
with seeds of their own; the rounds that count are of five other seeds. Test records tell when the target is reached,
in the choice as well: this compares how fast algorithms train, not how well their models do on new records.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import one_of, raise_if

FLAGS = flags.FLAGS
CLIENT_RATES = (0.01, 0.03, 0.1, 0.3)
TUNING_SEEDS, FIRST_SEED = (1, 2), 42
TUNING_DATA, DATA = 0, 1
_SERVER_RATES = [{"server": {"learning_rate": rate}} for rate in (0.03, 0.1)]
OWN: dict[str, Sequence[Mapping[str, Any]]] = {
    "mean": [{}],
    "fednova": [{}],
    "fedbuff": [{"cohort": {"hospitals_per_round": 5, "staleness_exponent": power}} for power in (0.0, 0.5)],
    "scaffold": [{}],
    "fedprox": [{"client": {"proximal_mu": mu}} for mu in (0.01, 0.1)],
    "fedprox_adaptive": [{"client": {"proximal_mu": mu}} for mu in (0.0, 0.1)],
    "feddyn": [{"client": {"proximal_mu": alpha}} for alpha in (0.01, 0.1)],
    "mime_lite": [{"client": {"momentum": decay}} for decay in (0.5, 0.9)],
    "q_fedavg": [{"privacy": {"fairness": power}} for power in (0.1, 1.0)],
    "agnostic": [{"privacy": {"agnostic_learning_rate": rate}} for rate in (0.01, 0.1)],
    "fedadam": _SERVER_RATES,
    "fedyogi": _SERVER_RATES,
    "fedadagrad": _SERVER_RATES,
    "fedlamb": _SERVER_RATES,
}
"""Algorithms, and two values of the number that is each one's own."""


class _Reached(Exception):
    """A run has got to the target: nothing more of it is needed."""


def base(rounds: int, data_seed: int) -> Any:
    """The plan that all algorithms change."""
    from tff_hospitals.plan.plan import Plan

    return Plan().replace(
        data={
            "name": "digits",
            "partition": "dirichlet",
            "sites": 10,
            "seed": data_seed,
            "options": {"alpha": 0.1},
        },
        model={"name": "logistic_regression"},
        rounds=rounds,
        evaluate_every=1,
        checkpoint_every=rounds,
        weighting="equal",
        speeds="lognormal:0.01:1",
        client={"local_steps": None, "local_epochs": 10, "batch_size": 20},
    )


Reached = tuple[Optional[int], float, Optional[float]]


def rounds_to_target(plan: Any, dataset: Any, model: Any, target: float) -> Reached:
    """The first round after which the accuracy is that of the target (None: it never was), the last accuracy, and the
    simulated seconds until then.
    """
    from tff_hospitals.training.loop import train
    from tff_hospitals.training.results import TrainingError

    last: list[Any] = [0, 0.0, None]

    def look(progress: Any) -> None:
        last[:] = progress.round, progress.accuracy, progress.simulated_seconds
        if progress.accuracy >= target:
            raise _Reached

    try:
        train(plan, dataset, model=model, on_round=look)
    except _Reached:
        return int(last[0]), last[1], last[2]
    except TrainingError:  # a rate that is too large for an algorithm
        return None, last[1], None
    return None, last[1], None


def measure(names: Sequence[str], seeds: int, rounds: int, target: float, save: Any) -> dict[str, Any]:
    """Every algorithm's settings, rounds and what all candidates took; `save` is called after every algorithm."""
    from tff_hospitals.experiments import baselines
    from tff_hospitals.experiments.methods import METHODS
    from tff_hospitals.training.loop import build_model

    plans = {use: base(rounds, seed) for use, seed in (("choice", TUNING_DATA), ("count", DATA))}
    datasets = {use: baselines.load(plan.data) for use, plan in plans.items()}
    models = {use: build_model(plan, datasets[use]) for use, plan in plans.items()}

    def run(use: str, name: str, changes: Sequence[Mapping[str, Any]], seed: int) -> Reached:
        plan = METHODS[name].plan(plans[use], None).replace(seed=seed, rounds=limit(name, rounds))
        for change in changes:
            plan = plan.replace(**change)
        return rounds_to_target(plan, datasets[use], models[use], target)

    found: dict[str, Any] = {}
    for name in names:
        tried: list[dict[str, Any]] = []
        for rate, own in itertools.product(CLIENT_RATES, OWN[name]):
            changes = [{"client": {"learning_rate": rate}}, own]
            runs = [run("choice", name, changes, seed) for seed in TUNING_SEEDS]
            cost = sum(limit(name, rounds) + 1 if count is None else count for count, _, _ in runs)
            accuracy = sum(last for _, last, _ in runs)
            tried.append({"changes": changes, "rounds": cost / len(runs), "accuracy": accuracy})
        best = min(tried, key=lambda one: (one["rounds"], -one["accuracy"]))
        runs = [run("count", name, best["changes"], FIRST_SEED + number) for number in range(seeds)]
        found[name] = {
            "label": METHODS[name].label,
            "settings": best["changes"],
            "rounds": [count for count, _, _ in runs],
            "seconds": [seconds for _, _, seconds in runs],
            "accuracies": [last for _, last, _ in runs],
            "tried": tried,
        }
        save(found)
    return found


def limit(name: str, rounds: int) -> int:
    """The most rounds of an algorithm: as many answers of sites as the others have."""
    return 2 * rounds if name == "fedbuff" else rounds


def median(counts: Sequence[int | None], rounds: int) -> float:
    """The median number of rounds; a run that did not get there counts as one more than there were."""
    return float(statistics.median(rounds + 1 if count is None else count for count in counts))


def table(found: Mapping[str, Any], rounds: int, target: float) -> str:
    """A Markdown table, the fastest first."""
    head = f"| algorithm | settings | rounds to {100 * target:g} %, median | of each seed | simulated seconds, median |"
    lines = [head, "|---|---|---|---|---|"]
    for name, one in sorted(found.items(), key=lambda pair: median(pair[1]["rounds"], limit(pair[0], rounds))):
        settings = ", ".join(
            f"{part} {field} {value:g}"
            for change in one["settings"]
            for part, fields in change.items()
            for field, value in fields.items()
        )
        most = limit(name, rounds)
        middle = median(one["rounds"], most)
        shown = f"> {most}" if middle > most else f"{middle:g}"
        each = ", ".join("never" if count is None else str(count) for count in one["rounds"])
        seconds = statistics.median(math.inf if value is None else value for value in one["seconds"])
        time = f"{seconds:.3g}" if math.isfinite(seconds) else "never"
        lines.append(f"| {one['label']} (`{name}`) | {settings} | {shown} | {each} | {time} |")
    return "\n".join(lines)


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures, written after every algorithm")
    flags.DEFINE_list("algorithms", list(OWN), "which algorithms")
    flags.DEFINE_integer("seeds", 5, "seeds that count", lower_bound=1)
    flags.DEFINE_integer("rounds", 60, "rounds at most", lower_bound=1)
    flags.DEFINE_float("target", 0.9, "accuracy on all test records together", lower_bound=0.0, upper_bound=1.0)


def run() -> None:
    """Measures, prints the table and writes the figures."""
    from tff_hospitals.foundations import files

    raise_if([one_of("--algorithms", name, OWN) for name in FLAGS.algorithms])

    def save(found: Mapping[str, Any]) -> None:
        if FLAGS.json:
            made_with = {"target": FLAGS.target, "rounds": FLAGS.rounds, "seeds": FLAGS.seeds}
            counts = {name: one["rounds"] for name, one in found.items()}
            times = {name: one["seconds"] for name, one in found.items()}
            reached = {"rounds_to_target": counts, "seconds_to_target": times}
            files.write_json(FLAGS.json, {**made_with, **reached, "algorithms": found})

    found = measure(FLAGS.algorithms, FLAGS.seeds, FLAGS.rounds, FLAGS.target, save)
    print(table(found, FLAGS.rounds, FLAGS.target))


if __name__ == "__main__":
    command.main()
