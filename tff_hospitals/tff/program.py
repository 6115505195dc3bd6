"""A plan as a federated program of TFF's: its context, data source, state manager and release managers, and our ledger.

The program is written as TFF users write theirs, without `training/loop.py`. Where the folder holds states, it goes on
from the last one. What it leaves behind:

| place | what |
|---|---|
| `states/` | `tff.program.FileProgramStateManager`: the state after each round |
| `metrics.csv` | `CSVFileReleaseManager`: metrics of training; none where a mechanism covers them |
| `ledger.json` | `LedgerReleaseManager`: charged before each round, with the epsilon after it |
| `certificate.json` | what dp_accounting makes of the same ledger |
| `inside/evaluation.csv` | exact figures of test records, which no epsilon covers |
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_hospitals import models
from tff_hospitals.accounting.certificate import certify
from tff_hospitals.foundations import files
from tff_hospitals.plan import mechanisms
from tff_hospitals.plan.plan import Plan
from tff_hospitals.runtimes.native.context import native_context
from tff_hospitals.tff.client_data import to_client_data
from tff_hospitals.tff.events import LedgerReleaseManager
from tff_hospitals.tff.process import HospitalLearningProcess, build_learning_process, preprocess_fn
from tff_hospitals.training.evaluation import POOLED, Evaluator
from tff_hospitals.training.published_fields import INSIDE
from tff_hospitals.training.round_inputs import RoundDrawer
from tff_hospitals.training.run_streams import run_streams

if TYPE_CHECKING:
    from tff_hospitals.accounting import Ledger
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel


@dataclasses.dataclass(frozen=True)
class ProgramResult:
    """What a program came to.

    Attributes:
      rounds: that are done.
      evaluation: metrics by hospital id and `pooled`, of the last model.
      epsilon: by unit, of the worst client; empty without privacy.
      certificates: dp_accounting's figures for the same ledger, by unit.
      weights: of the last model, trainable and frozen.
      model: that was trained.
      ledger: what was charged.
    """

    rounds: int
    evaluation: dict[str, dict[str, float]]
    epsilon: dict[str, float]
    certificates: dict[str, Any]
    weights: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
    model: FunctionalModel
    ledger: Ledger


class Cohorts(tff.program.FederatedDataSourceIterator):
    """The data sets of each round's cohort, drawn as the plan says: what TFF's own sources cannot (Poisson, cyclic).

    Args:
      clients: of the plan's hospitals, preprocessed.
      drawer: who takes part in a round.
      round_number: 0-based, of the next cohort.
    """

    def __init__(self, clients: Any, drawer: RoundDrawer, round_number: int = 0):
        self._clients, self._drawer, self._round = clients, drawer, round_number

    @property
    def federated_type(self) -> Any:
        """Of the data sets at the clients."""
        element = tff.types.tensorflow_to_type(self._clients.element_type_structure)
        return tff.FederatedType(tff.SequenceType(element), tff.CLIENTS)

    def select(self, k: int | None = None) -> Sequence[tf.data.Dataset]:
        """The next cohort; the plan says how many they are, so that `k` is not looked at."""
        chosen, self._round = self._drawer.cohort(self._round), self._round + 1
        return [self._clients.create_tf_dataset_for_client(one) for one in chosen]

    def to_bytes(self) -> bytes:
        """The number of the next round: all else follows from the plan."""
        return str(self._round).encode()

    @classmethod
    def from_bytes(cls, buffer: bytes) -> Cohorts:
        """Refused: the hospitals' data are no part of a state.

        Raises:
          TypeError: always.
        """
        raise TypeError("a cohort's data sets are made from the plan and its hospitals, not from bytes")


def run_program(
    plan: Plan,
    dataset: HospitalDataset,
    folder: os.PathLike[str] | str,
    on_round: Callable[[int, dict[str, float]], None] | None = None,
) -> ProgramResult:
    """Trains a plan as a TFF program in an isolated worker of TFF's.

    Args:
      plan: what to train.
      dataset: its hospitals.
      folder: for all that the program leaves behind; one that holds states of this plan is gone on with.
      on_round: called after each round with its number, from 1, and the pooled metrics.

    Raises:
      InvalidInput: all problems of the plan, or a folder of another one.
    """
    model = models.build_model(plan.model.name, dataset, **dict(plan.model.options))
    process = build_learning_process(
        model,
        plan,
        clients=dataset,
        input_spec=_clients(plan, dataset).element_type_structure,
        caller_samples=plan.cohort.kind,
        record_copies=1 if mechanisms.record_level(plan.privacy) is not None else None,
    )
    secure = "plain" if mechanisms.summed_securely(plan.privacy) else "refuse"
    with native_context(secure_sum=secure) as context:
        stack = tff.framework.get_context_stack()
        with stack.install(tff.program.NativeFederatedContext(context.asynchronous())):
            return asyncio.run(_program(process, model, plan, dataset, pathlib.Path(folder), on_round))


def _clients(plan: Plan, dataset: HospitalDataset) -> Any:
    return to_client_data(dataset).preprocess(preprocess_fn(plan))


async def _program(
    process: HospitalLearningProcess,
    model: FunctionalModel,
    plan: Plan,
    dataset: HospitalDataset,
    folder: pathlib.Path,
    on_round: Callable[[int, dict[str, float]], None] | None,
) -> ProgramResult:
    (folder / INSIDE).mkdir(parents=True, exist_ok=True)
    ledger = LedgerReleaseManager(process, folder / "ledger.json")
    states = tff.program.FileProgramStateManager(folder / "states", keep_total=2, keep_first=False)
    metrics = tff.program.CSVFileReleaseManager(folder / "metrics.csv", key_fieldname="round")
    evaluations = tff.program.CSVFileReleaseManager(folder / INSIDE / "evaluation.csv", key_fieldname="round")
    evaluate = Evaluator(model, dataset)

    state = await tff.program.materialize_value(process.initialize())
    saved, done = await states.load_latest(state)
    if saved is not None:
        state = saved
    drawer = RoundDrawer(plan, dataset, process.claims.noise, run_streams(plan, dataset, model))
    cohorts = Cohorts(_clients(plan, dataset), drawer, done)
    for number in range(done + 1, plan.rounds + 1):
        output = process.next(state, cohorts.select())
        state, measured = await asyncio.gather(
            tff.program.materialize_value(output.state), tff.program.materialize_value(output.metrics)
        )
        await states.save(state, number)
        found = evaluate(*weights_of(process, state))
        await asyncio.gather(
            metrics.release(_flat(measured.get("client_work", {})), number),
            evaluations.release(dict(found[POOLED]), number),
            ledger.release(measured, number),
        )
        if on_round is not None:
            on_round(number, found[POOLED])
    units = [part.unit for part in process.claims.noise.parts]
    certificates = {unit: certify(ledger.ledger, unit) for unit in units}
    if certificates:
        files.write_json(folder / "certificate.json", certificates)
    weights = weights_of(process, state)
    epsilon = {unit: max(row["epsilon"] for row in ledger.rows if row["unit"] == unit) for unit in units}
    rounds = max(done, plan.rounds)
    return ProgramResult(rounds, evaluate(*weights), epsilon, certificates, weights, model, ledger.ledger)


def weights_of(process: HospitalLearningProcess, state: Any) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Trainable and frozen weights of a state that was materialised."""
    model = state.global_model_weights
    return tuple(map(np.asarray, model.trainable)), tuple(map(np.asarray, model.non_trainable))


def _flat(measured: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in measured.items():
        path = f"{prefix}/{name}" if prefix else name
        found.update(_flat(value, path) if hasattr(value, "items") else {path: value})
    return found
