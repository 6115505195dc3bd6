"""The charges of one attempt at a run: what it may release is on the disk before the result exists.

Two kinds of runs are charged differently:

* Noise from keys: a round that runs again gives the same bits, so it is one release however often it runs. All planned
  rounds are charged to the data set's odometer at once, and settled when the run ends.
* Noise from the operating system: a round that runs again is another release. Every call's rounds are written to
  `charges.jsonl` in the run directory (and to the odometer) before the call; a resumed run takes its ledger from there,
  with everything that earlier attempts drew, whether or not their results were kept.
"""

from __future__ import annotations

import datetime
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tff_hospitals.accounting import Ledger
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import raise_if
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.charges import Charge, ChargeFile
from tff_hospitals.training.odometer import Odometer, division_of
from tff_hospitals.training.releases import add_ledger, empty_ledger, enter_round, planned_ledger

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.processes.rounds import RoundInput
    from tff_hospitals.training.round_inputs import RoundDrawer

FILE_NAME = "charges.jsonl"


class WriteAhead:
    """The charges of one attempt.

    Args:
      plan, dataset, noise: of the run.
      release: the run's name as a release (`run_streams.release_name`).
      attempt: of a run whose noise follows from keys: the same whenever it is resumed.
      run_dir: where `charges.jsonl` goes; None keeps nothing of the run.
      first_round: 0-based; what an extended run released before belongs to the release that it extends.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        noise: noise_plan.NoisePlan,
        *,
        release: str,
        attempt: str,
        run_dir: pathlib.Path | None,
        first_round: int = 0,
    ):
        self._plan, self._dataset, self._noise, self._first = plan, dataset, noise, first_round
        self._once = not (plan.privacy.secure_noise and noise.parts)
        self._odometer = Odometer(dataset.secret)
        self._journal = None
        if not self._once:
            attempt = release = secrets.token_hex(16)
            self._journal = None if run_dir is None else ChargeFile(run_dir / FILE_NAME)
        self._attempt, self._release = attempt, release
        self._ledger = empty_ledger(dataset, noise)
        self._planned: Charge | None = None
        self._limit: float | None = None
        self._charged: dict[str, int] = {}
        self.copy = 0  # of a tree over rounds: how often the run went back and grew it again
        self._words = {
            "method": plan.label,
            "unit": noise.unit,
            "division": division_of(dataset),
            "began": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }

    @property
    def needed(self) -> bool:
        """Whether there is an odometer to charge."""
        return bool(self._odometer)

    @property
    def charged(self) -> dict[str, int]:
        """How many rounds `charges.jsonl` reaches through, by attempt: a checkpoint keeps it, to know a cut file by."""
        return dict(self._charged)

    def released_before(self, next_round: int, copy: int, charged: Mapping[str, int]) -> tuple[Ledger, int] | None:
        """The ledger of all earlier attempts, and how many rounds they drew in vain.

        Args:
          next_round: where the run goes on, 0-based.
          copy: of the tree over rounds that the checkpoint holds.
          charged: what the checkpoint kept of `charged`.

        Returns:
          None where the checkpoint holds all that happened, because a round that runs again is the same release.

        Raises:
          RecordError: the file of charges is missing, damaged, or holds less than it did.
        """
        if self._journal is None:
            return None
        past, self.copy = self._journal.last_of_attempts(), copy
        self._charged = {charge.attempt: charge.rounds for charge in past}
        cut = any(self._charged.get(attempt, 0) < rounds for attempt, rounds in charged.items())
        if cut or max(self._charged.values(), default=0) < next_round:
            how = "holds less than it did" if past else "is missing"
            raise RecordError(
                f"{self._journal.path} {how}: without it nobody can tell what this run released before it was "
                "interrupted. Remedy: restore the file, or start again with another --run_dir and count what this run "
                "released as lost."
            )
        ledger = empty_ledger(self._dataset, self._noise)
        for charge in past:
            add_ledger(ledger, charge.ledger)
        lost = sum(max(0, charge.rounds - next_round) for charge in past)
        if lost:
            self.copy = len(past)
        return ledger, lost

    def plan_ahead(self, drawer: RoundDrawer, next_round: int, limit: float | None = None) -> Ledger:
        """What the rest of the run will release; nothing is charged yet.

        Args:
          drawer: of the run's cohorts.
          next_round: where the run begins or goes on, 0-based.
          limit: `--max_total_epsilon`, None without one.

        Raises:
          validation.InvalidInput: the run would break the limit on all runs together.
        """
        first = self._first if self._once else next_round
        ledger = planned_ledger(self._plan, self._dataset, self._noise, drawer.cohort, first)
        self._planned, self._limit = self._charge(self._plan.rounds, ledger), limit
        if limit is not None:
            raise_if(self._odometer.problems(limit, self._planned))
        return ledger

    def begin(self) -> None:
        """Charges what was planned, where all of it is one release however often it runs.

        Raises:
          validation.InvalidInput: another run was charged since `plan_ahead`, and the limit would be broken.
        """
        if self._once and self._odometer and self._planned is not None:
            self._odometer.charge(self._planned, self._limit)

    def before(self, inputs: Sequence[RoundInput]) -> None:
        """Charges rounds that are about to run; nothing of them exists before this returns.

        Raises:
          validation.InvalidInput: runs that were started beside this one have used up the limit on all together.
        """
        if self._once:
            return
        for one in inputs:
            steps = {h.hospital.hospital_id: h.schedule.steps for h in one.cohort}
            enter_round(self._ledger, self._noise, one.number, steps, self.copy)
        charge = self._charge(inputs[-1].number + 1, self._ledger)
        self._odometer.charge(charge, self._limit)
        if self._journal is not None:
            self._journal.append(charge)
            self._charged[self._attempt] = charge.rounds

    def settle(self, ledger: Ledger, rounds: int) -> None:
        """Settles the charges: what really happened replaces what was planned, where it is something else."""
        if self._planned is None or not self._once or not self._noise.parts:
            return
        happened = empty_ledger(self._dataset, self._noise)
        add_ledger(happened, ledger, self._first)
        if happened != self._planned.ledger:
            self._odometer.charge(self._charge(rounds, happened, settled=True))

    def _charge(self, rounds: int, ledger: Ledger, settled: bool = False) -> Charge:
        return Charge(self._attempt, self._release, rounds, ledger, settled, self._words)
