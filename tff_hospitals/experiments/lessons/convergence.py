"""Rounds: how many are enough, what a stopping rule ends with, and what more rounds cost under privacy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import curves, difference, mean_accuracy, over_seeds, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.training.loop import build_model

ROUNDS = (2, 5, 15, 45, 135)
PATIENCE = (1, 3, 10)
EPSILON, STEPS = 0.2, 10


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains for more and more rounds, without privacy and at one epsilon, and lets stopping rules end runs."""
    found: dict[str, dict[float, list[float]]] = {"no promise": {}, f"epsilon {EPSILON:g}": {}}
    stopped: dict[int, list[tuple[int, float]]] = {}
    noise: dict[int, float] = {}
    base = presets.preset("heart_disease").replace(client={"local_steps": STEPS})
    dataset = baselines.load(base.data)
    model = build_model(base, dataset)
    for rounds in ROUNDS:
        for words, name in zip(found, ("weighted_mean", "dp_sgd")):
            on_step(f"{rounds} rounds, {words}")
            plan = METHODS[name].plan(base.replace(rounds=rounds, evaluate_every=rounds), EPSILON)
            runs = over_seeds(plan, seeds, dataset, model)
            found[words][rounds] = mean_accuracy(runs)
            noise[rounds] = max(runs[0].summary["noise_multiplier_per_hospital"].values(), default=0.0)
    for patience in PATIENCE:
        on_step(f"patience {patience}")
        plan = METHODS["weighted_mean"].plan(
            base.replace(rounds=ROUNDS[-1], evaluate_every=1, stopping={"patience": patience}), None
        )
        runs = over_seeds(plan, seeds, dataset, model)
        stopped[patience] = [(int(run.summary["rounds"]), one) for run, one in zip(runs, mean_accuracy(runs))]
    on_step("drawing")
    plain, private = found.values()
    first, last = ROUNDS[0], ROUNDS[-1]
    best = max(ROUNDS, key=lambda one: np.mean(private[one]))
    early = [accuracy for _, accuracy in stopped[PATIENCE[0]]]
    paragraphs = [
        f"Four hospitals train a heart disease model, {STEPS} steps in each round, for {first} to {last} rounds: once "
        f"without a promise, and once at epsilon {EPSILON:g} for every patient, where noise is fitted to the rounds.",
        f"Without a promise {first} rounds reach {percent(plain[first])} and {last} rounds {percent(plain[last])}; "
        f"beside {ROUNDS[-2]} rounds that is {difference(plain[last], plain[ROUNDS[-2]])}, and costs "
        f"{last / ROUNDS[-2]:.0f} times the bytes.",
        f"At epsilon {EPSILON:g} the best of these numbers of rounds is {best} ({percent(private[best])}). "
        f"Accuracy after {last} rounds is {difference(private[last], private[first])} beside {first}, while the noise "
        f"multiplier of the smallest hospital rises from {noise[first]:.1f} to {noise[last]:.1f}.",
        f"A rule that stops after {PATIENCE[0]} evaluation without a lower loss ends after "
        f"{np.mean([rounds for rounds, _ in stopped[PATIENCE[0]]]):.0f} rounds on average; accuracy is "
        f"{difference(early, plain[last])} beside {last} rounds.",
    ]
    rows = [[str(one), percent(plain[one]), percent(private[one]), f"{noise[one]:.1f}"] for one in ROUNDS]
    rules = [
        [
            str(patience),
            f"{np.mean([rounds for rounds, _ in ends]):.0f}",
            percent([accuracy for _, accuracy in ends]),
        ]
        for patience, ends in stopped.items()
    ]
    tables = [
        (
            "Accuracy by rounds",
            ["rounds", *found, "largest noise multiplier"],
            rows,
        ),
        ("Where stopping rules end", ["patience, evaluations", "rounds", "accuracy"], rules),
    ]
    picture = curves(
        "convergence",
        "What more rounds bring",
        "Mean accuracy of the hospitals by rounds; noise is fitted to the rounds of each run; dots: seeds.",
        "heart disease, four hospitals",
        found,
        "rounds",
    )
    numbers = {
        "accuracy": {
            words: {str(one): float(np.mean(values)) for one, values in measured.items()}
            for words, measured in found.items()
        },
        "noise_multiplier": {str(one): value for one, value in noise.items()},
        "stopped_after": {
            str(patience): float(np.mean([rounds for rounds, _ in ends])) for patience, ends in stopped.items()
        },
    }
    return Told(numbers, paragraphs, tables, [picture], QUESTIONS)


QUESTIONS = (
    Question(
        "Why does more training not simply need a stronger machine under privacy?",
        "Each round lets something out. At the same epsilon more rounds mean more noise in each, as the last column "
        "shows. Whether the further steps outweigh it depends on epsilon, rate and data: the table says it for these.",
    ),
    Question(
        "What does a rule that looks at test records cost?",
        "The looks are outside of every epsilon, and the figure at which it stops is a little flattered. What is "
        "promised in advance is the epsilon of the largest number of rounds.",
    ),
    Question(
        "How does the table of a comparison treat a method that still improves?",
        "It is shown, with a warning, and not ranked: it says more about the rounds than about the method.",
    ),
)
