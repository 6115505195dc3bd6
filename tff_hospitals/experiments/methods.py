"""The methods that can be compared, by name: each is a change to a plan, never a loop of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tff_hospitals.foundations.validation import Problem, one_of, raise_if
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.mechanisms import own_factory
from tff_hospitals.plan.mechanisms.other_names import known_name
from tff_hospitals.plan.plan import Plan


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of training together.

    Attributes:
      name: as flags say it.
      label: as tables say it.
      words: one sentence for reports.
      changes: what it changes in the preset plan.
      kind: `federated`, or the baselines `pooled` (all records in one place) and `local` (each hospital alone).
      default: part of the main job without flags.
    """

    name: str
    label: str
    words: str
    changes: Mapping[str, Any]
    kind: str = "federated"
    default: bool = True

    def plan(self, base: Plan, target_epsilon: float | None) -> Plan:
        """The preset plan changed into this method's; private methods take the target when no noise is given."""
        plan = base.replace(method=self.name, **self.changes)
        for mechanism, settings in mechanisms.layers(plan.privacy):
            if mechanism.noisy and settings.noise_multiplier is None:
                target = "target_epsilon" if settings is plan.privacy else "outer_target_epsilon"
                plan = plan.replace(privacy={target: target_epsilon})
        return plan

    @property
    def private(self) -> bool:
        """Whether one of its mechanisms gives a guarantee."""
        return any(one.private for one in self._mechanisms())

    @property
    def noisy(self) -> bool:
        """Whether its noise follows from a target, with a guarantee or without."""
        return any(one.noisy for one in self._mechanisms())

    @property
    def runs_on(self) -> str:
        """The only runtime that can run it; empty for any."""
        return next((one.runs_on for one in self._mechanisms() if one.runs_on), "")

    def _mechanisms(self) -> list[mechanisms.Mechanism]:
        return [one for one, _ in mechanisms.layers(Plan().replace(**self.changes).privacy)]


_EQUAL = {"weighting": "equal"}
ROBUST = (
    ("coordinate_median", "median", "the median of the updates in every coordinate (Yin et al. 2018)"),
    ("trimmed_mean", "trimmed mean", "every coordinate's mean without its largest and smallest (Yin et al. 2018)"),
    ("krum", "Krum", "the update that lies nearest to most of the others (Blanchard et al. 2017)"),
    ("multi_krum", "multi-Krum", "the mean of the updates nearest to most of the others (Blanchard et al. 2017)"),
    ("geometric_median", "geometric median", "the point nearest to all updates, RFA (Pillutla et al. 2022)"),
    ("centred_clip", "centred clipping", "updates clipped around the last round's (Karimireddy et al. 2021)"),
    ("norm_bound", "norm bound", "updates clipped to a norm, without noise (Sun et al. 2019)"),
)
"""Rules against hospitals that send anything: mechanism, label and words."""
_CLIPPED_AT: dict[str, dict[str, Any]] = {name: {"clip_norm": 0.2} for name in ("centred_clip", "norm_bound")}
"""About the norm of an honest update in the presets; far above it a bad hospital pulls as hard as it is allowed to."""

