"""What a byte buys: bits per parameter against accuracy after a fixed number of rounds, dense float32 as 1.

    ./run benchmarks/compression.py --json=compression.json

Ten simulated sites train together for a fixed number of rounds: an MLP of 159,010 parameters (784-200-10) on images of
28 x 28 pixels (Fashion-MNIST where its files are, else scikit-learn's digits, every pixel drawn three times as large
with a margin of two), and a small CNN on digits. All bytes are measured: every payload of every hospital and round was
encoded, decoded and used. `points` is the accuracy, in percent, minus that of the dense run, seed by seed.

Aims (MLP): one setting with at least 20 times fewer bytes up and 10 times fewer down within one accuracy point; one
past 100 times up. Exit code 1 if one is missed.
"""

import pathlib
import platform
import sys
from typing import Any

from absl import flags

from tff_hospitals.experiments import command
from tff_hospitals.plan import review

FLAGS = flags.FLAGS

AIM_UP, AIM_DOWN, AIM_POINTS, AIM_FAR = 20.0, 10.0, 1.0, 100.0
# name: (broadcast, upload, error feedback)
SETTINGS = {
    "dense float32": ("", "", False),
    "8 bits both ways": ("delta,quantize:8", "quantize:8", False),
    "4 bits up, 8 down": ("delta,rotate,quantize:8", "rotate,quantize:4", False),
    "1 bit up, 2 down": ("delta,rotate,eden:2,entropy", "rotate,onebit", False),
    "1 bit up, sparse down": ("delta,topk:0.05,ternary:mean,entropy", "rotate,onebit", False),
    "sparse ternary 4 % up, 5 % down": (
        "delta,topk:0.05,ternary:mean,entropy",
        "topk:0.04,ternary:mean,entropy",
        True,
    ),
    "sparse ternary 1 % up, 5 % down": (
        "delta,topk:0.05,ternary:mean,entropy",
        "topk:0.01,ternary:mean,entropy",
        True,
    ),
    "sparse ternary 0.25 % up, 5 % down": (
        "delta,topk:0.05,ternary:mean,entropy",
        "topk:0.0025,ternary:mean,entropy",
        True,
    ),
}
CNN_SETTINGS = ("dense float32", "4 bits up, 8 down", "1 bit up, sparse down", "sparse ternary 1 % up, 5 % down")
DP_SETTINGS = ("dense float32", "4 bits up, 8 down", "1 bit up, 2 down")


def define_flags() -> None:
    """Sizes of the benchmark."""
    flags.DEFINE_string("json", None, "file for the figures; without it they are only printed")
    flags.DEFINE_integer("seeds", 5, "seeds of the MLP; the CNN and the private runs take at most three", lower_bound=1)
    flags.DEFINE_integer("rounds", 60, "rounds of every run", lower_bound=1)
    flags.DEFINE_integer("sites", 10, "simulated hospitals", lower_bound=2)
    flags.DEFINE_float("epsilon", 8.0, "of the private runs (per record, worst site)")
    flags.DEFINE_list("parts", ["mlp", "cnn", "dp", "distributed", "libraries"], "which parts to run")


def images(sites: int) -> Any:
    """28 x 28 images over sites of even size, labels mixed by Dirichlet(1)."""
    import dataclasses

    import numpy as np

    from tff_hospitals.foundations.files import RecordError
    from tff_hospitals.hospitals import Part, load_dataset

    try:
        return load_dataset("fashion_mnist", partition="dirichlet", sites=sites, alpha=1.0, records=5000)
    except RecordError:
        small = load_dataset("digits", partition="dirichlet", sites=sites, alpha=1.0)

    def larger(part: Any) -> Any:
        tripled = np.repeat(np.repeat(part.features, 3, axis=1), 3, axis=2)
        return Part(np.pad(tripled, [(0, 0), (2, 2), (2, 2), (0, 0)]), part.labels)

    hospitals = tuple(
        dataclasses.replace(one, train=larger(one.train), test=larger(one.test), scaler=None) for one in small.hospitals
    )
    return dataclasses.replace(small, name="digits, 28 x 28 pixels", hospitals=hospitals, feature_shape=(28, 28, 1))


