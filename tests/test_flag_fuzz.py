"""No flag value of any command ends in a traceback: a screen of words and an exit code, for whatever is typed."""

from __future__ import annotations

import collections
import importlib
import pathlib
import random
import traceback
from collections.abc import Iterator

import pytest
from absl import flags

from tff_hospitals.experiments import command, front_door

MOST_LINES = 25
PER_COMMAND, SAMPLE = 170, 20  # over all commands more than 1,000; a sample of them in the fast part
NUMBERS = (
    *("0", "-1", "1", "2", "3", "0.5", "1e-9", "1e-100", "1e300", "-1e300", "1e21", "nan", "inf", "-inf", "0x10"),
    *("1000000", "1000000000", "99999999999999999999", "1" * 400, "1_000", "٣", "1,2", "", " ", "1/3", "True"),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "none",
        "ä☃",
        "a b",
        "a\nb",
        "\0",
        "%s",
        "{}",
        "../..",
        "/dev/null",
        "~",
        "=",
        "a=b",
        "a=",
        "=b",
        ",",
    ),
    *(":", "a:b", "json:dumps", "os:getcwd", "a" * 5000, "-", "--", "null", "[]", "'", '"', "\\", "$HOME", "http://x"),
    *("dp_sgd", "fixed_clip", "adaptive", "quantize:8", "topk:2", "delta,delta", "rotate,quantize:99", "randk:nan"),
    *("sites=5", "seed=1", "name=x", "partition=iid", "alpha=0", "alpha=nan", "scaling=none", "scaling_streams=3"),
    *("labels=1+2", "labels=a", "hidden_units=-1", "signature=1", "dataset_signature=x", "step:0:0", "exponential:inf"),
    *(
        "cleveland",
        "heart_disease",
        "digits",
        "synthetic",
        "iid",
        "dirichlet",
        "poisson",
        "cyclic",
        "pld",
        "2x3",
        "0x0",
    ),
    *("1" * 30 + "x" + "1" * 30, "999999999x999999999x9", "compiled", "native", "0.1,0.2", "record", "replace_one"),
)
# What a command must have to get past its first question.
SOUND = {
    "account": ("--sampling_probability=0.1", "--noise_multiplier=1", "--steps=10", "--delta=1e-5"),
    "bandwidth": ("--model_shapes=20x3,3", "--hospitals=2", "--rounds=3"),
    "train": ("--run_dir=run", "--dataset=heart_disease"),
    "compare": ("--run_dir=run", "--aggregators=weighted_mean,dp_sgd,fixed_clip", "--target_epsilon=2"),
    "pretrain": ("--output=out.keras",),
    "audit": ("--run_dir=run",),
    "report": ("--run_dir=run",),
    "inspect": ("--folder=.",),
    "options": (),
    "doctor": (),
}


class Reached(SystemExit):
    """The command was accepted and would start its long work now."""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """An empty folder, and long work that ends where it would begin."""
    monkeypatch.chdir(tmp_path)

    def begin(*arguments: object, **named: object) -> None:
        raise Reached(0)

    from tff_hospitals.experiments import sweep
    from tff_hospitals.installation import doctor
    from tff_hospitals.training import loop

    monkeypatch.setattr(loop, "train", begin)
    monkeypatch.setattr(sweep, "start", begin)
    monkeypatch.setattr(doctor, "start_smoke", begin)


def own_flags(module: object) -> list[str]:
    before = set(flags.FLAGS)
    module.define_flags()  # type: ignore[attr-defined]
    own = [name for name in flags.FLAGS if name not in before]
    for name in own:
        delattr(flags.FLAGS, name)
    return own


def commands(name: str, names: list[str], count: int) -> Iterator[list[str]]:
    """Every flag with hard values, then several flags at once, doubled and misspelt ones."""
    draw = random.Random(f"flags of {name}")
    values = [*NUMBERS, *TEXTS]
    for _ in range(count):
        given = list(SOUND.get(name, ()))
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            flag, value = draw.choice(names), draw.choice(values)
            given.append(draw.choice((f"--{flag}={value}",) * 12 + (f"--{flag}", f"--no{flag}", f"-{flag}={value}")))
            if draw.random() < 0.1:
                given.append(f"--{flag}={draw.choice(values)}")
        if draw.random() < 0.05:
            given.append(draw.choice(("stray", "--", "--nothing=1", "--undefok=x", "--flagfile=missing", "---", "-")))
        draw.shuffle(given)
        yield given


def test_there_are_more_than_a_thousand_commands() -> None:
    assert PER_COMMAND * len(front_door.COMMANDS) >= 1000


@pytest.mark.tensorflow
@pytest.mark.parametrize("count", [SAMPLE, pytest.param(PER_COMMAND, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", front_door.COMMANDS)
def test_no_flag_ends_in_a_traceback(name: str, count: int, work: None, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(front_door.COMMANDS[name])
    names = [*own_flags(module), "extension", "verbosity"]
    codes: collections.Counter[int] = collections.Counter()
    faults = []
    for given in commands(name, names, count):
        try:
            code = command.run(module, [name, *given])
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            faults.append(
                f"{given}: {type(error).__name__}: {error} at {frames[-1].filename}:{frames[-1].lineno}"[:600]
            )
            capsys.readouterr()
            continue
        shown = capsys.readouterr()
        codes[code] += 1
        if code not in (0, 1, 2) or "Traceback" in shown.err or (code == 2 and not shown.err.startswith("error: ")):
            faults.append(f"{given}: code {code}: {shown.err[:300]}")
        elif code and len(shown.err.splitlines()) > MOST_LINES:
            faults.append(f"{given}: {len(shown.err.splitlines())} lines")
    assert faults == [], "\n".join(faults)
    assert sum(codes.values()) == count
    assert codes[2] > 0  # what is typed here is mostly wrong
