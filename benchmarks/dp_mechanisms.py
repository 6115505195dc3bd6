"""Accuracy of every private mechanism at the same epsilon, delta, unit and adjacency.

    ./run benchmarks/dp_mechanisms.py --json=FILE [--plot=FILE.png] [--panels=cyclic_100,record] [--mechanisms=tree,blt]

Panels: `record`, the four hospitals of the heart disease set; `all_20`, `all_100`, `all_1000`, scikit-learn's digits
over so many simulated sites (IID split; 1,797 images, so that 1,000 sites have one or two each) that all take part in
every round; `cyclic_20`, `cyclic_100`, `cyclic_1000`, the same sites in cyclic cohorts of a tenth, where correlated
noise pays.

Ten seeds, 95 % t-intervals. Where a mechanism cannot give the target, the cell holds its reason instead of a number.
Epsilon is that of the ledger.

Every mechanism has its own clip norm and learning rate at every target, found by the same search: six settings first,
then the neighbours of the best on the grid until none is better, by accuracy on *validation* records: a fifth of the
hospitals' training records (record level) or of the sites (hospital level), held out while tuning, with seeds of its
own. No test record plays a part. What tuning on private data costs is not in epsilon (`--selected_from` would add it);
it is the same for all.

Every cell is written when it is there: a run that was stopped goes on with the next one when it is started again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import time
from typing import Any

from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.foundations.validation import Problem, one_of, raise_if
from tff_hospitals.plan import review

FLAGS = flags.FLAGS
RECORD_LEVEL = ("dp_sgd", "dp_sgd_per_layer", "dp_sgd_adaptive", "dp_sgd_automatic", "dp_ftrl_local", "dp_mf_local")
HOSPITAL_LEVEL = (
    "fixed_clip",
    "adaptive_clip",
    "adaptive_clip_zeroing",
    "tree",
    "discrete_gaussian",
    "skellam",
    "local_dp",
)
CLIP_NORMS, RATE_FACTORS, TUNING_SEEDS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), (0.25, 1.0, 4.0, 16.0, 64.0), (1, 2)
RECORD_TUNING_SEEDS = range(1, 11)  # runs of the four hospitals are short, and their rows differ by little
FIRST_TRIED = {(norm, factor) for norm in (0.3, 1.0, 3.0) for factor in (1.0, 4.0)}
DELTA = {"heart_disease": 1e-3, 20: 1e-2, 100: 1e-3, 1000: 1e-4}
CYCLIC = ("fixed_clip", "tree", "blt", "banded_mf")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One setting and the mechanisms that are compared in it.

    Attributes:
      title: of its table and plot.
      sites: simulated sites of digits; None: the four hospitals.
      cyclic: a tenth of the sites in a round, in turn.
      mechanisms: names in `METHODS`.
    """

    title: str
    sites: int | None
    cyclic: bool
    mechanisms: tuple[str, ...]


PANELS = {
    "record": Panel("record level, four hospitals", None, False, RECORD_LEVEL),
    **{
        f"{kind}_{sites}": Panel(
            f"hospital level, digits over {sites:,} sites" + (", a tenth of them in turn" if cyclic else ""),
            sites,
            cyclic,
            CYCLIC if cyclic else HOSPITAL_LEVEL,
        )
        for kind, cyclic in (("all", False), ("cyclic", True))
        for sites in (20, 100, 1000)
    },
}


def settings(panel: Panel, rounds: int, cyclic_rounds: int) -> tuple[Any, Any]:
    """The plan without privacy and the hospitals."""
    from tff_hospitals.experiments import baselines, presets
    from tff_hospitals.plan.plan import Plan

    if panel.sites is None:
        plan = presets.preset("heart_disease").replace(
            client={"learning_rate": 0.01}, privacy={"delta": DELTA["heart_disease"]}, evaluate_every=15
        )
        return plan, baselines.load(plan.data)
    count = cyclic_rounds if panel.cyclic else rounds
    plan = Plan().replace(
        data={"name": "digits", "partition": "iid", "sites": panel.sites},
        model={"name": "logistic_regression"},
        rounds=count,
        evaluate_every=count,
        client={"learning_rate": 0.5, "local_steps": None, "local_epochs": 3, "batch_size": 8},
        privacy={"clip_norm": 1.0, "delta": DELTA[panel.sites]},
    )
    if panel.cyclic:
        plan = plan.replace(cohort={"kind": "cyclic", "hospitals_per_round": tenth(panel.sites)})
    return plan, baselines.load(plan.data)