def measure(
    title: str, dataset: Any, base: Any, settings: Any, seeds: int, *, say: bool = True
) -> list[dict[str, Any]]:
    """One row per setting, in order; the first is the yardstick."""
    from tff_hospitals.training.loop import build_model, train

    model = build_model(base, dataset)
    rows: list[dict[str, Any]] = []
    for name in settings:
        broadcast, upload, feedback = SETTINGS[name]
        plan = base.replace(method=name, broadcast=broadcast, upload=upload, error_feedback=feedback)
        runs = [train(plan.replace(seed=42 + k), dataset, model=model).summary for k in range(seeds)]
        parts = [run["communication"] for run in runs]
        mean = {key: sum(part[key] for part in parts) / seeds for key in ("times_fewer_up", "times_fewer_down")}
        accuracies = [100 * run["accuracy_pooled_mean"] for run in runs]
        first = rows[0]["accuracies"] if rows else accuracies
        points = [own - dense for own, dense in zip(accuracies, first)]
        row = {
            "part": title,
            "setting": name,
            "broadcast": broadcast,
            "upload": upload,
            "error_feedback": feedback,
            "parameters": model.parameters,
            "bits_per_parameter_up": 32 / mean["times_fewer_up"],
            "bits_per_parameter_down": 32 / mean["times_fewer_down"],
            **mean,
            "accuracy": sum(accuracies) / seeds,
            "points": sum(points) / seeds,
            "points_sd": spread(points),
            "accuracies": accuracies,
            "bytes_up": sum(run["bytes_up"] for run in runs) / seeds,
            "bytes_down": sum(run["bytes_down"] for run in runs) / seeds,
            "epsilon": runs[0]["epsilon"],
            "seconds_per_round": sum(run["seconds_per_round"] for run in runs) / seeds,
        }
        rows.append(row)
        if say:
            show(row)
    return rows


def spread(values: Any) -> float:
    """Sample standard deviation, 0 for one value."""
    import statistics

    return statistics.stdev(values) if len(values) > 1 else 0.0


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{row['part']:<12} {row['setting']:<36} up {row['times_fewer_up']:>6.1f}x"
        f"  down {row['times_fewer_down']:>5.1f}x"
        f"  {row['bits_per_parameter_up']:>6.3f} / {row['bits_per_parameter_down']:>6.3f} bits"
        f"  accuracy {row['accuracy']:.2f} ({row['points']:+.2f} points, sd {row['points_sd']:.2f})"
        f"  {row['seconds_per_round']:.3f} s/round",
        flush=True,
    )


def distributed(dataset: Any, base: Any, seeds: int) -> list[dict[str, Any]]:
    """Distributed discrete Gaussian noise: its own rotation and whole numbers are the encoder; bits per number vary."""
    from tff_hospitals.training.loop import build_model, train

    model, rows = build_model(base, dataset), []
    for bits in (20, 16, 14, 12):
        privacy = {"mechanism": "discrete_gaussian", "clip_norm": 1.0, "noise_multiplier": 0.05, "modulus_bits": bits}
        plan = base.replace(weighting="equal", privacy=privacy)
        if review.problems(plan, dataset) or _refuses(plan, dataset, model):
            rows.append({"part": "distributed", "setting": f"{bits} bits: refused, the sum would overflow"})
            print(rows[-1]["part"], rows[-1]["setting"], flush=True)
            continue
        runs = [train(plan.replace(seed=42 + k), dataset, model=model).summary for k in range(seeds)]
        parts = [run["communication"] for run in runs]
        accuracies = [100 * run["accuracy_pooled_mean"] for run in runs]
        row = {
            "part": "distributed",
            "setting": f"discrete Gaussian, modulus of {bits} bits",
            "parameters": model.parameters,
            "times_fewer_up": sum(part["times_fewer_up"] for part in parts) / seeds,
            "times_fewer_down": sum(part["times_fewer_down"] for part in parts) / seeds,
            "accuracy": sum(accuracies) / seeds,
            "accuracies": accuracies,
            "points": accuracies[0] - (rows[0].get("accuracy") or accuracies[0] if rows else accuracies[0]),
            "points_sd": spread(accuracies),
            "epsilon": runs[0]["epsilon"],
            "seconds_per_round": sum(run["seconds_per_round"] for run in runs) / seeds,
        }
        row["bits_per_parameter_up"] = 32 / row["times_fewer_up"]
        row["bits_per_parameter_down"] = 32 / row["times_fewer_down"]
        rows.append(row)
        show(row)
    return rows


def _refuses(plan: Any, dataset: Any, model: Any) -> bool:
    import numpy as np

    from tff_hospitals.foundations.validation import InvalidInput
    from tff_hospitals.processes import composition

    try:
        parts = composition.compose(plan, dataset, model)
        parts.aggregator.initial_state(np.zeros([2], np.int64), plan.privacy.noise_multiplier)
    except InvalidInput:
        return True
    return False


