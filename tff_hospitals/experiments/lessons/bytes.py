"""Fewer bytes: encoders, fewer layers and a pretrained start, beside the formula that predicts them."""

from __future__ import annotations

import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tff_hospitals.communication import bandwidth, forecast, parse_chain
from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import difference, mean_accuracy, over_seeds, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.hospitals import HospitalDataset
from tff_hospitals.models import FunctionalModel
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.plot_style import (
    INK,
    SERIES,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    Picture,
    Sheet,
    drawing,
    log_axis,
)
from tff_hospitals.training.loop import build_model
from tff_hospitals.training.results import Run

ROUNDS = 20
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("everything", {}),
    ("8 bits", {"upload": "quantize:8", "broadcast": "quantize:8"}),
    ("4 bits up", {"upload": "rotate,quantize:4", "broadcast": "quantize:8"}),
    ("1 bit up, 2 down", {"upload": "rotate,onebit", "broadcast": "delta,rotate,eden:2,entropy"}),
    (
        "sparse ternary",
        {
            "upload": "topk:0.02,ternary:mean,entropy",
            "error_feedback": True,
            "broadcast": "delta,topk:0.05,ternary:mean,entropy",
        },
    ),
)
STARTS = ("own start, all layers", "pretrained, all layers", "pretrained, last layer")
OUTPUT = "output"


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains with each chain of encoders, then digits 5 to 9 from weights that were trained on 0 to 4."""
    accuracy: dict[str, list[float]] = {}
    counted: dict[str, list[int]] = {}
    predicted: dict[str, float] = {}
    base = presets.preset("digits").replace(rounds=ROUNDS, evaluate_every=ROUNDS)
    dataset = baselines.load(base.data)
    model = build_model(base, dataset)
    shapes = [tuple(one.shape) for one in model.trainable_specs]
    values = sum(math.prod(shape) for shape in shapes)
    for name, changes in WAYS:
        on_step(name)
        plan = METHODS["weighted_mean"].plan(base.replace(**changes), None)
        _keep(name, over_seeds(plan, seeds, dataset, model), accuracy, counted)
        found = forecast.forecast(
            shapes,
            parse_chain(plan.broadcast or "none", name="broadcast"),
            parse_chain(plan.upload or "none", name="upload"),
            [bandwidth.Link(10, 50)],
            hospitals=len(dataset.hospitals),
            rounds=ROUNDS,
        )
        predicted[name] = found["encoded"]["run_bytes"]
    _starts(seeds, accuracy, counted, on_step)
    on_step("drawing")
    names = [name for name, _ in WAYS]
    dense, least = names[0], min(names, key=lambda one: np.mean(counted[one]))
    off = max(names, key=lambda one: abs(np.mean(counted[one]) / predicted[one] - 1))
    own, tuned, last = STARTS
    paragraphs = [
        f"Ten sites train a network of {values:,} values for {ROUNDS} rounds. What travels is encoded more and "
        "more; bytes are counted on real payloads, and predicted before training by the formula (bytes down + bytes "
        "up) x sites x rounds. A broadcast of differences has nothing to differ from in a site's first round: the "
        "prediction counts the whole model there.",
        f"{least.capitalize()} sends {np.mean(counted[dense]) / np.mean(counted[least]):.0f} times less than "
        f"{dense}; its accuracy is {difference(accuracy[least], accuracy[dense])}.",
        f"Prediction and count differ most for {off}: {np.mean(counted[off]) / predicted[off] - 1:+.1%}. Entropy "
        "coding follows the values, and the prediction uses made-up ones.",
        f"A start from elsewhere: on digits 5 to 9, {own} reaches {percent(accuracy[own])}, and {tuned} (on digits 0 "
        f"to 4) {percent(accuracy[tuned])}, which is {difference(accuracy[tuned], accuracy[own])}. Sending only the "
        f"last layer takes {np.mean(counted[tuned]) / np.mean(counted[last]):.1f} times fewer bytes; accuracy is "
        f"{difference(accuracy[last], accuracy[tuned])} beside all layers from the same start.",
    ]
    rows = [
        [
            name,
            f"{predicted[name] / 1e6:.3f} MB",
            f"{np.mean(counted[name]) / 1e6:.3f} MB",
            f"{np.mean(counted[dense]) / np.mean(counted[name]):.1f}",
            percent(accuracy[name]),
        ]
        for name in names
    ]
    starts = [[name, f"{np.mean(counted[name]) / 1e6:.3f} MB", percent(accuracy[name])] for name in STARTS]
    tables = [
        ("Encoders, both ways together", ["what is sent", "predicted", "counted", "times fewer", "accuracy"], rows),
        ("Digits 5 to 9, by the start", ["start", "counted", "accuracy"], starts),
    ]
    with drawing():
        picture = _picture(names, counted, accuracy)
    numbers = {
        "accuracy": {name: float(np.mean(values)) for name, values in accuracy.items()},
        "bytes_counted": {name: float(np.mean(values)) for name, values in counted.items()},
        "bytes_predicted": predicted,
    }
    return Told(numbers, paragraphs, tables, [picture], QUESTIONS)


def _keep(name: str, runs: Sequence[Run], accuracy: dict[str, list[float]], counted: dict[str, list[int]]) -> None:
    accuracy[name] = mean_accuracy(runs)
    counted[name] = [run.summary["bytes_up"] + run.summary["bytes_down"] for run in runs]


def _starts(
    seeds: Sequence[int],
    accuracy: dict[str, list[float]],
    counted: dict[str, list[int]],
    on_step: Callable[[str], None],
) -> None:
    def digits(labels: Sequence[int], rounds: int, **options: Any) -> tuple[Plan, HospitalDataset, FunctionalModel]:
        plan = presets.preset("digits").replace(
            data={"options": {"alpha": 0.5, "labels": list(labels)}},
            model={"options": options},
            rounds=rounds,
            evaluate_every=rounds,
        )
        dataset = baselines.load(plan.data)
        return METHODS["weighted_mean"].plan(plan, None), dataset, build_model(plan, dataset)

    on_step("pretraining")
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "start.keras")
        plan, dataset, model = digits(range(5), ROUNDS)
        over_seeds(plan, seeds[:1], dataset, model)[0].keras_model().save(path)
        settings: list[dict[str, Any]] = [{}, {"pretrained": path}, {"pretrained": path, "trainable": [OUTPUT]}]
        for name, options in zip(STARTS, settings):
            on_step(name)
            plan, dataset, model = digits(range(5, 10), ROUNDS // 4, **options)
            _keep(name, over_seeds(plan, seeds, dataset, model), accuracy, counted)


def _picture(names: Sequence[str], counted: dict[str, list[int]], accuracy: dict[str, list[float]]) -> Picture:
    title = "Bytes against accuracy"
    subtitle = "All bytes of a run, both ways, and accuracy on all test records; dots: seeds."
    sheet = Sheet(title, subtitle, "digits, 10 sites, Dirichlet 0.5", 3.6)
    axes = sheet.axes(0.8, WIDTH - 1.5, 0.45, sheet.height - 0.1)
    for place, name in enumerate(names):
        across = [value / 1e6 for value in counted[name]]
        axes.plot(across, [100 * value for value in accuracy[name]], "o", color=SERIES[place])
        middle = (float(np.mean(across)), 100 * float(np.mean(accuracy[name])))
        axes.annotate(name, middle, (0, -16), textcoords="offset points", ha="center", size=SMALL_SIZE, color=INK)
    axes.set_xscale("log")
    log_axis(axes.xaxis, *axes.get_xlim())
    axes.set_ylim(0, 100)
    axes.set_xlabel("MB", size=TEXT_SIZE)
    axes.set_ylabel("accuracy, %", size=TEXT_SIZE)
    words = ", ".join(f"{name} {np.mean(counted[name]) / 1e6:.2g} MB" for name in names)
    return sheet.finish("bytes", title, subtitle, f"{title}: {words}.")


QUESTIONS = (
    Question(
        "Why is 8 bits not exactly a fourth of 32?",
        "Each tensor carries its scale and each payload a header. The smaller a tensor is, the more they count.",
    ),
    Question(
        "What does error feedback do for sparse updates?",
        "What was left out is kept at the site and added to its next update, so that nothing is lost for good. Under a "
        "privacy mechanism that would be state which depends on records; it is refused where it is not covered.",
    ),
    Question(
        "Are fewer bytes more private?",
        "No. Encoding follows from what is encoded, and an attacker decodes it. Only noise that is accounted for is "
        "a promise.",
    ),
)