def tenth(hospitals: int) -> int:
    """Hospitals in a cyclic cohort."""
    return max(1, round(hospitals / 10))


def held_out(dataset: Any, by_site: bool) -> tuple[Any, Any]:
    """Hospitals to tune on, and one that has the validation records as its test part; test records stay out."""
    import numpy as np

    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.hospitals import Hospital, Part

    def rows(part: Any, chosen: Any) -> Any:
        return Part(part.features[chosen], part.labels[chosen])

    kept, validation = [], []
    for number, hospital in enumerate(dataset.hospitals):
        records = hospital.train.records
        order = Streams.from_seed(0).child("validation", hospital.hospital_id).generator().permutation(records)
        cut = (0 if number % 5 else records) if by_site else records // 5
        validation.append(rows(hospital.train, order[:cut]))
        if cut < records:
            kept.append(Hospital(hospital.hospital_id, rows(hospital.train, order[cut:]), hospital.test))
    part = Part(*(np.concatenate([getattr(v, name) for v in validation]) for name in ("features", "labels")))
    judge = dataclasses.replace(dataset, hospitals=(Hospital("validation", part, part),))
    return dataclasses.replace(dataset, hospitals=tuple(kept)), judge


def tuned(
    method: Any, base: Any, dataset: Any, model: Any, epsilon: float | None, largest: float | None
) -> dict[str, Any]:
    """Clip norm and learning rate that do best on validation records, and what all candidates reached.

    Where fewer hospitals cannot give the target, settings are those of the largest target.
    """
    from tff_hospitals.training.loop import train_seeds

    by_site = base.data.name == "digits"
    seeds = TUNING_SEEDS if by_site else RECORD_TUNING_SEEDS
    small, judge = held_out(dataset, by_site)
    if base.cohort.kind == "cyclic":
        base = base.replace(cohort={"hospitals_per_round": tenth(len(small.hospitals))})
    norms = CLIP_NORMS if epsilon is not None else (1.0,)
    accuracies: dict[tuple[int, int], float] = {}

    def accuracy(place: tuple[int, int]) -> float:
        rate = RATE_FACTORS[place[1]] * base.client.learning_rate
        setting = base.replace(client={"learning_rate": rate}, privacy={"clip_norm": norms[place[0]]})
        for target in (epsilon, largest):
            plan = method.plan(setting, target)
            if not review.problems(plan, small):
                plans = [plan.replace(seed=seed) for seed in seeds]
                runs = train_seeds(plans, small, model=model, evaluate_on=judge)
                return sum(run.summary["accuracy_pooled_mean"] for run in runs) / len(runs)
        return -math.inf

    grid = {(norm, factor) for norm in range(len(norms)) for factor in range(len(RATE_FACTORS))}
    places = {place for place in grid if (norms[place[0]], RATE_FACTORS[place[1]]) in FIRST_TRIED}
    while places:
        accuracies.update((place, accuracy(place)) for place in sorted(places))
        norm, factor = max(accuracies, key=lambda place: accuracies[place])
        places = {(norm - 1, factor), (norm + 1, factor), (norm, factor - 1), (norm, factor + 1)} & grid
        places -= accuracies.keys()
        if accuracies[norm, factor] == -math.inf:
            return {"best": {}, "tried": []}
    tried = [
        {
            "clip_norm": norms[place[0]],
            "learning_rate": RATE_FACTORS[place[1]] * base.client.learning_rate,
            "validation_accuracy": value,
        }
        for place, value in accuracies.items()
        if value > -math.inf
    ]
    return {"best": max(tried, key=lambda one: one["validation_accuracy"]), "tried": tried}


