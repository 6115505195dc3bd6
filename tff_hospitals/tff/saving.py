"""Lets TFF's managers save states that hold tuples and dicts: with today's packages they cannot.

TensorFlow 2.14 asks `isinstance(value, SupportsTracingProtocol)` of the wrappers that it puts around tuples and dicts
of a module. Since typing-extensions 4.6 that question looks into the `__dict__` of the value, which these wrappers do
not have: `TypeError: this __dict__ descriptor does not support '_DictWrapper' objects` (known as tensorflow 62217 and
typing_extensions 216). `tff.program.FileProgramStateManager` then saves no state of any process, TFF's own included,
and an older typing-extensions does not go with the other packages.
"""

from __future__ import annotations

import types


class _ByTypeMeta(type):
    def __instancecheck__(cls, value: object) -> bool:
        return hasattr(type(value), "__tf_tracing_type__")


class _SupportsTracing(metaclass=_ByTypeMeta):
    """`SupportsTracingProtocol`, asked of the type of a value: that is where every class of TensorFlow's has it."""


def let_states_be_saved() -> None:
    """Replaces that one question in TensorFlow's tracing; calling it twice is no error."""
    from tensorflow.core.function.trace_type import trace_type_builder

    if getattr(trace_type_builder.trace, "SupportsTracingProtocol", None) is not _SupportsTracing:
        names = {**vars(trace_type_builder.trace), "SupportsTracingProtocol": _SupportsTracing}
        trace_type_builder.trace = types.SimpleNamespace(**names)
