"""What DP-SGD does to records far out by its clipping, and to small hospitals by its noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import curves, difference, mean_accuracy, over_seeds, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.hospitals import HospitalDataset, Part
from tff_hospitals.models.per_record import clipped_gradient_sum
from tff_hospitals.training.loop import build_model

EPSILON, DELTA, CLIP = 1.0, 1e-3, 1.0
CLIPS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
EVERY, FACTOR = 20, 30.0
_METHODS = (("weighted_mean", "without clipping and noise"), ("dp_sgd", "with clipping and noise"))


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains with and without outliers, over clip norms, and every hospital alone under the same promise."""
    outliers: dict[tuple[str, bool], list[float]] = {}
    clips: dict[float, list[float]] = {}
    alone: dict[str, list[float]] = {}
    together: dict[str, list[float]] = {}
    noise: dict[str, float] = {}
    base = presets.preset("heart_disease").replace(evaluate_every=15)
    dataset = baselines.load(base.data)
    model = build_model(base, dataset)
    spoiled = _spoiled(dataset)
    ratios = [_pull(model, seed, spoiled) for seed in seeds]
    for name, words in _METHODS:
        for bad in (False, True):
            on_step(f"{words}, {'with' if bad else 'without'} outliers")
            plan = METHODS[name].plan(base.replace(privacy={"clip_norm": CLIP}), EPSILON)
            outliers[words, bad] = mean_accuracy(over_seeds(plan, seeds, spoiled if bad else dataset, model))
    for clip in CLIPS:
        on_step(f"clip norm {clip:g}")
        plan = METHODS["dp_sgd"].plan(base.replace(privacy={"clip_norm": clip}), EPSILON)
        runs = over_seeds(plan, seeds, dataset, model)
        clips[clip] = mean_accuracy(runs)
        if clip == CLIP:
            noise = dict(runs[0].summary["noise_multiplier_per_hospital"])
            together = {one: [float(run.evaluation[one]["accuracy"]) for run in runs] for one in noise}
    records = {hospital.hospital_id: hospital.train.records for hospital in dataset.hospitals}
    for one in records:
        on_step(f"{one} alone, private")
        plan = METHODS["dp_sgd"].plan(base.replace(privacy={"clip_norm": CLIP, "delta": DELTA}), EPSILON)
        alone[one] = mean_accuracy(over_seeds(plan, seeds, baselines.alone(dataset, one), model))
    on_step("drawing")
    bare, kept = (words for _, words in _METHODS)
    best = max(CLIPS, key=lambda one: np.mean(clips[one]))
    small, large = min(records, key=lambda one: records[one]), max(records, key=lambda one: records[one])
    paragraphs = [
        f"Four hospitals train a heart disease model. DP-SGD cuts the gradient of every record to the clip norm and "
        f"adds noise of that size times a multiplier, here for epsilon {EPSILON:g} per patient.",
        f"Clipping: one training record in {EVERY} gets features {FACTOR:g} times too large, as a wrong unit would. At "
        f"the start of training the median gradient of such a record is {np.mean(ratios):.0f} times that of the "
        f"others. With them, accuracy {bare} is {difference(outliers[bare, True], outliers[bare, False])}; {kept} it "
        f"is {difference(outliers[kept, True], outliers[kept, False])}.",
        f"How far to clip: of these clip norms {best:g} is best ({percent(clips[best])}); {CLIPS[0]:g} gives "
        f"{percent(clips[CLIPS[0]])} and {CLIPS[-1]:g} gives {percent(clips[CLIPS[-1]])}. A small norm shortens every "
        "step, a large one makes the noise louder.",
        f"Noise: for the same epsilon {small} ({records[small]} training records) needs a multiplier of "
        f"{noise[small]:.1f}, {large} ({records[large]}) {noise[large]:.1f}: the fewer records, the more often each is "
        f"looked at. Alone and private, accuracy on its own test records is {percent(alone[small])} at {small} and "
        f"{percent(alone[large])} at {large}; together it is {difference(together[small], alone[small])} and "
        f"{difference(together[large], alone[large])}.",
    ]
    tables = [
        (
            "Mean accuracy of the hospitals",
            ["training", "as they are", f"one record in {EVERY} far out"],
            [[words, percent(outliers[words, False]), percent(outliers[words, True])] for _, words in _METHODS],
        ),
        (
            f"Each hospital at epsilon {EPSILON:g} per patient",
            ["hospital", "training records", "noise multiplier", "alone and private", "together and private"],
            [
                [one, str(records[one]), f"{noise[one]:.2f}", percent(alone[one]), percent(together[one])]
                for one in records
            ],
        ),
    ]
    picture = curves(
        "clip_and_noise",
        f"The clip norm at epsilon {EPSILON:g}",
        "Mean accuracy of the hospitals by the clip norm; dots: seeds.",
        "heart disease, four hospitals",
        {"DP-SGD": clips},
        "clip norm",
    )
    numbers = {
        "accuracy": {
            f"{words}{', outliers' if bad else ''}": float(np.mean(found)) for (words, bad), found in outliers.items()
        },
        "by_clip_norm": {f"{one:g}": float(np.mean(found)) for one, found in clips.items()},
        "noise_multiplier": noise,
        "alone_and_private": {one: float(np.mean(found)) for one, found in alone.items()},
        "together_and_private": {one: float(np.mean(found)) for one, found in together.items()},
        "outlier_gradient_ratio": float(np.mean(ratios)),
    }
    return Told(numbers, paragraphs, tables, [picture], QUESTIONS)


def _spoiled(dataset: HospitalDataset) -> HospitalDataset:
    """The same hospitals, every twentieth training record far out."""
    hospitals = []
    for hospital in dataset.hospitals:
        features = hospital.train.features.copy()
        features[::EVERY] *= FACTOR
        hospitals.append(dataclasses.replace(hospital, train=Part(features, hospital.train.labels)))
    return dataclasses.replace(dataset, hospitals=tuple(hospitals))


def _pull(model: Any, seed: int, spoiled: HospitalDataset) -> float:
    """Median gradient norm of the records far out over that of the others, at the first weights."""
    norms, far = [], []
    weights, frozen = model.initial_weights(np.array([seed, 0]))
    for hospital in spoiled.hospitals:
        part = hospital.train
        mask = np.ones(part.records, np.float32)
        _, found, _ = clipped_gradient_sum(model, weights, frozen, part.features, part.labels, mask, CLIP)
        norms.append(found.numpy())
        far.append(np.arange(part.records) % EVERY == 0)
    found, where = np.concatenate(norms), np.concatenate(far)
    return float(np.median(found[where]) / np.median(found[~where]))


QUESTIONS = (
    Question(
        "Is clipping a protection by itself?",
        "It bounds what one record can move and so helps against records far out, but without noise there is no "
        "epsilon: whether a record took part can still be read off exactly.",
    ),
    Question(
        "May a hospital choose its clip norm by looking at its gradients?",
        "Not for free: norms of real records say something about them. Adaptive clipping follows a noised quantile, "
        "which is charged; else take a norm from public or simulated data.",
    ),
    Question(
        "What can a small hospital gain by training together, if it keeps the same epsilon?",
        "Its own noise stays as loud, but the model is the mean of all updates, in which noises of different hospitals "
        "partly cancel. The table says where that shows. Where nearly all test records are of one class, whoever "
        "always names it does well, alone or not.",
    ),
)
