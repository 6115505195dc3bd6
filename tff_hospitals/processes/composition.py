"""The only composer: from a plan and a model to the four parts of a learning process.

`compose` puts together distributor, client work, aggregator and finalizer as pure functions;
`Composition.tff_process` wraps exactly these as a `tff.learning.templates.LearningProcess`, and the compiled runtime
calls them as they are. A new method is one new part here, never a new loop.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_hospitals.communication.bits import packed_bytes
from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan import mechanisms, poison, review
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.parts import ClientPlan, ServerPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import encoded_transfer, finalizers, settings_by_round
from tff_hospitals.processes.aggregators.base import Aggregator
from tff_hospitals.processes.aggregators.building import build_aggregator
from tff_hospitals.processes.local_training import LocalTraining

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.processes.encoded_transfer import EncodedTransfer
    from tff_hospitals.processes.rounds import RoundInput


_NOTHING: collections.OrderedDict = collections.OrderedDict()


class ServerState(NamedTuple):
    """Everything that is carried from round to round, as nested tuples and ordered dicts of arrays.

    Attributes:
      weights, round_number, aggregator, finalizer: at the server.
      distributor: at the server: the model that hospitals hold, when the broadcast is encoded.
      hospitals: at each hospital, by id: what its last upload left out, with error feedback, what a correction of its
        local steps keeps (`processes.corrections`), its own layers (`processes.local_layers`), or the model that it
        trains on, where hospitals are asynchronous; never two of them.
      client: settings of local training (`LocalTraining.settings`), which every hospital knows from the plan.
    """

    weights: tuple
    round_number: Any
    aggregator: collections.OrderedDict
    finalizer: collections.OrderedDict
    distributor: collections.OrderedDict = _NOTHING
    hospitals: collections.OrderedDict = _NOTHING
    client: collections.OrderedDict = _NOTHING


@dataclasses.dataclass(frozen=True)
class Composition:
    """The parts of one plan's learning process. Equal `signature`s mean equal graphs: learning rates, momenta, clip
    norms and noise are not in them but in the state.

    `transfer` holds the encoders of both directions (None: dense), `hospital_ids` who keep something.
    """

    model: FunctionalModel
    client_work: LocalTraining
    aggregator: Aggregator
    finalizer: finalizers.Finalizer
    signature: str
    transfer: EncodedTransfer | None = None
    hospital_ids: tuple[str, ...] = ()

    def initial_state(self, weights: tuple, streams: Streams, noise_multiplier: float) -> ServerState:
        """State before round 0.

        Args:
          weights: trainable weights, numpy arrays.
          streams: the run's root; the server's noise key is derived from it.
          noise_multiplier: of the server's noise; 0 where the server adds none.
        """
        key = streams.child("server", "noise").key()
        kept = np.zeros([self.client_work.kept_size or self.client_work.scalars], np.float32)
        if self.client_work.starts_apart:
            kept = _flat(weights)
        return ServerState(
            tuple(np.asarray(weight, np.float32) for weight in weights),
            np.int32(0),
            self.aggregator.initial_state(key, noise_multiplier),
            self.finalizer.initial_state(self.model.trainable_specs),
            collections.OrderedDict() if self.transfer is None else self.transfer.no_broadcast(),
            collections.OrderedDict.fromkeys(self.hospital_ids, kept),
            self.client_work.settings(),
        )

    def finish_round(self, state: ServerState, total: Any, noise: Any) -> tuple[ServerState, Any]:
        """The server's half of a round, after contributions were added up."""
        update, aggregator, measurements = self.aggregator.finish(state.aggregator, total, noise)
        weights, finalizer = self.finalizer.apply(state.finalizer, state.weights, update)
        after = state._replace(
            weights=weights, round_number=state.round_number + 1, aggregator=aggregator, finalizer=finalizer
        )
        return after, measurements

    def hospital_round(self, state: ServerState, parameters: Any, element: Any) -> tuple[Any, tf.Tensor, Any]:
        """A hospital's half of a round: its contribution to the sum, its metrics, and what it keeps (None: nothing)."""
        element = collections.OrderedDict(element, **self.told(parameters))
        output = self.client_work(state.weights, state.round_number, element, state.client)
        noise = self.aggregator.hospital_noise(parameters, element["key"])
        contribution = self.aggregator.prepare(parameters, output.delta, output.weight, noise)
        return contribution, output.metrics, output.kept

    def told(self, parameters: Any) -> collections.OrderedDict:
        """What an element holds of the aggregator's parameters: what corrects local steps from the server's side."""
        told = self.client_work.correction is not None and self.client_work.correction.told
        return collections.OrderedDict(told=parameters["told"]) if told else collections.OrderedDict()

    def remembered(self, state: ServerState, hospital_id: str) -> collections.OrderedDict:
        """What an element holds of earlier rounds, from the server and from the hospital itself (numpy)."""
        found = self.told(state.aggregator)
        for name in self.client_work.kept_names:
            found[name] = state.hospitals[hospital_id]
        return found

    @property
    def own_scalars(self) -> int:
        """Numbers of the layers that a hospital keeps, which never travel."""
        return 0 if self.client_work.local is None else self.client_work.local.size

    def own_weights(self, state: ServerState, frozen: tuple) -> dict[str, tuple[tuple, tuple]]:
        """By hospital what travels, and the frozen weights with its own layers (numpy); empty where all travels."""
        local = self.client_work.local
        if local is None:
            return {}
        shared = tuple(np.asarray(weight) for weight in state.weights)
        own = {one: local.own_frozen(frozen, state.hospitals[one]) for one in self.hospital_ids}
        return {one: (shared, tuple(np.asarray(weight) for weight in own[one])) for one in self.hospital_ids}

    def start_of(self, state: ServerState, hospital_id: str, received: tuple) -> tuple:
        """The trainable weights that a hospital's next update is made from (numpy arrays).

        Args:
          state: before the round.
          hospital_id: of the hospital.
          received: the broadcast ones.
        """
        if not self.client_work.starts_apart:
            return received
        shapes = [spec.shape.as_list() for spec in self.model.trainable_specs]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        return tuple(map(np.reshape, np.split(state.hospitals[hospital_id], ends), shapes))

    def fetched(self, before: tuple, after: tuple, one: RoundInput) -> dict[str, np.ndarray]:
        """The models that hospitals of a round train on next, by id; none where all train on the model of a round.

        Args:
          before: trainable weights that the round began with.
          after: those that it made.
          one: the round.
        """
        if not self.client_work.starts_apart or not one.cohort:
            return {}
        old, new = _flat(before), _flat(after)
        return {each.hospital.hospital_id: new if each.waits else old for each in one.cohort}

    def at_hospitals(self, state: ServerState, broadcast_key: Any) -> tuple:
        """The trainable weights that hospitals decode from the next broadcast (numpy arrays)."""
        if self.transfer is None:
            return state.weights
        number, held = int(state.round_number), state.distributor.get("held", ())
        return self.transfer.at(number).send_broadcast(state.weights, held, number == 0, broadcast_key).weights

    def prepared_upload(self, state: ServerState, parameters: Any, element: Any) -> tuple[Any, tf.Tensor]:
        """A hospital's half of a round up to its encoder: what it would send for weight 1, and its metrics."""
        output = self.client_work(state.weights, state.round_number, element, state.client)
        noise = self.aggregator.hospital_noise(parameters, element["key"])
        return self.aggregator.prepare(parameters, output.delta, tf.constant(1.0), noise), output.metrics

    def zero_contribution(self) -> Any:
        """A sum of no contributions, in the structure of the aggregator's."""
        zeros = tuple(tf.zeros(spec.shape) for spec in self.client_work.sent_specs)
        parameters = self.aggregator.parameters(self._blank_aggregator_state())
        one = self.aggregator.prepare(parameters, zeros, tf.constant(0.0), self.aggregator.no_hospital_noise())
        return tf.nest.map_structure(tf.zeros_like, one)

    def server_measurements(self) -> tuple[str, ...]:
        """Names of what the aggregator measures in a round."""
        with tf.Graph().as_default():
            state = self._blank_aggregator_state()
            noise = self.aggregator.server_noise(state)
            _, _, measurements = self.aggregator.finish(state, self.zero_contribution(), noise)
        return tuple(measurements)

    def _blank_aggregator_state(self) -> collections.OrderedDict:
        return tf.nest.map_structure(tf.constant, self.aggregator.initial_state(np.zeros([2], np.int64), 0.0))

    def blank_parameters(self) -> Any:
        """What the aggregator sends to hospitals, in its structure."""
        return self.aggregator.parameters(self._blank_aggregator_state())

    def wire_bytes(self) -> tuple[int, int]:
        """Bytes that cross the wire to and from one hospital in one round: tensor contents, without any transport's
        framing.

        Down: the broadcast weights, the aggregator's parameters and the round number. Up: the contribution; the whole
        numbers of a secure sum without gaps, as many bits each as the modulus has.
        """
        with tf.Graph().as_default():
            parameters = self.aggregator.parameters(self._blank_aggregator_state())
            down = _bytes(self.model.trainable_specs) + _bytes(parameters) + 4
            bits = self.aggregator.modulus_bits
            contribution = self.aggregator.sent(self.zero_contribution())
            return down, _bytes(contribution) if bits is None else packed_bytes(_scalars(contribution), bits)

    def side_bytes(self) -> tuple[int, int]:
        """The part of `wire_bytes` that is not the model and not the update: parameters, weights and counts."""
        down, up = self.wire_bytes()
        dense = _bytes(self.model.trainable_specs)
        return down - dense, up - dense

    def tff_process(self, hospitals_per_round: int, round_number: int = 0) -> Any:
        """The same parts as a `tff.learning.templates.LearningProcess` (imports TFF).

        Args:
          hospitals_per_round: the most of them.
          round_number: the round whose encoders it has, 0-based; all rounds have the same unless their bits change.
        """
        from tff_hospitals.processes import tff_adapters

        transfer = None if self.transfer is None else self.transfer.at(round_number)
        return tff_adapters.build_learning_process(
            self.model, self.client_work, self.aggregator, self.finalizer, hospitals_per_round, transfer
        )


