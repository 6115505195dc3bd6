"""Aggregation factories of TFF behind the contract of our aggregators: built here, run by TFF's executor alone.

Such a factory is no sum of contributions that somebody else could add up, so that `prepare` and `finish` are refused.
Its state is whatever TFF makes of it; a run carries it, and a checkpoint keeps it, as the bytes of its arrays.
"""

from __future__ import annotations

import collections
import functools
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.mechanisms.from_tff import Foreign
from tff_hospitals.plan.mechanisms.own_factory import OwnFactory, OwnNoisyFactory, arguments_of
from tff_hospitals.processes.aggregators.base import Aggregator, Setting, Structure
from tff_hospitals.processes.aggregators.registry import register
from tff_hospitals.processes.noise import Tensors

Build = Callable[[Setting, int], Any]
_SEEDS = 2**31 - 1
_IDLE_COUNT = 5.0  # times the noise multiplier: (z / (2 * 5 z))**2 is a hundredth
_WITHOUT_NOISE = ("clipping_norm", "current_estimate")
_CLIPS = (("clip_value",), _WITHOUT_NOISE, ("l2_norm_clip",))
"""Where the states of TFF's aggregators hold the norm that clips next, the first one that is there."""


class EventMismatch(RuntimeError):
    """TFF states another event than the ledger was charged with."""


class FromTff(Aggregator):
    """An aggregation factory of TFF.

    Args:
      setting: what it is built for, its noise multiplier included.
      build: from the setting and a seed to the factory.
    """

    bounded = False

    def __init__(self, setting: Setting, build: Build):
        super().__init__(setting)
        self._build = build
        mechanism = mechanisms.named(setting.privacy.mechanism)
        if not isinstance(mechanism, Foreign):
            raise TypeError(f"{mechanism.name} is none of TFF's aggregators")
        self.mechanism = mechanism

    @property
    def sums_securely(self) -> bool:
        """Whether TFF has to simulate a secure sum."""
        return getattr(self.mechanism, "always_secure", False)

    def initial_state(self, key: np.ndarray, noise_multiplier: float) -> Structure:
        """Key and noise multiplier; TFF's own state is made by the first round, in TFF.

        Raises:
          InvalidInput: another noise multiplier than the factory was built with.
        """
        built = self.setting.noise_multiplier
        if not math.isclose(noise_multiplier, built, rel_tol=1e-6) and noise_multiplier != 0.0:
            bound = f"must be {built:g}, which TFF's factory was built with: it cannot be changed for more rounds"
            raise InvalidInput([Problem("noise_multiplier", noise_multiplier, bound, "begin a new run")])
        return collections.OrderedDict(key=np.asarray(key, np.int64), held=np.zeros([0], np.uint8))

    def prepare(self, parameters: Structure, delta: Tensors, weight: tf.Tensor, noise: Structure) -> Structure:
        """The update and its weight: the size of what a hospital sends; only TFF knows what becomes of it."""
        return collections.OrderedDict(delta=delta, count=weight)

    def finish(self, state: Structure, total: Structure, noise: Structure) -> tuple[Tensors, Structure, Structure]:
        """Refused: a plain sum is not what the factory makes.

        Raises:
          TypeError: always.
        """
        raise TypeError(f"{self.mechanism.name} runs in TFF's executor alone: take the native runtime")

    def factory(self, key: np.ndarray) -> Any:
        """The weighted factory; `key` seeds what can be seeded.

        Raises:
          InvalidInput: TFF refuses the settings, or what was returned is no factory.
        """
        import tensorflow_federated as tff

        seed = int(np.asarray(key, np.int64).view(np.uint64)[0] % _SEEDS)
        name = self.mechanism.name
        try:
            made = self._build(self.setting, seed)
        except (TypeError, ValueError) as error:
            remedy = "change the setting that it names"
            raise InvalidInput([Problem("aggregator", name, f"is refused: {error}", remedy)]) from error
        if isinstance(made, tff.aggregators.UnweightedAggregationFactory):
            return tff.aggregators.as_weighted_aggregator(made)
        if isinstance(made, tff.aggregators.WeightedAggregationFactory):
            return made
        bound = f"gave {type(made).__name__}, which is no aggregation factory"
        remedy = "return a tff.aggregators.WeightedAggregationFactory or UnweightedAggregationFactory"
        raise InvalidInput([Problem("aggregator", name, bound, remedy)])

    def check(self) -> None:
        """Builds the factory and its process once, so that what TFF refuses is known before anything is trained."""
        self.blank_process  # noqa: B018

    @functools.cached_property
    def blank_process(self) -> Any:
        """The aggregation process whatever the key: keys are in the state alone."""
        return self.process(np.zeros([2], np.int64))

    def process(self, key: np.ndarray) -> Any:
        """The aggregation process for the updates of this run.

        Raises:
          InvalidInput: the factory does not take or give updates of this form.
        """
        import tensorflow_federated as tff

        value_type = tff.types.tensorflow_to_type(self.specs)
        factory = self.factory(key)
        try:
            made = factory.create(value_type, tff.TensorType(np.float32))
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self._unfit(f"does not take updates of this form: {_brief(error)}") from error
        result = made.next.type_signature.result.result.member
        if not value_type.is_equivalent_to(result):
            raise self._unfit(f"returns {_brief(result)} for updates of type {_brief(value_type)}")
        return made

    def _unfit(self, bound: str) -> InvalidInput:
        remedy = "let it return a value at tff.SERVER of the same type as the updates"
        return InvalidInput([Problem("aggregator", self.mechanism.name, bound, remedy)])

    def clip_norm_of(self, state: Any) -> float | None:
        """The norm that clips next; None where a state holds none, or none that noise covers."""
        for path in _CLIPS:
            if self.mechanism.private and path is _WITHOUT_NOISE:
                continue
            found: Any = state
            for name in path:
                found = next((value for own, value in _named_values(found) if own == name), None)
            if found is not None and np.ndim(found) == 0:
                return float(found)
        return None

    def check_event(self, state: Any) -> None:
        """Holds TFF to the event that the ledger was charged with for the round that left this state.

        Raises:
          EventMismatch: TFF states another event, or none.
        """
        if not self.mechanism.private:
            return
        charged = self.setting.noise_multiplier
        stated = stated_noise(state)
        if stated is None or not math.isclose(stated, charged, rel_tol=1e-4, abs_tol=1e-9):
            words = "no event that is a Gaussian" if stated is None else f"a Gaussian of noise multiplier {stated:.6g}"
            raise EventMismatch(
                f"{self.mechanism.name}: the ledger was charged with noise multiplier {charged:.6g}, and TFF states "
                f"{words}. Nothing can be claimed for this run. Remedy: let the factory use the noise_multiplier that "
                "it is given."
            )


