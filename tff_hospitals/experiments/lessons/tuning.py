"""The settings of client and server, one at a time and two together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tff_hospitals.experiments import baselines, presets
from tff_hospitals.experiments.lessons.lesson import Question, Told
from tff_hospitals.experiments.lessons.telling import difference, mean_accuracy, over_seeds, percent
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.plan.plan import Plan
from tff_hospitals.reports.plot_style import INK, SMALL_SIZE, TEXT_SIZE, WIDTH, Picture, Sheet, drawing
from tff_hospitals.training.loop import build_model
from tff_hospitals.training.results import TrainingError

ROUNDS = 5
CLIENT, SERVER = (0.01, 0.1, 0.3, 1.0), (0.3, 1.0, 3.0)
KNOBS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("client", "local_epochs", (1, 2, 8)),
    ("client", "batch_size", (4, 16, 64)),
    ("client", "momentum", (0.0, 0.9)),
    ("client", "proximal_mu", (0.0, 1.0)),
    ("server", "momentum", (0.0, 0.9)),
    ("server", "optimizer", ("sgd", "adam", "yogi", "adagrad")),
)
_ADAPTIVE_RATE = 0.03


def run(seeds: Sequence[int], on_step: Callable[[str], None]) -> Told:
    """Trains a grid of both learning rates, and every other setting by itself."""
    grid: dict[tuple[float, float], list[float]] = {}
    single: dict[tuple[str, Any], list[float]] = {}
    base = METHODS["weighted_mean"].plan(presets.preset("digits").replace(rounds=ROUNDS, evaluate_every=ROUNDS), None)
    dataset = baselines.load(base.data)
    model = build_model(base, dataset)

    def reached(plan: Plan) -> list[float]:
        found = []
        for seed in seeds:
            try:
                found += mean_accuracy(over_seeds(plan, [seed], dataset, model))
            except TrainingError:  # diverged: no better than any answer
                found.append(1.0 / dataset.num_classes)
        return found

    for client, server in itertools.product(CLIENT, SERVER):
        on_step(f"client rate {client}, server rate {server}")
        changed = {"client": {"learning_rate": client}, "server": {"learning_rate": server}}
        grid[client, server] = reached(base.replace(**changed))
    for part, name, values in KNOBS:
        for value in values:
            on_step(f"{part} {name} {value}")
            setting = {name: value}
            if name == "optimizer" and value != "sgd":
                setting["learning_rate"] = _ADAPTIVE_RATE
            single[f"{part} {name}", value] = reached(base.replace(**{part: setting}))
    on_step("drawing")
    best = max(grid, key=lambda one: np.mean(grid[one]))
    worst = min(grid, key=lambda one: np.mean(grid[one]))
    most = {server: max((float(np.mean(grid[one, server])), one) for one in CLIENT)[1] for server in SERVER}
    spans: dict[str, tuple[list[float], list[float]]] = {}
    for name, _ in single:
        found = sorted((measured for (one, _), measured in single.items() if one == name), key=np.mean)
        spans[name] = (found[-1], found[0])
    order = sorted(spans, key=lambda name: -float(np.mean(spans[name][0]) - np.mean(spans[name][1])))
    paragraphs = [
        f"Ten sites with unlike records train a small network on digits for {ROUNDS} rounds: few enough that a setting "
        "shows. First the learning rates of client and server are varied together, then every other setting alone.",
        f"The best pair of rates is {best[0]:g} at the client and {best[1]:g} at the server ({percent(grid[best])}), "
        f"the worst {worst[0]:g} and {worst[1]:g} ({percent(grid[worst])}). The best client rate at a server rate of "
        f"{SERVER[0]:g} is {most[SERVER[0]]:g}, at {SERVER[-1]:g} it is {most[SERVER[-1]]:g}.",
        f"Of the other settings {order[0]} moves accuracy most: its best value is "
        f"{difference(*spans[order[0]])} than its worst. {order[-1]} moves it least: "
        f"{difference(*spans[order[-1]])}.",
    ]
    rows = [[name, _text(value), percent(found)] for (name, value), found in single.items()]
    with drawing():
        picture = _grid(grid)
    numbers = {
        "grid": {f"{c:g},{s:g}": float(np.mean(found)) for (c, s), found in grid.items()},
        "settings": {f"{name}={value}": float(np.mean(found)) for (name, value), found in single.items()},
    }
    tables = [("One setting at a time, all else as in the preset", ["setting", "value", "accuracy"], rows)]
    return Told(numbers, paragraphs, tables, [picture], QUESTIONS)


def _text(value: Any) -> str:
    words = value if isinstance(value, str) else f"{value:g}"
    return f"{words} (rate {_ADAPTIVE_RATE:g})" if words in ("adam", "yogi", "adagrad") else words


def _grid(grid: Mapping[tuple[float, float], Sequence[float]]) -> Picture:
    title = "Learning rates of client and server together"
    subtitle = f"Accuracy in % after {ROUNDS} rounds; darker is better."
    sheet = Sheet(title, subtitle, "digits, 10 sites, Dirichlet 0.5", 3.0)
    axes = sheet.axes(1.2, WIDTH - 2.9, 0.45, sheet.height - 0.1)
    table = np.array([[np.mean(grid[client, server]) for client in CLIENT] for server in SERVER])
    axes.imshow(table, cmap="Greys", vmin=0, vmax=1.6, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(table):
        axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", size=TEXT_SIZE, color=INK)
    axes.grid(False)
    axes.set_xticks(range(len(CLIENT)), [f"{one:g}" for one in CLIENT], size=SMALL_SIZE)
    axes.set_yticks(range(len(SERVER)), [f"{one:g}" for one in SERVER], size=SMALL_SIZE)
    axes.set_xlabel("client's learning rate", size=TEXT_SIZE)
    axes.set_ylabel("server's learning rate", size=TEXT_SIZE)
    low, high = 100 * table.min(), 100 * table.max()
    return sheet.finish("tuning", title, subtitle, f"{title}: accuracy from {low:.0f} to {high:.0f} %.")


QUESTIONS = (
    Question(
        "Why are the two learning rates tuned together?",
        "The server steps along the mean of what sites moved. How far a round goes is about the product of both, so "
        "that a small one can be made up for by a large other one, up to where sites overshoot or drift.",
    ),
    Question(
        "What does tuning cost under privacy?",
        "Every run looks at the records again. Try settings on public or simulated data, or charge the choice: `tune` "
        "draws the number of trials at random and states the epsilon of the whole search.",
    ),
    Question(
        "The best values here: may they be used on other data?",
        "As a place to start. They follow from the model, the batches and how unlike the sites are; that rates hang "
        "together carries over, the numbers do not.",
    ),
)
