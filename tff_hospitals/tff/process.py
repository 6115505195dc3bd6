"""Out: our plans as standard learning processes of TFF.

What `build_learning_process` returns is a `tff.learning.templates.LearningProcess` like those of TFF's own builders:
`initialize()` gives the model's real start, `next(state, [dataset, ...])` takes ordinary data sets, and
`get_model_weights`, `set_model_weights`, `get_hparams` and `set_hparams` are there. It runs in any TFF context.

What TFF draws, this code cannot see. So what a promise of privacy takes for granted about the caller is an argument
that has to be given: how clients are sampled (`caller_samples`), and how often a record may come in a client's data
(`record_copies`). `HospitalLearningProcess.claims` says it in words, and `events` accounts for exactly that.

Example (needs TFF)::

    process = tff_hospitals.build_learning_process(make_keras_model, Plan())
    state = process.initialize()
    for round_number in range(10):
        result = process.next(state, [clients.create_tf_dataset_for_client(one).batch(20) for one in chosen])
        state = result.state
    process.get_model_weights(state).assign_weights_to(keras_model)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.computation import computation_impl

from tff_hospitals.foundations import quiet
from tff_hospitals.foundations.validation import Problem, raise_if, whole_number
from tff_hospitals.hospitals import HospitalDataset
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition, tff_adapters
from tff_hospitals.processes.aggregators.from_tff import FromTff
from tff_hospitals.tff import client_work, data_spec, model_kinds
from tff_hospitals.tff import clients as client_sizes
from tff_hospitals.tff.aggregation import WithOwnKeys
from tff_hospitals.tff.encoding import codec_of_uploads, encoded_distributor
from tff_hospitals.tff.model_kinds import AnyModel, TffModel
from tff_hospitals.tff.saving import let_states_be_saved
from tff_hospitals.training.run_streams import run_streams

if TYPE_CHECKING:
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.tff.clients import Clients


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a process promises, and of whom it takes what for granted.

    Attributes:
      plan: of the process.
      clients: ids and numbers of records that the noise was made for.
      noise: multipliers and releases.
      caller_samples: how the caller draws the clients of a round.
      record_copies: how often a record may come in the data that the caller hands over.
    """

    plan: Plan
    clients: HospitalDataset
    noise: noise_plan.NoisePlan
    caller_samples: str
    record_copies: int

    @property
    def words(self) -> tuple[str, ...]:
        """Sentences for a reader of the results."""
        if not client_work.is_private(self.plan):
            return ("Nothing is promised: no noise is added.",)
        cohort, size = self.plan.cohort, len(self.clients)
        found = [f"The clients are those {size} whose numbers of records were given; others were not accounted for."]
        if self.noise.hospital_level is not None:
            chance, count = cohort.sampling_probability, cohort.hospitals_per_round
            found.append(
                {
                    "all": "Any of them may take part in any round.",
                    "poisson": f"The caller lets each take part in a round on its own with probability {chance}.",
                }.get(
                    self.caller_samples, f"The caller draws cohorts of kind {self.caller_samples!r}, {count} a round."
                )
            )
        if mechanisms.record_level(self.plan.privacy) is not None:
            often = "once" if self.record_copies == 1 else f"{self.record_copies} times"
            found.append(
                f"A record comes at most {often} in a client's data. The client draws the batches from it, with fresh "
                "random bits of its operating system; they cannot be drawn again."
            )
        return tuple(found)


