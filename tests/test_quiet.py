"""Starting is silent unless somebody asks: levels, loggers, warnings, and the stack itself in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
import warnings

import pytest
from few_fast import few_fast

from tff_hospitals.foundations import quiet


@pytest.fixture(autouse=True)
def quiet_again():
    with warnings.catch_warnings():
        yield
        quiet.be_quiet()


@pytest.mark.parametrize(
    ("verbosity", "cpp", "grpc", "level"),
    [
        (-1, "3", "NONE", logging.FATAL),
        (0, "3", "NONE", logging.FATAL),
        (1, "1", "ERROR", logging.WARNING),
        (2, "0", "INFO", logging.INFO),
        (9, "0", "INFO", logging.INFO),
    ],
)
def test_verbosity_reaches_every_part_of_the_stack(verbosity: int, cpp: str, grpc: str, level: int) -> None:
    quiet.be_quiet(verbosity)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == cpp
    assert os.environ["GRPC_VERBOSITY"] == grpc
    assert {logging.getLogger(name).level for name in ("absl", "tensorflow", "jax")} == {level}


def test_warnings_of_the_stack_are_dropped_and_ours_are_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        quiet.be_quiet()
        for module in (
            "tensorflow_federated.python.x",
            "jax._src.y",
            "google.protobuf.z",
            "tff_hospitals.plan",
            "treemap",
        ):
            warnings.warn_explicit("words", UserWarning, "file.py", 1, module=module)
    assert len(caught) == 2


def test_a_level_that_an_import_of_jax_left_behind_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    quiet.be_quiet()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


def test_without_absl_and_without_upb_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "absl", None)
    monkeypatch.setitem(sys.modules, "google._upb", None)
    quiet.be_quiet()
    assert quiet.allow_deep_protocol_buffers() is False


NOISY = """
import sys
from tff_hospitals.foundations import quiet
quiet.be_quiet(int(sys.argv[1]))
assert not quiet.tensorflow_is_loaded()
import tensorflow as tf, tensorflow_federated, tensorflow_privacy
assert quiet.tensorflow_is_loaded()
tf.get_logger().warning("a warning of the stack")
"""


@pytest.mark.tensorflow
@pytest.mark.parametrize(("verbosity", "is_silent"), few_fast([("0", True), ("1", False)], [("0", True)]))
def test_the_whole_stack_loads_without_a_word_unless_asked(verbosity: str, is_silent: bool) -> None:
    done = subprocess.run([sys.executable, "-c", NOISY, verbosity], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert ("a warning of the stack" not in done.stderr) == is_silent
    assert (done.stderr == "") == is_silent


FASTER = """
import sys
from tff_hospitals.foundations import quiet
quiet.be_quiet()
quiet.load_faster()
quiet.load_faster()
import tensorflow as tf
print("jax" in sys.modules, tf.lite.TFLiteConverter.__name__)
import jax
print(jax.numpy.ones(3).sum())
print(sum(type(one).__name__ == "_WithoutJax" for one in sys.meta_path))
"""


@pytest.mark.tensorflow
def test_a_program_leaves_jax_out_of_tensorflow_and_may_load_it_itself() -> None:
    done = subprocess.run([sys.executable, "-c", FASTER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "TFLiteConverterV2", "3.0", "1"]


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("3", "3")])
def test_the_package_keeps_an_operation_to_one_thread(before, after):
    """From a user's own Python as from scripts; what the environment says goes first."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"}
    environment.update({"TF_NUM_INTRAOP_THREADS": before} if before else {})
    code = "import os, sys, tff_hospitals; print(os.environ['TF_NUM_INTRAOP_THREADS'], 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [after, "False"]


@pytest.mark.parametrize("worked", [True, False])
def test_who_used_tensorflow_before_is_told_once(monkeypatch, worked):
    class Context:
        _context_handle = object() if worked else None

    module = types.SimpleNamespace(context_safe=Context)
    monkeypatch.setitem(sys.modules, "tensorflow.python.eager.context", module)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr(quiet, "_too_late", False)
    quiet.one_thread_per_operation()
    first, second = quiet.threads_warning(), quiet.threads_warning()
    assert (first is not None) == worked
    assert second is None
    assert not worked or "import tff_hospitals first" in first
