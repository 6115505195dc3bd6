"""TFF's native execution context, made safe: its worker ends with us and is hidden from the network.

TFF's own `create_sync_local_cpp_execution_context` starts a worker that outlives its parent, keeps the parent's
standard output open (so that a pipe behind it never ends) and listens on all interfaces; when it dies, TFF retries for
ever.
Here `worker.Worker` holds it, and every failure is a `WorkerError` that says what happened.

Example (needs TensorFlow Federated, hence not run as a doctest)::

    with native_context() as context:  # in this thread TFF computations now run in the worker
        state = process.initialize()
        output = process.next(state, client_data)

    context = native_context(secure_sum="plain")  # or keep it for a whole program
    context.install()
    ...
    context.close()

TFF's stack of contexts belongs to a thread: `install` and `with` act on the thread that calls them. Importing TFF puts
its own context at the bottom of the stack, which would start its own worker at the first computation; importing this
module takes it away again (who wants it sets it afterwards).
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import grpc
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.executors import executors_errors
from tensorflow_federated.python.core.impl.types import placements

from tff_hospitals.foundations import quiet, validation
from tff_hospitals.runtimes.native.worker import Worker, WorkerError

__all__ = ["NativeContext", "WorkerError", "native_context"]

_LARGEST_MESSAGE_BYTES = 2_000_000_000  # protocol buffers end at 2 GiB
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
]
_compile = tff.backends.native.desugar_and_transform_to_native
_SECURE_SUMS = ("refuse", "plain")


class NativeContext:
    """A worker and the TFF execution context that runs computations in it; made by `native_context`.

    Attributes:
      context: the `tff.framework.SyncExecutionContext`.
      worker: the `Worker` process.
    """

    def __init__(self, worker: Worker, default_num_clients: int, secure_sum: str):
        self.worker = worker
        self._default_num_clients = default_num_clients
        self._channel = grpc.insecure_channel(worker.address, _CHANNEL_OPTIONS)
        self._stub = _WorkerStub(self._channel, worker)
        self._installed: list[contextlib.AbstractContextManager[Any]] = []
        self._compiler = _compile_plain_sums if secure_sum == "plain" else _compile
        self.context = self._made_of(tff.framework.SyncExecutionContext)

    def _made_of(self, kind: Any) -> Any:
        return kind(
            executor_fn=tff.framework.ResourceManagingExecutorFactory(self._executor),
            compiler_fn=self._compiler,
            transform_args=tff.tensorflow.transform_args,
            transform_result=tff.tensorflow.transform_result,
        )

    def asynchronous(self) -> Any:
        """A `tff.framework.AsyncExecutionContext` over the same worker, for `tff.program.NativeFederatedContext`."""
        return self._made_of(tff.framework.AsyncExecutionContext)

    def _executor(self, cardinalities: dict[Any, int]) -> Any:
        """An executor in the worker for so many hospitals; TFF calls this once per number of hospitals."""
        cardinalities.setdefault(placements.CLIENTS, self._default_num_clients)
        executor = tff.framework.RemoteExecutor(self._stub)
        executor.set_cardinalities(cardinalities)
        return executor

    def install(self) -> None:
        """Makes this the context of the calling thread until `close`."""
        tff.framework.set_default_context(self.context)

    def close(self) -> None:
        """Ends the worker and waits until it is gone; computations raise `WorkerError` from then on."""
        self.worker.close()
        self._channel.close()

    def __enter__(self) -> NativeContext:
        installed = tff.framework.get_context_stack().install(self.context)
        installed.__enter__()
        self._installed.append(installed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._installed.pop().__exit__(None, None, None)
        self.close()


class _WorkerStub(tff.framework.RemoteExecutorGrpcStub):
    """Calls to our own worker: a failure is final, because nothing between us and it could mend by itself."""

    def __init__(self, channel: grpc.Channel, worker: Worker):
        super().__init__(channel)
        self._worker = worker

    def _call(self, method: Any, request: Any) -> Any:
        if self._worker.closed:
            raise WorkerError("the TFF worker was closed. Remedy: make another native_context()")
        try:
            return method(request)
        except (grpc.RpcError, executors_errors.RetryableError, ValueError) as error:
            ending = self._worker.ending() if _is_connection_error(error) else None
            if ending is not None:
                raise WorkerError(ending) from error
            if isinstance(error, executors_errors.RetryableError):  # TFF would repeat the call for ever
                raise WorkerError(f"a computation failed in the TFF worker: {_details(error)}") from error
            if "Cannot embed a federated value" in _details(error):  # all that TFF says about a secure sum
                raise WorkerError(
                    "TFF's native context has no cryptography and refuses a secure sum. Remedy: "
                    'native_context(secure_sum="plain") simulates it with an ordinary sum'
                ) from error
            raise

    def get_executor(self, request: Any) -> Any:
        return self._call(super().get_executor, request)

    def create_value(self, request: Any) -> Any:
        return self._call(super().create_value, request)

    def create_struct(self, request: Any) -> Any:
        return self._call(super().create_struct, request)

    def create_call(self, request: Any) -> Any:
        return self._call(super().create_call, request)

    def create_selection(self, request: Any) -> Any:
        return self._call(super().create_selection, request)

    def compute(self, request: Any) -> Any:
        return self._call(super().compute, request)

    def dispose(self, request: Any) -> Any:
        """Frees values in the worker; when it is gone there is nothing to free (finalizers call this at any time)."""
        with contextlib.suppress(WorkerError, grpc.RpcError):
            return self._call(super().dispose, request)

    def dispose_executor(self, request: Any) -> Any:
        """As `dispose`."""
        with contextlib.suppress(WorkerError, grpc.RpcError):
            return self._call(super().dispose_executor, request)


class _NoContext(tff.framework.SyncContext):
    """At the bottom of the stack: an error with a remedy instead of a worker that nobody ends."""

    def invoke(self, comp: Any, arg: Any) -> Any:
        raise WorkerError(
            "a TFF computation was called without a context to run in. Remedy: call it inside "
            "`with native_context():` or call `native_context().install()` before, in the same thread"
        )


def _take_away_the_stock_context() -> None:
    """Replaces the context that importing TFF has set; one that somebody else has set stays."""
    factory = getattr(tff.framework.get_context_stack().current, "executor_factory", None)
    stack_function = getattr(factory, "_executor_stack_fn", None)
    if getattr(stack_function, "__qualname__", "").startswith("local_cpp_executor_factory"):
        tff.framework.set_default_context(_NoContext())


_take_away_the_stock_context()


def _is_connection_error(error: Exception) -> bool:
    if isinstance(error, ValueError):  # gRPC: "Cannot invoke RPC on closed channel!"
        return True
    code = error.code() if hasattr(error, "code") else None
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


def _details(error: Exception) -> str:
    return str(error.details()) if hasattr(error, "details") else str(error)


def _compile_plain_sums(computation: Any) -> Any:
    """TFF's test compiler: a secure sum becomes an ordinary one, in the clear."""
    return _compile(tff.backends.test.replace_secure_intrinsics_with_bodies(computation))


