"""What the Python interface is given: hospitals by name, folder or in memory; a model; options by flag name."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tff_hospitals.experiments import method_plans
from tff_hospitals.experiments.method_plans import DATA_OPTIONS, MODEL_OPTIONS, OWN
from tff_hospitals.experiments.methods import find_methods
from tff_hospitals.foundations.validation import Problem, one_of
from tff_hospitals.hospitals import HospitalDataset, read_schema
from tff_hospitals.plan import options as plan_options
from tff_hospitals.plan.plan import Plan

if TYPE_CHECKING:
    pass

_ARGUMENTS = ("dataset", "model")  # options of a plan that are arguments of their own here
_IN_MEMORY = ("partition", "sites", "data_seed")  # that say how records are loaded
_NESTED = ("data_options", "model_options")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What was given, sorted.

    Attributes:
      name: of the data set.
      in_memory: the hospitals, unless they are loaded by their name.
      given: options of the plan by flag name.
      data_options, model_options: of data set and model.
      problems: everything that is wrong with them by themselves.
    """

    name: str
    in_memory: HospitalDataset | None
    given: Mapping[str, Any]
    data_options: Mapping[str, Any]
    model_options: Mapping[str, Any]
    problems: tuple[Problem, ...]

    @classmethod
    def of(
        cls,
        dataset: Any,
        schema: Any,
        model: str | Callable[..., Any] | None,
        options: Mapping[str, Any],
        plan: Plan | None = None,
        *,
        single: bool = False,
    ) -> Inputs:
        """Sorts what was given.

        Args:
          dataset: name, path, `HospitalDataset` or data frames by hospital id; None: that of the plan.
          schema: of tables or frames.
          model: name, `package.module:function` or such a function.
          options: by flag name, `data_options` and `model_options` among them.
          plan: whose options they replace.
          single: whether they are for one run, which has a target and a seed of its own.
        """
        found: list[Problem | None] = []
        nested: dict[str, dict[str, Any]] = {name: {} for name in _NESTED}
        known = {one.flag: one for one in plan_options.options_of(Plan)}
        own = () if single else OWN
        names = [*(name for name in known if name not in (*_ARGUMENTS, *own)), *MODEL_OPTIONS, "scaling", *_NESTED]
        given: dict[str, Any] = {}
        for name, value in options.items():
            found.append(one_of("option", name, names))
            if name in _NESTED and isinstance(value, Mapping):
                nested[name].update(value)
            elif name in _NESTED:
                found.append(Problem(name, value, "must be a dictionary", f'give {name}={{"alpha": 0.3}}'))
            elif name in DATA_OPTIONS or name in MODEL_OPTIONS:
                nested["data_options" if name in DATA_OPTIONS else "model_options"][name] = value
            elif name in known:
                whole = known[name].kind is float and isinstance(value, int) and not isinstance(value, bool)
                given[name] = float(value) if whole else value
        if model is not None:
            given["model"], problem = _model_name(model)
            found.append(problem)
        hospitals, name, problem = _hospitals(dataset, schema, plan)
        found.append(problem)
        if hospitals is None and schema is not None and problem is None:
            nested["data_options"]["schema"] = schema if isinstance(schema, str) else os.fspath(schema)
        if hospitals is not None:
            late = {**{one: given[one] for one in _IN_MEMORY if one in given}, **nested["data_options"]}
            bound = "says how records are loaded, and these hospitals are in memory"
            found += [Problem(one, value, bound, "make the data set with it") for one, value in late.items()]
        given = {**given, "dataset": name} if dataset is not None else given
        problems = tuple(one for one in found if one is not None)
        return cls(name, hospitals, given, nested["data_options"], nested["model_options"], problems)

    def plan(self, what: Plan | str) -> Plan:
        """The plan of a single run.

        Args:
          what: a plan, which the options change, or a method's name.

        Raises:
          validation.InvalidInput: an unknown method, or options that nothing uses.
        """
        if isinstance(what, str):
            plan = method_plans.federated_plan(what, self.given, self.data_options, self.model_options)
        else:
            plan = plan_options.apply(what, self.given)
            plan = plan.replace(
                data={"options": {**plan.data.options, **self.data_options}},
                model={"options": {**plan.model.options, **self.model_options}},
            )
        return plan if self.in_memory is None else method_plans.of_memory(plan, self.in_memory)


def runtime_of(method: str, asked: str) -> str:
    """The runtime that a method needs, or the one that was asked for."""
    (found,) = find_methods((method,))
    return found.runs_on or asked


def _hospitals(dataset: Any, schema: Any, plan: Plan | None) -> tuple[HospitalDataset | None, str, Problem | None]:
    """Hospitals in memory if they are, their name, and what is wrong."""
    remedy = "give a name such as heart_disease, a folder, a HospitalDataset, or data frames by hospital id"
    if isinstance(dataset, HospitalDataset):
        return dataset, dataset.name, None
    if isinstance(dataset, Mapping) and dataset:
        if schema is None:
            bound = "must say what the columns of the data frames mean"
            return None, "", Problem("schema", None, bound, "give a Schema, or the file of one")
        rules = read_schema(schema) if isinstance(schema, (str, os.PathLike)) else schema
        made = HospitalDataset.from_frames(dataset, rules)
        return made, made.name, None
    if isinstance(dataset, (str, os.PathLike)) and os.fspath(dataset):
        return None, os.fspath(dataset), None
    if dataset is None and plan is not None:
        return None, plan.data.name, None
    return None, "", Problem("dataset", dataset, "must be hospitals", remedy)


def _model_name(model: Any) -> tuple[str, Problem | None]:
    """How a plan names a model: a function by its module, where other processes find it."""
    if isinstance(model, str):
        return model, None
    module, name = getattr(model, "__module__", ""), getattr(model, "__qualname__", "")
    owner: Any = sys.modules.get(module)
    for part in name.split(".") if name else ():
        owner = getattr(owner, part, None)
    if callable(model) and owner is model:
        return f"{module}:{name}", None
    bound = "must be a name, or a function at the top of a module that returns a Keras model"
    return "", Problem(
        "model", model, bound, "write def make_model(): return tf.keras.Sequential(...), and give make_model"
    )