def cell(
    method: Any, base: Any, dataset: Any, model: Any, epsilon: float | None, largest: float | None, seeds: range
) -> dict[str, Any]:
    """One method at one target: accuracy over the seeds, or why there is none."""
    from tff_hospitals.reports.spread import mean, sample_sd, t_interval
    from tff_hospitals.training.loop import train_seeds

    found: dict[str, Any] = {"method": method.name, "label": method.label, "target_epsilon": epsilon}
    problems = review.problems(method.plan(base, epsilon), dataset)
    if problems:
        return {**found, "vacuous": "; ".join(str(problem) for problem in problems)}
    started = time.perf_counter()
    found["tuning"] = tuned(method, base, dataset, model, epsilon, largest)
    best = found["tuning"]["best"]
    if best:
        base = base.replace(client={"learning_rate": best["learning_rate"]}, privacy={"clip_norm": best["clip_norm"]})
    plan = method.plan(base, epsilon)
    runs = train_seeds([plan.replace(seed=seed) for seed in seeds], dataset, model=model)
    field = "accuracy_mean" if base.data.name == "heart_disease" else "accuracy_pooled_mean"
    accuracies = [run.summary[field] for run in runs]
    centre, deviation = mean(accuracies), sample_sd(accuracies)
    interval = t_interval(centre, deviation, len(accuracies))
    return {
        **found,
        "accuracy": centre,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "accuracies": accuracies,
        "epsilon": max(run.summary["epsilon"] or 0.0 for run in runs) if epsilon is not None else None,
        "unit": runs[0].summary["unit"],
        "adjacency": runs[0].summary["adjacency"],
        "delta": runs[0].summary["delta"],
        "noise_multiplier": runs[0].summary["noise_multiplier_per_hospital"],
        "seconds": time.perf_counter() - started,
    }


def measure(
    names: list[str],
    mechanisms: list[str],
    epsilons: tuple[float, ...],
    seeds: range,
    counts: tuple[int, int],
    known: list[dict[str, Any]],
    save: Any,
) -> list[dict[str, Any]]:
    """One panel per setting, without the cells that are known; `save` is called after every cell."""
    from tff_hospitals.experiments.methods import METHODS
    from tff_hospitals.training.loop import build_model

    panels = list(known)
    for name in names:
        asked = PANELS[name]
        base, dataset = settings(asked, *counts)
        model = build_model(base, dataset)
        panel = next((one for one in panels if one["name"] == name), None)
        if panel is None:
            reference = METHODS["weighted_mean" if asked.sites is None else "mean"]
            panel = {
                "name": name,
                "title": asked.title,
                "sites": asked.sites or 4,
                "rounds": base.rounds,
                "reference": cell(reference, base, dataset, model, None, None, seeds),
                "cells": [],
            }
            panels.append(panel)
            panels.sort(key=lambda one: list(PANELS).index(one["name"]))
        there = {(found["method"], found["target_epsilon"]) for found in panel["cells"]}
        for mechanism in asked.mechanisms:
            for epsilon in epsilons:
                if (mechanism, epsilon) in there or (mechanisms and mechanism not in mechanisms):
                    continue
                found = cell(METHODS[mechanism], base, dataset, model, epsilon, max(epsilons), seeds)
                panel["cells"].append(found)
                save(panels)
    return panels


def half_width(found: dict[str, Any]) -> float:
    """Half of a cell's interval in percent; 0 for a single seed."""
    return 0.0 if found["high"] is None else 50 * (found["high"] - found["low"])


def table(panels: list[dict[str, Any]]) -> str:
    """A Markdown table for each panel: accuracy in percent, half the interval, (clip norm, rate); reasons below."""
    lines: list[str] = []
    for panel in panels:
        epsilons = list(dict.fromkeys(found["target_epsilon"] for found in panel["cells"]))
        without = f"{panel['rounds']} rounds; without privacy {100 * panel['reference']['accuracy']:.1f}"
        lines += ["", f"**{panel['title']}** ({without})", ""]
        lines += ["| mechanism | " + " | ".join(f"epsilon {value:g}" for value in epsilons) + " |"]
        lines += ["|---" * (1 + len(epsilons)) + "|"]
        reasons: dict[str, None] = {}
        for name in dict.fromkeys(found["method"] for found in panel["cells"]):
            texts = []
            for found in panel["cells"]:
                if found["method"] == name and "vacuous" in found:
                    texts.append("vacuous")
                    reasons[f"{name}: {found['vacuous']}"] = None
                elif found["method"] == name:
                    best = found["tuning"]["best"]
                    setting = f" ({best['clip_norm']:g}, {best['learning_rate']:g})" if best else ""
                    texts.append(f"{100 * found['accuracy']:.1f} ± {half_width(found):.1f}{setting}")
            lines.append(f"| {name} | " + " | ".join(texts) + " |")
        lines += ["", *(f"- {reason}" for reason in reasons)] if reasons else []
    return "\n".join(lines)


