"""Fabricated comparisons for the report tests: every number comes from a seeded formula, none from a training run."""

from __future__ import annotations

import json
import math
import pathlib
import random
from typing import Any

METHODS = (
    # method, label, unit, accuracy without noise, cost of noise, bytes factor
    ("pooled", "Pooled training", "none", 0.735, 0.0, 0.0),
    ("local", "Each hospital alone", "none", 0.711, 0.0, 0.0),
    ("weighted_mean", "FedAvg, weighted mean", "none", 0.724, 0.0, 1.0),
    ("unweighted_mean", "FedAvg, equal weights", "none", 0.718, 0.0, 1.0),
    ("fedadam", "FedAdam", "none", 0.7255, 0.0, 1.0),
    ("dp_sgd", "DP-SGD in the hospital", "record", 0.733, 0.011, 1.0),
    ("dp_sgd_adam", "DP-SGD, Adam server", "record", 0.729, 0.017, 1.0),
    ("fixed_clip", "Fixed clipping", "hospital", 0.720, 0.12, 1.0),
    ("adaptive_clip", "Adaptive clipping", "hospital", 0.722, 0.145, 1.02),
)
HOSPITALS = (("cleveland", 199, 104), ("hungary", 172, 89), ("switzerland", 30, 16), ("va_long_beach", 85, 45))
VACUOUS = "a guarantee for a whole hospital among four needs so much noise that little of the model is left"


def sample_summary(
    *,
    methods: tuple[tuple[str, str, str, float, float, float], ...] = METHODS,
    targets: tuple[float, ...] = (1.0, 5.0),
    hospitals: tuple[tuple[str, int, int], ...] = HOSPITALS,
    seeds: tuple[int, ...] = (42, 43, 44, 45, 46),
    rounds: int = 15,
    attacks: bool = False,
    random_seed: int = 0,
) -> dict[str, Any]:
    """A summary.json object with one row per method, private methods once per target."""
    generator = random.Random(random_seed)
    rows = []
    for method, label, unit, accuracy, cost, factor in methods:
        for target in targets if unit != "none" else (None,):
            shape = (method, label, unit, accuracy, cost, factor)
            rows.append(_row(generator, shape, target, hospitals, seeds, rounds, attacks))
    return {
        "schema_version": 1,
        "title": "Aggregators compared on synthetic figures",
        "command": "scripts/compare_aggregators.py --run_dir=runs/sample --target_epsilon=1,5 --seeds=42,43,44,45,46",
        "created": "2024-01-01T00:00:00+00:00",
        "versions": {"python": "3.11.0", "tff_hospitals": "0.1.0", "tensorflow": "2.14.1"},
        "machine": {"cores": 2, "system": "Linux"},
        "dataset": {
            "name": "heart_disease",
            "provenance": "Synthetic figures for tests, shaped like UCI Heart Disease",
            "licence": "CC BY 4.0",
            "simulated": False,
            "partition": "natural: every record stays with the hospital that collected it",
            "preprocessing": {
                "kind": "per_hospital_standardise",
                "private": False,
                "words": "standardised per hospital",
            },
            "hospitals": [{"id": i, "train_records": n, "test_records": m} for i, n, m in hospitals],
        },
        "seeds": list(seeds),
        "rounds": rounds,
        "target_epsilons": list(targets),
        "delta": 1e-3,
        "adjacency": "add_or_remove_one",
        "conversion": "rdp",
        "rows": rows,
    }


def _row(
    generator: random.Random,
    shape: tuple[str, str, str, float, float, float],
    target: float | None,
    hospitals: tuple[tuple[str, int, int], ...],
    seeds: tuple[int, ...],
    rounds: int,
    attacks: bool,
) -> dict[str, Any]:
    method, label, unit, plain_accuracy, cost, factor = shape
    accuracy = plain_accuracy - (cost / target**0.5 if target else 0.0)
    per_seed = [accuracy + generator.gauss(0.0, 0.012) for _ in seeds]
    mean = sum(per_seed) / len(per_seed)
    sd = math.sqrt(sum((a - mean) ** 2 for a in per_seed) / (len(per_seed) - 1)) if len(per_seed) > 1 else None
    ids = [hospital[0] for hospital in hospitals]
    offsets = [generator.gauss(0.0, 0.035) for _ in ids]
    centre = sum(offsets) / len(offsets)
    noise = {i: round(2.0 * (200 / n) ** 0.6 / target, 3) for i, n, _ in hospitals} if target else {}
    spent = {i: round(target * (1.0 - 0.1 * generator.random()), 4) for i in ids} if target else {}
    if target:
        spent[ids[min(2, len(ids) - 1)]] = round(target * 0.998, 4)
    worst = max(spent, key=lambda key: spent[key]) if target else None
    total = 56.0 * len(ids) * rounds * factor
    curve = []
    for number in range(1, rounds + 1):
        share = number / rounds
        curve.append(
            {
                "round": number,
                "epsilon": spent[worst] * share**0.5 if worst else None,
                "accuracy_mean": mean - (mean - 0.5) * math.exp(-4.0 * share) + generator.gauss(0, 0.003) * (1 - share),
                "accuracy_sd": None if sd is None else sd * (2.0 - share),
                "bytes_up": total * share,
                "bytes_down": total * share,
            }
        )
    curve[-1]["accuracy_mean"] = mean
    row = {
        "method": method,
        "label": label,
        "unit": unit,
        "target_epsilon": target,
        "epsilon": spent[worst] if worst else None,
        "epsilon_pld": spent[worst] * 0.91 if worst else None,
        "epsilon_per_hospital": spent,
        "worst_hospital": worst,
        "delta": 1e-3 if target else None,
        "adjacency": {"none": "", "record": "add_or_remove_one", "hospital": "zero_out"}[unit],
        "conversion": "rdp" if target else "",
        "noise_multiplier_per_hospital": noise,
        "accuracy_mean": mean,
        "accuracy_sd": sd,
        "accuracy_pooled_mean": mean + 0.03,
        "accuracy_pooled_sd": sd,
        "accuracy_per_hospital": {i: mean + offset - centre for i, offset in zip(ids, offsets)},
        "accuracy_sd_per_hospital": {i: None if sd is None else sd * (300 / m) ** 0.4 for i, _, m in hospitals},
        "auc_mean": mean + 0.08,
        "loss_mean": 1.2 - mean,
        "accuracy_per_seed": per_seed,
        "bytes_up": total,
        "bytes_down": total,
        "seconds_per_round": 0.02 + 0.03 * generator.random() + (0.05 if unit == "record" else 0.0),
        "rounds": rounds,
        "stop_reason": "round limit",
        "runtime": "compiled",
        "guarantee": "",
        "warnings": [VACUOUS] if unit == "hospital" and len(ids) < 20 else [],
        "curve": curve,
    }
    if attacks:
        row["membership_auc"] = 0.5 + (0.11 if target is None else 0.02 * target**0.5) + generator.gauss(0, 0.006)
        row["membership_tpr"] = 0.01 + (0.05 if target is None else 0.004 * target)
        row["reconstruction_error"] = 0.001 if target is None else 2.0 / target
        row["epsilon_lower_bound"] = None if target is None else 0.35 * target
    return row


