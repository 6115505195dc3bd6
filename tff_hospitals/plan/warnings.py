"""What a plan allows and still will disappoint in: words for the table, each with its figure and its remedy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tff_hospitals.accounting import split_adaptive_noise, tree_squared_sensitivity
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.discretisation import discretise
from tff_hospitals.plan.parts import DISTRIBUTED

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.noise import NoisePlan
    from tff_hospitals.plan.plan import Plan


def privacy_warnings(plan: Plan, dataset: HospitalDataset) -> list[str]:
    """Where the promise is valid but means little, and what of it is only simulated.

    Args:
      plan: a plan without problems.
      dataset: its hospitals.
    """
    words = [*_of_secure_sum(plan)]
    privacy = plan.privacy
    if privacy.mechanism == "none":
        return words
    noise = noise_plan.make(plan, dataset)
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
    if privacy.secure_noise:
        words.append(
            "batches and noise come from the operating system's cryptographic source (--secure_noise): this run cannot "
            "be reproduced, and a resumed run goes on with new numbers"
        )
        if dataset.preprocessing.kind == "dp_moments":
            words.append(
                "the noise of the scaling (dp_moments) still follows from the seed: for a real release give it "
                "Streams.from_operating_system()"
            )
    if privacy.selected_from > 1:
        words.append(
            f"epsilon covers the choice of this setting among {privacy.selected_from:g} runs on average, if their "
            "number was drawn from a geometric distribution before the first of them"
        )
    return words


def _of_secure_sum(plan: Plan) -> list[str]:
    if not plan.privacy.summed_securely:
        return []
    return [
        "the secure sum is simulated: no cryptography keeps the server from a single hospital's contribution in this "
        "run"
    ]


def _of_few_hospitals(plan: Plan, dataset: HospitalDataset, part: NoisePlan) -> list[str]:
    privacy = plan.privacy.hospital_level()
    expected = plan.cohort.expected_size(len(dataset.hospitals))
    multiplier = next(iter(part.multipliers.values()))
    words = []
    deviation = multiplier / expected
    if privacy.mechanism == "local_dp":
        deviation = multiplier / math.sqrt(expected)
        words.append(
            f"local DP: the noise of {expected:g} hospitals adds up to {math.sqrt(expected):.3g} times what a trusted "
            "server would add for the same guarantee"
        )
    if deviation > 0.1:
        words.append(
            f"hospital-level noise is {deviation:.2g} clip norms in every coordinate of the mean of {expected:g} "
            "hospitals, and the update's own norm is at most 1: few hospitals cannot hide one of them. "
            "Record-level privacy (dp_sgd) protects patients here."
        )
    if privacy.counts and multiplier > 0:
        words += _of_counts(multiplier, privacy.joint_count_stddev(expected))
    if privacy.mechanism == "tree":
        words += _of_tree(plan, len(dataset.hospitals))
    if privacy.mechanism in DISTRIBUTED:
        words.append(_of_grid(plan, dataset, multiplier))
    return words


def _of_counts(multiplier: float, count_stddev: float) -> list[str]:
    for_updates = split_adaptive_noise(multiplier, bit_noise_stddev=count_stddev)
    if for_updates < 1.5 * multiplier:
        return []
    return [
        "the noised count of unclipped hospitals takes most of the privacy: updates get "
        f"{for_updates / multiplier:.2g} times the noise that fixed_clip would add. Remedy: --clipped_count_stddev of "
        f"{1.6 * multiplier:.2g} or more, more hospitals, or fixed_clip."
    ]


def _of_tree(plan: Plan, hospitals: int) -> list[str]:
    per_tree = min(plan.rounds, plan.privacy.hospital_level().restart_every or plan.rounds)
    period = plan.cohort.period(hospitals)
    often = -(-per_tree // period)
    ratio = math.sqrt(tree_squared_sensitivity(per_tree, period) / often)
    if ratio < 2 or often == 1:
        return []
    return [
        f"tree noise: a hospital takes part in {often} of the {per_tree} rounds of a tree, so that a node needs "
        f"{ratio:.2g} times the noise that fixed_clip adds in a round. It pays where a hospital takes part rarely. "
        "Remedy: --cohort=cyclic, --restart_every, or fixed_clip."
    ]


def _of_grid(plan: Plan, dataset: HospitalDataset, multiplier: float) -> str:
    privacy = plan.privacy.hospital_level()
    shares = round(plan.cohort.expected_size(len(dataset.hospitals)))
    size = noise_plan.parameters(plan, dataset)
    grid = discretise(
        clip_norm=privacy.clip_norm,
        noise_multiplier=multiplier,
        modulus_bits=privacy.modulus_bits,
        shares=shares,
        parameters=size,
    )
    if grid is None:  # refused before
        return ""
    stretched = grid.l2_sensitivity / (privacy.clip_norm * grid.scale)
    return (
        f"{privacy.modulus_bits} bits per value: a sum leaves the modulus with odds of at most "
        f"{grid.overflow_odds:.2g} per round; rounding makes the sensitivity {stretched:.4g} times the clip "
        "norm, which the noise covers"
    )
