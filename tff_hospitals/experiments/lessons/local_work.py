"""More local work between rounds: what it saves, and how far hospitals drift apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import curves, difference, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.training.loop import build_model, train

PASSES, ROUNDS = 32, 4
EPOCHS = (1, 2, 4, 8, 16)
SPREADS: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("alike", "iid", {}),
    ("unlike", "dirichlet", {"alpha": 0.1}),
)


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains with more and more passes between rounds: once with as many passes in all, once with as many rounds."""
    accuracy: dict[tuple[str, str], dict[float, list[float]]] = {}
    drift: dict[str, dict[float, list[float]]] = {}
    sent: dict[int, float] = {}
    for seed in seeds:
        for words, partition, options in SPREADS:
            base = presets.preset("digits").replace(
                data={"partition": partition, "sites": 10, "options": options, "seed": seed}, seed=seed
            )
            dataset = baselines.load(base.data)
            model = build_model(base, dataset)
            for epochs in EPOCHS:
                on_step(f"seed {seed}, sites {words}: {epochs} passes between rounds")
                for kind, rounds in (("passes", PASSES // epochs), ("bytes", ROUNDS)):
                    plan = METHODS["weighted_mean"].plan(
                        base.replace(rounds=rounds, evaluate_every=rounds, client={"local_epochs": epochs}), None
                    )
                    done = train(plan, dataset, model=model)
                    at = accuracy.setdefault((kind, words), {}).setdefault(epochs, [])
                    at.append(done.evaluation["pooled"]["accuracy"])
                    if kind == "passes":
                        sent[epochs] = done.summary["bytes_up"] + done.summary["bytes_down"]
                    else:
                        far = drift.setdefault(words, {}).setdefault(epochs, [])
                        far.append(done.summary["communication"]["drift_mean"])
    on_step("drawing")
    least, most = EPOCHS[0], EPOCHS[-1]
    grown = {words: np.mean(found[most]) / np.mean(found[least]) for words, found in drift.items()}
    apart = np.mean(drift["unlike"][most]) / np.mean(drift["alike"][most])
    same = {words: accuracy["passes", words] for words, _, _ in SPREADS}
    paragraphs = [
        f"Ten sites train a small network on digits, once with records that are alike everywhere, once with unlike "
        f"ones (Dirichlet 0.1: a site holds mostly few labels). First every site makes {PASSES} passes over its "
        f"records in all, and what changes is how many lie between two rounds.",
        f"With {most} passes between rounds instead of {least} the run sends {sent[least] / sent[most]:.0f} times "
        f"less. Where sites are alike accuracy is then {difference(same['alike'][most], same['alike'][least])}; where "
        f"they are unlike it is {difference(same['unlike'][most], same['unlike'][least])}.",
        f"At equal bytes ({ROUNDS} rounds each) accuracy with {most} passes instead of {least} is "
        f"{difference(accuracy['bytes', 'alike'][most], accuracy['bytes', 'alike'][least])} where sites are alike, and "
        f"{difference(accuracy['bytes', 'unlike'][most], accuracy['bytes', 'unlike'][least])} where they are unlike.",
        f"Drift, the spread of the sites' updates around their mean, is {grown['alike']:.1f} times as large with "
        f"{most} passes as with {least} where sites are alike and {grown['unlike']:.1f} times where they are not. With "
        f"{most} passes that of unlike sites is {apart:.1f} times that of sites that are alike.",
    ]
    rows = [
        [
            str(epochs),
            str(PASSES // epochs),
            f"{sent[epochs] / 1e6:.1f} MB",
            *(percent(accuracy[kind, words][epochs]) for kind in ("passes", "bytes") for words, _, _ in SPREADS),
            *(f"{np.mean(drift[words][epochs]):.2f}" for words, _, _ in SPREADS),
        ]
        for epochs in EPOCHS
    ]
    heads = ["passes between rounds", "rounds", "bytes sent"]
    heads += [
        f"{kind}, sites {words}" for kind in ("accuracy", f"accuracy of {ROUNDS} rounds", "drift") for words in drift
    ]
    series = {f"{PASSES} passes, sites {words}": accuracy["passes", words] for words in drift}
    series |= {f"{ROUNDS} rounds, sites {words}": accuracy["bytes", words] for words in drift}
    pictures = [
        curves(
            "local_work",
            "Local work between rounds",
            "Accuracy on all test records by the passes between two rounds; dots: seeds.",
            "digits, 10 sites",
            series,
            "passes between rounds",
        ),
        curves(
            "local_work_drift",
            "How far sites move apart in a round",
            f"Spread of the updates around their mean, {ROUNDS} rounds; dots: seeds.",
            "digits, 10 sites",
            {f"sites {words}": found for words, found in drift.items()},
            "passes between rounds",
            up="drift (L2)",
            scale=1.0,
            highest=None,
        ),
    ]
    numbers = {
        "accuracy": {f"{kind}_{words}": _means(found) for (kind, words), found in accuracy.items()},
        "drift": {words: _means(found) for words, found in drift.items()},
        "bytes": sent,
    }
    return Told(numbers, paragraphs, [("Means over the seeds", heads, rows)], pictures, QUESTIONS)


def _means(found: dict[float, list[float]]) -> dict[str, float]:
    return {f"{place:g}": float(np.mean(values)) for place, values in found.items()}


QUESTIONS = (
    Question(
        "Why is the mean of models that were trained for long not the model of all records?",
        "Each site walks towards the optimum of its own records. The mean of these optima is the common optimum only "
        "where they agree; the drift in the table is how far they do not.",
    ),
    Question(
        "Does more local work cost privacy?",
        "Under DP-SGD inside hospitals each step is charged, whether it is followed by a round or by another step. "
        "Under a promise for hospitals only rounds are charged, and local work is free.",
    ),
    Question(
        "What can be done where sites are unlike and bytes are dear?",
        "Encode what is sent before rounds are saved (lesson `bytes`), hold sites back (`fedprox`), or let the server "
        "take smaller steps. Try it: which of them helps is a property of the data.",
    ),
)
