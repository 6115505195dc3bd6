"""Answers of commands that once were wrong or a traceback, each with the right one."""

from __future__ import annotations

import json
import pathlib

import pytest

from tff_hospitals.accounting.sampling import LEAST_NOISE
from tff_hospitals.communication import forecast, parse_chain, sizes
from tff_hospitals.experiments import account_command, command, front_door
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset
from tff_hospitals.plan import review
from tff_hospitals.plan.parts import STOPPING_METRICS
from tff_hospitals.plan.plan import Plan


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        front_door.main(argv=["tff-hospitals", *arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0, 5.0, 8.0, 20.0])
@pytest.mark.parametrize("sampling", [{"sampling_probability": "4/199"}, {"sampling": "none"}])
def test_the_printed_noise_fed_back_keeps_the_target(epsilon: float, sampling: dict[str, str]) -> None:
    question = {**sampling, "steps": 1500, "delta": 1e-3}
    line = account_command.text(account_command.answer(target_epsilon=epsilon, **question)).splitlines()[0]
    printed = line.split()[2].rstrip(",")
    exact = account_command.answer(target_epsilon=epsilon, **question)["noise_multiplier"]
    assert exact <= float(printed) <= 1.00001 * exact
    assert account_command.answer(noise_multiplier=float(printed), **question)["epsilon_rdp"] <= epsilon


