"""The benchmark of the machine's limit, without its processes: which ratio is which, and that other work is refused."""

from __future__ import annotations

import json

import pytest

from tff_hospitals.experiments import command


@pytest.fixture
def limit(benchmark, monkeypatch):
    """The program, with figures instead of measurements: ours takes .3 s where JAX takes .2 s."""
    program = benchmark("limit")
    losses = dict.fromkeys(program.LIMITS, 2.3)

    def measure(peer, python, sites, turns):
        ours, theirs = 2.302, losses[peer]
        values = {"over_compiled": 2 / 3, "s": 0.2, "compiled_s": 0.3, "loss": theirs, "compiled_loss": ours}
        found = {f"{peer}_k{sites}_{name}": value for name, value in values.items()}
        return {**found, f"{peer}_k{sites}_same_loss": program.peers.same_loss(ours, theirs)}

    monkeypatch.setattr(program.peers, "measure", measure)
    monkeypatch.setattr(program.peers_environments, "prepare", lambda peer, folder: folder)
    monkeypatch.setattr(program, "python_over_script", lambda sites, turns: {"python_api_over_script": 1.01})
    program.losses = losses
    return program


def test_ours_is_over_jax(limit, tmp_path, capsys):
    assert command.run(limit, ["limit.py", f"--json={tmp_path / 'f.json'}"]) in (0, None)
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["mlp_k10_over_jax_devices"] == pytest.approx(1.5)
    assert figures["mlp_k100_over_jax_devices"] == pytest.approx(1.5)
    assert figures["mlp_k100_over_by_hand_xla"] == figures["mlp_k10_over_by_hand"] == pytest.approx(1.5)
    assert figures["python_api_over_script"] == 1.01
    assert figures["processor"]
    said = capsys.readouterr().out
    assert "jax 0.10.2" in said
    assert "| mlp_k10_over_jax_devices | 1.5 |" in said


@pytest.mark.parametrize("row", ["jax", "by_hand_xla", "by_hand"])
def test_other_work_is_no_limit(limit, capsys, row):
    limit.losses[row] = 2.0
    assert command.run(limit, ["limit.py"]) == 1
    assert "its training loss is 2.0000, ours 2.3020" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "word"), [("--sites=0", "--sites"), ("--turns=0", "--turns"), ("--sites=x", "sites")]
)
def test_bad_input(limit, capsys, argument, word):
    assert command.run(limit, ["limit.py", argument]) == 2
    assert word in capsys.readouterr().err