METHODS = {
    method.name: method
    for method in (
        Method(
            "pooled",
            "pooled",
            "all training records in one place: what federation gives up, and no privacy between hospitals",
            {"client": {"optimizer": "adam", "learning_rate": 1e-3}},
            kind="pooled",
        ),
        Method(
            "local",
            "local only",
            "each hospital trains alone and is tested on its own patients: what a hospital has without federation",
            {"client": {"optimizer": "adam", "learning_rate": 1e-3}},
            kind="local",
        ),
        Method(
            "weighted_mean", "FedAvg", "federated averaging, weighted by training records (McMahan et al. 2017)", {}
        ),
        Method("mean", "FedAvg, equal weights", "federated averaging, every hospital counts the same", _EQUAL),
        Method(
            "fedprox",
            "FedProx",
            "federated averaging whose local training is held near the broadcast model (Li et al. 2020)",
            {"client": {"proximal_mu": 0.1}},
            default=False,
        ),
        Method(
            "fednova",
            "FedNova",
            "updates divided by their local steps, so that who takes many does not pull the model along (Wang et al. "
            "2020)",
            {"privacy": {"mechanism": "fednova"}},
            default=False,
        ),
        Method(
            "fedbuff",
            "FedBuff",
            "asynchronous: the server steps after two answers, old ones count less (Nguyen et al. 2022)",
            {**_EQUAL, "cohort": {"kind": "buffered", "hospitals_per_round": 2}, "speeds": "lognormal:0.01:1"},
            default=False,
        ),
        Method(
            "q_fedavg",
            "q-FedAvg",
            "hospitals whose loss is high count more, so that all are served more evenly (Li et al. 2020)",
            {**_EQUAL, "privacy": {"mechanism": "q_fedavg"}},
            default=False,
        ),
        Method(
            "scaffold",
            "SCAFFOLD",
            "local steps are corrected by control variates of server and hospital, two models each way (Karimireddy et "
            "al. 2020)",
            {"privacy": {"mechanism": "scaffold"}},
            default=False,
        ),
        Method(
            "fedper",
            "FedPer",
            "the output layer never travels: every hospital keeps and trains its own (Arivazhagan et al. 2019)",
            {"model": {"local_layers": "output"}},
            default=False,
        ),
        Method(
            "fedrep",
            "FedRep",
            "as fedper, and a round trains the hospital's own layer first, then the shared ones (Collins et al. 2021)",
            {"model": {"local_layers": "output"}, "client": {"head_share": 0.5}},
            default=False,
        ),
        Method(
            "feddyn",
            "FedDyn",
            "every hospital's loss is bent by its earlier updates, so that what is best for each agrees in the end "
            "(Acar et al. 2021)",
            {"privacy": {"mechanism": "feddyn"}, "client": {"proximal_mu": 0.1}},
            default=False,
        ),
        Method(
            "mime_lite",
            "MimeLite",
            "local steps take the server's momentum, which follows the gradients of the broadcast model (Karimireddy "
            "et al. 2021)",
            {"privacy": {"mechanism": "mime_lite"}, "client": {"momentum": 0.9}},
            default=False,
        ),
        Method(
            "fedprox_adaptive",
            "FedProx, adaptive",
            "FedProx whose weight rises while the loss rises and falls after rounds of falling loss (Li et al. 2020)",
            {"privacy": {"mechanism": "fedprox_adaptive"}},
            default=False,
        ),
        Method(
            "agnostic",
            "agnostic mean",
            "hospitals count by weights that move towards those of the highest loss (Mohri et al. 2019)",
            {**_EQUAL, "privacy": {"mechanism": "agnostic"}},
            default=False,
        ),
        *(
            Method(
                f"fed{name.lower()}",
                f"Fed{name}",
                f"{name} at the server ({'You et al. 2020' if name == 'LAMB' else 'Reddi et al. 2021'})",
                {"server": {"optimizer": name.lower(), "learning_rate": 0.1}},
                default=name == "Adam",
            )
            for name in ("Adam", "Adagrad", "LAMB", "Yogi")
        ),
        Method(
            "dp_sgd",
            "DP-SGD in hospitals",
            "per-record clipping and noise in every local step, calibrated for each hospital's size (Abadi et al. "
            "2016)",
            {"privacy": {"mechanism": "dp_sgd"}},
        ),
        Method(
            "fixed_clip",
            "DP-FedAvg, fixed clip",
            "each hospital's update is clipped to a fixed norm and the server adds noise (McMahan et al. 2018)",
            {**_EQUAL, "privacy": {"mechanism": "fixed_clip"}},
        ),
        Method(
            "dp_sgd_per_layer",
            "DP-SGD, per-layer clip",
            "DP-SGD that clips each layer's part of a record's gradient by itself (McMahan et al. 2018)",
            {"privacy": {"mechanism": "dp_sgd", "clip_style": "per_layer"}},
            default=False,
        ),
        Method(
            "dp_sgd_automatic",
            "DP-SGD, automatic clip",
            "DP-SGD that normalises every record's gradient, so that no clip norm has to be tuned (Bu et al. 2023)",
            {"privacy": {"mechanism": "dp_sgd", "clip_style": "automatic"}},
            default=False,
        ),
        Method(
            "dp_sgd_adaptive",
            "DP-SGD, adaptive clip",
            "DP-SGD whose norm follows a noised quantile of the record norms, each hospital for itself in every round",
            {"privacy": {"mechanism": "dp_sgd", "clip_style": "adaptive", "clip_learning_rate": 0.02}},
            default=False,
        ),
        Method(
            "dp_ftrl_local",
            "DP-FTRL in hospitals",
            "per-record clipping and the noise of a binary tree over the steps of a round; no random batches are "
            "assumed (Kairouz et al. 2021)",
            {"privacy": {"mechanism": "dp_ftrl_local"}},
            default=False,
        ),
        Method(
            "dp_mf_local",
            "Banded noise in hospitals",
            "per-record clipping and noise that the next steps of a round take back in part, records sampled in turn "
            "(Choquette-Choo et al. 2023)",
            {"privacy": {"mechanism": "dp_mf_local"}},
            default=False,
        ),
        Method(
            "adaptive_clip",
            "DP-FedAvg, adaptive clip",
            "fixed clipping whose norm follows a noised quantile of the update norms (Andrew et al. 2021)",
            {**_EQUAL, "privacy": {"mechanism": "adaptive_clip"}},
        ),
        Method(
            "adaptive_clip_zeroing",
            "DP-FedAvg, adaptive clip and zeroing",
            "adaptive clipping behind a bound on single coordinates that follows a noised quantile too",
            {**_EQUAL, "privacy": {"mechanism": "adaptive_clip", "zeroing": "quantile"}},
            default=False,
        ),
        Method(
            "tree",
            "DP-FTRL at the server",
            "fixed clipping with the noise of a binary tree over the rounds; no sampling of hospitals is assumed "
            "(Kairouz et al. 2021)",
            {**_EQUAL, "privacy": {"mechanism": "tree"}},
            default=False,
        ),
        Method(
            "blt",
            "DP-FedAvg, buffered noise (BLT)",
            "fixed clipping with noise that later rounds take back in part through a few buffers (McMahan, Xu and "
            "Zhang 2024)",
            {**_EQUAL, "privacy": {"mechanism": "blt"}},
            default=False,
        ),
        Method(
            "banded_mf",
            "DP-FedAvg, banded noise",
            "fixed clipping with noise that the next rounds take back in part (Choquette-Choo et al. 2023)",
            {**_EQUAL, "privacy": {"mechanism": "banded_mf"}},
            default=False,
        ),
        Method(
            "discrete_gaussian",
            "distributed discrete Gaussian",
            "each hospital adds a share of whole-number noise before a secure sum (Kairouz, Liu and Steinke 2021)",
            {**_EQUAL, "privacy": {"mechanism": "discrete_gaussian"}},
            default=False,
        ),
        Method(
            "skellam",
            "distributed Skellam",
            "as the distributed discrete Gaussian, with Skellam noise (Agarwal, Kairouz and Liu 2021)",
            {**_EQUAL, "privacy": {"mechanism": "skellam"}},
            default=False,
        ),
        Method(
            "local_dp",
            "local DP",
            "each hospital clips its own update and adds all the noise itself, so that nobody has to be trusted",
            {**_EQUAL, "privacy": {"mechanism": "local_dp"}},
            default=False,
        ),
        *(
            Method(name, label, words, {**weights, "privacy": {"mechanism": name}}, default=False)
            for name, label, weights, words in (
                (
                    "tff_gaussian_fixed",
                    "TFF's Gaussian, fixed clip",
                    _EQUAL,
                    "TFF's own aggregator; fixed_clip is our twin of it",
                ),
                (
                    "tff_gaussian_adaptive",
                    "TFF's Gaussian, adaptive clip",
                    _EQUAL,
                    "TFF's own aggregator; adaptive_clip is our twin of it",
                ),
                (
                    "tff_tree_adaptive",
                    "TFF's tree, adaptive clip",
                    _EQUAL,
                    "TFF's own DP-FTRL, for which TFF states no event; tree is our twin of it",
                ),
                (
                    "tff_ddp_secure",
                    "TFF's distributed noise",
                    _EQUAL,
                    "TFF's own noise in shares, for which TFF states no event; discrete_gaussian is our twin of it",
                ),
                (
                    "tff_robust",
                    "TFF's robust mean",
                    {},
                    "TFF's own mean behind adaptive zeroing and clipping; weighted_mean is our twin of it",
                ),
                (
                    "tff_compressed",
                    "TFF's compressed mean",
                    {},
                    "TFF's own mean of quantised updates; quantized is our twin of it",
                ),
                (
                    "tfp_dp_sgd",
                    "TensorFlow Privacy's DP-SGD",
                    {},
                    "DPKerasSGDOptimizer in the hospitals; dp_sgd is our twin of it",
                ),
                (
                    "tfp_dp_sgd_fast",
                    "TensorFlow Privacy's DP-SGD, fast",
                    {},
                    "TensorFlow Privacy's fast gradient clipping in the hospitals; dp_sgd is our twin of it",
                ),
            )
        ),
        Method(
            "dp_sgd_fixed_clip",
            "DP-SGD inside, DP-FedAvg outside",
            "DP-SGD in the hospitals and fixed clipping with noise around them: two guarantees, reported apart",
            {**_EQUAL, "privacy": {"mechanism": "dp_sgd", "outer": "fixed_clip"}},
            default=False,
        ),
        Method(
            "quantized",
            "FedAvg, 4 bits up, 8 down",
            "federated averaging whose updates are rotated and quantised to 4 bits, and changes of the model to 8",
            {"upload": "rotate,quantize:4", "broadcast": "delta,rotate,quantize:8"},
            default=False,
        ),
        Method(
            "one_bit",
            "FedAvg, 1 bit up, 4 down",
            "federated averaging that sends the signs of rotated updates and one scale (Vargaftik et al. 2021)",
            {"upload": "rotate,onebit", "broadcast": "delta,rotate,quantize:4"},
            default=False,
        ),
        Method(
            "sparse_ternary",
            "FedAvg, sparse ternary",
            "federated averaging that sends one value in a hundred as a sign, what is left out later (Sattler et al. "
            "2019)",
            {
                "upload": "topk:0.01,ternary:mean,entropy",
                "broadcast": "delta,topk:0.05,quantize:4:nearest,entropy",
                "error_feedback": True,
            },
            default=False,
        ),
        Method(
            "dp_sgd_quantized",
            "DP-SGD in hospitals, 4 bits up, 8 down",
            "DP-SGD whose noised updates are rotated and quantised: what happens after the noise costs no privacy",
            {
                "privacy": {"mechanism": "dp_sgd"},
                "upload": "rotate,quantize:4",
                "broadcast": "delta,rotate,quantize:8",
            },
            default=False,
        ),
        Method(
            "fixed_clip_quantized",
            "DP-FedAvg, fixed clip, 4 bits up",
            "fixed clipping, then encoding, then clipping again at the server, which adds the noise",
            {**_EQUAL, "privacy": {"mechanism": "fixed_clip"}, "upload": "rotate,quantize:4"},
            default=False,
        ),
        *(
            Method(
                name,
                label,
                words,
                {**_EQUAL, "privacy": {"mechanism": name, **_CLIPPED_AT.get(name, {})}},
                default=False,
            )
            for name, label, words in ROBUST
        ),
    )
}


