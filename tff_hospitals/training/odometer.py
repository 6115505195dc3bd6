"""The odometer of a data set: everything that was ever released about it, whoever started the runs.

It lies beside the data set's secret key (`HospitalDataset.secret.folder`), and every run writes its charge there before
its first result exists: a run whose noise follows from keys is charged for all of its planned rounds at once and
settled when it ends, one whose noise nobody can draw again for every round anew.

* A run that is repeated, resumed or read again is the same release, bit for bit, and counts once.
* Runs without a mechanism are named and not added: no epsilon covers them.
* Runs on the hospitals as they are add up hospital by hospital. Where the same records were also spread over simulated
  sites, nobody can tell which site met which hospital, so that the worst of each is added.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import UNITS, Ledger, joint_ledger
from tff_hospitals.foundations.validation import Problem, in_range, raise_if
from tff_hospitals.training.charges import Charge, ChargeFile

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.hospitals.secret import DataSecret

FILE_NAME = "odometer.jsonl"
_MOST_MEETINGS = 256  # of sites of one division with sites of another; beyond it epsilons are added


@dataclasses.dataclass(frozen=True)
class Total:
    """What all runs on one data set released together about one unit of privacy.

    Attributes:
      unit: "record" or "hospital".
      epsilon: joint, at `delta`; infinite where one of the runs gives no guarantee.
      delta: of the joint epsilon.
      adjacency: that it holds under; "" where runs of several were added up.
      runs: how many releases it holds.
    """

    unit: str
    epsilon: float
    delta: float
    adjacency: str
    runs: int


class Odometer:
    """The odometer of one data set.

    Args:
      secret: of the data set; without a folder nothing outlives the process and nothing is kept.
    """

    def __init__(self, secret: DataSecret):
        self.file = None
        if secret.folder is not None:
            # Embedded public data have nobody to protect: their odometer need not survive a power cut.
            self.file = ChargeFile(secret.folder / FILE_NAME, durable=not secret.public)

    def __bool__(self) -> bool:
        return self.file is not None

    def charge(self, charge: Charge, limit: float | None = None) -> None:
        """Adds a charge; it is on the disk when this returns.

        Args:
          charge: to add.
          limit: the largest joint epsilon, looked at while nobody else can add a charge; None: none.

        Raises:
          files.RecordError: it cannot be written.
          validation.InvalidInput: with it all runs together would be beyond the limit, or there is no file to count
            them in; nothing was added.
        """
        within = None if limit is None else lambda: raise_if(self.problems(limit, charge))
        if self.file is not None:
            self.file.append(charge, within)
        elif within is not None:
            within()

    def releases(self) -> list[Charge]:
        """One charge for each release: of attempts that release the same bits the longest counts."""
        found: dict[str, Charge] = {}
        for charge in [] if self.file is None else self.file.last_of_attempts():
            known = found.get(charge.release)
            if known is None or charge.rounds > known.rounds:
                found[charge.release] = charge
        return list(found.values())

    def totals(self, more: Sequence[Charge] = ()) -> list[Total]:
        """What was released so far about each unit that a run protected, and with `more` about to be released.

        The delta is the largest of any run: a smaller one would overstate what the others promise.
        """
        charges = {charge.release: charge for charge in (*self.releases(), *more)}
        private = [charge for charge in charges.values() if charge.ledger.units()]
        found = []
        for unit in UNITS:
            having = [charge for charge in private if unit in _says_something_about(charge.ledger)]
            if having:
                delta = max(charge.ledger.delta for charge in having)
                epsilon, adjacency = _joint_epsilon(having, unit, delta)
                found.append(Total(unit, epsilon, delta, adjacency, len(having)))
        return found

    def without_guarantee(self) -> list[Charge]:
        """Runs that no epsilon covers."""
        return [charge for charge in self.releases() if not charge.ledger.units()]

    def limit_problems(self, limit: float) -> list[Problem]:
        """Why a limit cannot be kept at all, whatever is planned."""
        remedy = "give the largest epsilon that all runs on these data may reach together, such as 8"
        wrong = in_range("max_total_epsilon", limit, low=0.0, low_open=True, remedy=remedy)
        if wrong is not None:
            return [wrong]
        if self.file is None:
            bound = "needs an odometer, which data in memory have not: nothing of them outlives the process"
            return [Problem("max_total_epsilon", limit, bound, "load the data from files, or count by hand")]
        return []

    def problems(self, limit: float, *planned: Charge) -> list[Problem]:
        """Why runs may not begin: with them, a unit at some hospital would be beyond the limit on everything together.

        Args:
          limit: the largest joint epsilon, for every unit.
          planned: what the runs will release at most.
        """
        if wrong := self.limit_problems(limit):
            return wrong
        if not all(one.ledger.units() for one in planned):
            bound = "cannot be kept by a run without a mechanism, whose result no epsilon covers"
            return [Problem("max_total_epsilon", limit, bound, "choose a private method such as dp_sgd")]
        before = {total.unit: total.epsilon for total in self.totals()}
        found = []
        for total in self.totals(planned):
            if total.epsilon > limit:
                spent = before.get(total.unit, 0.0)
                bound = (
                    f"{total.runs} runs on these data would together reach epsilon {total.epsilon:.4g} per "
                    f"{total.unit} at delta {total.delta:g}; {spent:.4g} is spent"
                )
                remedy = "plan fewer rounds or more noise, or do not train on these data any more"
                found.append(Problem("max_total_epsilon", limit, bound, remedy))
        return found


def released_by(ledger: Ledger, hospital_id: str | None, units: Sequence[str] | None = None) -> Ledger:
    """What a ledger of several hospitals holds about one of them, as a release about everybody.

    A hospital takes part in federations under different names, and with different others: on its own records all of
    its releases add up, and those of the others say nothing.

    Args:
      ledger: of several hospitals.
      hospital_id: whose part is meant; None: what touches every hospital alike.
      units: default all that occur.
    """
    found = Ledger(ledger.delta, ledger.adjacency)
    for unit in ledger.units() if units is None else units:
        found.expect(unit, [None])
        for event, count in ledger.events(unit, hospital_id if ledger.knows(unit, hospital_id) else None):
            found.record(unit, None, 1, event, count)
    return found


def division_of(dataset: HospitalDataset) -> str:
    """Names the way in which records are spread over hospitals; one name for all that leave them as they are."""
    return dataset.fingerprint() if dataset.simulated else "natural"


def _says_something_about(ledger: Ledger) -> tuple[str, ...]:
    return UNITS if ledger.units() == ("hospital",) else ledger.units()


def _joint_epsilon(charges: Sequence[Charge], unit: str, delta: float) -> tuple[float, str]:
    """The worst joint epsilon of any unit, and the adjacency that it holds under."""
    divisions: dict[Any, list[Ledger]] = {}
    for charge in charges:
        divisions.setdefault(charge.words.get("division"), []).append(charge.ledger)
    together = [joint_ledger(ledgers, delta=delta) for ledgers in divisions.values()]
    if len(together) == 1:
        return together[0].epsilon(unit), together[0].adjacency
    whose = [ledger.hospital_ids(unit) or (None,) for ledger in together]
    if math.prod(map(len, whose)) > _MOST_MEETINGS:  # epsilons add up, and so do deltas
        share = delta / len(together)
        return math.fsum(joint_ledger([ledger], delta=share).epsilon(unit) for ledger in together), ""
    worst, adjacency = 0.0, ""
    for meeting in itertools.product(*whose):
        joint = joint_ledger([released_by(ledger, of, [unit]) for ledger, of in zip(together, meeting)], delta=delta)
        worst, adjacency = max(worst, joint.epsilon(unit)), joint.adjacency
    return worst, adjacency
