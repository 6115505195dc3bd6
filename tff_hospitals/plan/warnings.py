"""What a plan allows and still will disappoint in: words for the table, each with its figure and its remedy."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from tff_hospitals.plan import mechanisms, poison
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.mechanisms import counts, secure_sum

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.noise import NoisePlan
    from tff_hospitals.plan.plan import Plan


def warnings(plan: Plan, dataset: HospitalDataset) -> list[str]:
    """Where the promise is valid but means little, and what of it is only simulated.

    Args:
      plan: a plan without problems.
      dataset: its hospitals.
    """
    around, own = mechanisms.hospital_level(plan.privacy), mechanisms.hospital_settings(plan.privacy)
    simulated = [
        *_of_libraries(plan),
        *secure_sum.warnings(around, plan.privacy),
        *around.cohort_warnings(own, plan.cohort, len(dataset.hospitals)),
        *(f"under attack: {one.words}" for one in poison.parse(plan.poison)),
    ]
    noise = noise_plan.make(plan, dataset)
    if not noise.parts:
        return simulated
    words = [*_of_preprocessing(plan, dataset), *_of_starting_weights(plan), *_of_local_layers(plan), *simulated]
    if dataset.task == "regression" and (dataset.target_bounds is None or plan.model.target_scaling == "none"):
        words.append(
            "the target is learnt in its own unit: clipping leaves of a large gradient its direction alone, and a "
            "model far from its target comes no nearer. Remedy: state the target's public bounds (low and high in the "
            "schema, target_bounds of arrays) and leave --target_scaling as it is."
        )
    for part in noise.parts:
        units = len(dataset.hospitals) if part.unit == "hospital" else max(dataset.records().values())
        if part.delta >= 1 / units:
            words.append(
                f"delta {part.delta:g} is not below 1 / {units} {part.unit}s: it would allow giving one {part.unit} "
                f"away whole. Remedy: --delta below {1 / units:.2g}."
            )
        if not any(part.multipliers.values()):
            words.append("noise_multiplier is 0: clipping alone gives no differential privacy, epsilon is infinite")
    if noise.hospital_level is not None:
        words += _of_few_hospitals(plan, dataset, noise.hospital_level)
    privacy = plan.privacy
    if privacy.secure_noise:
        words.append(
            "batches and noise come from the operating system's cryptographic source (--secure_noise): this run cannot "
            "be reproduced, and a resumed run goes on with new numbers"
        )
        if dataset.preprocessing.kind == "dp_moments" and dataset.secret.public:
            words.append(
                "the noise of the scaling (dp_moments) still follows from the public salt of these data: for a real "
                "release give it Streams.from_operating_system()"
            )
    if privacy.selected_from > 1:
        words.append(
            f"epsilon covers the choice of this setting among {privacy.selected_from:g} runs on average, if their "
            "number was drawn from a geometric distribution before the first of them"
        )
    return words


def _of_local_layers(plan: Plan) -> list[str]:
    """Whom the guarantee says nothing of."""
    if not plan.model.local_layers:
        return []
    return [
        f"the layers {plan.model.local_layers} never leave their hospital: the guarantee is that of the others, which "
        "travel; a hospital's own model must stay there"
    ]


def _of_libraries(plan: Plan) -> list[str]:
    """What a reader must know of what TFF and TensorFlow Privacy run as they wrote it."""
    found = []
    for mechanism, _ in mechanisms.layers(plan.privacy):
        if mechanism.runs_on and not mechanism.private:
            found.append(f"no event: nothing is promised for {mechanism.name}, because TFF states no event for it")
        if not mechanism.seeded:
            found.append(
                f"what {mechanism.name} draws cannot be seeded: neither a second run nor a resumed one has the same "
                "bits"
            )
    return found


def _of_preprocessing(plan: Plan, dataset: HospitalDataset) -> list[str]:
    preprocessing = dataset.preprocessing
    if preprocessing.private is not False or preprocessing.kind == "none":
        return []
    return [
        f"epsilon covers training, not the preprocessing ({preprocessing.kind}): means and deviations were taken from "
        "hospital data without noise. Remedy: --scaling=fixed_bounds or --scaling=dp_moments."
    ]


def _of_starting_weights(plan: Plan) -> list[str]:
    path = plan.model.options.get("pretrained")
    if not path:
        return []
    return [
        f"epsilon covers training, not the weights that it starts from ({pathlib.PurePath(str(path)).name}): for a "
        "patient whose record they were trained on nothing is promised. Remedy: weights from public records, or from a "
        "run with an epsilon of its own, which then adds up."
    ]


def _of_few_hospitals(plan: Plan, dataset: HospitalDataset, part: NoisePlan) -> list[str]:
    mechanism, setting = mechanisms.hospital_level(plan.privacy), noise_plan.hospital_setting(plan, dataset)
    multiplier, expected = next(iter(part.multipliers.values())), setting.expected
    words = mechanism.warnings(setting, multiplier)
    factors = [noise_plan.multiplier_factor(plan, "hospital", number) for number in range(plan.rounds)]
    sizes = [float(noise_plan.hospitals_in_round(plan, number) or expected) for number in range(plan.rounds)]
    deviations = [
        factor * multiplier * mechanism.sum_variance(setting, 0, size) ** 0.5 / size
        for factor, size in set(zip(factors, sizes))
    ]
    if max(deviations, default=0.0) > 0.1:
        noise, of = _span(deviations, "{:.2g}"), _span(sizes, "{:g}")
        words.append(
            f"hospital-level noise is {noise} clip norms in every coordinate of the mean of {of} hospitals, and the "
            "update's own norm is at most 1: few hospitals cannot hide one of them. Record-level privacy (dp_sgd) "
            "protects patients here."
        )
    return [*words, *counts.warnings(mechanism, setting, multiplier)]


def _span(numbers: list[float], form: str) -> str:
    """The least and the largest of the rounds, or the number that all have."""
    low, high = form.format(min(numbers)), form.format(max(numbers))
    return low if low == high else f"{low} to {high}"
