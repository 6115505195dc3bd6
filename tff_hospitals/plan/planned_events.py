"""What a mechanism releases in a round, and over a whole run: the events that the ledger is made of.

A release is the answer of a mechanism (`plan.mechanisms`) at one noise multiplier. How rounds and steps become events
is the shape of the release: one event for each round, one for each step, a tree over steps or rounds, noise in shares.

>>> tree = TreeOverRounds(MechanismEvent("tree", noise_multiplier=2.0, steps=1, period=1), rounds_per_tree=4)
>>> event, count = tree.in_round(5, steps=1, cohort=10)  # the second round of the second tree
>>> event.steps, event.restart, count
(2, 1, 1)
>>> [(event.steps, count) for event, count in tree.whole_run(6, steps=1)]
[(4, 1), (2, 1)]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tff_hospitals.accounting import MechanismEvent

Events = tuple[tuple[MechanismEvent, int], ...]


@dataclasses.dataclass(frozen=True)
class Release:
    """One event for each round that a unit takes part in; the base of all others.

    Attributes:
      event: of one round (or of one step, or of a tree of one step).
      shared: whether one release touches every hospital alike; else each hospital that takes part has its own.
      every: a hospital takes part in one of so many rounds, in turn.
    """

    event: MechanismEvent
    shared: bool = False
    every: int = 1

    by_cohort = False
    """Whether fewer hospitals in a round mean less noise in it."""

    @property
    def apart(self) -> int:
        """How many rounds lie at least from one participation of a hospital to its next; 0: nothing depends on it."""
        return 0

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """The event of a round and how often it happens there.

        Args:
          round_number: 0-based.
          steps: local steps that the hospital takes.
          cohort: hospitals that take part.
        """
        return self.event, 1

    def whole_run(self, rounds: int, steps: int) -> Events:
        """Everything that `rounds` rounds of `steps` steps release."""
        return ((self.event, -(-rounds // self.every)),)


@dataclasses.dataclass(frozen=True)
class EveryStep(Release):
    """Every local step is a release of its own."""

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """As many events as steps."""
        return self.event, steps

    def whole_run(self, rounds: int, steps: int) -> Events:
        """As many events as steps in all rounds."""
        return ((self.event, rounds * steps),)


@dataclasses.dataclass(frozen=True)
class EveryTurn(Release):
    """Every local step is a release about one group of records, whose turn it is.

    Attributes:
      groups: of the records; the turns begin anew in every round.
    """

    groups: int = 1

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """As many events as turns of the group that has the most of them."""
        return self.event, -(-steps // self.groups)

    def whole_run(self, rounds: int, steps: int) -> Events:
        """The same in all rounds."""
        return ((self.event, rounds * -(-steps // self.groups)),)


@dataclasses.dataclass(frozen=True)
class MatrixOverSteps(Release):
    """One matrix mechanism over the steps of each round.

    Attributes:
      sensitivity: of so many first steps, for a clip norm of 1.
    """

    sensitivity: Callable[[int], float] = float

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """A mechanism of the round's steps; nothing without a step."""
        taken = max(1, steps)
        return dataclasses.replace(self.event, steps=taken, sensitivity=self.sensitivity(taken)), int(steps > 0)

    def whole_run(self, rounds: int, steps: int) -> Events:
        """One mechanism a round."""
        return ((self.in_round(0, steps, 1)[0], rounds),)


@dataclasses.dataclass(frozen=True)
class TreeOverSteps(Release):
    """One tree over the steps of each round."""

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """A tree of the round's steps; nothing without a step."""
        return dataclasses.replace(self.event, steps=max(1, steps)), int(steps > 0)

    def whole_run(self, rounds: int, steps: int) -> Events:
        """One tree a round."""
        return ((dataclasses.replace(self.event, steps=steps), rounds),)


@dataclasses.dataclass(frozen=True)
class TreeOverRounds(Release):
    """One tree over `rounds_per_tree` rounds, then the next one."""

    rounds_per_tree: int = 1

    @property
    def apart(self) -> int:
        """As the tree's event says."""
        return self.event.period or 0

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """The tree as it has grown; of equal `restart` only the largest counts."""
        tree, position = divmod(round_number, self.rounds_per_tree)
        return dataclasses.replace(self.event, steps=position + 1, restart=tree), 1

    def whole_run(self, rounds: int, steps: int) -> Events:
        """Whole trees, and the one that was begun."""
        trees, rest = divmod(rounds, self.rounds_per_tree)
        whole = ((dataclasses.replace(self.event, steps=self.rounds_per_tree), trees),) if trees else ()
        return (*whole, (dataclasses.replace(self.event, steps=rest), 1)) if rest else whole


@dataclasses.dataclass(frozen=True)
class InShares(Release):
    """One event a round, whose noise comes in one share from each hospital of the round."""

    by_cohort = True

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """A hospital that stays away brings no noise."""
        return dataclasses.replace(self.event, shares=max(1, cohort)), 1


@dataclasses.dataclass(frozen=True)
class ByRound(Release):
    """Rounds with a noise multiplier, or with steps, of their own.

    Attributes:
      of_round: the release of every round.
      steps: local steps of every round.
    """

    of_round: tuple[Release, ...] = ()
    steps: tuple[int, ...] = ()

    def in_round(self, round_number: int, steps: int, cohort: int) -> tuple[MechanismEvent, int]:
        """The event of that round's own release; after the last planned round, that of the last."""
        return self.of_round[min(round_number, len(self.of_round) - 1)].in_round(round_number, steps, cohort)

    def whole_run(self, rounds: int, steps: int) -> Events:
        """Equal events together, in the order in which they come first."""
        found: dict[MechanismEvent, int] = {}
        for number in range(rounds):
            event, count = self.in_round(number, self.steps[min(number, len(self.steps) - 1)], 1)
            found[event] = found.get(event, 0) + count
        return tuple(found.items())


ReleaseAt = Callable[[float], Release]
"""The releases of a mechanism whose noise multiplier is still open."""
