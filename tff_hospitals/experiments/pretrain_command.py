"""Trains weights to start from, in one place, on public records.

The embedded example: digits 0 to 4 stand for a public set, digits 5 to 9 for what hospitals hold.

    tff-hospitals pretrain --labels=0,1,2,3,4 --output=runs/digits_0_to_4.keras
    tff-hospitals train --dataset=digits --data_option=labels=5+6+7+8+9 --data_option=alpha=0.5 \
        --pretrained=runs/digits_0_to_4.keras --lora_rank=4 --run_dir=runs/digits_5_to_9
"""

from __future__ import annotations

import pathlib

from absl import flags

from tff_hospitals.experiments import command, flag_groups

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of the pretraining."""
    flags.DEFINE_list("labels", ["0", "1", "2", "3", "4"], "digits to learn")
    flags.DEFINE_string("model", "mlp", "mlp, cnn, logistic_regression, or package.module:function")
    flags.DEFINE_multi_string("model_option", [], "name=value, an option of the model")
    flags.DEFINE_integer("epochs", 30, "passes over the records")
    flags.DEFINE_float("learning_rate", 0.1, "step size")
    flags.DEFINE_integer("seed", 42, "root of every random stream")
    flags.DEFINE_string("output", None, "the .keras file to write (required)")


def run() -> None:
    """Trains in one place and saves the model."""
    from tff_hospitals.foundations.validation import Problem, raise_if
    from tff_hospitals.plan import review
    from tff_hospitals.plan.plan import Plan

    if not FLAGS.output or not FLAGS.output.endswith(".keras"):
        bound = "must name a file that ends in .keras"
        raise_if([Problem("--output", FLAGS.output, bound, "write --output=runs/pretrained.keras")])
    labels = list(command.numbers("labels", FLAGS.labels, int))
    if not labels:
        raise_if([Problem("--labels", "", "must name one digit or more", "write --labels=0,1,2,3,4")])
    plan = Plan(method="pretraining", seed=FLAGS.seed, rounds=1).replace(
        data={"name": "digits", "sites": 1, "options": {"labels": labels}},
        model={"name": FLAGS.model, "options": flag_groups.parse_settings("model_option", FLAGS.model_option)},
        client={
            "learning_rate": FLAGS.learning_rate,
            "local_epochs": FLAGS.epochs,
            "local_steps": None,
            "batch_size": 16,
        },
    )
    raise_if(review.problems(plan))
    from tff_hospitals.experiments import baselines
    from tff_hospitals.models import save_keras
    from tff_hospitals.training.loop import train

    result = train(plan, baselines.load(plan.data))
    path = pathlib.Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_keras(result.keras_model(), path)
    accuracy = result.evaluation["pooled"]["accuracy"]
    print(f"digits {', '.join(map(str, labels))}: accuracy {100 * accuracy:.1f} % on records held back")
    print(f"weights: {path} ({path.stat().st_size:,} bytes)")
