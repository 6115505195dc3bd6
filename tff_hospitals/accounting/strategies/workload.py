"""What is released about the steps: their prefix sums, also as a server with momentum or a changing rate forms them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tff_hospitals.foundations.validation import Problem, in_range, raise_if


@dataclasses.dataclass(frozen=True)
class Workload:
    """The matrix A: row t is how the model after step t depends on the sums of all steps.

    Attributes:
      momentum: of the server's SGD, 0 <= momentum < 1: a sum enters the next steps again, weaker each time.
      rates: learning rate of every step (relative ones suffice); empty: always 1.

    >>> Workload(momentum=0.5).response(4).tolist()
    [1.0, 1.5, 1.75, 1.875]
    """

    momentum: float = 0.0
    rates: tuple[float, ...] = ()

    def problems(self, steps: int) -> list[Problem]:
        """What is wrong with it for so many steps."""
        found = [in_range("momentum", self.momentum, low=0.0, high=1.0, high_open=True, remedy="give 0 to 0.99")]
        if self.rates and len(self.rates) != steps:
            bound = f"must have a rate for each of the {steps} steps"
            found.append(Problem("rates", len(self.rates), bound, "give one rate a step, or none"))
        found += [
            in_range(f"rates[{at}]", rate, low=0.0, remedy="give rates of 0 or more")
            for at, rate in enumerate(self.rates)
            if not rate >= 0
        ]
        return [one for one in found if one is not None]

    def response(self, steps: int) -> np.ndarray:
        """How the sum of one step enters the model of that step and of the later ones at constant rate, [steps].

        Raises:
          InvalidInput: when the momentum is out of range or a rate is missing.
        """
        raise_if(self.problems(steps))
        if not self.momentum:
            return np.ones(steps)
        return (1.0 - self.momentum ** np.arange(1, steps + 1)) / (1.0 - self.momentum)

    def weights(self, steps: int) -> np.ndarray:
        """The rate of every step, float64 [steps]."""
        return np.asarray(self.rates, np.float64) if self.rates else np.ones(steps)

    @classmethod
    def of_rates(cls, rates: Sequence[float], momentum: float = 0.0) -> Workload:
        """A workload of these rates; constant ones count as none, since they only scale everything."""
        same = len(set(rates)) <= 1
        return cls(momentum, () if same else tuple(float(rate) for rate in rates))
