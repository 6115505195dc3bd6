"""A finished run, rebuilt from its directory: plan, hospitals, model, weights, ledger and stored updates."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations import files
from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import InvalidInput, Problem
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.training.extension import extension
from tff_hospitals.training.run_record import fullest, read_record
from tff_hospitals.training.updates import StoredRound, UpdateFolder

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.processes.composition import Composition
    from tff_hospitals.training.extension import Extension
    from tff_hospitals.training.results import Run


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedRun:
    """Everything of a run that an audit needs.

    Attributes:
      folder: the run directory; None: the run was kept in memory.
      plan, dataset, model: rebuilt.
      weights, frozen: the final model.
      ledger: what the run released.
      summary: its summary.json.
      rounds: rounds that were run.
      extension: what the run was before it was extended; None where it was not.
      drawn_elsewhere: who drew batches and noise in place of our streams, in words; "": nobody.
      strategy: with which its rounds were run; None where its record does not say.
    """

    folder: pathlib.Path | None
    plan: Plan
    dataset: HospitalDataset
    model: FunctionalModel
    weights: tuple[np.ndarray, ...]
    frozen: tuple[np.ndarray, ...]
    ledger: Ledger
    summary: Mapping[str, Any]
    rounds: int
    extension: Extension | None = None
    drawn_elsewhere: str = ""
    strategy: str | None = None

    def __post_init__(self) -> None:
        """Refuses what an attack could not query.

        Raises:
          InvalidInput: layers that hospitals keep.
        """
        if self.plan.model.local_layers:
            bound = "leave no model of all hospitals that an attack could ask"
            remedy = "audit the same plan without --local_layers"
            raise InvalidInput([Problem("local_layers", self.plan.model.local_layers, bound, remedy)])

    @functools.cached_property
    def composition(self) -> Composition:
        """The run's learning process."""
        return composition.compose(self.plan, self.dataset, self.model)

    @functools.cached_property
    def continues(self) -> list[str]:
        """Names of the releases that the run goes on from."""
        return [] if self.extension is None else self.extension.releases(self.dataset, self.model)

    def noise(self, plan: Plan | None = None) -> noise_plan.NoisePlan:
        """The noise of the run, or of another plan in its place; of an extended run, that of its first rounds."""
        plan = self.plan if plan is None else plan
        if self.extension is not None:
            plan = plan.replace(rounds=self.extension.calibrated.rounds)
            if plan.privacy.target_epsilon is not None:
                plan = self.extension.calibrated.replace(seed=plan.seed)
        return noise_plan.make(plan, self.dataset)

    def stored_rounds(self) -> list[StoredRound]:
        """The stored updates, round by round.

        Raises:
          records.RecordError: the run stored none; says which flag would have.
        """
        folder = None if self.folder is None else UpdateFolder(self.folder)
        numbers = () if folder is None else folder.rounds()
        if folder is None or not numbers:
            raise files.RecordError(
                f"{self.folder} holds no stored updates (updates/), which this attack needs. Remedy: train again into "
                "a new folder with --store_updates=1."
            )
        return [folder.read(number) for number in numbers]


def in_memory(run: Run, dataset: HospitalDataset) -> LoadedRun:
    """A run that has just been trained, as if it had been read from a directory.

    Args:
      run: its result.
      dataset: the hospitals that trained.
    """
    rounds = int(run.summary.get("rounds") or run.plan.rounds)
    common = (run.plan, dataset, run.model, run.weights, run.frozen, run.ledger, run.summary)
    return LoadedRun(run.directory, *common, rounds)