def draw(panels: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Accuracy against epsilon with intervals, one picture per panel; a mechanism has one colour in all of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 5.4 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    others = dict.fromkeys((*HOSPITAL_LEVEL, *CYCLIC))
    colours = {name: f"C{place}" for names in (RECORD_LEVEL, others) for place, name in enumerate(names)}
    for axis, panel in zip(axes.flat, panels):
        names = list(dict.fromkeys(found["method"] for found in panel["cells"]))
        for place, name in enumerate(names):
            known = [found for found in panel["cells"] if found["method"] == name and "accuracy" in found]
            shift = 1.0 + 0.02 * (place - len(names) / 2)
            label = name if known else f"{name}: vacuous"
            axis.errorbar(
                [found["target_epsilon"] * shift for found in known],
                [100 * found["accuracy"] for found in known],
                yerr=[half_width(found) for found in known],
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=1,
                color=colours[name],
                label=label,
            )
        axis.axhline(100 * panel["reference"]["accuracy"], color="grey", linestyle=":", label="without privacy")
        axis.set_xscale("log")
        targets = sorted({found["target_epsilon"] for found in panel["cells"]})
        axis.set_xticks(targets, [f"{value:g}" for value in targets])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("epsilon of the worst hospital")
        axis.set_ylabel("accuracy, %")
        axis.set_title(panel["title"], fontsize=9)
        axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures, written after every cell")
    flags.DEFINE_string("plot", None, "file for the picture (PNG)")
    flags.DEFINE_integer("seeds", 10, "seeds per cell")
    flags.DEFINE_integer("rounds", 10, "rounds on digits where all sites take part", lower_bound=1)
    flags.DEFINE_integer("cyclic_rounds", 50, "rounds on digits in cyclic cohorts", lower_bound=1)
    flags.DEFINE_list("panels", list(PANELS), "which parts to measure")
    flags.DEFINE_list("mechanisms", [], "which mechanisms; none: all of each panel")
    flags.DEFINE_list("epsilons", ["1", "3", "8"], "privacy targets")


def earlier(path: str | None, made_with: dict[str, Any]) -> list[dict[str, Any]]:
    """Panels that the file has, measured with the same seeds, targets and rounds.

    Raises:
      InvalidInput: when they were measured otherwise.
    """
    if not path or not pathlib.Path(path).exists():
        return []
    found = json.loads(pathlib.Path(path).read_text())
    before = {name: found.get(name) for name in made_with}
    if before != made_with:
        bound = f"holds panels of {before}, not of {made_with}"
        raise_if([Problem("--json", path, bound, "name another file, or measure with the same seeds and targets")])
    return list(found["panels"])


def run() -> None:
    """Measures, prints the tables and writes figures and picture."""
    from tff_hospitals.foundations import files as records

    known_names = {name for panel in PANELS.values() for name in panel.mechanisms}
    raise_if(
        [
            *(one_of("--panels", name, PANELS) for name in FLAGS.panels),
            *(one_of("--mechanisms", name, sorted(known_names)) for name in FLAGS.mechanisms),
        ]
    )
    epsilons = command.numbers("epsilons", FLAGS.epsilons, float)
    seeds = range(42, 42 + FLAGS.seeds)
    counts = FLAGS.rounds, FLAGS.cyclic_rounds
    made_with = {"seeds": list(seeds), "epsilons": list(epsilons), "rounds": list(counts)}

    def save(panels: list[dict[str, Any]]) -> None:
        if FLAGS.json:
            records.write_json(FLAGS.json, {**made_with, "panels": panels})

    known = earlier(FLAGS.json, made_with)
    panels = measure(FLAGS.panels, FLAGS.mechanisms, epsilons, seeds, counts, known, save)
    save(panels)
    asked = [panel for panel in panels if panel["name"] in FLAGS.panels]
    print(table(asked))
    if FLAGS.plot:
        draw(asked, pathlib.Path(FLAGS.plot))


if __name__ == "__main__":
    command.main()