@pytest.mark.parametrize("noise", ["1e-100", "1e-160", "1e-320", "1e300", "0", "-1", "nan"])
def test_noise_beyond_every_float_is_refused_with_a_bound(noise: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--sampling_probability=0.02", f"--noise_multiplier={noise}", "--steps=10", "--delta=1e-3")
    code, _, error = answered(capsys, "account", *asked)
    assert code == 2
    assert "must be >= 1e-06 and <= 1000000000.0" in error
    if noise != "0":  # clipping alone, for a plan
        plan = Plan().replace(privacy={"mechanism": "dp_sgd", "noise_multiplier": float(noise)})
        assert [problem.name for problem in review.problems(plan)] == ["noise_multiplier"]


def test_the_least_noise_and_the_most_steps_have_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    for noise, steps in ((LEAST_NOISE, 10**15), (1e9, 10**15), (1e9, 1)):
        asked = (f"--noise_multiplier={noise}", f"--steps={steps}", "--delta=1e-3", "--json")
        code, shown, _ = answered(capsys, "account", "--sampling_probability=0.02", *asked)
        assert code == 0
        assert json.loads(shown)["epsilon_rdp"] >= 0
    steps = f"--steps={10**21}"
    code, _, error = answered(capsys, "account", "--sampling=none", "--noise_multiplier=1", "--delta=1e-3", steps)
    assert code == 2
    assert "must be >= 1 and <= 1000000000000000" in error


def test_a_model_of_any_size_is_forecast_from_its_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--hospitals=10", "--rounds=10", "--upload=rotate,onebit", "--json")
    code, shown, error = answered(capsys, "bandwidth", "--model_shapes=1000000000x100", *asked)
    assert (code, error) == (0, "")
    found = json.loads(shown)
    assert found["values"] == 10**11
    assert found["down"]["bytes"] == pytest.approx(4e11)
    assert found["up"]["bits_per_value"] == pytest.approx(1.002, rel=1e-3)
    assert found["up"]["bytes_at_least"] <= found["up"]["bytes"] <= found["up"]["bytes_at_most"]
    assert "in proportion" in found["measured_on"]
    code, _, error = answered(capsys, "bandwidth", f"--model_shapes={10**9}x{10**9}", *asked)
    assert code == 2
    assert "at most" in error


@pytest.mark.parametrize(
    ("upload", "by_round", "words"),
    [
        ("quantize:4", "upload_bits=linear:0.1", "by_round='upload_bits (0 in some round)': must be >= 1"),
        ("topk:0.1", "upload_bits=linear:0.5", "by_round='upload_bits': is of a quantize:B or eden:B"),
        ("quantize:4", "upload_bits=list:1:1,upload_bits=linear:1", "comes twice"),
        ("quantize:4", "upload_bits=list:1:nan:1", "must have positive numbers"),
        ("quantize:4", "clip_norm=linear:0.5", "changes no size of a payload"),
    ],
)
def test_bits_that_a_forecast_cannot_follow_are_said_once_and_by_their_name(
    upload: str, by_round: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model_shapes=20x3,3", "--hospitals=3", "--rounds=4", f"--upload={upload}", f"--by_round={by_round}")
    code, _, error = answered(capsys, "bandwidth", *asked)
    assert code == 2
    assert error.count(words) == error.count("Remedy") == 1, error


@pytest.mark.parametrize(
    "chain", ["none", "rotate,onebit", "quantize:8", "topk:0.01,ternary:mean,entropy", "randk:0.1"]
)
def test_a_part_forecasts_the_whole(chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model, measured whole and by a quarter of it."""
    encoder, shapes = parse_chain(chain, name="upload"), [(2000, 400), (400,), (400, 30)]
    whole = forecast.measure(encoder, shapes)
    monkeypatch.setattr(forecast, "MEASURED_VALUES", 200_000)
    part = forecast.measure(encoder, shapes)
    assert part.bounds == whole.bounds == sizes.payload_bytes(encoder, shapes)
    assert part.payload_bytes == pytest.approx(whole.payload_bytes, rel=0.02)


def regression(folder: pathlib.Path) -> pathlib.Path:
    """Days in hospital by age, at two hospitals."""
    for name, first in (("a", 20), ("b", 25)):
        rows = "".join(f"{age},{age / 10:.1f}\n" for age in range(first, first + 60))
        (folder / f"{name}.csv").write_text("age,los\n" + rows)
    (folder / "schema.yaml").write_text(
        "features:\n  - {name: age, bounds: [18, 100]}\ntarget: {name: los, kind: regression}\n"
        "scaling: fixed_bounds\ntest_fraction: 0.25\n"
    )
    return folder


@pytest.mark.parametrize("metric", ["accuracy", "auc"])
def test_a_plateau_of_what_the_task_has_not_is_refused(
    metric: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = regression(tmp_path)
    asked = (f"--dataset={folder}", f"--run_dir={tmp_path / 'run'}", "--patience=3", f"--stopping_metric={metric}")
    code, _, error = answered(capsys, "train", *asked)
    assert code == 2
    assert f"stopping_metric='{metric}': does not exist for regression. Remedy: set --stopping_metric=loss" in error
    patient = Plan().replace(stopping={"patience": 3, "metric": "loss"})  # the remedy, followed
    assert review.problems(patient, load_dataset(str(folder))) == []


def test_metrics_of_a_plateau_exist_for_their_tasks() -> None:
    metrics = pytest.importorskip("tff_hospitals.training.metrics")
    for name, tasks in STOPPING_METRICS.items():
        assert metrics.METRICS[name].tasks == tasks


@pytest.mark.parametrize("name", ["train", "compare"])
@pytest.mark.parametrize(
    "option", ["data_option=sites=5", "data_option=name=x", "data_option=seed=1", "model_option=signature=1"]
)
def test_an_option_that_has_a_flag_of_its_own_is_refused(
    name: str, option: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dataset=digits", "--sites=4", f"--{option}", f"--run_dir={tmp_path / 'run'}")
    code, _, error = answered(capsys, name, *flags)
    assert code == 2
    assert "is what a flag of its own says. Remedy: write --" in error
    assert len(error.splitlines()) == 1


def test_an_error_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.say("\n".join("x" * 5000 for _ in range(100)), 2) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 21
    assert max(map(len, shown)) < 1100
    with pytest.raises(InvalidInput, match="must be numbers"):
        command.numbers("seeds", ["1", "x"], int)