def load_run(run_dir: os.PathLike[str] | str, given: HospitalDataset | None = None) -> LoadedRun:
    """Rebuilds a finished run from its directory.

    Args:
      run_dir: the directory.
      given: the hospitals that the plan was trained for; None: as the plan names them.

    Raises:
      records.RecordError: no finished run, files missing or damaged, or data that are not those of the run any more.
    """
    from tff_hospitals.training.loop import build_model

    folder = pathlib.Path(run_dir)
    if not (folder / "plan.json").is_file():
        what = "a comparison" if (folder / "comparison.json").is_file() else "no run"
        raise files.RecordError(
            f"{folder} holds {what}: there is no plan.json. Remedy: name the --run_dir of scripts/train.py, or a "
            "folder below runs/ of a comparison."
        )
    if not (folder / "summary.json").is_file():
        raise files.RecordError(f"{folder} holds a run that has not finished. Remedy: start the same command again.")
    plan = Plan.from_json(files.read_json(folder / "plan.json"))
    record = read_record(folder)
    summary = files.read_json(fullest(folder, "summary.json"))
    dataset = _dataset(plan, record["dataset"], given)
    if dataset.fingerprint() != record["dataset"]["fingerprint"]:
        raise files.RecordError(
            f"{folder} was trained on other data: {dataset.name} has the fingerprint {dataset.fingerprint()} now, the "
            f"run recorded {record['dataset']['fingerprint']}. Remedy: restore the data that it was trained on."
        )
    if [h.hospital_id for h in dataset] == ["all_records"]:  # its test records are those of the hospitals
        everyone = _dataset(plan, {**record["dataset"], "hospitals": []}, given).pooled_test()
        dataset = dataclasses.replace(
            dataset, hospitals=tuple(dataclasses.replace(h, test=everyone) for h in dataset.hospitals)
        )
    model = build_model(plan, dataset)
    if record["model"] not in ("", model.identity):
        raise files.RecordError(
            f"{folder} was trained with another model than {plan.model.name} is now: its code, configuration or "
            "starting weights were changed. Remedy: restore what it was trained with."
        )
    initial, frozen = model.initial_weights(Streams.from_seed(plan.seed).child("model").key())
    return LoadedRun(
        folder,
        plan,
        dataset,
        model,
        _final_weights(folder, model, len(initial)),
        frozen,
        Ledger.from_json(files.read_json(folder / "ledger.json")),
        summary,
        int(summary.get("rounds") or plan.rounds),
        extension(plan, folder),
        strategy=record.get("execution", {}).get("strategy"),
    )


def _dataset(plan: Plan, described: Mapping[str, Any], given: HospitalDataset | None) -> HospitalDataset:
    """The hospitals that trained: those of the plan, all of their records in one place, or one of them alone."""
    from tff_hospitals.hospitals import Hospital, Part, load_dataset

    data, options = plan.data, dict(plan.data.options)
    ids = [hospital["id"] for hospital in described["hospitals"]]
    pooled = ids == ["all_records"]
    if described["preprocessing"]["kind"] == "pooled":
        options["scaling"] = "pooled"
    dataset = given
    if dataset is None:
        dataset = load_dataset(data.name, partition=data.partition, sites=data.sites, seed=data.seed, **options)
    if pooled:
        train = dataset.pooled_train()
        return dataclasses.replace(
            dataset, hospitals=(Hospital(ids[0], train, Part(train.features[:0], train.labels[:0])),)
        )
    if ids and set(ids) < set(dataset.ids):
        return dataclasses.replace(dataset, hospitals=tuple(dataset.hospital(one) for one in ids))
    return dataset


def _final_weights(folder: pathlib.Path, model: FunctionalModel, count: int) -> tuple[np.ndarray, ...]:
    """From the newest checkpoint; from model.keras when checkpoints were removed."""
    from tff_hospitals.training.checkpoints import CheckpointFolder

    checkpoint, _ = CheckpointFolder(folder / "checkpoints").latest()
    if checkpoint is not None:
        return tuple(checkpoint.arrays[:count])
    path = folder / "model.keras"
    if not path.is_file():
        raise files.RecordError(f"{folder} holds neither checkpoints nor model.keras. Remedy: train again.")
    return model.weights_of_file(path)
