"""scripts/account.py: right numbers, quickly, without TensorFlow; bad input in one screen."""

import json
import pathlib
import subprocess
import sys

import pytest

from tff_hospitals.experiments import account_command
from tff_hospitals.foundations import validation

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "account.py"


def script(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, cwd=folder, check=False
    )


def test_json_from_any_folder(tmp_path):
    done = script(
        "--sampling_probability=256/60000",
        "--noise_multiplier=1.1",
        "--steps=14062",
        "--delta=1e-5",
        "--json",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["epsilon_rdp"] == pytest.approx(2.5966, rel=1e-4)
    assert found["epsilon_pld"] == pytest.approx(2.3817, rel=1e-3)
    assert found["noise_multiplier"] == 1.1


def test_bad_input_is_one_screen_and_exit_code_2():
    done = script("--sampling_probability=-1", "--noise_multiplier=0", "--target_epsilon=-1", "--steps=0", "--delta=2")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for words in ("exactly one of them", "--noise_multiplier=0.0", "--target_epsilon=-1.0", "delta=2.0", "steps=0"):
        assert words in done.stderr
    assert len(done.stderr.splitlines()) < 20


def test_no_heavy_import():
    """Neither a question nor the package loads TensorFlow or dp_accounting; the package alone not even numpy."""
    program = (
        "import sys, tff_hospitals.accounting, tff_hospitals.experiments.account_command as command\n"
        "print(sorted({'numpy', 'scipy', 'tensorflow', 'dp_accounting'} & set(sys.modules)))\n"
        "command.answer(noise_multiplier=1.1, steps=10, delta=1e-5, sampling_probability=.1)\n"
        "print(sorted({'numpy', 'scipy.special', 'tensorflow', 'dp_accounting', 'scipy.stats'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=SCRIPT.parent.parent,
        check=True,
    )
    assert done.stdout.splitlines() == ["[]", "['numpy', 'scipy.special']"]


def test_noise_for_a_target():
    """Cleveland of the four hospitals: noise 2.387 for epsilon 1 at delta 1e-3 over 1,500 steps."""
    found = account_command.answer(sampling_probability="1/50", target_epsilon=1.0, steps=1500, delta=1e-3)
    assert found["noise_multiplier"] == pytest.approx(2.387, rel=5e-4)
    assert 0.9999 < found["epsilon_rdp"] <= 1.0
    assert found["epsilon_pld"] < found["epsilon_rdp"] < found["epsilon_rdp_classical"]
    text = account_command.text(found)
    for words in (
        "2.38",
        "the least for epsilon 1 by rdp",
        "one record (patient)",
        "replace_special",
        "Poisson",
        "pld:",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 118


def test_other_samplings_have_their_own_adjacency():
    fixed = account_command.answer(
        sampling="fixed_size", records=199, batch=4, noise_multiplier=3.0, steps=10, delta=1e-2
    )
    assert fixed["adjacency"] == "replace_one"
    assert 0 < fixed["epsilon_pld"] < fixed["epsilon_rdp"]
    assert "0.00503" in fixed["warnings"][0]
    loud = account_command.answer(sampling_probability=0.02, noise_multiplier=1e-6, steps=1500, delta=1e-2)
    assert loud["epsilon_pld"] is None
    assert "none: too large to be computed" in account_command.text(loud)
    shuffled = account_command.answer(
        sampling="shuffled", sampling_probability=0.1, noise_multiplier=3.0, steps=10, delta=1e-5
    )
    once = account_command.answer(sampling="none", noise_multiplier=3.0, steps=1, delta=1e-5)
    assert shuffled["adjacency"] == "replace_special"
    assert shuffled["epsilon_rdp"] == once["epsilon_rdp"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"noise_multiplier": None}, "exactly one of them must be given"),
        ({"target_epsilon": 1.0}, "exactly one of them must be given"),
        ({"noise_multiplier": -1.0}, "--noise_multiplier=-1.0: must be >= 1e-06"),
        ({"noise_multiplier": None, "target_epsilon": 0.0}, "--target_epsilon=0.0: must be > 0"),
        ({"steps": 0}, "steps=0: must be >= 1"),
        ({"steps": None}, "--steps=None: must be given"),
        ({"delta": 0.0}, "delta=0.0: must be > 0.0 and < 1.0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"sampling_probability": "1.01"}, "must be > 0.0 and <= 1.0"),
        ({"sampling_probability": "0"}, "must be > 0.0 and <= 1.0"),
        ({"sampling_probability": "1/0"}, "must be a number or a fraction"),
        ({"sampling_probability": "a few"}, "must be a number or a fraction"),
        ({"sampling_probability": None}, "must be given for poisson sampling"),
        ({"sampling": "none"}, "must be 1 for --sampling=none"),
        ({"sampling": "poison"}, "did you mean 'poisson'"),
        ({"sampling": "fixed_size"}, "both must be given for fixed_size"),
        ({"sampling": "fixed_size", "records": 3, "batch": 5}, "batch=5: must be <= records=3"),
        ({"adjacency": "replace_one"}, "not under 'replace_one'"),
        ({"conversion": "moments"}, "conversion='moments'"),
    ],
)
def test_bad_input(changed, words):
    good = {"sampling_probability": "0.1", "noise_multiplier": 1.0, "steps": 10, "delta": 1e-5}
    with pytest.raises(validation.InvalidInput, match=words):
        account_command.answer(**{**good, **changed})
