"""How often to look: which rounds, which steps and how many other seeds give every test the draws that it needs.

>>> looks = choose(hospitals=4, rounds=15, steps=100, parameters=14, smallest=1, error=5e-7)
>>> len(looks.rounds), len(looks.steps), looks.seeds, looks.left_out
(15, 100, 1, 0)
>>> choose(hospitals=2, rounds=3, steps=1000, parameters=100_000, smallest=10, error=5e-7).steps
(333, 666, 1000)
"""

from __future__ import annotations

import dataclasses

from tff_hospitals.audits.self_tests.measures import draws_for_loudness

MOST_RUNS = 12_000  # rounds of one hospital that are run again
_MOST_NUMBERS = 2_000_000_000  # noise numbers that are drawn for them
_MOST_SEEDS = 60


@dataclasses.dataclass(frozen=True)
class Looks:
    """What is looked at.

    Attributes:
      rounds: of the run, 0-based.
      steps: after how many steps of a round, ascending; the last is the whole round.
      seeds: other seeds, whose draws are added.
      left_out: rounds of the run that nobody looks at.
    """

    rounds: tuple[int, ...]
    steps: tuple[int, ...]
    seeds: int
    left_out: int


def choose(*, hospitals: int, rounds: int, steps: int, parameters: int, smallest: int, error: float) -> Looks:
    """Looks that fit into a minute or so: all rounds first, then all steps, then more seeds.

    Args:
      hospitals: that are looked at one by one.
      rounds: of the run.
      steps: of a round; 1 where the steps of a round cannot be told apart.
      parameters: of the model.
      smallest: numbers in its smallest tensor: each hospital's noise on it should be seen often enough.
      error: error probability of one test.
    """
    most = max(hospitals, min(MOST_RUNS, _MOST_NUMBERS // (steps * parameters)))
    shown = spread(rounds, max(1, min(rounds, most // hospitals)))
    cells = hospitals * len(shown)
    parts = max(1, min(steps, most // cells))
    wanted = -(-draws_for_loudness(error) // (len(shown) * parts * smallest))
    seeds = max(0, min(wanted - 1, most // (cells * parts) - 1, _MOST_SEEDS))
    return Looks(shown, tuple(one + 1 for one in spread(steps, parts)), seeds, rounds - len(shown))


def spread(count: int, chosen: int) -> tuple[int, ...]:
    """`chosen` of the numbers 0 to count - 1, evenly, with the last one.

    >>> spread(10, 4), spread(3, 3)
    ((1, 4, 6, 9), (0, 1, 2))
    """
    return tuple((number + 1) * count // chosen - 1 for number in range(chosen))
