"""Sizes, links and the forecast, with figures that can be checked on paper; and the script that prints them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tff_hospitals.communication import bandwidth, forecast, parse_chain, sizes
from tff_hospitals.communication.bandwidth import Link
from tff_hospitals.foundations.validation import InvalidInput

MLP = [(784, 200), (200,), (200, 10), (10,)]
FLAGS = ["--model_shapes=784x200,200,200x10,10", "--hospitals=10", "--rounds=100"]


def test_classic_formula():
    assert bandwidth.classic_bytes(636_040, 636_040, 10, 1.0, 100) == 1_272_080_000
    assert bandwidth.classic_bytes(1000, 10, 20, 0.25, 8) == 1010 * 40


def test_time_on_a_link():
    # 1 MB down at 8 Mbit/s: 1 s; 0.5 MB up at 2 Mbit/s: 2 s; two delays of 50 ms.
    assert Link(2, 8, 50).round_seconds(1_000_000, 500_000) == pytest.approx(3.1)


def test_the_slowest_hospital_decides():
    links = {"city": Link(100, 100, 5), "island": Link(1, 2, 300), "idle": Link(0.001, 0.001)}
    sent = {"city": 1e6, "island": 1e3}
    assert bandwidth.slowest(links, sent, sent) == ("island", pytest.approx(0.004 + 0.008 + 0.6))
    with pytest.raises(InvalidInput, match="at least one hospital"):
        bandwidth.slowest(links, {}, {})
    with pytest.raises(InvalidInput, match="'mars': is a hospital without a link"):
        bandwidth.slowest(links, {"mars": 1}, {})


def test_a_link_without_speed_is_refused():
    with pytest.raises(InvalidInput) as error:
        Link(0, -1, -5)
    assert [problem.name for problem in error.value.problems] == ["uplink_mbps", "downlink_mbps", "latency_ms"]


def test_dense_and_quantised_sizes_by_hand():
    assert sizes.dense_bytes(MLP) == 4 * 159_010
    # 9 frame + 3 count; 13 groups: ten of the kernel, one of each other tensor, with two scales each; a byte per value
    assert sizes.payload_bytes(parse_chain("quantize:8"), MLP) == (159_126 + 1, 159_126 + 2)
    assert 9 + 3 + 13 * 8 + 159_010 == 159_126
    assert sizes.payload_bytes(parse_chain("none"), MLP) == (636_052, 636_052)


@pytest.mark.parametrize(("fraction", "payload"), [(1.0, 90.0), (0.3, 90.0), (0.05, 90.0), (0.3, 900.0)])
def test_broadcasts_of_differences_count_what_a_hospital_has_to_catch_up_with(fraction, payload):
    """Against rounds that are drawn: the whole model first, then what was missed, or the whole where that is less."""
    generator, whole, rounds, hospitals = np.random.default_rng(5), 400.0, 30, 20_000
    chosen = generator.random((rounds, hospitals)) < fraction
    held, total = np.full(hospitals, -1), np.zeros(hospitals)
    for number in range(rounds):
        gap = np.where(held[chosen[number]] < 0, np.inf, number - held[chosen[number]])
        total[chosen[number]] += np.minimum(gap * payload, whole)
        held[chosen[number]] = number
    error = total.std() / np.sqrt(hospitals)
    expected = bandwidth.catching_up_bytes(payload, whole, fraction, rounds)
    assert abs(total.mean() - expected) <= 4 * error + 1e-9
    link = bandwidth.Link(10, 50)
    found = forecast.forecast(
        MLP, parse_chain("delta,quantize:8"), parse_chain("none"), [link], hospitals=3, rounds=5, fraction_selected=1.0
    )
    down, up = found["down"]["bytes"], found["up"]["bytes"]
    assert found["encoded"]["run_bytes"] == pytest.approx(3 * (5 * up + 4 * down + sizes.dense_bytes(MLP)))


def test_forecast_multiplies_what_it_measured():
    link = Link(10, 50, 20)
    found = forecast.forecast(
        MLP, parse_chain("float16"), parse_chain("rotate,onebit"), [link], hospitals=4, rounds=7, fraction_selected=0.5
    )
    down, up = found["down"]["bytes"], found["up"]["bytes"]
    assert found["encoded"]["run_bytes"] == (down + up) * 4 * 0.5 * 7
    assert found["encoded"]["round_seconds"] == link.round_seconds(down, up)
    assert found["float32"]["run_bytes"] == 2 * 636_040 * 14
    assert found["up"]["bits_per_value"] == pytest.approx(1, rel=0.01)
    assert found["up"]["normalised_error"] == pytest.approx(0.571, rel=0.03)
    assert found["up"]["bytes_at_least"] <= up <= found["up"]["bytes_at_most"]
    assert sum(section["bytes"] for section in found["down"]["sections"]) == down
    assert "ynthetic" in found["measured_on"]


def test_forecast_refuses_everything_at_once():
    with pytest.raises(InvalidInput) as error:
        forecast.forecast(
            MLP, parse_chain("none"), parse_chain("delta"), [Link(1, 1)] * 3, hospitals=0, rounds=0, fraction_selected=2
        )
    names = [problem.name for problem in error.value.problems]
    assert names == ["hospitals", "rounds", "fraction_selected", "upload", "links"]


@pytest.mark.parametrize("text", ["", "784x", "7x0", "3,-4", "a"])
def test_shapes_that_are_none(text):
    with pytest.raises(InvalidInput, match="784x200,200,200x10,10"):
        forecast.parse_shapes(text)


def script(checkout, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(checkout / "scripts" / "bandwidth.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_script_prints_json_without_tensorflow(checkout):
    chains = ["--broadcast=delta,rotate,quantize:8", "--upload=topk:0.01,ternary:mean,entropy"]
    done = script(checkout, *FLAGS, *chains, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["values"] == 159_010
    assert found["up"]["times_fewer_than_float32"] > 300
    code = (
        "import sys; from tff_hospitals.communication import forecast; "
        "from tff_hospitals.experiments import bandwidth_command; "
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'scipy', 'pandas') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=checkout, timeout=60, check=False).returncode == 0


def test_script_says_all_that_is_wrong_and_exits_with_2(checkout):
    bad = ["--upload=quantize:99", "--broadcast=blur", "--uplink_mbps=1,2", "--latency_ms=1,2,3"]
    done = script(checkout, *FLAGS, *bad)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in ("quantize bits=99", "'blur'", "--uplink_mbps"))


def test_script_names_flags_that_are_missing(checkout):
    done = script(checkout, "--model_shapes=3")
    assert done.returncode == 2
    assert "--hospitals" in done.stderr
    assert "--rounds" in done.stderr


def test_script_table_and_help(checkout):
    done = script(checkout, *FLAGS, "--upload=rotate,eden:2")
    assert done.returncode == 0, done.stderr
    assert "159,010 values" in done.stdout
    assert "rotate,eden:2" in done.stdout
    assert "--upload" in script(checkout, "--help").stdout