def _flat(weights: tuple) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(one, np.float32)) for one in weights])


def _scalars(structure: Any) -> int:
    return sum(int(np.prod(leaf.shape.as_list())) for leaf in tf.nest.flatten(structure))


def _bytes(structure: Any) -> int:
    return sum(int(np.prod(leaf.shape.as_list())) * leaf.dtype.size for leaf in tf.nest.flatten(structure))


def max_local_steps(plan: Plan, dataset: HospitalDataset) -> int:
    """The most optimiser steps that any hospital takes in one round."""
    return max(noise_plan.steps_per_round(plan, hospital.train.records) for hospital in dataset.hospitals)


_OWN = f"{__package__}."
_tokens = itertools.count()
_token_of: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def architecture(model: FunctionalModel, planned: str) -> str:
    """A name of what a model computes: equal names, equal graphs.

    A graph of Keras' own layers is described by its configuration. Anything else, such as a layer of the user's own,
    may compute different things under one configuration: it is known by its code where it was built from the plan's
    name, and is a model of its own otherwise.

    Args:
      model: any model, also one that the plan does not name.
      planned: the plan's name of the model.
    """
    keras = getattr(model, "keras", None)
    if (
        keras is not None
        and getattr(keras, "_is_graph_network", False)
        and all(_of_keras(layer) for layer in keras._flatten_layers())
    ):
        config = json.loads(keras.to_json())["config"]
        return files.fingerprint([type(model).__name__, config, getattr(model, "learning", "")])
    if getattr(model, "name", None) == planned:
        return f"{planned} {getattr(model, 'program', '')}"
    if model not in _token_of:
        _token_of[model] = f"object {next(_tokens)}"
    return _token_of[model]


