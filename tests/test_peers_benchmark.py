"""The benchmark beside other libraries: its options, its environments' stamps, and the check that work was the same."""

from __future__ import annotations

import pathlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tff_hospitals.experiments import command
from tff_hospitals.foundations import own_environment


@pytest.fixture
def peers(benchmark: Any) -> ModuleType:
    return benchmark("peers")


@pytest.fixture
def environments(benchmark: Any) -> ModuleType:
    return benchmark("peers_environments")


@pytest.fixture
def work(benchmark: Any) -> ModuleType:
    return benchmark("peers_work")


def installer(environments: ModuleType, monkeypatch: pytest.MonkeyPatch, fails_at: int | None = None) -> list[list]:
    """Replaces the programs that make an environment: they only leave a Python behind."""
    steps: list[list] = []

    def run(wanted: own_environment.Wanted, step: list[str], log: pathlib.Path) -> None:
        steps.append(step)
        if fails_at == len(steps):
            raise environments.Unusable(f"{wanted.name}: no", "mend it")
        (log.parent / "bin").mkdir(exist_ok=True)
        (log.parent / "bin" / "python").touch()

    monkeypatch.setattr(own_environment, "_run", run)
    monkeypatch.setattr(own_environment, "find_python", lambda: sys.executable)
    return steps


def test_options_have_defaults_and_refuse_what_makes_no_sense(
    peers: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[Any, ...]] = []

    def measure_all(*arguments: Any) -> tuple[dict[str, Any], int]:
        measured.append(arguments)
        return {}, 0

    monkeypatch.setattr(peers, "measure_all", measure_all)
    assert command.run(peers, ["peers.py"]) == 0
    assert command.run(peers, ["peers.py", "--peers=pfl,fedjax,pfl", "--sites=4"]) == 0
    assert measured[0] == (["fedjax", "flower", "pfl"], [10, 100], peers.FOLDER, 15)
    assert measured[1][:2] == (["pfl", "fedjax"], [4])
    for argument, said in (
        ("--peers=fedjax,fedprox", "--peers='fedprox': must be one of fedjax, flower, pfl"),
        ("--peers=", "--peers='': must be one of"),
        ("--sites=ten", "--sites='ten': must be numbers"),
        ("--sites=10,1", "--sites='10,1': must be whole numbers of 2 or more"),
        ("--turns=0", "--turns=0: must be >= 1"),
        (f"--json={tmp_path / 'nowhere' / 'x.json'}", "cannot be written. Remedy: name a file in a folder that exists"),
    ):
        assert command.run(peers, ["peers.py", argument]) == 2
        assert said in capsys.readouterr().err
    assert len(measured) == 2


def test_every_version_is_fixed_and_nothing_has_an_address(environments: ModuleType) -> None:
    for peer, pins in environments.PINS.items():
        names = [pin.split("==")[0].split("[")[0].lower() for pin in pins.split()]
        assert all(pin.count("==") == 1 and not set(pin) & set("/:@<>~;") for pin in pins.split()), peer
        assert len(names) == len(set(names)), peer
        assert {"flower": "flwr"}.get(peer, peer) in names


