"""What the runs of one plan share whatever their seeds: composition, noise plan, runtime and evaluator."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tff_hospitals.foundations.validation import one_of, raise_if
from tff_hospitals.plan import noise as noise_plan
from tff_hospitals.plan.checks.own_models import nobodys
from tff_hospitals.plan.checks.privacy import only_elsewhere
from tff_hospitals.plan.plan import Plan
from tff_hospitals.processes import composition
from tff_hospitals.runtimes import RUNTIMES, build_runtime
from tff_hospitals.runtimes.compiled import choice
from tff_hospitals.training.attacks import backdoor_success, under_attack
from tff_hospitals.training.evaluation import Evaluator, OwnWeights
from tff_hospitals.training.extension import Extension
from tff_hospitals.training.personalisation import OwnModels, Personalisation

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset, Part
    from tff_hospitals.models import FunctionalModel
    from tff_hospitals.processes.composition import ServerState
    from tff_hospitals.processes.rounds import RoundInput
    from tff_hospitals.runtimes.base import Runtime


class SeedIndependentParts:
    """Composes a plan, and builds runtime and evaluator when they are first asked for.

    Args:
      plan, dataset, model: what to train, on what.
      runtime, server_held, runtime_options: see `loop.train`.
      evaluate_on: the hospitals to evaluate on.
      extension: where the run goes on with noise that was calibrated for fewer rounds.

    Raises:
      validation.InvalidInput: bad plan, model or data.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: HospitalDataset,
        model: FunctionalModel,
        runtime: str,
        evaluate_on: HospitalDataset,
        server_held: Part | None = None,
        runtime_options: Mapping[str, Any] | None = None,
        extension: Extension | None = None,
    ):
        raise_if([one_of("runtime", runtime, RUNTIMES)])
        raise_if([*only_elsewhere(plan.privacy, runtime), *RUNTIMES[runtime].missing(runtime)])
        dataset = under_attack(plan, dataset)
        self.dataset, self.model, self.runtime_name, self.evaluated = dataset, model, runtime, evaluate_on
        self.registered = RUNTIMES[runtime]
        self.composition = composition.compose(plan, dataset, model)
        others = sorted(set(evaluate_on.ids) - set(dataset.ids)) + ["the server"] * (server_held is not None)
        raise_if(nobodys(plan, others))
        self.extension = extension
        self.noise = noise_plan.make(plan if extension is None else extension.calibrated, dataset)
        self.wire_bytes, self.side_bytes = self.composition.wire_bytes(), self.composition.side_bytes()
        self._server_held = server_held
        self._plan, self._options = plan, dict(runtime_options or {})
        self._runtime: Runtime | None = None
        self._frozen: tuple = ()
        self._strategy: str | None = None  # that the runtime was built with, or settled on
        self._settled: Mapping[str, Any] = {}
        if "strategy" in self.registered.options:
            raise_if(choice.problems())

    @property
    def asked_strategy(self) -> str | None:
        """The strategy that the caller or the environment asks for; None: none, or the runtime has but one way."""
        if "strategy" not in self.registered.options:
            return None
        return self._options.get("strategy") or choice.asked()

    def runtime(self, frozen: tuple, strategy: str | None = None, expected_records: float | None = None) -> Runtime:
        """What runs the rounds of runs with these frozen weights; another run's unless they differ.

        Args:
          frozen: weights that do not travel.
          strategy: that a run keeps; None: what the runs of this plan settled on, or may still settle on.
          expected_records: that a run trains on; what a trial is worth depends on it. None: no trial.
        """
        strategy = strategy or self._settled.get("strategy")
        if self._runtime is None or strategy != self._strategy or not all(map(np.array_equal, frozen, self._frozen)):
            self.close()
            known = {"strategy": strategy, "expected_records": expected_records}
            options = {name: value for name, value in known.items() if name in self.registered.options and value}
            self._runtime = build_runtime(
                self.runtime_name,
                self.composition,
                self.dataset,
                frozen,
                plan=self._plan,
                **{**self._options, **options},
            )
            self._frozen, self._strategy = frozen, strategy
        return self._runtime

    def settle(
        self, frozen: tuple, state: ServerState, rounds: Sequence[RoundInput], expected_records: float | None
    ) -> Mapping[str, Any]:
        """What the record of a run that begins should say of how it is executed (`Runtime.settle`): the same for all
        runs of this plan.
        """
        if not self._settled:
            self._settled = self.runtime(frozen, None, expected_records).settle(state, rounds)
            self._strategy = self._settled.get("strategy")
        return self._settled

    def evaluate(self, weights: tuple, frozen: tuple, own: OwnWeights) -> dict[str, dict[str, float]]:
        """Metrics of the weights by hospital id, `pooled`, and `server` where it holds records; `own`: see `Run`."""
        if not self.registered.holds_records:
            return self.runtime(frozen).evaluate(weights)
        return self.evaluator(weights, frozen, own)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Of the hospitals to evaluate on."""
        return Evaluator(self.model, self.evaluated, self._server_held)

    @functools.cached_property
    def _personalisation(self) -> Personalisation:
        return Personalisation(self._plan, self.model, self.dataset)

    def own_models(self, state: ServerState, frozen: tuple, seed: int) -> OwnModels:
        """Every hospital's own model at the end of a run; none where the plan makes none."""
        if self._plan.personal.kind == "none":
            return OwnModels(self.composition.own_weights(state, frozen), {})
        return self._personalisation(state.weights, frozen, seed, int(state.round_number))

    def backdoor_success(self, weights: tuple, frozen: tuple) -> float | None:
        """How often the mark of an attacking hospital works; None where no hospital hides one."""
        return backdoor_success(self._plan, self.model, self.evaluated, weights, frozen)

    def summary_fields(self) -> dict[str, Any]:
        """What the runtime adds to a run's summary; nothing where none was built."""
        return {} if self._runtime is None else self._runtime.summary_fields()

    def close(self) -> None:
        """Frees what the runtime holds."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None