def many_methods(count: int) -> tuple[tuple[str, str, str, float, float, float], ...]:
    """`count` methods: three baselines and plain ones, the rest private with either unit and various bytes."""
    generator = random.Random(count)
    shapes = list(METHODS[:3])
    for k in range(count - 3):
        unit = ("record", "record", "hospital", "none")[k % 4]
        label = ("Quantised upload", "Rotated top-k", "Tree noise", "Server momentum")[k % 4] + f", variant {k + 1}"
        shapes.append(
            (
                f"method_{k}",
                label,
                unit,
                0.70 + 0.04 * generator.random(),
                0.02 + 0.05 * generator.random(),
                2.0 ** -(k % 6),
            )
        )
    return tuple(shapes)


def many_hospitals(count: int) -> tuple[tuple[str, int, int], ...]:
    """`count` sites of various sizes."""
    return tuple((f"site_{k:03d}", 30 + 17 * (k % 9), 12 + 7 * (k % 9)) for k in range(count))


def write_sample_run(
    folder: pathlib.Path,
    *,
    unit: str = "record",
    hospitals: tuple[tuple[str, int, int], ...] = HOSPITALS,
    rounds: int = 15,
    random_seed: int = 0,
) -> None:
    """The files that a finished run leaves, with fabricated figures: summary, record, plan, metrics and timing."""
    generator = random.Random(random_seed)
    method = "dp_sgd" if unit == "record" else "weighted_mean"
    shape = (method, "", unit, 0.73, 0.01, 1.0)
    target = 5.0 if unit != "none" else None
    row = _row(generator, shape, target, hospitals, (42,), rounds, False)
    sizes = [{"id": i, "train_records": n, "test_records": m} for i, n, m in hospitals]
    dataset = {**sample_summary()["dataset"], "hospitals": sizes, "fingerprint": "0123456789abcdef"}
    record = {"schema_version": 1, "identity": "fedcba9876543210", "seed": 42, "started": "2024-01-01T00:00:00+00:00"}
    record.update(versions={"python": "3.11.0"}, machine={"system": "Linux"}, dataset=dataset, warnings=[])
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"schema_version": 1, "status": "finished", "seed": 42, **row}
    for name, value in (("summary", summary), ("record", record), ("plan", {"method": method, "rounds": rounds})):
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    columns = "round hospital loss accuracy auc records train_loss steps learning_rate unit"
    lines = [[*columns.split(), "epsilon_rdp", "epsilon_pld", "delta", "bytes_down", "bytes_up"]]
    for number in range(rounds):
        share = (number + 1) / rounds
        for scope, _, test in (*hospitals, ("pooled", 0, sum(m for _, _, m in hospitals))):
            scale = len(hospitals) if scope == "pooled" else 1
            accuracy = row["accuracy_per_hospital"].get(scope, row["accuracy_mean"])
            epsilon = row["epsilon_per_hospital"].get(scope, row["epsilon"])
            epsilon = epsilon * share**0.5 if epsilon else None
            now = accuracy - (accuracy - 0.5) * math.exp(-4.0 * share) + generator.gauss(0.0, 0.004)
            sent = 56 * (number + 1) * scale
            cells = [number + 1, scope, 1.3 - now, now, min(1.0, now + 0.08), float(test), 1.25 - now, 100, 0.001, unit]
            cells += [epsilon, epsilon and epsilon * 0.91, 1e-3 if epsilon else None, sent, sent]
            lines.append(["" if cell is None else str(cell) for cell in cells])
    (folder / "metrics.csv").write_text("\n".join(",".join(line) for line in lines) + "\n", encoding="utf-8")
    timing = "\n".join(f"{number + 1},{0.03 + 0.01 * generator.random()}" for number in range(rounds))
    (folder / "timing.csv").write_text(f"round,seconds\n{timing}\n", encoding="utf-8")