def libraries() -> list[dict[str, Any]]:
    """The same update through this package's codec and through the encoders that TFF uses (tensor_encoding)."""
    import numpy as np

    from tff_hospitals.communication import parse_chain

    update = (np.random.default_rng(0).standard_normal(159_010) * 0.01).astype(np.float32)
    rows: list[dict[str, Any]] = []

    def enter(name: str, sent: float, decoded: Any) -> None:
        error = float(np.sum(np.square(decoded - update)) / np.sum(np.square(update)))
        rows.append({"part": "libraries", "setting": name, "bits": 8 * sent / update.size, "normalised_error": error})
        print(f"{'libraries':<12} {name:<36} {rows[-1]['bits']:>6.3f} bits, error {error:.4g}", flush=True)

    for text in ("quantize:8", "rotate,quantize:8", "rotate,quantize:4", "rotate,quantize:2", "rotate,onebit"):
        chain = parse_chain(text)
        payload = chain.encode([("update", update)], np.array([1, 2]), want_decoded=False).payload
        decoded = chain.decode(payload, [update.shape], np.array([1, 2]))
        enter(f"codec {text}", len(payload), decoded[0])
    try:
        import tensorflow as tf
        from tensorflow_model_optimization.python.core.internal import tensor_encoding
    except ImportError:
        print("libraries    tensorflow-model-optimization is not installed: its rows are left out", flush=True)
        return rows
    for name, make in (
        ("uniform_quantization", tensor_encoding.encoders.uniform_quantization),
        ("hadamard_quantization", tensor_encoding.encoders.hadamard_quantization),
    ):
        for bits in (8, 4, 2):
            encoder = tensor_encoding.core.SimpleEncoder(make(bits), tf.TensorSpec([update.size], tf.float32))
            encoded, _ = encoder.encode(tf.constant(update), encoder.initial_state())
            flat = tf.nest.flatten(encoded)
            sent = sum(int(np.prod(part.shape)) * part.dtype.size for part in flat)
            enter(f"tensor_encoding {name}({bits})", sent, encoder.decode(encoded).numpy())
    return rows


def run() -> None:
    """All parts, then the aims."""
    from tff_hospitals.foundations import files
    from tff_hospitals.plan.plan import Plan

    base = Plan().replace(
        rounds=FLAGS.rounds,
        evaluate_every=FLAGS.rounds,
        model={"name": "mlp", "options": {"hidden_units": [200]}},
        client={"local_steps": None, "local_epochs": 1, "batch_size": 20, "learning_rate": 0.1},
    )
    few = min(3, FLAGS.seeds)
    rows: list[dict[str, Any]] = []
    large = images(FLAGS.sites) if {"mlp", "dp", "distributed"} & set(FLAGS.parts) else None
    if "mlp" in FLAGS.parts:
        rows += measure("mlp", large, base, SETTINGS, FLAGS.seeds)
    if "cnn" in FLAGS.parts:
        from tff_hospitals.hospitals import load_dataset

        digits = load_dataset("digits", partition="dirichlet", sites=FLAGS.sites, alpha=1.0)
        rows += measure("cnn", digits, base.replace(model={"name": "cnn", "options": {}}), CNN_SETTINGS, few)
    if "dp" in FLAGS.parts:
        private = base.replace(
            privacy={"mechanism": "dp_sgd", "clip_norm": 1.0, "target_epsilon": FLAGS.epsilon, "delta": 1e-3}
        )
        rows += measure("dp_sgd", large, private, DP_SETTINGS, few)
    if "distributed" in FLAGS.parts:
        rows += distributed(large, base, 1)
    if "libraries" in FLAGS.parts:
        rows += libraries()
    found = aims(rows)
    for name, value in found.items():
        print(f"{name}: {value}")
    if FLAGS.json:
        figures = {
            "schema_version": 1,
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "data": None if large is None else large.name,
            "rounds": FLAGS.rounds,
            "sites": FLAGS.sites,
            "seeds": FLAGS.seeds,
            "rows": rows,
            **found,
        }
        files.write_json(pathlib.Path(FLAGS.json), figures)
    if "mlp" in FLAGS.parts and not (found["aim_met"] and found["far_met"]):
        sys.exit(1)


def aims(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best settings within the aims."""
    mlp = [row for row in rows if row["part"] == "mlp"]
    near = [row for row in mlp if row["points"] >= -AIM_POINTS and row["times_fewer_down"] >= AIM_DOWN]
    near = [row for row in near if row["times_fewer_up"] >= AIM_UP]
    far = [row for row in mlp if row["times_fewer_up"] >= AIM_FAR]
    best = max(near, key=lambda row: row["times_fewer_up"], default=None)
    farthest = max(far, key=lambda row: row["points"], default=None)
    return {
        "aim_met": best is not None,
        "aim_setting": best and best["setting"],
        "times_fewer_up": best and best["times_fewer_up"],
        "times_fewer_down": best and best["times_fewer_down"],
        "points": best and best["points"],
        "far_met": farthest is not None,
        "far_setting": farthest and farthest["setting"],
        "far_times_fewer_up": farthest and farthest["times_fewer_up"],
        "far_points": farthest and farthest["points"],
    }


if __name__ == "__main__":
    command.main()
