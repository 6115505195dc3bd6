"""The kinds of mechanism, and what each of them assumes.

Every kind names the adjacencies under which it has a guarantee. Poisson sampling is analysed for a unit that is blanked
out (or added, or removed: the same figures), batches of fixed size for replacing one, shuffled epochs and trees for
blanking one out (adding a unit would move the others to other batches). The number of units is public wherever steps,
sampling probability or divisors follow from it, which only replacing and blanking out allow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

ADD_OR_REMOVE_ONE = "add_or_remove_one"
REPLACE_ONE = "replace_one"
REPLACE_SPECIAL = "replace_special"

ADJACENCIES: Mapping[str, str] = {
    ADD_OR_REMOVE_ONE: "data sets that differ by adding or removing one unit",
    REPLACE_ONE: "data sets of the same size that differ in the content of one unit",
    REPLACE_SPECIAL: "data sets that differ by blanking out one unit (its contribution becomes zero)",
}
UNITS = ("record", "hospital")

ALL_ADJACENCIES = (ADD_OR_REMOVE_ONE, REPLACE_ONE, REPLACE_SPECIAL)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an event of this kind must and may say, where it is sound, and its sampling assumption in words."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    adjacencies: tuple[str, ...]
    sampling: str
    words: str


KINDS: Mapping[str, Kind] = {
    "gaussian": Kind(
        ("noise_multiplier",),
        (),
        ALL_ADJACENCIES,
        "none: every unit is counted as taking part in every step",
        "Gaussian noise on a sum of clipped contributions",
    ),
    "no_amplification": Kind(
        ("noise_multiplier",),
        (),
        ALL_ADJACENCIES,
        "none relied on: however batches were drawn, every unit is counted as taking part in every step",
        "Gaussian noise on a sum of clipped contributions, batches drawn in any way",
    ),
    "poisson_gaussian": Kind(
        ("noise_multiplier", "sampling_probability"),
        (),
        (ADD_OR_REMOVE_ONE, REPLACE_SPECIAL),
        "each unit joins a step independently with probability {sampling_probability:.6g} (Poisson sampling)",
        "Gaussian noise on the clipped contributions of a Poisson sample",
    ),
    "fixed_size_gaussian": Kind(
        ("noise_multiplier", "records", "batch"),
        (),
        (REPLACE_ONE,),
        "each step takes exactly {batch} of {records} units, uniformly and without replacement",
        "Gaussian noise on the clipped contributions of a batch of fixed size",
    ),
    "shuffled": Kind(
        ("noise_multiplier", "steps"),
        (),
        (REPLACE_ONE, REPLACE_SPECIAL),
        "each unit is in exactly one of the {steps} batches of an epoch; no amplification is claimed",
        "one epoch of Gaussian noise over disjoint batches",
    ),
    "random_allocation": Kind(
        ("noise_multiplier", "steps"),
        (),
        (ADD_OR_REMOVE_ONE, REPLACE_SPECIAL),
        "each unit is in exactly one of the {steps} batches of a pass, which it draws at random and in secret",
        "one pass of Gaussian noise over batches to which units are allocated at random (balls in bins)",
    ),
    "adaptive_clip": Kind(
        ("noise_multiplier", "bit_noise_stddev"),
        ("sampling_probability",),
        ALL_ADJACENCIES,
        "none: every unit is counted as taking part in every step",
        "Gaussian noise on clipped contributions, and on the count of unclipped units that sets the next clip norm",
    ),
    "tree": Kind(
        ("noise_multiplier", "steps"),
        ("period", "restart"),
        (REPLACE_ONE, REPLACE_SPECIAL),
        "none: a unit takes part {participation}",
        "Gaussian noise on the nodes of a binary tree over {steps} steps (tree aggregation, DP-FTRL)",
    ),
    "matrix": Kind(
        ("noise_multiplier", "sensitivity", "steps"),
        ("restart",),
        (REPLACE_ONE, REPLACE_SPECIAL),
        "none: participation is bounded as in the stated sensitivity {sensitivity}",
        "correlated Gaussian noise over {steps} steps (matrix factorisation)",
    ),
    "discrete_gaussian": Kind(
        ("local_stddev", "shares", "l2_sensitivity", "l1_sensitivity", "dimension"),
        (),
        ALL_ADJACENCIES,
        "none: every unit is counted as taking part in every step",
        "discrete Gaussian noise in {shares} shares under a secure sum",
    ),
    "skellam": Kind(
        ("local_stddev", "shares", "l2_sensitivity", "l1_sensitivity"),
        ("dimension",),
        ALL_ADJACENCIES,
        "none: every unit is counted as taking part in every step",
        "Skellam noise in {shares} shares under a secure sum",
    ),
    "laplace": Kind(
        ("noise_multiplier",),
        (),
        ALL_ADJACENCIES,
        "none: every unit is counted as taking part in every step",
        "Laplace noise on a sum of contributions of bounded L1 norm",
    ),
    "selection": Kind(
        ("mean_runs", "base"),
        ("shape",),
        ALL_ADJACENCIES,
        "as in the runs that were compared",
        "the best of a random number of runs, {mean_runs} on average",
    ),
    "non_private": Kind((), (), ALL_ADJACENCIES, "none", "a release without noise"),
}
