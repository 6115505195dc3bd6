"""One line of a ledger: in which rounds something happened, and how often.

Thousands of rounds that are alike take one entry, so that a ledger stays small however long a run is.

>>> entry = Entry()
>>> for round_number in (1, 2, 3, 5):
...     entry.add(round_number, 100)
>>> entry.runs, entry.total, entry.count(through_round=2)
([[1, 3, 100], [5, 5, 100]], 400, 200)
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Entry:
    """One (unit, hospital)'s use of one event: runs of rounds with equal counts, and their sum."""

    runs: list[list[int]] = dataclasses.field(default_factory=list)  # [first round, last round, count per round]
    total: int = 0

    def add(self, round_number: int, count: int) -> None:
        """Enters uses in a round; rounds come in order."""
        self.total += count
        last = self.runs[-1] if self.runs else None
        if last is not None and last[1] == round_number:  # more of the same in this round
            count += last[2]
            last[1] -= 1
            if last[1] < last[0]:
                self.runs.pop()
            last = self.runs[-1] if self.runs else None
        if last is not None and last[1] == round_number - 1 and last[2] == count:
            last[1] = round_number
        else:
            self.runs.append([round_number, round_number, count])

    def count(self, through_round: int | None) -> int:
        """Uses up to and with a round; None: all."""
        if through_round is None:
            return self.total
        return sum(
            count * (min(last, through_round) - first + 1) for first, last, count in self.runs if first <= through_round
        )

    def by_round(self) -> dict[int, int]:
        """Uses in each round that has any."""
        counts: dict[int, int] = {}
        for first, last, count in self.runs:
            for round_number in range(first, last + 1):
                counts[round_number] = counts.get(round_number, 0) + count
        return counts
