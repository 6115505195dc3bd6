"""A hospital's own account: what left it, charged before it leaves, against the budget that it approved.

The account is the journal: each charge is a line, and a worker that starts again counts them once more from there. The
same request is one release however often it is answered, because the hospital then sends the same bits; any other
content in the same round is another release, and is charged again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tff_hospitals.accounting import Ledger
from tff_hospitals.deployment.approval import worst_epsilon
from tff_hospitals.deployment.envelope import Rejected
from tff_hospitals.deployment.journal import Journal
from tff_hospitals.training.releases import empty_ledger, enter_round

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset
    from tff_hospitals.plan.noise import NoisePlan

CHARGED = "charged"
_MOST_CONTENTS = 4  # of one round: lost connections explain some, more are probing


class SiteLedger:
    """The account of one hospital under one agreement.

    Args:
      own: its id.
      dataset, noise: of the plan.
      steps: in one round, by hospital id.
      rounds: that the plan has.
      budget: the largest epsilon of any unit; infinite without one.
      repeats_noise: in test mode another content would carry the same noise, and is refused.
      journal: with the charges so far.
    """

    def __init__(
        self,
        own: str,
        dataset: HospitalDataset,
        noise: NoisePlan,
        steps: Mapping[str, int],
        rounds: int,
        budget: float,
        repeats_noise: bool,
        journal: Journal,
    ):
        self._own, self._noise, self._steps, self._rounds = own, noise, steps, rounds
        self._budget, self._repeats_noise, self._journal = budget, repeats_noise, journal
        self._ledger = empty_ledger(dataset, noise)
        self._requests: dict[int, list[str]] = {}
        for entry in journal.entries:
            if entry["event"] == CHARGED:
                self._enter(self._ledger, entry["round"], entry["cohort"], entry["request"])

    @property
    def epsilon(self) -> float:
        """So far, of the worst unit; 0 without a guarantee that could be spent."""
        return worst_epsilon(self._ledger, self._noise, self._own)

    def charge(self, number: int, cohort: Sequence[str], request: str) -> None:
        """Charges a round before anything of it exists.

        Args:
          number: of the round, 0-based.
          cohort: hospitals in it.
          request: digest of everything that was asked.

        Raises:
          Rejected: beyond the plan or the budget; nothing is charged then.
          RecordError: the journal cannot be written.
        """
        known = self._requests.get(number, [])
        if request in known:
            return
        if number >= self._rounds:
            raise Rejected(f"round {number + 1} is beyond the {self._rounds} rounds of the approved plan")
        if known and self._repeats_noise:
            raise Rejected(f"round {number + 1} was answered for other weights: in test mode its noise would repeat")
        if len(known) >= _MOST_CONTENTS:
            raise Rejected(f"round {number + 1} was asked with {len(known)} different contents already")
        would_be = Ledger.from_json(self._ledger.to_json())
        self._enter(would_be, number, cohort, request, dry=True)
        epsilon = worst_epsilon(would_be, self._noise, self._own)
        if epsilon > self._budget:
            raise Rejected(
                f"round {number + 1} would bring epsilon to {epsilon:.4g}: this hospital's budget is {self._budget:g}"
            )
        told = epsilon if math.isfinite(epsilon) else None
        self._journal.append(CHARGED, round=number, cohort=list(cohort), request=request, epsilon=told)
        self._ledger = would_be
        self._requests.setdefault(number, []).append(request)

    def _enter(self, ledger: Ledger, number: int, cohort: Sequence[str], request: str, dry: bool = False) -> None:
        known = self._requests.get(number, [])
        if self._noise.parts:
            enter_round(ledger, self._noise, number, {name: self._steps[name] for name in cohort}, len(known))
        if not dry:
            self._requests.setdefault(number, []).append(request)
