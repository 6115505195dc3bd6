"""Speed and memory of the encoders on one core, as ratios to numpy's copy of the same array.

    ./run benchmarks/encoding_speed.py --json=FILE

Seconds are the least of the repetitions, of encode and decode each, for one float32 update of 10^7 normal values.
Peak memory is what numpy and Python allocate beyond the update itself (tracemalloc, in a run of its own), in updates.
Exit code 1 if an aim is missed: 4 bits with rotation under 1.5 s, 8 bits without over 300 MB/s, memory under 4 updates.
"""

import os
import platform
import sys
import time
import tracemalloc
from typing import Any

from absl import flags

from tff_hospitals.experiments import command

FLAGS = flags.FLAGS

CHAINS = (
    "none",
    "quantize:8",
    "quantize:8:nearest",
    "quantize:8,entropy",
    "quantize:12",
    "rotate,quantize:4",
    "rotate,quantize:4,entropy",
    "rotate,onebit",
    "rotate,eden:2",
    "ternary",
    "ternary,entropy",
    "topk:0.01,ternary:mean,entropy",
    "topk:0.1,quantize:4,entropy",
    "randk:0.01,quantize:4",
    "float16",
    "bfloat16",
)
ROTATED_4_BIT_SECONDS, PLAIN_8_BIT_MB_PER_SECOND, PEAK_UPDATES = 1.5, 300, 4


def measure(text: str, values: Any, repetitions: int, copy_seconds: float) -> dict:
    """Figures of one chain; see the head of this file."""
    import numpy as np

    from tff_hospitals.communication import parse_chain

    chain, arrays, shapes, key = parse_chain(text), [("update", values)], [values.shape], np.array([1, 2])
    encode_seconds, decode_seconds = [], []
    payload, decoded = b"", [values]
    for _ in range(repetitions):
        start = time.perf_counter()
        payload = chain.encode(arrays, key, want_decoded=False).payload
        middle = time.perf_counter()
        decoded = chain.decode(payload, shapes, key)
        decode_seconds.append(time.perf_counter() - middle)
        encode_seconds.append(middle - start)
    error = float(np.square(decoded[0] - values).sum() / np.square(values).sum())
    del decoded
    tracemalloc.start()
    chain.encode(arrays, key)
    encode_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tracemalloc.start()
    chain.decode(payload, shapes, key)
    decode_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    both = min(encode_seconds) + min(decode_seconds)
    return {
        "chain": text,
        "encode_seconds": min(encode_seconds),
        "decode_seconds": min(decode_seconds),
        "megabytes_per_second": values.nbytes / 1e6 / both,
        "times_a_copy": both / copy_seconds,
        "bits_per_value": 8 * len(payload) / values.size,
        "normalised_error": error,
        "encode_peak_updates": encode_peak / values.nbytes,
        "decode_peak_updates": decode_peak / values.nbytes,
        "coders": {section.name: section.coder for section in chain.sections(payload, shapes, key)},
    }


def define_flags() -> None:
    """Flags of the measurement."""
    flags.DEFINE_string("json", None, "file for the figures; without it they are only printed")
    flags.DEFINE_integer("values", 10_000_000, "values of the update", lower_bound=1)
    flags.DEFINE_integer("repetitions", 3, "repetitions; the fastest counts", lower_bound=1)
    flags.DEFINE_list(
        "chains",
        None,
        "chains separated by semicolons within the list, e.g. 'rotate;quantize:4'; default: a selection",
    )


def run() -> None:
    """Measures all chains, prints a table, writes the figures."""
    import numpy as np

    from tff_hospitals.foundations import files

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    values = np.random.default_rng(0).standard_normal(FLAGS.values).astype(np.float32)
    target = np.zeros_like(values)
    copies = []
    for _ in range(10):
        start = time.perf_counter()
        np.copyto(target, values)
        copies.append(time.perf_counter() - start)
    del target
    rows = []
    print(f"numpy copy of {values.nbytes / 1e6:.0f} MB: {min(copies) * 1e3:.2f} ms")
    heads = ["encode s", "decode s", "MB/s", "x copy", "bits", "error", "peak", "peak"]
    print(f"{'chain':<34}" + "".join(f"{head:>{width}}" for head, width in zip(heads, (9, 9, 7, 8, 9, 9, 6, 6))))
    for text in (chain.replace(";", ",") for chain in FLAGS.chains or CHAINS):
        row = measure(text, values, FLAGS.repetitions, min(copies))
        rows.append(row)
        print(
            f"{text:<34}{row['encode_seconds']:>9.3f}{row['decode_seconds']:>9.3f}{row['megabytes_per_second']:>7.0f}"
            f"{row['times_a_copy']:>8.1f}{row['bits_per_value']:>9.4f}{row['normalised_error']:>9.3g}"
            f"{row['encode_peak_updates']:>6.2f}{row['decode_peak_updates']:>6.2f}",
            flush=True,
        )
    by_chain = {row["chain"]: row for row in rows}
    aims = {}
    if FLAGS.values == 10_000_000:
        if "rotate,quantize:4" in by_chain:
            row = by_chain["rotate,quantize:4"]
            seconds = row["encode_seconds"] + row["decode_seconds"]
            aims["rotate,quantize:4 under 1.5 s"] = seconds < ROTATED_4_BIT_SECONDS
        if "quantize:8" in by_chain:
            speed = by_chain["quantize:8"]["megabytes_per_second"]
            aims["quantize:8 over 300 MB/s"] = speed > PLAIN_8_BIT_MB_PER_SECOND
        highest = max(max(row["encode_peak_updates"], row["decode_peak_updates"]) for row in rows)
        aims["peak memory under 4 updates"] = highest < PEAK_UPDATES
    for aim, met in aims.items():
        print(f"{'met   ' if met else 'MISSED'} {aim}")
    if FLAGS.json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
        head = {"schema_version": 1, "values": FLAGS.values, "machine": machine, "copy_seconds": min(copies)}
        files.write_json(FLAGS.json, {**head, "aims": aims, "rows": rows})
    sys.exit(0 if all(aims.values()) else 1)


if __name__ == "__main__":
    command.main()