def native_context(
    *,
    max_concurrent: int = 0,
    default_num_clients: int = 0,
    secure_sum: str = "refuse",
    isolate: bool = True,
    ready_seconds: float = 60.0,
) -> NativeContext:
    """Starts TFF's worker (about 0.2 s) and returns a context that runs computations in it.

    Args:
      max_concurrent: how many calls of one computation may run at once, such as the hospitals of a round; 0 for all.
        Lower it when the machine runs out of memory.
      default_num_clients: number of hospitals of a computation whose arguments do not show it.
      secure_sum: "refuse", where a secure sum is an error as in TFF's native context, or "plain", where it is
        *simulated* by an ordinary sum without any cryptography (TFF's test context).
      isolate: whether to hide the worker in a network namespace; it then reads local files only.
      ready_seconds: how long the worker may take to start.

    Returns:
      A `NativeContext`; use it in a `with` block or call `install` and `close`.

    Raises:
      InvalidInput: for a bad argument.
      WorkerError: when the worker does not start.
    """
    validation.raise_if(
        [
            validation.whole_number("max_concurrent", max_concurrent, low=0, remedy="give 0 for no limit"),
            validation.whole_number("default_num_clients", default_num_clients, low=0, remedy="give 0 or more"),
            validation.one_of("secure_sum", secure_sum, _SECURE_SUMS),
            validation.in_range("ready_seconds", ready_seconds, low=0, low_open=True, remedy="give 60 or so"),
        ]
    )
    quiet.allow_deep_protocol_buffers()
    worker = Worker(
        arguments=[f"--max_concurrent_computation_calls={max_concurrent or -1}"],
        isolate=isolate,
        ready_seconds=ready_seconds,
    )
    return NativeContext(worker, default_num_clients, secure_sum)