def _of_keras(layer: Any) -> bool:
    """Whether a layer's configuration says all that it computes; that of a Lambda does not say what its code reads."""
    return type(layer).__module__.partition(".")[0] == "keras" and not isinstance(layer, tf.keras.layers.Lambda)


def _is_ours(part: Any) -> bool:
    """Whether a rule, or an aggregator with whatever is around it, is one of this package."""
    while hasattr(part, "inner"):
        part = part.inner
    return type(part).__module__.startswith(_OWN)


def _norms_of_state(client_work: LocalTraining, aggregator: Aggregator) -> set[str]:
    """Which clip norms of the plan's privacy are inputs of its program, and so no part of it.

    Only of our own rules: what another's code reads of the plan nobody knows, and two plans would share its program.
    """
    found = {"clip_norm"} if client_work.rule.takes_clip_norm and _is_ours(client_work.rule) else set()
    if _is_ours(aggregator):
        held = aggregator.initial_state(np.zeros(2, np.int64), 0.0)
        outer = mechanisms.record_level(client_work.privacy) is not None
        names = {"clip_norm": "outer_clip_norm" if outer else "clip_norm", "zeroing_norm": "zeroing_norm"}
        found |= {name for key, name in names.items() if key in held}
    return found


def _structure(part: ClientPlan | ServerPlan) -> dict[str, Any]:
    """A part of a plan without the numbers that are inputs of a program; of the others, whether they are used."""
    inputs = {"learning_rate", "momentum", "proximal_mu", "weight_decay", "beta_1", "beta_2", "epsilon"}
    return {name: bool(value) if name in inputs else value for name, value in dataclasses.asdict(part).items()}


def _token_problems(dataset: HospitalDataset, model: FunctionalModel) -> list[Problem]:
    """Numbers in the records that an Embedding has no row for, of the first hospital that has some."""
    look = getattr(model, "token_problems", None)  # TFF's models keep their layers to themselves
    if look is None:
        return []
    for hospital in dataset.hospitals:
        for word, part in (("train", hospital.train), ("test", hospital.test)):
            where = f"{word} part of {hospital.hospital_id}"
            found = look(part.features, dataset.feature_names, where)
            if found:
                return found
    return []


