"""A whole hospital among four, and a patient among hundreds: what hiding either costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import curves, difference, mean_accuracy, over_seeds, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.training.loop import build_model

EPSILONS = (1.0, 3.0, 8.0, 30.0)
SITES = (4, 10, 40)
AT = 8.0
UNITS = (("dp_sgd", "each patient"), ("fixed_clip", "each hospital"))


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Hides patients and hospitals of the four real ones, then hospitals among more and more simulated sites."""
    real: dict[str, dict[float, list[float]]] = {words: {} for _, words in UNITS}
    many: dict[str, dict[float, list[float]]] = {"hidden": {}, "plain": {}}
    base = presets.preset("heart_disease").replace(evaluate_every=15)
    dataset = baselines.load(base.data)
    model = build_model(base, dataset)
    on_step("four hospitals, no promise")
    plain = mean_accuracy(over_seeds(METHODS["mean"].plan(base, None), seeds, dataset, model))
    shares = [float(np.mean(hospital.test.labels)) for hospital in dataset.hospitals]
    guess = float(np.mean([max(share, 1 - share) for share in shares]))
    for epsilon in EPSILONS:
        for name, words in UNITS:
            on_step(f"four hospitals, epsilon {epsilon:g} for {words}")
            real[words][epsilon] = mean_accuracy(over_seeds(METHODS[name].plan(base, epsilon), seeds, dataset, model))
    for sites in SITES:
        wide = presets.preset("digits").replace(
            data={"partition": "iid", "sites": sites, "options": {}},
            model={"name": "logistic_regression"},
            privacy={"clip_norm": 0.5},
            evaluate_every=20,
        )
        spread = baselines.load(wide.data)
        shape = build_model(wide, spread)
        for words, name in (("hidden", "fixed_clip"), ("plain", "mean")):
            on_step(f"{sites} sites, {words}")
            many[words][sites] = mean_accuracy(over_seeds(METHODS[name].plan(wide, AT), seeds, spread, shape))
    on_step("drawing")
    low, high = EPSILONS[0], EPSILONS[-1]
    patient, hospital = real["each patient"], real["each hospital"]
    lost = {sites: np.mean(many["plain"][sites]) - np.mean(many["hidden"][sites]) for sites in SITES}
    paragraphs = [
        "Four real hospitals train a heart disease model. The same epsilon is promised once to every patient (DP-SGD "
        "inside hospitals) and once to every hospital as a whole (noise on the sum of four updates).",
        f"At epsilon {low:g} the promise for patients leaves {percent(patient[low])}, that for hospitals "
        f"{percent(hospital[low])}; without any promise it is {percent(plain)}, and whoever always answers a "
        f"hospital's more frequent class is right in {guess:.1%}. Accuracy under the promise for hospitals is, beside "
        f"that for patients, {difference(hospital[low], patient[low])} at epsilon {low:g} and "
        f"{difference(hospital[high], patient[high])} at epsilon {high:g}.",
        f"Digits spread over {SITES[0]} sites lose {100 * lost[SITES[0]]:.1f} points to the promise for sites at "
        f"epsilon {AT:g}, over {SITES[-1]} sites {100 * lost[SITES[-1]]:.1f}. The noise that hides one contribution is "
        "the same, and the sum that it hides in grows with the sites.",
    ]
    rows = [[f"{one:g}", percent(patient[one]), percent(hospital[one])] for one in EPSILONS]
    more = [[str(one), percent(many["plain"][one]), percent(many["hidden"][one])] for one in SITES]
    tables = [
        ("Accuracy at four real hospitals, by what is promised", ["epsilon", *(words for _, words in UNITS)], rows),
        (f"Accuracy on digits, by the number of sites (epsilon {AT:g})", ["sites", "no promise", "each site"], more),
    ]
    pictures = [
        curves(
            "four_hospitals",
            "Hiding a patient, and hiding one of four hospitals",
            "Mean accuracy of the hospitals by epsilon; dots: seeds.",
            "heart disease, four hospitals",
            {f"promised to {words}": found for words, found in real.items()},
            "epsilon",
        ),
        curves(
            "four_hospitals_sites",
            "More sites to hide in",
            f"Mean accuracy of the sites by their number, epsilon {AT:g}; dots: seeds.",
            "digits, equal sites",
            {"no promise": many["plain"], "promised to each site": many["hidden"]},
            "sites",
        ),
    ]
    numbers = {
        "patients": {f"{one:g}": float(np.mean(patient[one])) for one in EPSILONS},
        "hospitals": {f"{one:g}": float(np.mean(hospital[one])) for one in EPSILONS},
        "no_promise": float(np.mean(plain)),
        "more_frequent_class": guess,
        "points_lost_by_sites": {str(one): float(100 * lost[one]) for one in SITES},
    }
    return Told(numbers, paragraphs, tables, pictures, QUESTIONS)


QUESTIONS = (
    Question(
        "Why is it so much dearer to hide one of four hospitals than one of hundreds of patients?",
        "Noise must cover the whole contribution of the unit that is hidden. A hospital is a quarter of the sum here; "
        "a patient is a small part of a batch, and is in few of the batches.",
    ),
    Question(
        "May the two epsilons be compared as numbers?",
        "No. They promise different things: what can be learnt of one patient, and what can be learnt of a hospital. "
        "A promise for hospitals holds for each of its patients too; the other way round it does not.",
    ),
    Question(
        "Four hospitals want to hide themselves all the same. What can they do?",
        "Find more hospitals; split what has to be hidden (which patients, not whether the hospital takes part); add a "
        "secure sum, so that nobody sees a single update; or say openly that the hospital's taking part is known.",
    ),
)