def register(method: Method) -> None:
    """Adds a method of one's own, under a name that is not taken.

    Raises:
      InvalidInput: the name is taken.
    """
    if method.name in METHODS:
        raise_if([Problem("method", method.name, "is the name of a method already", "choose another name")])
    METHODS[method.name] = method


def register_factory(name: str, factory: Any, *, label: str = "", words: str = "") -> Method:
    """Makes an aggregation factory of TFF's a row under a name, for this process.

    Args:
      name: as `--aggregators` and plans say it; a factory that other processes must find is named
        `package.module:factory` instead.
      factory: a `tff.aggregators.WeightedAggregationFactory` or `UnweightedAggregationFactory`, or a function that
        returns one (see `plan.mechanisms.own_factory`).
      label: as tables say it; default: the name.
      words: one sentence for reports; default: what is promised.

    Raises:
      InvalidInput: the name is taken, or what was given is no factory.
    """
    known = mechanisms.MECHANISMS.get(name)
    if known is not None and known.computed_by != own_factory.COMPUTED_BY:
        raise_if([Problem("factory", name, "is the name of a mechanism already", "choose another name")])
    own_factory.enter(name, factory)
    made = of_factory(name)
    made = dataclasses.replace(made, label=label or made.label, words=words or made.words)
    register(made)
    return made


