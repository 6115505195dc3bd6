"""The account command about strategies: figures of the accounting, without TensorFlow, one screen for bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tff_hospitals.accounting.strategies import STRATEGIES
from tff_hospitals.experiments import account_strategy
from tff_hospitals.foundations.validation import InvalidInput


def command(*arguments):
    program = [sys.executable, "-m", "tff_hospitals", "account", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_sensitivity_and_errors():
    done = command("--strategy=bsr", "--steps=1000", "--min_separation=100", "--participations=10", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sensitivity"] == pytest.approx(5.031254, rel=1e-5)
    assert found["rmse"] == pytest.approx(12.103189, rel=1e-5)
    assert found["max_error"] == pytest.approx(15.688672, rel=1e-5)
    assert found["coefficients_checked"] is True


def test_a_target_gives_noise_that_keeps_it():
    asked = {"steps": 1000, "participations": 10, "min_separation": 100, "delta": 1e-5}
    found = account_strategy.answer("blt", target_epsilon=2.0, **asked)
    again = account_strategy.answer("blt", noise_multiplier=found["noise_multiplier"], **asked)
    assert 1.99 < again["epsilon_rdp"] <= 2.0
    assert again["epsilon_pld"] < again["epsilon_rdp"]
    assert found["noise_rmse"] == pytest.approx(found["rmse"] * found["noise_multiplier"] / found["sensitivity"])


def test_amplified_bands_have_the_recomputed_noise():
    done = command(
        "--strategy=banded",
        "--steps=1500",
        "--bands=4",
        "--sampling_probability=1/50",
        "--amplified",
        "--target_epsilon=8",
        "--delta=1e-3",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["noise_multiplier"] == pytest.approx(1.0691, rel=1e-4)
    assert found["noise_rmse"] == pytest.approx(14.89, rel=1e-3)


def test_without_a_number_of_bands_the_best_one_is_chosen_and_the_others_are_shown():
    asked = {"steps": 1500, "sampling_probability": "1/50", "amplified": True, "delta": 1e-3}
    found = account_strategy.answer("banded", target_epsilon=8.0, **asked)
    given = account_strategy.answer("banded", target_epsilon=8.0, bands=found["bands"], **asked)
    assert [one["bands"] for one in found["choices"]] == [1, 2, 4, 8, 16, 32, 50]
    assert found["noise_rmse"] == pytest.approx(given["noise_rmse"], rel=1e-12)
    assert found["noise_rmse"] == pytest.approx(min(one["rmse"] for one in found["choices"]), rel=1e-12)
    assert f"chosen            {found['bands']} bands" in account_strategy.text(found)
    assert account_strategy.text(found).count("RMSE") == 10


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"steps": None}, "--steps=None"),
        ({"steps": 10, "delta": 1e-5}, "together with --target_epsilon"),
        ({"steps": 10, "target_epsilon": 1.0}, "--delta"),
        ({"steps": 10, "sampling_probability": 0.1}, "add --amplified"),
        ({"steps": 10, "amplified": True, "sampling_probability": "1/0"}, "a number or a fraction"),
        ({"steps": 10, "amplified": True, "sampling_probability": 2.0}, "--sampling_probability=2.0"),
        ({"steps": 10, "target_epsilon": -1.0, "delta": 1e-5}, "--target_epsilon=-1.0"),
        ({"steps": 10, "participations": 3}, "min_separation"),
    ],
)
def test_bad_input_is_named(asked, words):
    with pytest.raises(InvalidInput) as caught:
        account_strategy.answer("banded", **asked)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": -1, "participations": 5, "min_separation": 10}, "steps=-1"),
        ({"steps": 10, "bands": 0}, "bands=0"),
        ({"steps": 10, "buffers": 0}, "buffers=0"),
        ({"steps": 10, "buffers": 5}, "buffers=5"),
        ({"steps": 10, "bands": 2, "buffers": 2}, "is only used with"),
    ],
)
def test_every_strategy_refuses_what_it_has_no_use_for(name, asked, words):
    with pytest.raises(InvalidInput) as caught:
        account_strategy.answer(name, **asked)
    assert words in str(caught.value)


def test_no_bands_at_all_are_refused_where_they_amplify():
    with pytest.raises(InvalidInput, match="bands=0: must be"):
        account_strategy.answer("banded", steps=10, bands=0, amplified=True, sampling_probability=0.1)


def test_independent_noise_is_amplified_as_one_band():
    asked = {"steps": 1500, "sampling_probability": 0.02, "amplified": True, "delta": 1e-3, "noise_multiplier": 1.1382}
    one, other = account_strategy.answer("identity", **asked), account_strategy.answer("banded", bands=1, **asked)
    assert one["epsilon_rdp"] == other["epsilon_rdp"] == pytest.approx(3.0, rel=1e-3)


def test_no_tensorflow():
    program = (
        "import sys\nfrom tff_hospitals.experiments import account_strategy\n"
        "account_strategy.answer('blt', steps=50, target_epsilon=1.0, delta=1e-3)\n"
        "print('tensorflow' in sys.modules, 'dp_accounting' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
