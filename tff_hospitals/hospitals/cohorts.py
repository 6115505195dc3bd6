"""Which hospitals take part in a round.

A cohort is a pure function of the random streams and the round number: a resumed run meets the same hospitals. Each
hospital draws from a stream of its own name, so that a hospital that joins later changes nobody else's draw. What the
accountant may assume is part of the object:

| kind | `sampling` | `sampling_probability` |
|---|---|---|
| `all` | `none` | 1 |
| `fixed_size` | `fixed_size_without_replacement` | hospitals_per_round / hospitals |
| `cyclic` | `none` | 1 in every `period` rounds, known in advance |
| `poisson` | `poisson` | sampling_probability |

>>> cohorts = Cohorts(("cleveland", "hungary", "va"), "fixed_size", hospitals_per_round=2)
>>> cohorts(Streams.from_seed(42), 3)
('hungary', 'va')
>>> cohorts.sampling, round(cohorts.sampling_probability, 3)
('fixed_size_without_replacement', 0.667)
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tff_hospitals.foundations.random_streams import Streams
from tff_hospitals.foundations.validation import Problem, in_range, one_of, raise_if, whole_number

KINDS = ("all", "fixed_size", "cyclic", "poisson")


@dataclasses.dataclass(frozen=True)
class Cohorts:
    """Draws the cohort of each round.

    Attributes:
      hospital_ids: all hospitals, in the order in which cohorts list them.
      kind: "all", "fixed_size" (uniform without replacement), "cyclic" (groups in turn, in an order drawn once) or
        "poisson" (each on its own, so a cohort may be empty).
      hospitals_per_round: size of a fixed-size or cyclic cohort; the last group of a cycle may be smaller.
      probability: chance of each hospital to take part in a Poisson round, 0 < . <= 1.

    Raises:
      InvalidInput: unknown kind, a size above the number of hospitals, a missing or unused setting.
    """

    hospital_ids: tuple[str, ...]
    kind: str = "all"
    hospitals_per_round: int | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        found = [one_of("cohort", self.kind, KINDS)]
        if not self.hospital_ids or len(set(self.hospital_ids)) != len(self.hospital_ids):
            bound = "must be one or more different ids"
            found.append(Problem("hospital_ids", self.hospital_ids[:5], bound, "give each hospital once"))
        if self.kind in ("fixed_size", "cyclic"):
            remedy = f"give 1 to {len(self.hospital_ids)}, the number of hospitals"
            high = len(self.hospital_ids)
            found.append(whole_number("hospitals_per_round", self.hospitals_per_round, low=1, high=high, remedy=remedy))
        elif self.hospitals_per_round is not None:
            found.append(_unused("hospitals_per_round", self.hospitals_per_round, "fixed_size or cyclic"))
        if self.kind == "poisson":
            remedy = "give each hospital's chance to take part in a round"
            found.append(in_range("probability", self.probability, low=0.0, high=1.0, low_open=True, remedy=remedy))
        elif self.probability is not None:
            found.append(_unused("probability", self.probability, "poisson"))
        raise_if(found)

    @property
    def sampling(self) -> str:
        """The word for the accountant: "none", "fixed_size_without_replacement" or "poisson"."""
        return {"all": "none", "cyclic": "none", "fixed_size": "fixed_size_without_replacement", "poisson": "poisson"}[
            self.kind
        ]

    @property
    def sampling_probability(self) -> float:
        """Chance of one hospital to be in a round."""
        if self.kind in ("fixed_size", "cyclic"):
            return float(self.hospitals_per_round or 0) / len(self.hospital_ids)
        return float(self.probability or 0.0) if self.kind == "poisson" else 1.0

    @property
    def expected_size(self) -> float:
        """Mean number of hospitals in a round."""
        return self.sampling_probability * len(self.hospital_ids)

    def __call__(self, streams: Streams, round_number: int) -> tuple[str, ...]:
        """The ids of the round's hospitals, in the order of `hospital_ids`; may be empty under "poisson"."""
        if self.kind == "all":
            return self.hospital_ids
        if self.kind == "cyclic":
            size = int(self.hospitals_per_round or 0)
            order = np.argsort(_uniform(streams.child("cohort", "order"), self.hospital_ids), kind="stable")
            group = round_number % -(-len(order) // size)
            return tuple(self.hospital_ids[at] for at in np.sort(order[group * size : (group + 1) * size]))
        draws = _uniform(streams.child("cohort", round_number), self.hospital_ids)
        if self.kind == "poisson":
            chosen = np.flatnonzero(draws < float(self.probability or 0.0))
        else:
            chosen = np.sort(np.argsort(draws, kind="stable")[: self.hospitals_per_round])
        return tuple(self.hospital_ids[at] for at in chosen)


def _uniform(streams: Streams, names: tuple[str, ...]) -> np.ndarray:
    """One number in [0, 1) per name, with 53 random bits from the name's stream."""
    words = np.array([streams.child(name).key()[0] for name in names]).view(np.uint64)
    return (words >> np.uint64(11)) * 2.0**-53


def _unused(name: str, value: object, kind: str) -> Problem:
    return Problem(name, value, f"is only used with cohort={kind}", f"drop it or choose {kind}")
