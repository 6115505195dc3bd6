"""From a data set, a method and what was asked for to a plan: the way that flags and the Python interface share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.experiments import presets
from tff_hospitals.experiments.methods import METHODS, Method, find_methods, robust_plan
from tff_hospitals.foundations.validation import Problem, raise_if
from tff_hospitals.plan import options
from tff_hospitals.plan.checks import options as option_checks
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    from tff_hospitals.hospitals import HospitalDataset

OWN = ("target_epsilon", "seed")
"""Options that a single run has of its own; a comparison has several of them."""
_OF_COHORTS = ("cohort", "hospitals_per_round", "hospital_sampling_probability")
DATA_OPTIONS, MODEL_OPTIONS = ("schema", "scaling"), ("trainable", "pretrained", "lora_rank")
"""Options of data set and model that are given by their names alone."""


def base_plan(
    dataset: str, given: Mapping[str, Any], data_options: Mapping[str, Any], model_options: Mapping[str, Any]
) -> Plan:
    """The preset of a data set with data and model options.

    Args:
      dataset: name or path.
      given: options of the plan by flag name; a partition among them leaves the preset's partition options out.
      data_options, model_options: of data set and model.

    >>> base_plan("digits", {}, {}, {}).data.options["alpha"]
    0.5
    >>> base_plan("digits", {"partition": "iid"}, {}, {}).data.options
    {}
    """
    plan = presets.preset(dataset)
    kept = {} if "partition" in given else plan.data.options
    return plan.replace(
        data={"name": dataset, "options": {**kept, **data_options}}, model={"options": dict(model_options)}
    )


def own_cohort(method: Method) -> str:
    """The kind of cohort that a method is about; empty where it may be any."""
    return str(method.changes.get("cohort", {}).get("kind", ""))


def for_cohort(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a method takes from those of a comparison: beside a cohort of its own none of another one's.

    >>> for_cohort(METHODS["fedbuff"], {"cohort": "fixed_size", "hospitals_per_round": 5, "rounds": 3})
    {'rounds': 3}
    >>> for_cohort(METHODS["fedbuff"], {"hospitals_per_round": 5})  # nobody else has a use for it
    {'hospitals_per_round': 5}
    """
    own = own_cohort(method)
    if not own or given.get("cohort", own) == own:
        return dict(given)
    return {name: value for name, value in given.items() if name not in _OF_COHORTS}


def cohort_problems(method: Method, given: Mapping[str, Any]) -> list[Problem]:
    """A cohort that would make another method of it, under its name."""
    own = own_cohort(method)
    if not own or given.get("cohort", own) == own:
        return []
    bound = f"would take the place of what {method.name} is about: cohort={own}"
    return [Problem("--cohort", given["cohort"], bound, "drop it, or take weighted_mean or mean")]


def federated_plan(
    method: str,
    given: Mapping[str, Any],
    data_options: Mapping[str, Any],
    model_options: Mapping[str, Any],
    robust: str | None = None,
) -> Plan:
    """The plan of a single run: preset of the data set, changed by the method, changed by what was given.

    Args:
      method: a name that a comparison knows, or `package.module:factory`.
      given: options of the plan by flag name.
      data_options, model_options: of data set and model.
      robust: a rule against bad hospitals, or None.

    Raises:
      validation.InvalidInput: unknown names, options that nothing uses, a baseline.

    >>> plan = federated_plan("dp_sgd", {"dataset": "heart_disease", "target_epsilon": 2.0, "rounds": 3}, {}, {})
    >>> plan.privacy.target_epsilon, plan.rounds
    (2.0, 3)
    """
    (found,) = find_methods((method,))
    base = base_plan(given.get("dataset", "heart_disease"), given, data_options, model_options)
    plan = options.apply(robust_plan(found.plan(base, given.get("target_epsilon")), robust), given)
    problems = [*option_checks.unused([plan], given), *cohort_problems(found, given)]
    if found.kind != "federated":
        federated = ", ".join(name for name, one in METHODS.items() if one.kind == "federated")
        bound = "is a baseline of comparisons, not a federated method"
        problems.append(Problem("--aggregator", found.name, bound, f"take one of {federated}"))
    raise_if(problems)
    return plan


def of_memory(plan: Plan, dataset: HospitalDataset) -> Plan:
    """A plan that names hospitals in memory, and says nothing of how they were loaded."""
    return plan.replace(data={"name": dataset.name, "partition": "natural", "sites": None, "options": {}})