def _brief(text: Any) -> str:
    words = " ".join(str(text).split()).rstrip(".")
    return words if len(words) <= 200 else f"{words[:200]} ..."


# -- TFF's states ------------------------------------------------------------------------------------------------------


def packed(value: Any) -> np.ndarray:
    """A state of TFF's as bytes: its leaves in their order, names of events as texts among them."""
    buffer = io.BytesIO()
    np.savez(buffer, *[np.asarray(leaf) for leaf in tf.nest.flatten(value)])
    return np.frombuffer(buffer.getvalue(), np.uint8).copy()


def unpacked(held: np.ndarray, like: Any) -> Any:
    """The state again, in the structure of another one of the same process."""
    with np.load(io.BytesIO(held.tobytes()), allow_pickle=False) as content:
        leaves = [content[f"arr_{number}"] for number in range(len(content.files))]
    return tf.nest.pack_sequence_as(like, [one.item() if one.dtype.kind == "S" else one for one in leaves])


def _named_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (name, value) of a nested state, the outer ones first."""
    items: list[tuple[str, Any]] = []
    if hasattr(value, "_asdict"):
        items = list(value._asdict().items())
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = [("", one) for one in value]
    yield from items
    for _, one in items:
        yield from _named_values(one)


def stated_noise(state: Any) -> float | None:
    """The noise multiplier of one Gaussian that costs as much as TFF's event; None without such an event."""
    import dp_accounting

    events = [value for name, value in _named_values(state) if name == "dp_event"]
    if not events:
        return None
    precision = 0.0
    for event in events:
        own = _precision(dp_accounting.DpEvent.from_named_tuple(event))
        if own is None:
            return None
        precision += own
    return math.inf if precision == 0 else 1.0 / math.sqrt(precision)