def test_an_environment_is_made_once(
    environments: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = installer(environments, monkeypatch)
    python = environments.prepare("fedjax", tmp_path)
    assert python == tmp_path / "fedjax" / "bin" / "python"
    assert len(steps) == 2
    assert environments.is_ready("fedjax", tmp_path / "fedjax")
    assert "fedjax==0.0.17\n" in (tmp_path / "fedjax" / "requirements.txt").read_text()
    assert environments.prepare("fedjax", tmp_path) == python
    assert len(steps) == 2


def test_other_versions_or_a_lost_python_make_it_anew(
    environments: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = installer(environments, monkeypatch)
    environments.prepare("pfl", tmp_path)
    monkeypatch.setitem(environments.PINS, "pfl", "pfl==9.9")
    (tmp_path / "pfl" / "left-over").touch()
    environments.prepare("pfl", tmp_path)
    assert len(steps) == 4
    assert not (tmp_path / "pfl" / "left-over").exists()
    (tmp_path / "pfl" / "bin" / "python").unlink()
    environments.prepare("pfl", tmp_path)
    assert len(steps) == 6


@pytest.mark.parametrize("step", [1, 2])
def test_half_an_environment_is_not_taken_for_done(
    environments: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    installer(environments, monkeypatch, fails_at=step)
    with pytest.raises(environments.Unusable):
        environments.prepare("flower", tmp_path)
    assert not environments.is_ready("flower", tmp_path / "flower")
    steps = installer(environments, monkeypatch)
    environments.prepare("flower", tmp_path)
    assert len(steps) == 2


def test_somebody_elses_folder_is_left_alone(
    environments: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = installer(environments, monkeypatch)
    theirs = tmp_path / "pfl" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("kept")
    with pytest.raises(environments.Unusable, match=r"was not made by this program\n  Remedy: remove it or name"):
        environments.prepare("pfl", tmp_path)
    assert theirs.read_text() == "kept"
    assert steps == []


def test_no_python_and_an_unwritable_folder_are_named(
    environments: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer(environments, monkeypatch)
    monkeypatch.setattr(own_environment, "find_python", lambda: None)
    monkeypatch.setattr(own_environment.shutil, "which", lambda name: None)
    with pytest.raises(environments.Unusable, match=r"there is no Python 3\.11 on this machine\n  Remedy: install it"):
        environments.prepare("pfl", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(environments.Unusable, match=r"cannot be written: .*\n  Remedy: name another --environments"):
        environments.prepare("pfl", tmp_path / "file")


def test_a_failed_installer_is_quoted_with_a_remedy(environments: ModuleType, tmp_path: pathlib.Path) -> None:
    failing = [sys.executable, "-c", "import sys; print('no route to the index'); sys.exit(7)"]
    with pytest.raises(
        environments.Unusable, match=r"(?s)pfl: .* code 7 .*\| no route to the index\n  Remedy: if they"
    ):
        own_environment._run(environments._wanted("pfl"), failing, tmp_path / "install.log")


def test_one_peers_failure_does_not_stop_the_others(
    peers: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(peer: str, folder: pathlib.Path) -> pathlib.Path:
        if peer == "fedjax":
            raise peers.Unusable("fedjax: no network", "plug it in")
        return folder / peer

    monkeypatch.setattr(peers.peers_environments, "prepare", prepare)
    monkeypatch.setattr(peers, "measure", lambda peer, python, sites, turns: figures(peers, peer, sites, 2.302, 2.3))
    found, code = peers.measure_all(["fedjax", "pfl"], [10, 100], tmp_path, 1)
    assert code == 1
    assert capsys.readouterr().err == "peers: fedjax: no network\n  Remedy: plug it in\n"
    assert [name for name in found if name.endswith("over_compiled")] == [
        "pfl_k10_over_compiled",
        "pfl_k100_over_compiled",
    ]
    assert peers.table(found, ["fedjax", "pfl"], [10, 100]).count("\n| pfl | ") == 2


def figures(peers: ModuleType, peer: str, sites: int, ours: float, theirs: float) -> dict[str, Any]:
    values = (1.5, 0.3, 0.2, 4.0, 9.0, theirs, ours, peers.same_loss(ours, theirs))
    names = (
        "over_compiled",
        "s",
        "compiled_s",
        "first_round_s",
        "compiled_first_round_s",
        "loss",
        "compiled_loss",
        "same_loss",
    )
    return {f"{peer}_k{sites}_{name}": value for name, value in zip(names, values)}


def test_other_work_is_marked_and_is_a_failure(
    peers: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers.peers_environments, "prepare", lambda peer, folder: folder)
    monkeypatch.setattr(peers, "measure", lambda peer, python, sites, turns: figures(peers, peer, sites, 1.13, 1.25))
    found, code = peers.measure_all(["pfl"], [10], tmp_path, 1)
    assert code == 1
    assert "pfl: with 10 sites its training loss is 1.2500, ours 1.1300" in capsys.readouterr().err
    assert peers.table(found, ["pfl"], [10]).splitlines()[2:] == [
        "| pfl | 10 | 0.3 | 0.2 | 1.5 | 4.0 | 9.0 | 1.2500 | 1.1300 (not the same work) |",
        "",
        "pfl 0.6.0, torch 2.13.0",
    ]


def test_a_row_that_ends_early_is_named_with_its_last_words(
    peers: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "rows.py"
    program.write_text("import sys; sys.exit('no module named nothing')")
    monkeypatch.setattr(peers, "ROWS", program)
    with pytest.raises(
        peers.Unusable, match=r"(?s)pfl: the measurement failed: .*code 1\n  \| no module named nothing\n"
    ):
        peers.Row(sys.executable, "pfl", 10)


def federated_averaging(work: ModuleType, sites: int, rate: float, seed: int) -> float:
    """Loss after the warm-up rounds, in plain numpy."""
    generator = np.random.default_rng(seed)
    weights = work.first_weights()
    data = [work.site_records(site) for site in range(sites)]
    for _ in range(work.WARM_ROUNDS):
        ends = []
        for features, labels in data:
            w1, b1, w2, b2 = (one.copy() for one in weights)
            for batch in generator.permutation(work.RECORDS).reshape(-1, work.BATCH):
                x, y = features[batch], labels[batch]
                hidden = np.maximum(x @ w1 + b1, 0)
                logits = hidden @ w2 + b2
                error = np.exp(logits - logits.max(1, keepdims=True))
                error /= error.sum(1, keepdims=True)
                error[np.arange(len(y)), y] -= 1
                error /= len(y)
                back = (error @ w2.T) * (hidden > 0)
                for weight, gradient in (
                    (w2, hidden.T @ error),
                    (b2, error.sum(0)),
                    (w1, x.T @ back),
                    (b1, back.sum(0)),
                ):
                    weight -= rate * gradient
            ends.append([w1, b1, w2, b2])
        weights = [np.mean(one, axis=0) for one in zip(*ends)]
    return work.training_loss(weights, sites)


def test_the_loss_tells_the_same_work_from_other_work(peers: ModuleType, work: ModuleType) -> None:
    ours = federated_averaging(work, 10, work.RATE, seed=1)
    assert peers.same_loss(ours, federated_averaging(work, 10, work.RATE, seed=2))
    assert not peers.same_loss(ours, federated_averaging(work, 10, work.RATE / 2, seed=2))
    assert not peers.same_loss(ours, federated_averaging(work, 10, 0.09, seed=2))
    assert not peers.same_loss(ours, float("nan"))


def test_records_are_the_sites_own_and_always_the_same(work: ModuleType) -> None:
    features, labels = work.site_records(3)
    assert features.shape == (200, 784)
    assert features.dtype == np.float32
    assert set(labels) <= set(range(10))
    np.testing.assert_array_equal(features, work.site_records(3)[0])
    assert not np.array_equal(features, work.site_records(4)[0])
    zeros = [np.zeros_like(one) for one in work.first_weights()]
    assert work.training_loss(zeros, 2) == pytest.approx(np.log(10))