class CheckedNext(computation_impl.ConcreteComputation):
    """`next`, which looks at the data sets before TFF does: a wrong one is named in one line.

    Args:
      computation: `next` of a learning process.
      data: what the clients' data sets must look like.
    """

    def __init__(self, computation: Any, data: data_spec.DataSpec):
        super().__init__(
            computation_proto=computation_impl.ConcreteComputation.get_proto(computation),
            context_stack=tff.framework.get_context_stack(),
            annotated_type=computation.type_signature,
        )
        self._data = data
        self.before_round: list[Callable[[Any, int | None], None]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a round.

        Raises:
          InvalidInput: a data set that does not fit, of any of the clients.
        """
        state, datasets = (*args, *kwargs.values(), None, None)[:2]
        known = isinstance(datasets, (list, tuple))
        if known:
            raise_if(self._data.problems(datasets))
        for call in self.before_round:
            call(state, len(datasets) if known else None)
        return super().__call__(*args, **kwargs)


class HospitalLearningProcess(tff.learning.templates.LearningProcess):
    """A standard learning process that knows what it promises.

    Attributes:
      claims: what its privacy rests on.
      data: what a client's data set must look like.
    """

    def __init__(self, made: tff.learning.templates.LearningProcess, data: data_spec.DataSpec, claims: Claims):
        self._checked = CheckedNext(made.next, data)
        super().__init__(
            made.initialize,
            self._checked,
            made.get_model_weights,
            made.set_model_weights,
            get_hparams_fn=made.get_hparams,
            set_hparams_fn=made.set_hparams,
        )
        self.data, self.claims = data, claims

    def before_round(self, call: Callable[[Any, int | None], None]) -> None:
        """Has `call(state, number of clients)` called before every round; None where TFF holds the data sets."""
        self._checked.before_round.append(call)


def build_learning_process(
    model: AnyModel,
    plan: Plan,
    *,
    clients: Clients | None = None,
    input_spec: Any = None,
    task: str | None = None,
    caller_samples: str | None = None,
    record_copies: int | None = None,
) -> HospitalLearningProcess:
    """A plan as a `tff.learning.templates.LearningProcess`.

    The plan's hospitals, cohorts and batches are the caller's business here, as everywhere in TFF: batched data sets
    are taken as they come, once (`preprocess_fn` makes them as the plan says). Under record-level privacy data sets are
    of single records, and each client draws the plan's batches itself.

    Args:
      model: a function that returns a Keras model or a `VariableModel`, a `tff.learning.models.FunctionalModel`, a
        `models.FunctionalModel`, or (with `clients` a data set) a name of `models.list_models()`.
      plan: what to train; its seed decides the first weights. The server's noise follows from the whole plan and the
        secret of the data set; where `clients` are numbers alone, from a secret of this process.
      clients: a `HospitalDataset`, or each client's number of training records by id. A plan with privacy needs it:
        noise and epsilon follow from it.
      input_spec: `dataset.element_spec` of a client's data set; default (float32 features, labels).
      task: `binary`, `multiclass` or `regression` of a Keras function; by default from its outputs.
      caller_samples: how the caller draws the clients of a round; needed where the promise depends on it, and then the
        plan's `cohort.kind`.
      record_copies: how often a record may come in a client's data set; needed with record-level privacy.

    Raises:
      InvalidInput: all problems of plan, model and arguments at once, before anything is built.
    """
    quiet.allow_deep_protocol_buffers()
    let_states_be_saved()
    by_record = mechanisms.record_level(plan.privacy) is not None
    raise_if(_argument_problems(plan, clients, caller_samples, record_copies))
    known = model_kinds.understood(model, clients, input_spec=input_spec, task=task, batched=not by_record)
    dataset = client_sizes.described(clients, known.signature)
    if isinstance(known, TffModel):
        raise_if(_tff_model_problems(plan))
        data = data_spec.build(known.input_spec, None, tf.int64, batched=True)
    else:
        label_type = tf.float32 if known.task == "regression" else tf.int64
        data = data_spec.build(input_spec, known.feature_shape, label_type, batched=not by_record)
    # The codec is left to `encoding`: the composition's own expects draws that a runtime hands in.
    parts = composition.compose(plan.replace(broadcast="", upload=""), dataset, cast("FunctionalModel", known))
    noise = noise_plan.make(plan, dataset)
    weights = model_kinds.initial_weights(known, plan.seed)

    @tff.tensorflow.computation
    def initial_weights() -> Any:
        return tff.learning.models.ModelWeights(*(tuple(map(tf.constant, part)) for part in weights))

    weights_type = initial_weights.type_signature.result
    if isinstance(known, TffModel):
        work = client_work.of_tff(plan, known)
        weights_type = work.next.type_signature.parameter[1].member
        initial_weights = _in_containers_of(initial_weights, weights_type)
    else:
        multipliers = client_work.Multipliers.of(noise, dataset.records()) if by_record else None
        work = client_work.build(plan, parts.client_work, weights_type, data, multipliers)
    key = run_streams(plan, dataset, cast("FunctionalModel", known)).server_noise()
    codec = codec_of_uploads(plan, [spec.shape.as_list() for spec in known.trainable_specs])
    if isinstance(parts.aggregator, FromTff):
        aggregation = parts.aggregator.factory(key)
    else:
        aggregation = tff_adapters.LinearAggregationFactory(
            WithOwnKeys(parts.aggregator, key, noise.server_multiplier, codec)
        )
    update_type = work.next.type_signature.result.result.member.update
    made = tff.learning.templates.compose_learning_process(
        initial_weights,
        _distributor(plan, weights_type),
        work,
        aggregation.create(update_type, tff.TensorType(np.float32)),
        tff_adapters.build_finalizer(parts.finalizer, known.trainable_specs, weights_type),
    )
    claims = Claims(plan, dataset, noise, caller_samples or "all", record_copies or 1)
    return HospitalLearningProcess(made, data, claims)


def preprocess_fn(plan: Plan, *, seed: int | None = None) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """What makes a client's records into the data set of a round as the plan says, for `ClientData.preprocess`.

    Passes in new random orders, batches, and as many steps as the plan has; under record-level privacy nothing, because
    the client draws its batches itself.

    Args:
      plan: with the number of passes or steps, and the batch size.
      seed: of the orders; None: other ones each time.
    """
    client = plan.client

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        if mechanisms.record_level(plan.privacy) is not None:
            return dataset
        buffer = tf.cast(tf.maximum(tf.constant(1, tf.int64), dataset.cardinality()), tf.int64)
        shuffled = dataset.shuffle(buffer, seed=seed, reshuffle_each_iteration=True).batch(client.batch_size)
        if client.local_steps is not None:
            return shuffled.repeat().take(client.local_steps)
        return shuffled.repeat(int(client.local_epochs or 1))

    return preprocess


def _argument_problems(
    plan: Plan, clients: Clients | None, caller_samples: str | None, record_copies: int | None
) -> list[Problem | None]:
    """What the caller has to say, and does not."""
    private, kind = client_work.is_private(plan), plan.cohort.kind
    found: list[Problem | None] = []
    if clients is None and (private or kind != "all" or mechanisms.summed_securely(plan.privacy)):
        what = "with privacy" if private else f"with cohorts of kind {kind!r}"
        bound = f"is needed by a plan {what}: noise, cohorts and epsilon follow from who the clients are"
        found.append(Problem("clients", None, bound, "give a HospitalDataset, or numbers of records by client id"))
    if mechanisms.hospital_level(plan.privacy).private and kind != "all" and caller_samples != kind:
        bound = "must say how clients are drawn: the plan's noise takes it for granted"
        remedy = f"draw them so and give caller_samples={kind!r}, or plan with cohort kind 'all'"
        found.append(Problem("caller_samples", caller_samples, bound, remedy))
    elif caller_samples is not None and caller_samples != kind:
        bound = f"must be the plan's cohort kind, {kind!r}"
        found.append(Problem("caller_samples", caller_samples, bound, "leave it out, or change the plan"))
    if mechanisms.record_level(plan.privacy) is not None:
        remedy = "give record_copies=1 for data without repeat(), else how often a record may come"
        if record_copies is None:
            bound = "is needed with record-level privacy: a record that comes twice needs twice the noise"
            found.append(Problem("record_copies", None, bound, remedy))
        else:
            found.append(whole_number("record_copies", record_copies, low=1, remedy=remedy))
            own = clients.records_per_patient if isinstance(clients, HospitalDataset) else 1
            most = plan.privacy.records_per_patient or own
            if isinstance(record_copies, int) and record_copies > most:
                bound = f"must be at most records_per_patient of the plan, {most}"
                found.append(Problem("record_copies", record_copies, bound, "raise records_per_patient in the plan"))
    if plan.privacy.secure_noise:
        bound = "takes every number from numpy, which TFF's executor cannot call"
        found.append(Problem("secure_noise", True, bound, "leave it out: clients draw keys from their systems anyway"))
    around = mechanisms.hospital_level(plan.privacy)
    if around.tells != "weight" or around.corrects:
        bound = f"{around.name} needs more than the sum of weighted updates, which is what TFF's server gets"
        found.append(Problem("mechanism", around.name, bound, "take norm_bound, or use --runtime=native"))
    if plan.model.local_layers:
        bound = "need a memory at the client, which TFF's stateless clients do not have"
        found.append(Problem("local_layers", plan.model.local_layers, bound, "use --runtime=native"))
    if plan.personal.kind != "none":
        bound = "follows the last round of our own loop, which a program of TFF's does not tell"
        found.append(Problem("personalisation", plan.personal.kind, bound, "leave it out, or use --runtime=native"))
    if plan.cohort.asynchronous:
        bound = "needs clients that fetched models at different times, and TFF's begin every round with one model"
        found.append(Problem("cohort", kind, bound, "set the cohort kind 'all', or use --runtime=native"))
    if plan.poison:
        bound = "names hospitals, and clients of TFF have no names"
        found.append(Problem("poison", plan.poison, bound, "poison the caller's data, or use --runtime=native"))
    if plan.by_round:
        bound = "changes settings by the round of our own loop, which a program of TFF's does not tell"
        found.append(Problem("by_round", plan.by_round, bound, "leave it out, or use --runtime=native"))
    if plan.error_feedback or plan.skip_below is not None:
        bound = "need a memory at the client, which TFF's stateless clients do not have"
        found.append(Problem("error_feedback, skip_below", True, bound, "leave them out, or use --runtime=native"))
    return found


def _tff_model_problems(plan: Plan) -> list[Problem | None]:
    client, schedule = plan.client, plan.client.learning_rate_schedule
    by_record = mechanisms.record_level(plan.privacy) is not None
    cases = [
        (by_record, "mechanism", plan.privacy.mechanism, "clips the gradient of every record"),
        (
            client.optimizer == "adamw",
            "client_optimizer",
            client.optimizer,
            "is an optimiser of our own",
        ),
        (bool(client.proximal_mu), "proximal_mu", client.proximal_mu, "is a term in our own local training"),
        (schedule != "constant", "learning_rate_schedule", schedule, "is part of our own local training"),
    ]
    bound, remedy = "and a model of TFF's trains by TFF's client work", "give a function that returns a Keras model"
    return [Problem(name, value, f"{why}, {bound}", remedy) for given, name, value, why in cases if given]


def _distributor(plan: Plan, weights_type: Any) -> tff.learning.templates.DistributionProcess:
    if not plan.broadcast or plan.broadcast == "none":
        return tff_adapters.build_distributor(weights_type)
    return encoded_distributor(plan.broadcast, seed=plan.seed).create(weights_type)


def _in_containers_of(initial_weights: Any, weights_type: Any) -> Any:
    """The same weights in the lists or tuples that TFF's client work was built with."""

    @tff.tensorflow.computation
    def repacked() -> Any:
        values = initial_weights()
        return tff.learning.models.ModelWeights(list(values.trainable), list(values.non_trainable))

    return repacked if repacked.type_signature.result.is_equivalent_to(weights_type) else initial_weights
