"""A mechanism of one's own: one module registers both halves, a plan names it, and bad names say what to do."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import toy

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

pytestmark = pytest.mark.tensorflow

HALVED = """
from tff_hospitals.plan import mechanisms
from tff_hospitals.processes.aggregators.building import register
from tff_hospitals.processes.aggregators.mean import Mean

@mechanisms.register
class HalvedMean(mechanisms.Unprotected):
    name = "halved_mean"
    words = "half of the plain mean"
    seen = mechanisms.named("none").seen

@register("halved_mean")
class Halved(Mean):
    def finish(self, state, total, noise):
        mean, state, measured = super().finish(state, total, noise)
        return tuple(0.5 * tensor for tensor in mean), state, measured
"""
LAZY = """
from tff_hospitals.plan import mechanisms

@mechanisms.register
class OneHalf(mechanisms.Unprotected):
    name = "one_half_only"
    words = "has no aggregator"
    linear = False
    seen = mechanisms.named("none").seen
"""


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """Own modules on the path; what they register leaves with them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_mechanism.py").write_text(HALVED)
    (folder / "own_half.py").write_text(LAZY)
    known = dict(mechanisms.MECHANISMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in set(mechanisms.MECHANISMS) - set(known):
        mechanisms.registry._MECHANISMS.pop(name)
    for name in ("own_mechanism", "own_half"):
        sys.modules.pop(name, None)


BASE = Plan(rounds=1).replace(
    client={"local_steps": 3, "batch_size": 4},
    model={"name": "logistic_regression", "options": {"init": "zeros"}},
)


def own(name, **privacy):
    return BASE.replace(privacy={"mechanism": name, **privacy})


@pytest.mark.parametrize("runtime", ["compiled", "native"])
def test_one_module_brings_an_aggregator_and_every_runtime_trains_with_it(runtime):
    dataset = toy.hospitals()
    plan = own("own_mechanism:halved_mean")
    assert review.problems(plan, dataset) == []
    halved, whole = (train(one, dataset, runtime=runtime) for one in (plan, BASE))
    for one, other in zip(halved.weights, whole.weights):  # both begin at zero
        np.testing.assert_allclose(one, 0.5 * other, rtol=1e-5, atol=1e-7)
    assert halved.summary["unit"] == "none"
    assert Plan.from_json(plan.to_json()) == plan


def test_around_a_record_level_mechanism_it_changes_nothing_of_the_promise():
    dataset = toy.hospitals()
    inside = BASE.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0})
    around = inside.replace(privacy={"outer": "own_mechanism:halved_mean"})
    assert review.problems(around, dataset) == []
    found, plain = train(around, dataset).summary, train(inside, dataset).summary
    assert (found["unit"], found["second_unit"]) == ("record", None)
    assert found["epsilon"] == plain["epsilon"]


@pytest.mark.parametrize(
    ("name", "said", "remedy"),
    [
        ("no_such_module:x", "names a module that cannot be imported", "package.module:name"),
        ("own_mechanism:halved", "names 'halved', which own_mechanism does not register", "plan.mechanisms.register"),
        ("own_mechanism:", "does not register", "plan.mechanisms.register"),
    ],
)
def test_bad_names_are_refused_before_any_training(name, said, remedy):
    (problem,) = review.problems(own(name))
    assert problem.name == "mechanism"
    assert said in problem.bound
    assert remedy in problem.remedy
    (around,) = review.problems(BASE.replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0, "outer": name}))
    assert around.name == "outer"


def test_a_mechanism_without_its_other_half_is_an_error_that_says_where_it_belongs():
    with pytest.raises(LookupError, match=r"'one_half_only' has no aggregator\. Remedy: register it where"):
        train(own("own_half:one_half_only"), toy.hospitals())


def test_what_needs_every_single_update_is_refused_under_a_secure_sum_with_the_reason():
    (problem,) = review.problems(own("own_half:one_half_only", secure_sum=True))
    assert problem.name == "secure_sum"
    assert "has to see every single update" in problem.bound
    with pytest.raises(InvalidInput, match="every single update"):
        train(own("own_half:one_half_only", secure_sum=True), toy.hospitals())
