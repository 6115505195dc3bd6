"""Strategies of correlated noise (matrix factorisation): how noise of different steps cancels, and what that costs.

A mechanism with correlated noise releases every prefix sum of x_1, x_2, ... with the noise of `A C^-1 z`: A is the
workload (prefix sums), C the *strategy*, a lower-triangular Toeplitz matrix, z unit normals times the noise multiplier
times the *sensitivity* of C. A step of training adds `C^-1 z`: what one step adds, later steps take back in part.

>>> from tff_hospitals.accounting import strategies
>>> plain, rooted = strategies.identity(100), strategies.square_root(100, bands=10)
>>> [round(strategies.expected_error(one, participations=10, min_separation=10).rmse, 3) for one in (plain, rooted)]
[22.472, 9.611]
"""

from __future__ import annotations

from tff_hospitals.accounting.strategies.amplification import AmplifiedPlan, amplified_noise, amplified_plans
from tff_hospitals.accounting.strategies.banded import optimised_banded
from tff_hospitals.accounting.strategies.buffered import optimised_buffers
from tff_hospitals.accounting.strategies.building import STRATEGIES, build_strategy
from tff_hospitals.accounting.strategies.closed_forms import identity, inverse_square_root, square_root
from tff_hospitals.accounting.strategies.errors import ExpectedError, expected_error, row_variances
from tff_hospitals.accounting.strategies.sensitivity import Sensitivity, sensitivity_of
from tff_hospitals.accounting.strategies.strategy import Strategy
from tff_hospitals.accounting.strategies.workload import Workload

__all__ = [
    "STRATEGIES",
    "AmplifiedPlan",
    "ExpectedError",
    "Sensitivity",
    "Strategy",
    "Workload",
    "amplified_noise",
    "amplified_plans",
    "build_strategy",
    "expected_error",
    "identity",
    "inverse_square_root",
    "optimised_banded",
    "optimised_buffers",
    "row_variances",
    "sensitivity_of",
    "square_root",
]
