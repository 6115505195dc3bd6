"""Each site lacks two labels: a local model is sure and wrong about them, the federated one is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.reports.plot_style import INK, MUTED, SERIES, SMALL_SIZE, TEXT_SIZE, Picture, Sheet, drawing
from tff_hospitals.training.evaluation import Evaluator
from tff_hospitals.training.loop import build_model, train
from tff_hospitals.training.metrics import Predictions

SITES, MISSING, LOCAL_EPOCHS = 5, 2, 400
_BINS = 10


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains every site alone and all together, for each seed."""
    rows, local_found, federated_found, example = [], [], [], None
    for seed in seeds:
        plan = presets.preset("digits").replace(
            data={
                "partition": "missing_classes",
                "sites": SITES,
                "options": {"missing_per_site": MISSING},
                "seed": seed,
            },
            evaluate_every=20,
            seed=seed,
        )
        dataset = baselines.load(plan.data)
        model = build_model(plan, dataset)
        evaluator = Evaluator(model, dataset)
        on_step(f"seed {seed}: together")
        together = train(METHODS["weighted_mean"].plan(plan, None), dataset, model=model)
        federated = evaluator.predictions(together.weights, together.frozen)
        for hospital in dataset.hospitals:
            on_step(f"seed {seed}: {hospital.hospital_id} alone")
            own = baselines.alone(dataset, hospital.hospital_id)
            alone = train(baselines.baseline_plan(plan, LOCAL_EPOCHS), own, model=model, evaluate_on=dataset)
            local = evaluator.predictions(alone.weights, alone.frozen)
            missing = np.setdiff1d(np.arange(dataset.num_classes), hospital.train.labels)
            unseen = np.isin(local.labels, missing)
            rows.append([_of(one[unseen]) + _of(one[~unseen]) for one in (local, federated)])
            local_found.append(local)
            federated_found.append(federated)
            if example is None:
                example = (hospital.hospital_id, missing, local, federated)
    on_step("drawing")
    local_row, federated_row = np.mean(rows, axis=0)
    numbers = {
        "local_missing_accuracy": float(local_row[0]),
        "local_missing_confidence": float(local_row[1]),
        "federated_missing_accuracy": float(federated_row[0]),
        "federated_missing_confidence": float(federated_row[1]),
        "local_known_accuracy": float(local_row[2]),
        "federated_known_accuracy": float(federated_row[2]),
    }
    with drawing():
        pictures = [_reliability(local_found, federated_found)]
        if example is not None:
            pictures.append(_confusion(*example))
    return Told(numbers, _paragraphs(numbers), [_table(numbers)], pictures, QUESTIONS)


def _of(found: Predictions) -> list[float]:
    """Accuracy, and mean probability of the most probable class."""
    return [float(found.correct.mean()), float(found.scores.max(axis=1).mean())]


def _paragraphs(numbers: dict[str, float]) -> list[str]:
    return [
        f"{SITES} sites share the digits; each lacks {MISSING} of the ten labels. Each trains a small network alone "
        f"({LOCAL_EPOCHS} passes), and all train one together (20 rounds of two passes).",
        f"On the labels that it never saw a site's own model is right in {numbers['local_missing_accuracy']:.1%} of "
        f"the cases, and gives its wrong answer a probability of {numbers['local_missing_confidence']:.0%} on average. "
        "Nothing in its output tells that it knows nothing of them.",
        f"The federated model is right in {numbers['federated_missing_accuracy']:.1%} of the same cases, although no "
        "record of these labels was ever at that site.",
    ]


def _table(numbers: dict[str, float]) -> tuple[str, list[str], list[list[str]]]:
    return (
        "Means over sites and seeds",
        ["model", "accuracy on labels that the site lacks", "its mean confidence there", "accuracy on the others"],
        [
            [
                name,
                f"{numbers[f'{name}_missing_accuracy']:.1%}",
                f"{numbers[f'{name}_missing_confidence']:.0%}",
                f"{numbers[f'{name}_known_accuracy']:.1%}",
            ]
            for name in ("local", "federated")
        ],
    )


QUESTIONS = (
    Question(
        "Why is the local model so sure?",
        "Its outputs are probabilities over the labels that it was trained on; they add up to one, whatever it is "
        "shown. An unknown digit goes to the label that it resembles most, and far from the training records a "
        "network's logits only grow.",
    ),
    Question(
        "Would a higher threshold of confidence protect the site's patients?",
        "Only in part: the reliability diagram shows how often an answer of 90 % is wrong. A threshold that refuses "
        "the unknown refuses many known ones as well.",
    ),
    Question(
        "Why must each site's test set hold labels that the site lacks to show this?",
        "On its own records a site cannot see the fault: they hold no such label either. That is why accuracy on a "
        "hospital's own test records flatters the model that was trained there.",
    ),
)


def _reliability(local: Sequence[Predictions], federated: Sequence[Predictions]) -> Picture:
    title = "How often an answer of some confidence is right"
    subtitle = "All test records of all sites; on the dashed line confidence is what it says. Dots: tenths."
    sheet = Sheet(title, subtitle, "digits, each site lacks two labels", 4.2)
    axes = sheet.axes(0.8, 9.9, 0.45, sheet.height - 0.1)
    axes.plot([0, 1], [0, 1], linestyle="--", color=MUTED, linewidth=1)
    for name, found, colour in (("local models", local, SERIES[1]), ("federated model", federated, SERIES[0])):
        confidence = np.concatenate([one.scores.max(axis=1) for one in found])
        right = np.concatenate([one.correct for one in found])
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        used = [place for place in range(_BINS) if (bins == place).sum() >= 10]
        across = [confidence[bins == place].mean() for place in used]
        up = [right[bins == place].mean() for place in used]
        axes.plot(across, up, "o-", color=colour, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence", size=TEXT_SIZE)
    axes.set_ylabel("share that is right", size=TEXT_SIZE)
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL_SIZE)
    return sheet.finish(
        "missing_class_reliability",
        title,
        "Below the line a model is surer than it may be.",
        "Reliability of local models lies far below the diagonal, that of the federated model near it.",
    )


def _confusion(site: str, missing: np.ndarray, local: Predictions, federated: Predictions) -> Picture:
    title = f"What {site} answers, which lacks {' and '.join(map(str, missing))}"
    sheet = Sheet(title, "Rows: the label; columns: the answer; shade: share of the row.", "first seed", 4.6)
    for place, (name, found) in enumerate((("trained alone", local), ("trained together", federated))):
        axes = sheet.axes(0.7 + 4.9 * place, 4.9 + 4.9 * place, 0.45, sheet.height - 0.35)
        classes = found.classes
        table = np.zeros([classes, classes])
        np.add.at(table, (found.labels.astype(int), found.guesses.astype(int)), 1)
        table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(table, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
        for i, j in zip(*np.nonzero(table >= 0.05)):
            axes.text(j, i, f"{100 * table[i, j]:.0f}", ha="center", va="center", size=SMALL_SIZE, color=INK)
        axes.grid(False)
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        for one in missing:
            axes.get_yticklabels()[int(one)].set_color(SERIES[1])
        axes.set_title(name, size=TEXT_SIZE, loc="left")
        axes.set_xlabel("answer", size=TEXT_SIZE)
    return sheet.finish(
        "missing_class_confusion",
        title,
        f"Coloured labels are those that {site} lacks: alone it never answers them.",
        f"Two confusion matrices; alone, {site} gives no answer {' or '.join(map(str, missing))} at all.",
    )
