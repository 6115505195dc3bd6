"""The guarantee of a run for machines: the fields of the Differential Privacy Deployments Registry, and all figures.

Source of the fields: Nanayakkara, Ghazi and Vadhan 2025, arXiv:2509.13509, and the registry's deployments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tff_hospitals
from tff_hospitals.accounting import ADJACENCIES, trade_off
from tff_hospitals.accounting.statements import PROTECTED
from tff_hospitals.reports import guarantee_words as words
from tff_hospitals.reports.guarantee import Facts, UnitGuarantee


def as_json(found: Facts) -> dict[str, Any]:
    """The guarantee for machines: the registry's fields, and under `figures` all numbers with the whole curve."""
    return {
        "schema_version": 1,
        "status": "Draft",
        "deployment": {
            "product": {
                "name": f"{found.summary.get('label') or found.plan.label} on {_data_name(found)}",
                "data_curators": list(_hospitals(found)),
                "data_product_type": "Machine learning model",
                "description": f"Weights of a {found.plan.model.name} model trained over {_hospital_count(found)} "
                f"hospitals ({found.plan.label}).",
                "data_product_sector": "Health",
                "publication_date": str(found.record.get("started") or "")[:10],
            },
            "dp_flavor": {
                "name": "Approximate DP" if found.units else "None",
                "input_metric": "; ".join(f"{one.unit}: {ADJACENCIES[found.ledger.adjacency]}" for one in found.units),
                "bound_on_input_distance": 1,
                "output_measure": "Hockey-stick divergence (epsilon, delta), with the trade-off curve under figures",
                "unprotected_quantities": words.outside(found),
            },
            "privacy_loss": {
                "privacy_unit": [one.unit for one in found.units],
                "privacy_unit_description": [PROTECTED[one.unit] for one in found.units],
                "privacy_parameters": [
                    {"privacy_unit": one.unit, "epsilon": _number(one.epsilon), "delta": found.ledger.delta}
                    for one in found.units
                ],
                "privacy_parameters_description": str(found.summary.get("guarantee", "")),
            },
            "model": {
                "model_name": words.trust_model(found),
                "actors": words.actors(found),
                "release_type": "One release",
                "data_source_type": "Static",
                "access_type": "Non-interactive",
            },
            "accounting": {
                "post_processing": "Whatever is computed from the model alone costs nothing more.",
                "composition": words.composition(found),
            },
            "implementation": {
                "pre_processing_eda_hyperparameter_tuning": words.collection(found),
                "mechanisms": words.mechanisms_used(found),
                "justification": words.tested(found),
            },
            "resources": {"sources": [f"tff_hospitals {tff_hospitals.__version__}"]},
        },
        "figures": {
            "delta": found.ledger.delta,
            "adjacency": found.ledger.adjacency,
            "units": [_figures(found, one) for one in found.units],
            "randomness": words.randomness(found),
            "audit": words.audit_figures(found),
        },
    }


def _figures(found: Facts, one: UnitGuarantee) -> dict[str, Any]:
    joint = (found.joint or {}).get(one.unit)
    curve = one.curve
    return {
        "unit": one.unit,
        "epsilon": _number(one.epsilon),
        "conversion": one.stated,
        "epsilon_by_conversion": {name: _number(value) for name, value in one.epsilons.items()},
        "worst_hospital": one.worst,
        "epsilon_per_hospital": {
            of: _number(found.ledger.epsilon(one.unit, of, one.stated)) for of in found.ledger.hospital_ids(one.unit)
        },
        "releases": one.releases,
        "joint_epsilon": None if joint is None else dataclasses.asdict(joint),
        "gaussian_mu": None if curve is None else curve.mu,
        "curve_is_of_gaussian_noise_alike": one.like_gaussian,
        "advantage": None if curve is None else largest_advantage(curve),
        "trade_off": None if curve is None else points(curve),
    }


def points(curve: trade_off.TradeOff) -> dict[str, list[float]]:
    """The curve at fixed rates of false alarms, dense at both ends; each point is on it."""
    low = [10.0 ** (power / 4) for power in range(-24, -5)]
    middle = [number / 50 for number in range(2, 49)]
    rates = [0.0, *low, *middle, *(1.0 - rate for rate in reversed(low)), 1.0]
    return {
        "false_alarms": [float(f"{rate:.9g}") for rate in rates],
        "missed": [float(f"{curve.fnr_at(rate):.6g}") for rate in rates],
    }


def largest_advantage(curve: trade_off.TradeOff) -> float:
    """The largest difference between true and false alarms of any attacker (the total variation distance)."""
    return float((1.0 - curve.fpr - curve.fnr).max())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _data_name(found: Facts) -> str:
    return str((found.record.get("dataset") or {}).get("name") or found.plan.data.name)


def _hospitals(found: Facts) -> list[str]:
    known = (found.record.get("dataset") or {}).get("hospitals") or {}
    return sorted(known) if isinstance(known, Mapping) else [str(one.get("id")) for one in known]


def _hospital_count(found: Facts) -> int:
    return len(_hospitals(found))
