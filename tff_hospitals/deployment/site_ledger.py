"""A hospital's own account: what left it, charged before it leaves, against the budget that it approved.

The account is the journal: each charge is a line, and a worker that starts again counts them once more from there. The
same request is one release however often it is answered, because the hospital then sends the same bits; any other
content in the same round is another release, and is charged again. So is the same one where its noise cannot be drawn
a second time: with `--secure_noise`, by a worker that was started again.

Every charge also goes to the odometer of the hospital's records, which all agreements and all runs on them share: what
was released before, under whatever agreement, counts against the limit on everything together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tff_hospitals.accounting import Ledger
from tff_hospitals.deployment.approval import Limits, worst_epsilon
from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.deployment.journal import Journal
from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.training.charges import Charge
from tff_hospitals.training.odometer import Odometer, released_by
from tff_hospitals.training.releases import empty_ledger, enter_round

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.noise import NoisePlan

CHARGED, BEGAN = "charged", "began"
_MOST_CONTENTS = 4  # of one round: lost connections explain some, more are probing


class SiteLedger:
    """The account of one hospital under one agreement.

    Args:
      own: its id.
      dataset, noise: of the plan.
      steps: in one round, by hospital id.
      rounds: that the plan has.
      limits: that were approved.
      repeats_noise: in test mode another content would carry the same noise, and is refused.
      journal: with the charges so far.
      odometer: of the hospital's records.
      agreement: digest of it, which names the release.
      secret: names the key that noise follows from, and tells nothing of it.

    Raises:
      RecordError: journal, odometer and key do not belong together.
    """

    def __init__(
        self,
        own: str,
        dataset: HospitalDataset,
        noise: NoisePlan,
        steps: Mapping[str, int],
        rounds: int,
        limits: Limits,
        repeats_noise: bool,
        journal: Journal,
        odometer: Odometer,
        agreement: str,
        secret: str,
    ):
        self._own, self._noise, self._steps, self._rounds = own, noise, steps, rounds
        self._limits, self._repeats_noise, self._journal = limits, repeats_noise, journal
        self._odometer, self._agreement, self._secret = odometer, agreement, secret
        self._ledger = empty_ledger(dataset, noise)
        self._requests: dict[int, list[str]] = {}
        for entry in journal.entries:
            if entry["event"] == CHARGED:
                self._enter(self._ledger, entry["round"], entry["cohort"], entry["request"])
        self._hold_against_key()
        self._hold_against_odometer()

    @property
    def epsilon(self) -> float:
        """So far, of the worst unit; 0 without a guarantee that could be spent."""
        return worst_epsilon(self._ledger, self._noise, self._own)

    def charge(self, number: int, cohort: Sequence[str], request: str, *, drawn_anew: bool = False) -> None:
        """Charges a round before anything of it exists.

        Args:
          number: of the round, 0-based.
          cohort: hospitals in it.
          request: digest of everything that was asked.
          drawn_anew: whether the same request is answered with other noise than before, which is another release.

        Raises:
          Rejected: beyond the plan or the budget; nothing is charged then.
          RecordError: the journal cannot be written.
        """
        known = self._requests.get(number, [])
        if request in known and not drawn_anew:
            return
        if number >= self._rounds:
            raise Rejected(f"round {number + 1} is beyond the {self._rounds} rounds of the approved plan", "plan")
        if known and self._repeats_noise:
            said = "was answered for other weights: in test mode its noise would repeat"
            raise Rejected(f"round {number + 1} {said}", "plan")
        if len(known) >= _MOST_CONTENTS:
            raise Rejected(f"round {number + 1} was asked with {len(known)} different contents already", "plan")
        would_be = Ledger.from_json(self._ledger.to_json())
        self._enter(would_be, number, cohort, request, dry=True)
        epsilon = worst_epsilon(would_be, self._noise, self._own)
        budget = self._limits.budget
        if epsilon > budget:
            said = f"would bring epsilon to {epsilon:.4g}: this hospital's budget is {budget:g}"
            raise Rejected(f"round {number + 1} {said}", "limit")
        if not any(entry["event"] == BEGAN for entry in self._journal.entries):
            self._journal.append(BEGAN, secret=self._secret)  # as a first line its hash tells it from a lost journal
        line: dict[str, Any] = {"round": number, "cohort": list(cohort), "request": request}
        self._charge_together(would_be, line)
        told = epsilon if math.isfinite(epsilon) else None
        self._journal.append(CHARGED, **line, epsilon=told)
        self._ledger = would_be
        self._requests.setdefault(number, []).append(request)

    def _charge_together(self, ledger: Ledger, line: Mapping[str, Any]) -> None:
        """Charges the odometer; of a journal that was lost, what it held stays charged beside what comes now."""
        words = {"method": "deployed", "division": "natural", "hospital": self._own, "line": line}
        count = 1 + self._count
        if count > 1 and not ledger.units():
            return  # it is named there as a run that no epsilon covers: once is enough
        try:
            charge = Charge(self._name, self._name, count, released_by(ledger, self._own), words=words)
            self._odometer.charge(charge, self._limits.together)
        except InvalidInput as error:
            raise Rejected(str(error), "limit") from error

    @property
    def _name(self) -> str:
        return f"{self._agreement}/{self._journal.first[:16]}"

    @property
    def _count(self) -> int:
        return sum(map(len, self._requests.values()))

    def _hold_against_key(self) -> None:
        """What was answered is answered again with the same bits only as long as the key is the same.

        Raises:
          RecordError: it is another one, as where the environment names another place for it.
        """
        for entry in self._journal.entries:
            if entry["event"] == BEGAN and entry.get("secret", self._secret) != self._secret:
                raise RecordError(
                    f"the key of these records is another one than when {self._journal.path} began: what was charged "
                    "would leave again with other noise, and the odometer is another one too. Remedy: bring back the "
                    "key (.tff_hospitals beside the records, or where TFF_HOSPITALS_STATE and HOME pointed to), or "
                    "agree anew."
                )

    def _hold_against_odometer(self) -> None:
        """A journal that holds less than what was charged to the records was cut, copied back or lost.

        The last charge alone may be missing: a crash lay between the two files. It is then entered here as well.

        Raises:
          RecordError: more is missing, so that what may still be spent cannot be told.
        """
        remedy, counted = "Remedy: restore the journal from a backup; without one, agree anew.", 0
        for charge in [] if self._odometer.file is None else self._odometer.file.last_of_attempts():
            if not charge.ledger.units() or charge.words.get("hospital") != self._own:
                continue
            if charge.attempt == self._name:
                missing, line, counted = charge.rounds - self._count, charge.words["line"], charge.rounds
                if missing > 1:
                    raise RecordError(
                        f"{self._journal.path} holds {self._count} charges, and {charge.rounds} were made: it was cut "
                        f"or copied back. {remedy}"
                    )
                if missing == 1:
                    self._journal.append(CHARGED, **line)
                    self._enter(self._ledger, line["round"], line["cohort"], line["request"])
            elif charge.attempt.startswith(f"{self._agreement}/") and math.isfinite(self._limits.budget):
                raise RecordError(
                    f"{charge.rounds} charges under this agreement are in a journal that is gone, and "
                    f"{self._journal.path} is another one: the budget cannot be kept. {remedy}"
                )

        if self._odometer.file is not None and self._noise.parts and counted < self._count:
            there = f"{counted} of them in the odometer {self._odometer.file.path}"
            raise RecordError(
                f"{self._journal.path} holds {self._count} charges, and there are {there}: "
                "it was removed or copied back. Remedy: restore it from a backup; without one, count what was "
                "released so far as lost, and agree anew."
            )

    def _enter(self, ledger: Ledger, number: int, cohort: Sequence[str], request: str, dry: bool = False) -> None:
        known = self._requests.get(number, [])
        if self._noise.parts:
            enter_round(ledger, self._noise, number, {name: self._steps[name] for name in cohort}, len(known))
        if not dry:
            self._requests.setdefault(number, []).append(request)
