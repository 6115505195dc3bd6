"""Silence on the terminal, and one switch in protocol buffers: both must be thrown before TensorFlow is loaded.

TensorFlow, gRPC and JAX write dozens of lines while they start. A program calls `be_quiet` first, with the verbosity
that the user asked for, and imports TensorFlow afterwards:

>>> be_quiet(0)
>>> import os
>>> os.environ["TF_CPP_MIN_LOG_LEVEL"]
'3'
"""

from __future__ import annotations

import importlib.abc
import logging
import os
import sys
import warnings

_THREADS = "TF_NUM_INTRAOP_THREADS"
_too_late = False

QUIET = 0
WARNINGS = 1
EVERYTHING = 2

_LEVELS = {
    # verbosity: (TF_CPP_MIN_LOG_LEVEL, GRPC_VERBOSITY, absl and Python logging)
    QUIET: ("3", "NONE", logging.FATAL),
    WARNINGS: ("1", "ERROR", logging.WARNING),
    EVERYTHING: ("0", "INFO", logging.INFO),
}
# Loggers of the stack; TensorFlow's own "Object was never used" lines come from the logger named tensorflow.
_STACK_MODULES = r"(google|jax|jaxlib|tensorflow\w*|keras|tree|vizier|flatbuffers|pkg_resources)\b"
_STACK_LOGGERS = ("absl", "tensorflow", "jax", "jax._src", "h5py", "matplotlib", "flwr", "ray", "grpc")


def be_quiet(verbosity: int = QUIET) -> None:
    """Sets how much the stack below may say. Call it before the first import of TensorFlow, once per process.

    Args:
      verbosity: 0 for nothing but our own lines, 1 for warnings and errors of the stack, 2 or more for everything.
        Smaller numbers count as 0.

    Levels in the environment (TF_CPP_MIN_LOG_LEVEL, GRPC_VERBOSITY) are overwritten, and so passed on to children: JAX
    sets the first one on import, so that a child of a process that imported JAX would not be quiet.
    """
    verbosity = max(QUIET, min(EVERYTHING, verbosity))
    cpp_level, grpc_level, python_level = _LEVELS[verbosity]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = cpp_level
    os.environ["GRPC_VERBOSITY"] = grpc_level
    for name in _STACK_LOGGERS:
        logging.getLogger(name).setLevel(python_level)
    _set_absl_level(python_level)
    if verbosity < EVERYTHING:
        warnings.filterwarnings("ignore", module=_STACK_MODULES)


def _set_absl_level(level: int) -> None:
    """Tells absl's own handler too; this module must load without absl."""
    try:
        from absl import logging as absl_logging
    except ImportError:
        return
    name = logging.getLevelName(level).lower().replace("critical", "fatal")
    absl_logging.set_verbosity(name)
    absl_logging.set_stderrthreshold(name)


def allow_deep_protocol_buffers() -> bool:
    """Lets protocol buffers nest deeper than 100 levels; call it before TensorFlow Federated builds anything.

    A computation of nested aggregators (adaptive clipping, compression, secure sums) nests deeper than the default
    bound, and parsing it fails with `DecodeError`, or with a segmentation fault in protobuf 4.21 to 4.24. The bound
    guards against hostile messages from strangers; here both ends of the wire are this process and its own worker.

    Returns:
      True if the switch was thrown; False if this protobuf has no such switch (the pure-Python parser has no bound).
    """
    try:
        from google._upb import _message
    except ImportError:
        return False
    _message.SetAllowOversizeProtos(True)
    return True


class _WithoutJax(importlib.abc.MetaPathFinder):
    """Says that there is no JAX to the one part of TensorFlow that loads it for nothing, and to nobody else.

    That part converts models for phones, from JAX too; JAX is a tenth of the time that TensorFlow takes to load.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Leaves every other import to the next finder.

        Raises:
          ModuleNotFoundError: to that part.
        """
        if fullname != "jax":
            return
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        if frame.f_globals.get("__name__") == "tensorflow.lite.python.util":
            raise ModuleNotFoundError("left out: nothing here converts models for phones", name=fullname)


def load_faster() -> None:
    """Leaves out of TensorFlow what no command of ours uses; call it before TensorFlow is loaded.

    For programs only: somebody's own Python that imports the package may convert models for phones.
    """
    if not any(isinstance(one, _WithoutJax) for one in sys.meta_path):
        sys.meta_path.insert(0, _WithoutJax())


def tensorflow_is_loaded() -> bool:
    """Whether TensorFlow is in this process already, so that `be_quiet` comes too late for its first lines."""
    return "tensorflow" in sys.modules


def one_thread_per_operation() -> None:
    """Lets hospitals share the cores instead of the parts of one operation; call it before TensorFlow works.

    A value of TF_NUM_INTRAOP_THREADS that is in the environment already is kept. With it, two hospitals at once on two
    cores take half the time of two cores at one hospital's small matrix products (benchmarks/round_time.py). Importing
    the package calls this. TensorFlow reads it with its first operation, not when it is imported.
    """
    global _too_late
    if _THREADS not in os.environ:
        os.environ[_THREADS] = "1"
        _too_late = _tensorflow_works()


def threads_warning() -> str | None:
    """What to tell somebody whose TensorFlow worked before the package was imported, once; None where all is well."""
    global _too_late
    late, _too_late = _too_late, False
    if not late:
        return None
    return (
        f"TensorFlow worked before tff_hospitals was imported: rounds may take half as long again. Remedy: import "
        f"tff_hospitals first, or start Python with {_THREADS}=1 in its environment."
    )


def _tensorflow_works() -> bool:
    """Whether TensorFlow has made its threads, with its first operation."""
    module = sys.modules.get("tensorflow.python.eager.context")
    made = None if module is None else module.context_safe()
    return getattr(made, "_context_handle", None) is not None
