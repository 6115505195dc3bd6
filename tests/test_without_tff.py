"""The core without TensorFlow Federated: it trains, and what needs TFF says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import toy

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.plan.plan import Plan

pytestmark = pytest.mark.tensorflow

WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow_federated", "tensorflow_privacy", "jax", "jaxlib", "vizier"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import toy
from tff_hospitals.experiments.methods import METHODS
from tff_hospitals.plan.plan import Plan
from tff_hospitals.training.loop import train

base = Plan(rounds=2).replace(client={"local_steps": 2, "batch_size": 5}, privacy={"delta": 1e-2})
for name in ("weighted_mean", "dp_sgd", "quantized"):
    run = train(METHODS[name].plan(base, 8.0), toy.hospitals())
    print(name, run.summary["rounds"], run.summary["epsilon"] is None)
print([name for name in sys.modules if name.startswith("tensorflow_federated")])
"""


@pytest.mark.slow
def test_the_core_trains_with_tensorflow_alone():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    lines = done.stdout.splitlines()
    assert lines == [
        "weighted_mean 2 True",
        "dp_sgd 2 False",
        "quantized 2 True",
        "[]",
    ], done.stderr[-2000:]


@pytest.fixture
def no_tff(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_federated", None)  # what an import of it then raises


def test_what_needs_tff_is_refused_in_words_before_anything_is_trained(no_tff, tmp_path):
    import tff_hospitals
    from tff_hospitals import tff
    from tff_hospitals.training.loop import train

    words = "is needed by {} and cannot be imported .*all else trains without it"
    with pytest.raises(InvalidInput, match=words.format("--runtime=native")):
        train(Plan(rounds=1), toy.hospitals(), runtime="native", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for name in tff.__all__:
        with pytest.raises(InvalidInput, match=words.format(f"tff_hospitals.tff.{name}")):
            getattr(tff, name)
    with pytest.raises(InvalidInput, match="build_learning_process"):
        _ = tff_hospitals.build_learning_process


def test_a_command_that_needs_tff_says_so(no_tff, tmp_path, capsys):
    from tff_hospitals.experiments import front_door

    for words in (["program"], ["train", "--runtime=native"], ["train", "--aggregator=tff_robust"]):
        with pytest.raises(SystemExit) as ended:
            front_door.main("", ["tff-hospitals", *words, "--rounds=1", f"--run_dir={tmp_path / words[0]}"])
        assert ended.value.code == 2
        assert "package='tensorflow_federated': is needed by" in capsys.readouterr().err
