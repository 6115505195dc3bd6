"""TFF computations in our own worker: right results, named errors instead of endless retries, and a bound life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from test_worker import SECONDS_TO_END, gone_in_time, lives

from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.runtimes.native.context import NativeContext, WorkerError, native_context

pytestmark = pytest.mark.tensorflow

FLOAT_AT_HOSPITALS = tff.FederatedType(np.float32, tff.CLIENTS)


@tff.federated_computation(FLOAT_AT_HOSPITALS)
def mean(values):
    return tff.federated_mean(values)


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def secure_sum(values):
    return tff.federated_secure_sum(values, max_input=100)


@tff.tensorflow.computation(np.float32)
def refuse_negative(value):
    with tf.control_dependencies([tf.debugging.assert_non_negative(value, message="negative reading")]):
        return tf.sqrt(value)


@tff.tensorflow.computation(np.float32)
def spin(seconds):
    start = tf.timestamp()
    return tf.while_loop(
        lambda now: tf.cast(now - start, tf.float32) < seconds, lambda now: (tf.timestamp(),), (start,)
    )[0]


@pytest.fixture
def shared():
    with native_context() as context:
        yield context


def test_a_mean_over_hospitals_by_hand(shared: NativeContext) -> None:
    assert mean([1.0, 2.0, 6.0]) == pytest.approx(3.0)
    assert mean([4.0]) == pytest.approx(4.0)  # another number of hospitals, another executor


def test_a_secure_sum_is_refused_unless_a_plain_one_is_asked_for(shared: NativeContext) -> None:
    with pytest.raises(WorkerError, match="secure_sum="):
        secure_sum([1, 2, 3])
    with native_context(secure_sum="plain"):
        assert secure_sum([1, 2, 3]) == 6


def test_contexts_nest_and_the_outer_one_returns(shared: NativeContext) -> None:
    stack = tff.framework.get_context_stack()
    with native_context() as inner:
        assert stack.current is inner.context
    assert stack.current is shared.context
    assert not lives(inner.worker.pid)


def test_an_error_inside_a_computation_is_raised_once_and_the_worker_goes_on(shared: NativeContext) -> None:
    with pytest.raises(Exception, match="negative reading"):
        refuse_negative(-1.0)
    assert refuse_negative(9.0) == pytest.approx(3.0)


def test_what_tff_would_repeat_for_ever_is_raised_once() -> None:
    @tff.tensorflow.computation(np.float32)
    def uninitialised(value):
        # reading a variable that was never set is FAILED_PRECONDITION, which TFF counts as worth a retry
        variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="never_set")
        return tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32) + value

    with native_context(), pytest.raises(Exception, match="never_set"):
        uninitialised(1.0)


def test_a_worker_that_dies_in_a_computation_is_a_named_error_not_a_hang() -> None:
    with native_context() as context:
        timer = threading.Timer(1.0, os.kill, (context.worker.pid, signal.SIGKILL))
        timer.start()
        start = time.monotonic()
        with pytest.raises(WorkerError, match="SIGKILL"):
            spin(60.0)
        assert time.monotonic() - start < 10
        with pytest.raises(WorkerError, match="SIGKILL"):  # and again, for whoever tries once more
            mean([1.0])


def test_a_closed_context_says_so() -> None:
    context = native_context()
    with tff.framework.get_context_stack().install(context.context):
        assert mean([1.0]) == 1.0
        context.close()
        with pytest.raises(WorkerError, match="closed"):
            mean([1.0])


def test_without_a_context_no_worker_is_started_behind_our_back() -> None:
    with pytest.raises(WorkerError, match="native_context"):
        mean([1.0])


def test_bad_arguments_are_named_all_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        native_context(max_concurrent=-1, secure_sum="real", ready_seconds=0)
    assert [problem.name for problem in caught.value.problems] == ["max_concurrent", "secure_sum", "ready_seconds"]


CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # as do children of some libraries' threads
from tff_hospitals.foundations import quiet
quiet.be_quiet()
import tensorflow_federated as tff
from tff_hospitals.runtimes.native.context import native_context
from test_native_context import mean, spin

def compute_and_end(way):
    context = native_context()
    context.install()
    print(way, os.getpid(), context.worker.pid, mean([1.0, 2.0, 6.0]), flush=True)
    sys.stdin.readline()
    if way == "exception":
        raise RuntimeError("the parent failed")
    if way != "exit":
        spin(60.0)

*forked, last = sys.argv[1:]
for way in forked:  # one import of TFF serves several endings that run no code of the interpreter's own
    child = os.fork()
    if child == 0:
        os.setsid()
        compute_and_end(way)
    os.waitpid(child, 0)
compute_and_end(last)
"""
SIGNALS = {"ctrl_c": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}


@pytest.mark.parametrize(
    "ways",
    [
        ("terminate", "kill", "ctrl_c"),
        pytest.param(("exit",), marks=pytest.mark.slow),
        pytest.param(("exception",), marks=pytest.mark.slow),
    ],
)
def test_the_worker_ends_with_its_parent_after_a_computation(ways: tuple[str, ...]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *ways],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])},
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    for way in ways:
        named, parent, worker, result = child.stdout.readline().split()
        assert (named, float(result)) == (way, 3.0)
        assert lives(int(worker))
        child.stdin.write("go on\n")
        child.stdin.flush()
        if way in SIGNALS:
            time.sleep(0.5)  # into the long computation
            os.killpg(int(parent), SIGNALS[way])
        assert gone_in_time(int(worker))
        assert gone_in_time(int(parent), seconds=60)  # TensorFlow takes its own time to end on a busy machine
    _, errors = child.communicate(timeout=SECONDS_TO_END)  # returns at the end of both pipes
    assert ("the parent failed" in errors) == ("exception" in ways)
    assert ("KeyboardInterrupt" in errors) == ("ctrl_c" in ways)
