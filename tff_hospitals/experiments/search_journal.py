"""The journal of a search: one owner, helpers beside it, and taken up again after any kill.

Optuna appends what every process does to one file, under a lock that is a link beside it. A process that is killed may
leave a lock that nobody holds, half a line, and trials that are still called running. Whoever owns the journal next
takes these away; helpers die with the owner, so that nobody else writes by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.random_streams import Streams

JOURNAL = "journal.log"
_OWNER = "journal.owner"
_STUDY = "search"


@contextlib.contextmanager
def owned(folder: pathlib.Path) -> Iterator[None]:
    """While this is open, no other search owns the folder's journal; what a kill left there is taken away.

    Raises:
      RecordError: another process searches there.
    """
    with open(folder / _OWNER, "ab") as owner:
        try:
            fcntl.flock(owner.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(
                f"another process searches in {folder}. Remedy: wait for it, or name another --run_dir. Two at once "
                "are what --workers=2 is for."
            ) from None
        for left in folder.glob(f"{JOURNAL}.lock*"):
            left.unlink(missing_ok=True)
        _cut_off_torn_line(folder / JOURNAL)
        yield


def _cut_off_torn_line(path: pathlib.Path) -> None:
    """Removes the part of a line that a full disk or a power cut left at the end: all after it would be unreadable."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def study(folder: pathlib.Path, upward: Sequence[bool], *, seed: int, pruner: str, rounds: int) -> Any:
    """The Optuna study of a search in a folder, begun or taken up: TPE for one objective, NSGA-II for several.

    Args:
      folder: of the journal.
      upward: of each objective, whether more is better.
      seed: of the proposals.
      pruner: `none`, `median` or `hyperband`.
      rounds: of each trial.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import StudyDirection

    one = len(upward) == 1
    kind = optuna.samplers.TPESampler if one else optuna.samplers.NSGAIISampler
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=rounds // 3),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(max_resource=rounds),
    }
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=_STUDY,
        load_if_exists=True,
        directions=[StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in upward],
        sampler=_sampler(kind, seed),
        pruner=pruners[pruner]() if one else optuna.pruners.NopPruner(),
    )


def _sampler(kind: Callable[..., Any], seed: int) -> Any:
    """Proposals that follow from the seed, the number of the trial and the trials before it.

    One generator that goes on from trial to trial would begin anew in every process: helpers, and a search that is
    taken up again, would try the settings of the first trials once more.
    """
    import optuna

    streams = Streams.from_seed(seed)

    class OfTrial(optuna.samplers.BaseSampler):
        def _one(self, trial: Any, setting: str = "") -> Any:
            return kind(seed=int(streams.child("proposal", trial.number, setting).generator().integers(2**31)))

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._one(trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._one(trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            of_one = self._one(trial, param_name)
            return of_one.sample_independent(study, trial, param_name, param_distribution)

        def before_trial(self, study: Any, trial: Any) -> None:
            self._one(trial).before_trial(study, trial)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self._one(trial).after_trial(study, trial, state, values)

    return OfTrial()


def take_up_again(study: Any) -> None:
    """Trials that a kill cut short are tried again with the same settings."""
    from optuna.trial import TrialState

    again = {trial.user_attrs.get("again") for trial in study.trials}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        elif not cut_short(trial):
            continue
        if trial.params and trial.number not in again:
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})


def cut_short(trial: Any) -> bool:
    """Whether a trial ended without a result and without a reason."""
    return trial.state.name == "FAIL" and "failed" not in trial.user_attrs


def done(study: Any) -> int:
    """How many trials have a result, or a reason for none."""
    return sum(trial.state.is_finished() and not cut_short(trial) for trial in study.trials)


def surplus(study: Any, trial: Any, count: int) -> bool:
    """Whether as many trials as were asked for, or paid for, were begun before this one, by whichever process."""
    before = [one for one in study.trials if one.number < trial.number]
    return sum(not cut_short(one) for one in before) >= count