def _precision(event: Any) -> float | None:
    """The sum of 1 / noise_multiplier**2 over the Gaussians of an event."""
    import dp_accounting

    if isinstance(event, dp_accounting.GaussianDpEvent):
        noise = float(event.noise_multiplier)
        return math.inf if noise == 0 else 1.0 / noise**2
    if isinstance(event, dp_accounting.ComposedDpEvent):
        parts = [_precision(one) for one in event.events]
        return None if any(one is None for one in parts) else sum(one for one in parts if one is not None)
    if isinstance(event, dp_accounting.NoOpDpEvent):
        return 0.0
    return None


def scalars_of(measurements: Any, prefix: str = "") -> dict[str, float]:
    """What TFF's aggregator measured, as far as it is single numbers, by path."""
    found: dict[str, float] = {}
    if isinstance(measurements, dict):
        for name, value in measurements.items():
            found.update(scalars_of(value, f"{prefix}/{name}" if prefix else str(name)))
    elif prefix and not isinstance(measurements, (list, tuple)) and np.ndim(measurements) == 0:
        found[prefix] = float(measurements)
    return found


# -- the built-in ones, and the user's ---------------------------------------------------------------------------------


def _dp() -> Any:
    import tensorflow_federated as tff

    return tff.aggregators.DifferentiallyPrivateFactory


def _counts(setting: Setting) -> dict[str, float]:
    privacy = setting.privacy
    given = {"target_unclipped_quantile": privacy.clip_quantile, "initial_l2_norm_clip": privacy.clip_norm}
    stddev = setting.count_stddev if setting.noise_multiplier > 0 else 0.0
    return {**given, "clipped_count_stddev": float(stddev)}


def _fixed(setting: Setting, seed: int) -> Any:
    return _dp().gaussian_fixed(setting.noise_multiplier, setting.expected, clip=float(setting.privacy.clip_norm))


def _adaptive(setting: Setting, seed: int) -> Any:
    rate = float(setting.privacy.clip_learning_rate)
    return _dp().gaussian_adaptive(setting.noise_multiplier, setting.expected, learning_rate=rate, **_counts(setting))


def _tree(setting: Setting, seed: int) -> Any:
    """One tree over the run, as our twin has it.

    A clip norm changes between trees alone, so that the count which it follows decides nothing here: unless its noise
    is given, it gets so much that it takes a hundredth of the privacy, and the updates have the noise of our twin.
    """
    counts = _counts(setting)
    if setting.privacy.clipped_count_stddev is None:
        counts["clipped_count_stddev"] = _IDLE_COUNT * setting.noise_multiplier
    return _dp().tree_adaptive(
        setting.noise_multiplier,
        setting.expected,
        setting.specs,
        restart_warmup=setting.rounds + 1,
        restart_frequency=setting.rounds + 2,
        clip_learning_rate=float(setting.privacy.clip_learning_rate),
        noise_seed=seed,
        **counts,
    )


def _shares(setting: Setting, seed: int) -> Any:
    import tensorflow_federated as tff

    return tff.learning.ddp_secure_aggregator(setting.noise_multiplier, round(setting.expected))


def _robust(setting: Setting, seed: int) -> Any:
    import tensorflow_federated as tff

    return tff.learning.robust_aggregator(weighted=True)


def _compressed(setting: Setting, seed: int) -> Any:
    import tensorflow_federated as tff

    return tff.learning.compression_aggregator(weighted=True)


for _name, _build in {
    "tff_gaussian_fixed": _fixed,
    "tff_gaussian_adaptive": _adaptive,
    "tff_tree_adaptive": _tree,
    "tff_ddp_secure": _shares,
    "tff_robust": _robust,
    "tff_compressed": _compressed,
}.items():
    register(_name)(functools.partial(FromTff, build=_build))


@register("own_factory")
def own_factory(setting: Setting) -> FromTff:
    """The factory that a plan's mechanism holds, or what its function returns."""
    mechanism = mechanisms.named(setting.privacy.mechanism)
    if not isinstance(mechanism, (OwnFactory, OwnNoisyFactory)):
        raise TypeError(f"{mechanism.name} holds no aggregation factory")
    factory = mechanism.factory

    def build(setting: Setting, seed: int) -> Any:
        if callable(getattr(factory, "create", None)):
            return factory() if isinstance(factory, type) else factory
        known = {
            "noise_multiplier": setting.noise_multiplier,
            "clients_per_round": setting.expected,
            "clip_norm": float(setting.privacy.clip_norm),
            "record_specs": setting.specs,
            "seed": seed,
        }
        return factory(**{name: known[name] for name in arguments_of(factory)})

    return FromTff(setting, build)
