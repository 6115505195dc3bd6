"""A guarantee in words that an ethics board can read, made from the ledger and never from a flag.

Says what is protected, against whom and on which trust, how much an observer can learn at most, and what was assumed.
Where there is no guarantee it says so in plain words.

>>> ledger = Ledger(delta=1e-3)
>>> step = MechanismEvent("poisson_gaussian", noise_multiplier=2.4, sampling_probability=0.02)
>>> ledger.record("record", "cleveland", 15, step, count=1500)
>>> print(guarantee(ledger, "record", noise_added_by="hospital").short)
one patient record at any hospital: epsilon 0.993 at delta 0.001 (worst: cleveland; replace_special; rdp)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tff_hospitals.accounting.epsilon import CONVERSIONS
from tff_hospitals.accounting.events import ADJACENCIES, REPLACE_ONE, REPLACE_SPECIAL, UNITS, MechanismEvent
from tff_hospitals.accounting.ledger import Ledger
from tff_hospitals.foundations import validation

PROTECTED: Mapping[str, str] = {
    "record": "one patient record at any hospital",
    "hospital": "the whole contribution of one hospital, and with it every patient record there",
}


@dataclasses.dataclass(frozen=True)
class Trust:
    """Who adds the noise, and so who is kept from the un-noised data and who must be trusted."""

    against: str
    not_against: str
    assumption: str


TRUST: Mapping[str, Trust] = {
    "hospital": Trust(
        "the server, the other hospitals and the public",
        "the staff of the hospital itself, which holds the data",
        "each hospital runs the agreed program, with noise that nobody else can predict",
    ),
    "server": Trust(
        "the other hospitals and the public, who see the model",
        "the server, which sees every hospital's update before noise is added",
        "the server adds the noise and shows nobody the updates that it receives",
    ),
    "shares": Trust(
        "the server, the other hospitals and the public",
        "a coalition of the server with more hospitals than the secure sum tolerates",
        "a cryptographic secure sum shows the server only the total, and the assumed number of hospitals add their "
        "share of noise honestly",
    ),
}


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """A privacy guarantee, or its absence, ready for a report."""

    unit: str
    epsilon: float
    delta: float
    adjacency: str
    conversion: str
    worst_hospital: str | None
    short: str  # one line for a table
    sentences: tuple[str, ...]  # for an ethics board

    @property
    def private(self) -> bool:
        """Whether there is any guarantee."""
        return math.isfinite(self.epsilon)

    @property
    def text(self) -> str:
        """All sentences as one paragraph."""
        return " ".join(self.sentences)


def guarantee(
    ledger: Ledger,
    unit: str,
    *,
    noise_added_by: str,
    conversion: str = "rdp",
    hospital_id: str | None = None,
    simulated_trust: bool = False,
    stopped_by_data: bool = False,
) -> Guarantee:
    """The guarantee that a ledger holds for one unit of privacy.

    Args:
      ledger: of the run.
      unit: "record" or "hospital".
      noise_added_by: a key of `TRUST`: "hospital" (noise inside), "server" (central) or "shares" (secure sum).
      conversion: a key of `epsilon.CONVERSIONS`.
      hospital_id: state the guarantee of this hospital instead of the worst.
      simulated_trust: whether the secure sum or the separation of the parties was only simulated in this run.
      stopped_by_data: whether the number of rounds was decided by looking at results (early stopping).

    Raises:
      InvalidInput: for an unknown unit, hospital, conversion or party.
    """
    validation.raise_if(
        [
            validation.one_of("unit", unit, UNITS),
            validation.one_of("conversion", conversion, CONVERSIONS),
            validation.one_of("noise_added_by", noise_added_by, TRUST),
        ]
    )
    if unit not in ledger.units():
        return no_guarantee(unit, ledger, conversion)
    if hospital_id is None:
        epsilon, worst = ledger.worst_epsilon(unit, conversion)
    else:
        epsilon, worst = ledger.epsilon(unit, hospital_id, conversion), hospital_id
    if math.isinf(epsilon):
        return no_guarantee(unit, ledger, conversion, worst)
    released = ledger.events(unit, worst)
    trust, adjacency = TRUST[noise_added_by], ADJACENCIES[ledger.adjacency]
    which = "" if worst is None else f" for {worst}, the hospital with the largest value,"
    if hospital_id is not None:
        which = f" for {hospital_id}"
    sentences = [
        f"Protected: {PROTECTED[unit]}, against {trust.against}.",
        f"Not protected against: {trust.not_against}.",
        f"Trust: {trust.assumption}." + (" In this run the parties were only simulated." if simulated_trust else ""),
        f"Strength: epsilon {_number(epsilon)}{which} at delta {ledger.delta:g}, over everything that was released. "
        + meaning(epsilon, ledger.delta, ledger.adjacency),
        f"Neighbouring data sets: {adjacency}.",
        f"Computed by: {CONVERSIONS[conversion]}.",
        f"Assumed of the sampling: {_assumptions(released)}.",
    ]
    if not all(event.local_stddev is not None for event, _ in released):
        sentences.append("Caveat: floating-point noise is only approximately what the proof assumes (Mironov 2012).")
    if stopped_by_data:
        sentences.append(
            "Caveat: the run was ended by looking at its results, so what is promised in advance is the epsilon of the "
            "largest number of rounds that was allowed, not the smaller one stated here."
        )
    whose = "" if worst is None else f"worst: {worst}; " if hospital_id is None else f"{worst}; "
    short = (
        f"{PROTECTED[unit].split(',')[0]}: epsilon {_number(epsilon)} at delta {ledger.delta:g} "
        f"({whose}{ledger.adjacency}; {conversion})"
    )
    return Guarantee(
        unit, epsilon, ledger.delta, ledger.adjacency, conversion, worst, short, sentences=tuple(sentences)
    )


def no_guarantee(
    unit: str, ledger: Ledger | None = None, conversion: str = "rdp", hospital_id: str | None = None
) -> Guarantee:
    """The statement for what nothing protects: a run without noise, or a unit that no mechanism covers."""
    whose = f" ({hospital_id} released something without noise)" if hospital_id is not None else ""
    return Guarantee(
        unit=unit,
        epsilon=math.inf,
        delta=ledger.delta if ledger is not None else 0.0,
        adjacency=ledger.adjacency if ledger is not None else "",
        conversion=conversion,
        worst_hospital=hospital_id,
        short=f"no guarantee for any {unit}{whose}",
        sentences=(
            f"There is no guarantee for any {unit}{whose}.",
            "What was released may give away whose data were used and what they say; keeping the data inside the "
            "hospital does not prevent this.",
        ),
    )


def meaning(epsilon: float, delta: float, adjacency: str = REPLACE_SPECIAL) -> str:
    """What an epsilon means for an attacker who knows everything but one unit.

    Source: Kairouz, Oh and Viswanath 2015, arXiv:1311.0776 (hypothesis testing); with even prior odds no attacker is
    right more often than (exp(epsilon) + delta) / (1 + exp(epsilon)).

    >>> print(meaning(1.0, 1e-3))
    Whoever knows all else and guesses at even odds whether one such unit was used is right at most 73.1 % of the time.
    """
    right = (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon))
    share = f"{100 * right:.1f} %" if right < 0.9995 else f"{100 * right:.4f} %"
    what = "which of two contents one such unit has" if adjacency == REPLACE_ONE else "whether one such unit was used"
    return f"Whoever knows all else and guesses at even odds {what} is right at most {share} of the time."


def _number(epsilon: float) -> str:
    return f"{epsilon:.3g}" if epsilon < 1000 else f"{epsilon:.0f}"


def _assumptions(events: Sequence[tuple[MechanismEvent, int]]) -> str:
    return "; ".join(dict.fromkeys(event.sampling for event, _ in events)) or "nothing was released"
