"""Flags, methods and refusals, without TensorFlow."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import pytest

from tff_hospitals.experiments import flag_groups, presets
from tff_hospitals.experiments.comparison import Comparison
from tff_hospitals.experiments.methods import METHODS, default_methods, find_methods
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan import options, review
from tff_hospitals.plan.checks import options as option_checks
from tff_hospitals.plan.plan import Plan

pytestmark = pytest.mark.tensorflow


def script(checkout, name, *arguments):
    command = [sys.executable, str(checkout / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", stdin=subprocess.DEVNULL)


def test_every_field_of_the_plan_declares_its_option():
    elsewhere = {"method", "data.options", "model.options"}
    fields = set()
    for field in dataclasses.fields(Plan):
        part = getattr(Plan(), field.name)
        inner = dataclasses.fields(part) if dataclasses.is_dataclass(part) else None
        fields |= {field.name} if inner is None else {f"{field.name}.{one.name}" for one in inner}
    declared = options.options_of(Plan)
    assert fields - elsewhere == {f"{one.part}.{one.field}".lstrip(".") for one in declared}
    assert len({one.flag for one in declared}) == len(declared)


@pytest.mark.parametrize("option", options.options_of(Plan), ids=lambda one: one.flag)
def test_what_is_declared_of_an_option_is_checked(option):
    """Help, default within the bounds, numbers outside of them refused with a remedy."""
    assert option.help
    assert option.of(Plan()) == option.default
    assert (option.default is None and option.may_be_none) or option.problem(option.default) is None
    outside = {str: [3], bool: ["yes"], int: [1.5, "3", True], float: ["1", float("nan"), float("inf")]}[option.kind]
    outside += ["no such name"] if option.choices is not None else []
    outside += [] if option.low is None else [option.low - 1, *([option.low] if option.low_open else [])]
    outside += [] if option.high is None else [option.high + 1, *([option.high] if option.high_open else [])]
    for value in outside:
        changes = {option.field: value}
        plan = Plan().replace(**({option.part: changes} if option.part else changes))
        found = [problem for problem in option_checks.problems(plan) if problem.name == option.flag]
        assert found, (option.flag, value)
        assert found[0].bound
        assert found[0].remedy


def test_what_is_off_by_default_is_refused_where_nothing_uses_it():
    values = {str: "x", int: 3, float: 0.5, bool: True}
    for option in options.options_of(Plan):
        value = list(option.choices())[-1] if option.choices is not None else values[option.kind]
        changes = {option.field: value}
        plan = Plan().replace(**({option.part: changes} if option.part else changes))
        unused = f"is only used with {option_checks.needs(option)}" in [
            problem.bound for problem in option_checks.problems(plan)
        ]
        number = isinstance(option.default, (int, float)) and option.default is not False
        assert unused is not (option_checks.is_used(option, plan) or number or option.flag == "delta"), option.flag


def test_epochs_replace_the_steps_of_a_preset_and_the_other_way_round():
    plan = options.apply(presets.preset("heart_disease"), {"local_epochs": 3})
    assert (plan.client.local_epochs, plan.client.local_steps) == (3, None)
    plan = options.apply(presets.preset("digits"), {"local_steps": 7})
    assert (plan.client.local_epochs, plan.client.local_steps) == (None, 7)


def test_given_options_that_nothing_uses_are_listed():
    plain, private = Plan(), Plan().replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": 1.0})
    given = {"clip_norm": 2.0, "server_beta_1": 0.5, "rounds": 3}
    assert [problem.name for problem in option_checks.unused([plain], given)] == ["--clip_norm", "--server_beta_1"]
    assert [problem.name for problem in option_checks.unused([plain, private], given)] == ["--server_beta_1"]


def test_methods_change_plans_and_give_sound_ones():
    for name, method in METHODS.items():
        plan = method.plan(presets.preset("heart_disease"), 5.0)
        assert review.problems(plan) == [], name
        assert plan.method == name
        assert (plan.privacy.target_epsilon == 5.0) is method.noisy
    assert set(default_methods()) <= set(METHODS)


def test_unknown_methods_are_all_named_with_the_nearest():
    with pytest.raises(InvalidInput) as caught:
        find_methods(("dp_sdg", "weighted_maen"))
    assert "'dp_sgd'" in str(caught.value)
    assert "'weighted_mean'" in str(caught.value)


@pytest.mark.parametrize("name", ["mf", "banded-mf", "matrix_factorization", "dp_matrix_factorisation", "Banded"])
def test_other_names_of_matrix_factorisation_lead_to_those_offered(name):
    with pytest.raises(InvalidInput) as caught:
        find_methods(("dp_sgd", name))
    plan = Plan().replace(weighting="equal", privacy={"mechanism": name, "noise_multiplier": 1.0})
    outer = METHODS["dp_sgd_fixed_clip"].plan(Plan(), 5.0).replace(privacy={"outer": name})
    (method,) = caught.value.problems
    (mechanism,) = [one for one in review.problems(plan) if one.name == "mechanism"]
    (around,) = [one for one in review.problems(outer) if one.name == "outer"]
    for problem in (method, mechanism, around):
        assert problem.value == name
        assert "fixed_clip" in problem.bound
        assert "banded_mf" in problem.remedy
    assert {"tree", "blt", "banded_mf"} <= set(METHODS)


def test_a_misspelt_mechanism_is_still_told_the_nearest():
    (problem,) = review.problems(Plan().replace(privacy={"mechanism": "tre"}))
    assert problem.name == "mechanism"
    assert "not offered" not in problem.bound
    assert "'tree'" in problem.remedy


def test_another_name_of_matrix_factorisation_is_refused_on_the_command_line(checkout, tmp_path):
    found = script(checkout, "train.py", "--aggregator=matrix_factorization", f"--run_dir={tmp_path / 'run'}")
    assert found.returncode == 2
    assert "aggregator='matrix_factorization'" in found.stderr
    assert "Remedy: take banded_mf or blt" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_comparison_names_its_problems_at_once():
    comparison = Comparison(("mean", "mean"), (0.0,), (1, 1), runtime="nativ")
    assert [problem.name for problem in comparison.problems()] == ["target_epsilon", "runtime", "seeds", "aggregators"]
    assert "target_epsilon" in [p.name for p in Comparison(("dp_sgd",), (), (1,)).problems()]


def test_options_reach_the_methods_that_use_them():
    given = {"rounds": 3, "clip_norm": 2.0, "client_learning_rate": 0.5, "batch_size": 8}
    comparison = Comparison(("pooled", "weighted_mean", "dp_sgd"), (1.0,), (1,), given=given)
    pooled, mean, private = (plan for _, plan in comparison.method_plans())
    assert (private.privacy.clip_norm, mean.privacy.clip_norm) == (
        2.0,
        presets.preset("heart_disease").privacy.clip_norm,
    )
    assert (mean.rounds, mean.client.learning_rate, mean.client.batch_size) == (3, 0.5, 8)
    assert (pooled.client.learning_rate, pooled.client.batch_size) == (1e-3, 8)  # a baseline keeps its own way


@pytest.mark.parametrize("text", ["alpha", "=3", ""])
def test_settings_need_a_name_and_a_value(text):
    with pytest.raises(InvalidInput, match="must be name=value"):
        flag_groups.parse_settings("data_option", [text])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--aggregator=fedavgg", "--run_dir=x"], "must be one of"),
        (["--client_learning_rate=-1", "--run_dir=x"], "must be > 0.0"),
        (["--server_beta_1=0.5", "--run_dir=x"], "is only used with server_optimizer=adam, yogi or lamb"),
        (["--clip_norm=1", "--run_dir=x"], "is only used with a private method"),
        (["--aggregator=dp_sgd", "--run_dir=x"], "exactly one of the two decides the noise"),
        (["--aggregator=dp_sgd", "--target_epsilon=-2", "--run_dir=x"], "target_epsilon=-2.0: must be > 0.0"),
        (["--target_epsilon=2", "--run_dir=x"], "is only used with a private method"),
        (["--aggregator=pooled", "--run_dir=x"], "is a baseline of comparisons"),
        (["--runtime=quick", "--run_dir=x"], "must be one of cluster, compiled, deployed, native"),
        (["--cluster_address=10.0.0.1:6379", "--run_dir=x"], "is only used with runtime=cluster"),
        (["--runtime=cluster", "--cluster_time_limit_seconds=0", "--run_dir=x"], "cluster_time_limit_seconds=0"),
        (["--cluster_hospitals_per_chunk=2", "--run_dir=x"], "is only used with runtime=cluster"),
        (["--runtime=cluster", "--cluster_hospitals_per_chunk=0", "--run_dir=x"], "cluster_hospitals_per_chunk=0"),
        (["--dataset=hart_disease", "--run_dir=x"], "heart_disease"),
        (["--data_option=alpha", "--run_dir=x"], "must be name=value"),
        (["--hospitals_per_round=2", "--run_dir=x"], "is only used with cohort=fixed_size"),
        (["stray", "--run_dir=x"], "is not a flag"),
        ([], "must name a folder"),
    ],
)
def test_bad_flags_are_refused_in_one_screen(checkout, arguments, words):
    done = script(checkout, "train.py", *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Remedy" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 24
    assert not pathlib.Path("/x").exists()


@pytest.mark.parametrize("name", ["train.py", "compare_aggregators.py"])
def test_help_lists_all_flags_and_loads_nothing_heavy(checkout, name):
    done = script(checkout, name, "--help")
    for option in flag_groups.plan_options():
        assert f"--{option.flag}" in done.stdout.replace("--[no]", "--")
    heavy = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "try: runpy.run_path(sys.argv.pop(0) and PATH, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('tensorflow', 'scipy', 'pandas', 'matplotlib', 'numpy') if m in sys.modules])"
    ).replace("sys.argv.pop(0) and PATH", repr(str(checkout / "scripts" / name)))
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, timeout=60, cwd="/")
    assert loaded.stdout.strip().splitlines()[-1] == "[]"


def test_unknown_flags_offer_the_nearest(checkout):
    done = script(checkout, "train.py", "--roundz=3")
    assert done.returncode == 2
    assert "Did you mean: rounds" in done.stderr