def default_methods() -> tuple[str, ...]:
    """Names of the methods of the main job."""
    return tuple(name for name, method in METHODS.items() if method.default)


def robust_plan(plan: Plan, rule: str | None) -> Plan:
    """A plan whose updates become one by a robust rule: its mechanism, or the outer one around a record-level one.

    Raises:
      InvalidInput: an unknown rule, or a plan whose updates another mechanism makes one already.
    """
    if rule is None:
        return plan
    raise_if([one_of("--robust", rule, [name for name, _, _ in ROBUST])])
    around = mechanisms.hospital_level(plan.privacy).name
    if around != "none":
        bound = f"would take the place of {around}, which makes the updates of this method one already"
        raise_if([Problem("--robust", rule, bound, "take a method without a hospital-level mechanism")])
    place = "mechanism" if mechanisms.record_level(plan.privacy) is None else "outer"
    own: dict[str, Any] = _CLIPPED_AT.get(rule, {}) if place == "mechanism" else {}
    return plan.replace(weighting="equal", privacy={place: rule, **own})


def find_methods(names: tuple[str, ...]) -> tuple[Method, ...]:
    """Methods by name.

    Raises:
      validation.InvalidInput: names every unknown one, with the nearest known ones.
    """
    raise_if([_name_problem(name) for name in names])
    return tuple(METHODS[name] if name in METHODS else of_factory(name) for name in names)


def _name_problem(name: str) -> Problem | None:
    if name not in METHODS and ":" in name:
        return mechanisms.name_problem("aggregator", name, "hospital")
    return known_name("aggregator", name, METHODS)


def of_factory(name: str) -> Method:
    """The row of a user's own aggregation factory, which a plan's mechanism names.

    Args:
      name: `package.module:factory`, or the name that it was entered under.
    """
    mechanism = mechanisms.named(name)
    weights = _EQUAL if mechanism.noisy else {}
    changes = {**weights, "privacy": {"mechanism": name}}
    return Method(name, name.rpartition(":")[2], mechanism.words, changes, default=False)
