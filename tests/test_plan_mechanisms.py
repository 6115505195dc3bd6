"""The registry of mechanisms: everything is said at one object, and nobody else tells mechanisms apart by name."""

from __future__ import annotations

import ast
import pathlib

import pytest

import tff_hospitals
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import mechanisms, review
from tff_hospitals.plan.clip_styles import CLIP_STYLES
from tff_hospitals.plan.mechanisms import base
from tff_hospitals.plan.parts import CohortPlan, PrivacyPlan
from tff_hospitals.plan.plan import Plan
from tff_hospitals.plan.zeroing import ZEROING

PACKAGE = pathlib.Path(tff_hospitals.__file__).parent
NAMES = {*mechanisms.MECHANISMS, *CLIP_STYLES, *ZEROING}
FIELDS = {"mechanism", "outer", "clip_style", "zeroing"}
OWN = (PACKAGE / "plan" / "mechanisms", PACKAGE / "accounting")
"""Where names may be compared: the mechanisms themselves; the accountant knows kinds of events, not mechanisms."""

every = pytest.mark.parametrize("mechanism", mechanisms.MECHANISMS.values(), ids=list(mechanisms.MECHANISMS))


def comparisons(source: str) -> list[int]:
    """Lines that compare a name with a mechanism's, or a field that holds one with anything.

    Names that other things have as well (`none`, `flat`, `tree` ...) count beside such a field only.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], (ast.Eq, ast.NotEq, ast.In, ast.NotIn)):
            continue
        sides = [node.left, *node.comparators]
        texts = {one.value for side in sides for one in ast.walk(side) if isinstance(one, ast.Constant)}
        attributes = {side.attr for side in sides if isinstance(side, ast.Attribute)}
        names = {side.id for side in sides if isinstance(side, ast.Name)}
        own = {text for text in texts if isinstance(text, str) and text in mechanisms.MECHANISMS and "_" in text}
        if own or (FIELDS & (attributes | names)):
            found.append(node.lineno)
    return found


def test_nobody_else_compares_the_names_of_mechanisms():
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        if not any(folder in path.parents for folder in OWN)
        for line in comparisons(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('plan.privacy.mechanism == "dp_sgd"', [1]),
        ('name in ("fixed_clip", "tree")', [1]),
        ('privacy.outer != "none"', [1]),
        ("privacy.clip_style in STYLES", [1]),
        ("mechanism not in KNOWN", [1]),
        ('event.kind == "tree"', []),
        ("mechanisms.of(privacy).private", []),
    ],
)
def test_the_search_sees_what_it_should(source, found):
    assert comparisons(source) == found


@every
def test_every_mechanism_is_whole(mechanism):
    assert base.missing_parts(mechanism) == []
    assert mechanisms.named(mechanism.name) is mechanism
    assert mechanism.unit == (mechanism.level if mechanism.private else "none")
    assert "rdp" in mechanism.conversions(CohortPlan())
    assert mechanism.conversion in mechanism.conversions(CohortPlan())
    assert all((mechanism.seen.server, mechanism.seen.hospitals, mechanism.seen.readers))


def test_a_mechanism_that_lacks_a_part_is_refused_when_it_is_registered():
    with pytest.raises(TypeError, match="is not whole: name; words; seen"):

        @mechanisms.register
        class Nameless(mechanisms.Unprotected):
            pass

    seen = mechanisms.Seen("a", "b", "c")
    with pytest.raises(TypeError, match="'clip_norn' is no field of PrivacyPlan"):

        @mechanisms.register
        class Misspelt(mechanisms.Unprotected):
            name, words, seen, options = "misspelt", "words", mechanisms.Seen("a", "b", "c"), ("clip_norn",)

    with pytest.raises(TypeError, match="noise_by: a private mechanism has noise"):

        @mechanisms.register
        class Silent(mechanisms.Unprotected):
            name, words, seen, private = "silent", "words", mechanisms.Seen("a", "b", "c"), True

    with pytest.raises(TypeError, match="PlainMean is called none already"):

        @mechanisms.register
        class Other(mechanisms.Unprotected):
            name, words, seen = "none", "words", mechanisms.Seen("a", "b", "c")

    with pytest.raises(TypeError, match="abstract"):

        @mechanisms.register
        class Unreleased(mechanisms.HospitalLevel):
            name, words, noise_by, options = "unreleased", "words", "server", ()

    assert seen.server == "a"
    assert {"misspelt", "silent", "unreleased"} & set(mechanisms.MECHANISMS) == set()


def test_unknown_names_are_all_refused_at_once_and_nothing_else_is_guessed():
    plan = Plan().replace(privacy={"mechanism": "dp_sdg", "outer": "dp_sgd", "clip_style": "flt", "zeroing": "fixd"})
    found = review.problems(plan)
    assert [problem.name for problem in found] == ["clip_style", "zeroing", "mechanism", "outer"]
    with pytest.raises(InvalidInput, match="did you mean 'dp_sgd'"):
        mechanisms.of(plan.privacy)


@every
def test_options_that_a_mechanism_reads_are_not_refused_and_others_are(mechanism):
    privacy = PrivacyPlan(mechanism=mechanism.name, noise_multiplier=1.0 if mechanism.private else None)
    plan = Plan(weighting="equal").replace(privacy={"mechanism": mechanism.name, "restart_every": 2})
    plan = plan.replace(privacy={"noise_multiplier": privacy.noise_multiplier})
    refused = "restart_every" in [problem.name for problem in review.problems(plan)]
    assert refused is not mechanisms.reads(privacy, "restart_every")


def test_what_a_plan_reads_follows_its_mechanisms_and_wrappers():
    read = mechanisms.options_read
    assert "clip_quantile" not in read(PrivacyPlan(mechanism="dp_sgd"))
    assert "clip_quantile" in read(PrivacyPlan(mechanism="dp_sgd", clip_style="adaptive"))
    assert "outer_clip_norm" in read(PrivacyPlan(mechanism="dp_sgd", outer="tree"))
    assert "restart_every" in read(PrivacyPlan(mechanism="dp_sgd", outer="tree"))
    assert "outer_clip_norm" not in read(PrivacyPlan(mechanism="tree"))
    assert "zeroing_norm" in read(PrivacyPlan(mechanism="fixed_clip", zeroing="fixed"))
    assert "clipped_count_stddev" in read(PrivacyPlan(mechanism="fixed_clip", zeroing="quantile"))
    assert "secure_sum_bound" not in read(PrivacyPlan(mechanism="fixed_clip", secure_sum=True))
