"""The same epsilon for every hospital: noise from a trusted server, in shares under a secure sum, or of each alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import curves
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.training.loop import build_model, train

SITES = (10, 30, 100)
EPSILON, ROUNDS = 8.0, 20
WAYS = (
    ("mean", "no noise", "no promise"),
    ("fixed_clip", "central", "the server adds the noise and is trusted with every update"),
    ("discrete_gaussian", "in shares", "every hospital adds a share; the server sees a secure sum alone"),
    ("local_dp", "local", "every hospital adds all of the noise itself and trusts nobody"),
)


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains each way over ten, thirty and a hundred sites."""
    found: dict[tuple[str, int], list[float]] = {}
    for seed in seeds:
        for sites in SITES:
            base = presets.preset("digits").replace(
                data={"partition": "iid", "sites": sites, "options": {}, "seed": seed},
                rounds=ROUNDS,
                evaluate_every=ROUNDS,
                model={"name": "logistic_regression"},
                client={"learning_rate": 0.1},
                privacy={"clip_norm": 0.5},
                seed=seed,
            )
            dataset = baselines.load(base.data)
            model = build_model(base, dataset)
            for name, _, _ in WAYS:
                on_step(f"seed {seed}, {sites} sites: {name}")
                done = train(METHODS[name].plan(base, EPSILON), dataset, model=model)
                found.setdefault((name, sites), []).append(done.evaluation["pooled"]["accuracy"])
    means = {name: {str(sites): float(np.mean(found[name, sites])) for sites in SITES} for name, _, _ in WAYS}
    rows = [[words, trusted, *(f"{means[name][str(sites)]:.1%}" for sites in SITES)] for name, words, trusted in WAYS]
    heads = ["noise", "who is trusted with what", *(f"{sites} sites" for sites in SITES)]
    most = str(SITES[-1])
    paragraphs = [
        f"Every hospital as a whole is promised the same epsilon ({EPSILON:g}, over {ROUNDS} rounds of digits). What "
        "differs is who adds the noise, and so who has to be trusted.",
        f"With {most} sites the server's noise leaves {means['fixed_clip'][most]:.1%}, noise in shares "
        f"{means['discrete_gaussian'][most]:.1%}, and noise from each hospital alone {means['local_dp'][most]:.1%} "
        f"(without noise {means['mean'][most]:.1%}). One draw at the server hides any of the hospitals; where nobody "
        "is trusted each adds as much, and the sum holds as many draws as there are hospitals: its deviation is larger "
        "by the root of their number.",
    ]
    picture = curves(
        "trust",
        f"Who adds the noise, at epsilon {EPSILON:g} for each hospital",
        "Accuracy on all test records by the number of sites; dots: seeds.",
        "digits, equal sites",
        {words: {sites: found[name, sites] for sites in SITES} for name, words, _ in WAYS},
        "sites",
    )
    return Told({"epsilon": EPSILON, "accuracy": means}, paragraphs, [("Accuracy", heads, rows)], [picture], QUESTIONS)


QUESTIONS = (
    Question(
        "Why do more sites help so much?",
        "The noise that hides one hospital stays as it is, and the sum that it is added to grows with the sites: in "
        "the mean, noise falls as one over their number. Local noise falls only as one over its root.",
    ),
    Question(
        "Why is noise in shares not simply as good as the server's?",
        "It nearly is. What is lost is rounding to whole numbers, and noise for hospitals that might not answer.",
    ),
    Question(
        "Is a patient protected by these?",
        "With the whole hospital every patient of it, at the same epsilon. Where a few hospitals train, noise inside "
        "each of them (DP-SGD) protects patients at a far smaller cost.",
    ),
)
