"""Rebuilding records from updates: as they are, in larger batches, and under DP-SGD."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.audits import analytic, picture
from tff_hospitals.audits.gradients import gradient
from tff_hospitals.audits.reconstruction import Rebuilt, rebuild
from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import curves, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.reports.plot_style import TEXT_SIZE, Picture, Sheet, drawing
from tff_hospitals.training.loop import build_model

RECORDS, EXAMPLES = 24, 6
BATCHES = (1, 2, 4, 8, 16)
WAYS: tuple[tuple[str, float | None], ...] = (("no promise", None), ("epsilon 8", 8.0), ("epsilon 1", 1.0))
DATA = ("heart_disease", "digits")


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Attacks the first update of records one by one, and the gradients of larger batches."""
    error: dict[tuple[str, str], list[float]] = {}
    label: dict[tuple[str, str], list[float]] = {}
    shared: dict[float, list[float]] = {one: [] for one in BATCHES}
    images: dict[str, tuple[Rebuilt, ...]] = {}
    patient: list[list[str]] = []
    for name in DATA:
        base = presets.preset(name)
        dataset = baselines.load(base.data)
        model = build_model(base, dataset)
        for seed in seeds:
            weights, frozen = model.initial_weights(np.array([seed, 1]))
            examples: dict[str, tuple[Rebuilt, ...]] = {}
            for words, epsilon in WAYS:
                on_step(f"{name}, seed {seed}: {words}")
                method = "weighted_mean" if epsilon is None else "dp_sgd"
                plan = METHODS[method].plan(base.replace(seed=seed), epsilon)
                settings = {"attack": "analytic", "records": RECORDS, "examples": EXAMPLES}
                found = rebuild(plan, dataset, model, weights, frozen, **settings)  # type: ignore[arg-type]
                error.setdefault((name, words), []).append(found.error)
                label.setdefault((name, words), []).append(float(found.label_accuracy or 0.0))
                examples[words] = found.examples
            if name == "heart_disease":
                patient = patient or _patient(dataset, examples)
            else:
                images = images or examples
                for batch in BATCHES:
                    shared[batch].append(_share(model, weights, frozen, dataset.pooled_train(), batch))
    on_step("drawing")
    clear, weak, strong = (words for words, _ in WAYS)
    heart = {words: float(np.mean(error["heart_disease", words])) for words, _ in WAYS}
    first, last = BATCHES[0], BATCHES[-1]
    paragraphs = [
        "A server that follows the protocol sees what a hospital sends. Here that is one step on one record, the worst "
        "case; the attacker divides the gradient of the first layer's weights by that of its bias, and has the record.",
        f"Without a promise the median error of a rebuilt patient is {heart[clear]:.2g} standard deviations of "
        f"a feature (0 is the patient, 1.4 another patient), and the diagnosis is read off rightly in "
        f"{percent(label['heart_disease', clear])}. With DP-SGD the error is {heart[weak]:.2g} at {weak} and "
        f"{heart[strong]:.2g} at {strong}; the diagnosis is right in {percent(label['heart_disease', weak])} and "
        f"{percent(label['heart_disease', strong])}.",
        f"Larger batches alone are no promise: of batches of {first} record {percent(shared[first])} of the images are "
        f"recovered exactly by this attack, of batches of {last} still {percent(shared[last])}, and stronger attacks "
        "exist.",
    ]
    rows = [
        [name.replace("_", " "), words, f"{np.mean(error[name, words]):.2g}", percent(label[name, words])]
        for name in DATA
        for words, _ in WAYS
    ]
    tables = [
        ("What the attack gets out of one record's update", ["data", "promise", "error", "label right"], rows),
        ("One patient (a public record) and what was rebuilt", ["column", "true", *(w for w, _ in WAYS)], patient),
    ]
    pictures = [
        _rows_of_images(images),
        curves(
            "attacks_batches",
            "Records that one gradient gives away",
            "Share of a batch's images that are recovered exactly, without noise; dots: seeds.",
            "digits, network with 64 hidden units, first weights",
            {"recovered": shared},
            "records in a batch",
            up="recovered, %",
        ),
    ]
    numbers = {
        "error": {f"{name}, {words}": float(np.mean(values)) for (name, words), values in error.items()},
        "label_accuracy": {f"{name}, {words}": float(np.mean(values)) for (name, words), values in label.items()},
        "share_recovered": {str(one): float(np.mean(values)) for one, values in shared.items()},
    }
    return Told(numbers, paragraphs, tables, pictures, QUESTIONS)


def _share(model: Any, weights: Any, frozen: Any, part: Any, batch: int, batches: int = 10) -> float:
    found = []
    for start in range(0, batch * batches, batch):
        features, labels = part.features[start : start + batch], part.labels[start : start + batch]
        update = gradient(model, weights, frozen, features, labels)
        found.append(analytic.share_recovered(analytic.recover(model, update), features))
    return float(np.mean(found))


def _patient(dataset: Any, examples: Mapping[str, Sequence[Rebuilt]]) -> list[list[str]]:
    """Every column of the first attacked patient beside its rebuilt values."""
    rows: dict[str, list[str]] = {}
    for found in examples.values():
        one = found[0]
        row = picture.rebuilt_row(dataset, dataset.hospital(one.hospital_id), one.record, one.rebuilt)
        for column, true in row.original.items():
            rows.setdefault(column, [column, str(true)]).append(str(row.rebuilt[column]))
    return list(rows.values())


def _rows_of_images(images: Mapping[str, Sequence[Rebuilt]]) -> Picture:
    title = "Images out of updates"
    subtitle = "First row: what hospitals hold. Below: what the attack rebuilds from one step on it."
    sheet = Sheet(title, subtitle, "digits, one step on one record, first seed", 4.0)
    first = next(iter(images.values()))
    rows = [("true", [one.record for one in first])]
    rows += [(words, [one.rebuilt for one in found]) for words, found in images.items()]
    height = sheet.height / len(rows)
    with drawing():
        for down, (words, pictures) in enumerate(rows):
            bottom = sheet.height - (down + 1) * height
            for across, image in enumerate(pictures):
                left = 1.6 + across * (height + 0.1)
                axes = sheet.axes(left, left + height - 0.08, bottom + 0.04, bottom + height - 0.04)
                axes.imshow(np.squeeze(image), cmap="Greys")
                axes.grid(False)
                axes.set_xticks([])
                axes.set_yticks([])
                if across == 0:
                    axes.set_ylabel(words, size=TEXT_SIZE, rotation=0, ha="right", va="center")
        return sheet.finish("attacks", title, subtitle, f"{title}: rows for {', '.join(name for name, _ in rows)}.")


QUESTIONS = (
    Question(
        "A hospital sends the mean of many steps. Is it safe?",
        "Safer, not safe: this attack asks for one record that moved a unit alone, and that becomes rarer. "
        "Others search for records whose gradients fit. Only noise with an epsilon bounds them all, and future ones.",
    ),
    Question(
        "Would a secure sum help?",
        "It hides single updates from the server, which then sees the sum of all hospitals alone. What the sum and the "
        "published model give away is not changed by it.",
    ),
    Question(
        "The attack fails under DP-SGD. Is that the proof of the promise?",
        "No. An attack that fails shows nothing about others. The promise follows from clipping, noise and the ledger; "
        "`audit` tests whether the code keeps to them.",
    ),
)
