"""At equal bytes: the same passes over the records in few rounds or in many, on unequal sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.reports.plot_style import SERIES, SMALL_SIZE, TEXT_SIZE, WIDTH, Picture, Sheet, drawing
from tff_hospitals.training.loop import build_model, train

EPOCHS = (1, 2, 5, 10, 20)
ROUNDS, ALPHA = 20, 0.1
PASSES = 40


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains with more and more local passes: at equal rounds (bytes), and at equal passes (work)."""
    by_rounds = {epochs: [] for epochs in EPOCHS}  # type: dict[int, list[float]]
    by_passes = {epochs: [] for epochs in EPOCHS}  # type: dict[int, list[float]]
    drift = {epochs: [] for epochs in EPOCHS}  # type: dict[int, list[float]]
    for seed in seeds:
        base = presets.preset("digits").replace(
            data={"partition": "dirichlet", "sites": 10, "options": {"alpha": ALPHA}, "seed": seed}, seed=seed
        )
        dataset = baselines.load(base.data)
        model = build_model(base, dataset)
        for epochs in EPOCHS:
            on_step(f"seed {seed}: {epochs} local passes")
            for found, rounds in ((by_rounds, ROUNDS), (by_passes, PASSES // epochs)):
                plan = base.replace(rounds=rounds, evaluate_every=rounds, client={"local_epochs": epochs})
                done = train(METHODS["weighted_mean"].plan(plan, None), dataset, model=model)
                found[epochs].append(done.evaluation["pooled"]["accuracy"])
            drift[epochs].append(_drift(base, dataset, model, epochs))
    at_rounds = {str(epochs): float(np.mean(values)) for epochs, values in by_rounds.items()}
    at_passes = {str(epochs): float(np.mean(values)) for epochs, values in by_passes.items()}
    apart = {str(epochs): float(np.mean(values)) for epochs, values in drift.items()}
    with drawing():
        picture = _picture(by_rounds, by_passes)
    rows = [
        [
            str(epochs),
            f"{at_rounds[str(epochs)]:.1%}",
            f"{PASSES // epochs}",
            f"{at_passes[str(epochs)]:.1%}",
            f"{apart[str(epochs)]:.2f}",
        ]
        for epochs in EPOCHS
    ]
    heads = ["local passes", f"after {ROUNDS} rounds", f"rounds of {PASSES} passes", "after as many passes", "drift"]
    best = max(at_rounds, key=lambda name: at_rounds[name])
    paragraphs = [
        f"Ten sites with unequal labels (Dirichlet {ALPHA:g}) train one network. A round sends the model down and up once, "
        "however long a site trains in it: more local passes cost time at the sites and no byte.",
        f"At equal bytes ({ROUNDS} rounds) accuracy goes from {at_rounds['1']:.1%} with one pass to "
        f"{at_rounds[best]:.1%} with {best}. At equal work ({PASSES} passes in all) it falls from "
        f"{at_passes['1']:.1%} in {PASSES} rounds to {at_passes['20']:.1%} in {PASSES // 20}: sites that train long from "
        "one start drift apart, and the mean of models that lie apart is worse than each step towards it promised.",
    ]
    numbers = {"accuracy_at_equal_bytes": at_rounds, "accuracy_at_equal_work": at_passes, "drift": apart}
    return Told(numbers, paragraphs, [("Accuracy on all test records", heads, rows)], [picture], QUESTIONS)


def _drift(base, dataset, model, epochs: int) -> float:  # type: ignore[no-untyped-def]
    """How far the sites' first updates lie from their mean, over the mean's own norm."""
    updates = []
    for hospital in dataset.hospitals:
        plan = base.replace(rounds=1, evaluate_every=1, weighting="records", client={"local_epochs": epochs})
        one = train(plan, baselines.alone(dataset, hospital.hospital_id), model=model)
        start, _ = model.initial_weights(_start(plan))
        updates.append(np.concatenate([(after - before).ravel() for after, before in zip(one.weights, start)]))
    mean = np.mean(updates, axis=0)
    return float(np.mean([np.linalg.norm(one - mean) for one in updates]) / np.linalg.norm(mean))


def _start(plan):  # type: ignore[no-untyped-def]
    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.training.run_streams import RunStreams

    return RunStreams.from_root(Streams.from_seed(plan.seed)).weights()


QUESTIONS = (
    Question(
        "Why do more local passes help at first, at equal bytes?",
        "A round moves the model only as far as its sites go; with one pass the start of training takes many rounds.",
    ),
    Question(
        "Why not hundreds of passes in one round?",
        "Each site then goes to the model that suits it alone. Their mean suits none of them: the drift of the table, the "
        "distance of the updates from their mean over the length of that mean, grows with every pass.",
    ),
    Question(
        "What helps against drift but more rounds?",
        "A term that holds local training near the model of the round (FedProx), smaller rates, or fewer local passes as "
        "rounds go by.",
    ),
)


def _picture(by_rounds: dict[int, list[float]], by_passes: dict[int, list[float]]) -> Picture:
    title = "Local passes in a round"
    subtitle = (
        "Accuracy on all test records, each dot a seed; lines: means. Equal bytes: 20 rounds. Equal work: 40 passes."
    )
    sheet = Sheet(title, subtitle, f"digits over ten sites, Dirichlet {ALPHA:g}", 3.6)
    axes = sheet.axes(0.8, WIDTH - 2.2, 0.45, sheet.height - 0.1)
    for name, found, colour in (("equal bytes", by_rounds, SERIES[0]), ("equal work", by_passes, SERIES[1])):
        axes.plot(EPOCHS, [100 * np.mean(found[one]) for one in EPOCHS], "-", color=colour, label=name)
        for one in EPOCHS:
            axes.plot([one] * len(found[one]), [100 * value for value in found[one]], "o", color=colour, markersize=3)
    axes.set_xscale("log")
    axes.set_xticks(EPOCHS, [str(one) for one in EPOCHS])
    axes.minorticks_off()
    axes.set_xlabel("local passes in a round", size=TEXT_SIZE)
    axes.set_ylabel("accuracy, %", size=TEXT_SIZE)
    axes.legend(frameon=False, fontsize=SMALL_SIZE, loc="center left", bbox_to_anchor=(1.01, 0.5))
    words = "More local work pays at equal bytes until drift takes it back; at equal work it costs accuracy."
    return sheet.finish("local_work", title, words, words)
