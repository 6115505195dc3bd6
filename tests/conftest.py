"""What every test needs: a quiet TensorFlow, deep protocol buffers, and no network."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable

import hypothesis
import pytest
from own_tables import keep_key

os.environ.setdefault("MPLBACKEND", "Agg")
# What a data set keeps between runs must not reach the home of whoever runs the tests; child processes inherit this.
os.environ["TFF_HOSPITALS_STATE"] = tempfile.mkdtemp(prefix="tff_hospitals_state_")
os.environ["TFF_HOSPITALS_CACHE"] = os.path.join(os.environ["TFF_HOSPITALS_STATE"], "cache")
os.environ.pop("TFF_HOSPITALS_STRATEGY", None)  # what is trained must not depend on who runs the tests

from tff_hospitals.foundations import extensions, quiet

# Before any import of TensorFlow, for this process and for those that tests start.
quiet.be_quiet()
quiet.allow_deep_protocol_buffers()

# The same examples in every run, and no time limit for one of them: a shared machine must not fail a right program.
hypothesis.settings.register_profile("ours", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ours")


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """Files of which every test needs TensorFlow are not even imported where no such test is asked for."""
    asked = config.getoption("markexpr")
    if " or " in asked or "not tensorflow" not in asked.split(" and ") or collection_path.suffix != ".py":
        return None
    marked = r"^pytestmark = \[?pytest\.mark\.tensorflow\b"
    return True if re.search(marked, collection_path.read_text(encoding="utf-8"), re.MULTILINE) else None


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["TFF_HOSPITALS_STATE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_extension_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test loads is gone after it: loaded extensions count in the name of a release, and so in its noise."""
    monkeypatch.setattr(extensions, "_loaded", list(extensions.loaded()))


@pytest.fixture
def case(tmp_path: pathlib.Path) -> Callable[[str], pathlib.Path]:
    """Copies a folder of tests/cases, with a key that gives the same split in every run."""

    def copied(name: str) -> pathlib.Path:
        shutil.copytree(pathlib.Path(__file__).parent / "cases" / name, tmp_path / name)
        keep_key(tmp_path / name)
        return tmp_path / name

    return copied


@pytest.fixture(scope="session")
def checkout() -> pathlib.Path:
    """The folder that holds setup.cfg; tests that read the source skip themselves when run against a wheel alone."""
    folder = pathlib.Path(__file__).resolve().parent.parent
    if not (folder / "setup.cfg").is_file():
        pytest.skip("needs the checkout, not only the installed package")
    return folder


@pytest.fixture
def common_noise(monkeypatch):
    """Runs of one seed draw the same noise, which no real runs do: for tests that compare arithmetic alone."""
    from tff_hospitals.foundations.random_streams import Streams
    from tff_hospitals.training import session
    from tff_hospitals.training.run_streams import RunStreams

    monkeypatch.setattr(session, "run_streams", lambda plan, *_: RunStreams.from_root(Streams.from_seed(plan.seed)))


@pytest.fixture
def benchmark(checkout, monkeypatch):
    """Imports one of the benchmarks' modules, which find each other by their bare names."""
    folder = checkout / "benchmarks"
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(checkout))
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("benchmarks") or (folder / f"{name}.py").exists():
            del sys.modules[name]