def compose(
    plan: Plan, dataset: HospitalDataset, model: FunctionalModel, *, compile_steps: bool = False
) -> Composition:
    """Composes the learning process of a plan.

    Raises:
      validation.InvalidInput: when the plan has problems, or the model does not fit the plan (BatchNorm under DP, an
        output that does not fit the target).
    """
    raise_if(review.problems(plan, dataset))
    raise_if(model.problems(under_dp=mechanisms.of(plan.privacy).private, records=dataset.examples()))
    if not dataset.recipe:  # else records are read when they are needed
        raise_if(_token_problems(dataset, model))
    trained = sum(spec.shape.num_elements() for spec in model.trainable_specs)
    raise_if([noise_plan.size_problem(plan, dataset, trained)])
    hospitals = len(dataset.hospitals)
    steps = max_local_steps(plan, dataset)
    specs = model.trainable_specs
    completed = noise_plan.completed(plan, dataset)
    scaled = bool(poison.factors(plan.poison)) or mechanisms.hospital_level(plan.privacy).tells == "factor"
    with_factor = scaled or plan.cohort.asynchronous
    by_round = settings_by_round.factors_of(plan)
    inside = mechanisms.record_level(plan.privacy) is not None
    client_work = LocalTraining(
        model,
        plan.client,
        completed,
        max_local_steps=steps,
        compile_steps=compile_steps,
        with_factor=with_factor,
        starts_apart=plan.cohort.asynchronous,
        by_round={
            own: by_round[name]
            for name, own in settings_by_round.AT_HOSPITALS.items()
            if name in by_round and (inside or name != "clip_norm")
        },
    )
    privacy = dataclasses.replace(
        completed,
        noise_multiplier=None,
        target_epsilon=None,
        delta=None,
        conversion=None,
        outer_noise_multiplier=None,
        outer_target_epsilon=None,
        records_per_patient=1,
        selected_from=1.0,
    )
    around = mechanisms.hospital_level(privacy)
    rounds = plan.rounds if around.spans_rounds else 1
    built_with = noise_plan.make(plan, dataset).server_multiplier if around.runs_on else 0.0
    largest_weight = float(max(dataset.records().values())) if plan.weighting == "records" else 1.0
    aggregator = build_aggregator(
        specs,
        plan.privacy,
        plan.cohort,
        hospitals,
        rounds=rounds,
        largest_weight=largest_weight,
        noise_multiplier=built_with,
        client=plan.client,
        by_round={
            name: by_round[prefix + name]
            for name in ("clip_norm", "noise_multiplier")
            if (prefix := "outer_" if inside else "") + name in by_round
        },
    )
    aggregator.check()
    transfer = encoded_transfer.build_encoded_transfer(
        plan.broadcast,
        plan.upload,
        model.trainable_names,
        [spec.shape.as_list() for spec in specs],
        error_feedback=plan.error_feedback,
        skip_below=plan.skip_below,
        late=plan.cohort.asynchronous,
        by_round=plan.by_round,
        rounds=plan.rounds,
    )
    signature = files.fingerprint(
        [
            _structure(plan.client),
            {**dataclasses.asdict(privacy), **dict.fromkeys(_norms_of_state(client_work, aggregator), 0.0)},
            _structure(plan.server),
            dataclasses.asdict(plan.model),
            architecture(model, plan.model.name),
            [str(spec) for spec in (*specs, *model.frozen_specs)],
            [
                {**dataclasses.asdict(plan.cohort), "staleness_exponent": 0.0},  # in the factors of updates
                hospitals,
                steps,
                plan.broadcast,
                plan.upload,
                plan.error_feedback,
                plan.skip_below,
                with_factor,
                model.task,
                model.num_classes,
                list(model.feature_shape),
                rounds,
                largest_weight if privacy.secure_sum else 1.0,
                *([built_with] if around.runs_on else []),
                *([plan.client.learning_rate] if around.tells == "loss" else []),
                *([] if _is_ours(aggregator) else [dataclasses.asdict(plan.client)]),
                {name: by.tolist() for name, by in by_round.items()},
                *([] if transfer is None else [list(map(str, (*transfer.broadcasts, "", *transfer.uploads)))]),
            ],
        ]
    )
    return Composition(
        model,
        client_work,
        aggregator,
        finalizers.build_finalizer(plan.server, by_round.get("server_learning_rate")),
        signature,
        transfer,
        dataset.ids if plan.error_feedback or client_work.kept_names else (),
    )
