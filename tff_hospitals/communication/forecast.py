"""Bytes and seconds of a run before anyone trains: chains measured on synthetic values of the model's shapes."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tff_hospitals.communication import bandwidth, chain, sizes, tensors
from tff_hospitals.foundations import validation
from tff_hospitals.foundations.random_streams import Streams

SYNTHETIC = "synthetic Gaussian values; entropy-coded sizes of real updates differ"
MEASURED_VALUES = 4_000_000
"""Most values that are really made and encoded; of larger models a part is, and its bits per value count."""
LARGEST_MODEL, MOST = 10**15, 10**9


class Measurement(NamedTuple):
    """One chain on one model.

    Payload bytes are means over the repetitions; seconds are the least of them, on this machine.
    """

    payload_bytes: float
    bounds: sizes.ByteRange
    normalised_error: float
    encode_seconds: float
    decode_seconds: float
    sections: list[chain.Section]


def parse_shapes(text: str) -> list[tuple[int, ...]]:
    """Shapes of tensors from text such as `784x200,200`.

    Raises:
      InvalidInput: for what is not whole positive numbers joined by x.

    >>> parse_shapes("784x200,200,200x10,10")
    [(784, 200), (200,), (200, 10), (10,)]
    """
    shapes, problems = [], []
    for part in text.split(","):
        try:
            shape = tuple(int(axis) for axis in part.lower().split("x"))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            bound = f"{part!r} is not a shape of whole positive numbers"
            problems.append(validation.Problem("model_shapes", text, bound, "write for example 784x200,200,200x10,10"))
        shapes.append(shape)
    if not problems and sum(tensors.sizes(shapes)) > LARGEST_MODEL:
        bound = f"must have at most {LARGEST_MODEL:.0e} values together"
        problems.append(validation.Problem("model_shapes", text[:200], bound, "name the tensors that really travel"))
    validation.raise_if(problems)
    return shapes


def part_of(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Shapes of at most about `MEASURED_VALUES` values in the same proportions; the same ones where they are few.

    >>> part_of([(10**9, 100), (50,)])
    [(3999999,), (1,)]
    """
    total = sum(tensors.sizes(shapes))
    if total <= MEASURED_VALUES:
        return list(shapes)
    return [(max(1, size * MEASURED_VALUES // total),) for size in tensors.sizes(shapes)]


def measure(
    encoder: chain.Chain, shapes: Sequence[tuple[int, ...]], *, sd: float = 0.01, repetitions: int = 3, seed: int = 0
) -> Measurement:
    """Encodes and decodes synthetic normal values (mean 0, deviation `sd`) of these shapes.

    For `delta`, the values stand for the difference: the reference is zero. A large model is never made: bytes, error
    and seconds are those of `part_of` it, bytes and seconds in proportion and within the bounds that the sizes set.
    """
    whole, shapes = shapes, part_of(shapes)
    times = sum(tensors.sizes(whole)) / sum(tensors.sizes(shapes))
    bounds = sizes.payload_bytes(encoder, whole)
    streams = Streams.from_seed(seed).child("synthetic update")
    lengths, errors, encode_seconds, decode_seconds = [], [], [], []
    reference = [np.zeros(shape, np.float32) for shape in shapes] if encoder.needs_reference else None
    payload, key = b"", None
    for repetition in range(repetitions):
        stream = streams.child(repetition)
        generator, key = stream.generator(), stream.key()
        arrays = [(str(i), generator.standard_normal(s, np.float32) * np.float32(sd)) for i, s in enumerate(shapes)]
        start = time.perf_counter()
        payload, _, _ = encoder.encode(arrays, key, reference=reference, want_decoded=False)
        middle = time.perf_counter()
        decoded = encoder.decode(payload, shapes, key, reference)
        encode_seconds.append(middle - start)
        decode_seconds.append(time.perf_counter() - middle)
        lengths.append(len(payload))
        error = sum(float(np.square(new - old, dtype=np.float64).sum()) for new, (_, old) in zip(decoded, arrays))
        errors.append(error / sum(float(np.square(old, dtype=np.float64).sum()) for _, old in arrays))
    length = times * sum(lengths) / repetitions
    return Measurement(
        length if times == 1 else min(max(length, bounds.low), bounds.high),
        bounds,
        sum(errors) / repetitions,
        times * min(encode_seconds),
        times * min(decode_seconds),
        encoder.sections(payload, shapes, key),
    )


def forecast(
    shapes: Sequence[tuple[int, ...]],
    broadcast: chain.Chain | Sequence[chain.Chain],
    upload: chain.Chain | Sequence[chain.Chain],
    links: Sequence[bandwidth.Link],
    *,
    hospitals: int,
    rounds: int,
    fraction_selected: float = 1.0,
    sd: float = 0.01,
) -> dict[str, Any]:
    """Everything that can be said of a run's traffic beforehand, as plain numbers.

    Args:
      shapes: of the tensors that travel.
      broadcast: chain of the way down; a sequence: that of every round.
      upload: chain of the way up, likewise.
      links: one for all hospitals, or one each: the slowest decides how long a round takes.
      hospitals: hospitals there are.
      rounds: rounds of the run.
      fraction_selected: share of the hospitals that takes part in a round.
      sd: deviation of the synthetic values (matters to `threshold` alone).

    Raises:
      InvalidInput: all bad arguments at once.
    """
    chains = {
        way: [one] if isinstance(one, chain.Chain) else list(one) for way, one in (("down", broadcast), ("up", upload))
    }
    problems = [
        validation.whole_number("hospitals", hospitals, low=1, high=MOST, remedy="give the number of hospitals"),
        validation.whole_number("rounds", rounds, low=1, high=MOST, remedy="give the number of rounds"),
        validation.in_range("synthetic_sd", sd, low=1e-6, high=1e6, remedy="give the deviation of an update's values"),
        validation.in_range(
            "fraction_selected", fraction_selected, low=0, high=1, low_open=True, remedy="give a share above 0 up to 1"
        ),
        *chains["down"][0].usage_problems(direction="broadcast"),
        *chains["up"][0].usage_problems(direction="upload"),
    ]
    if len(links) not in (1, hospitals):
        bound = f"must be one for all or one for each of the {hospitals} hospitals"
        problems.append(validation.Problem("links", len(links), bound, "give one speed or as many as hospitals"))
    validation.raise_if(problems)
    dense = sizes.dense_bytes(shapes)
    result: dict[str, Any] = {"values": sum(tensors.sizes(shapes)), "tensors": len(shapes), "dense_bytes": dense}
    part = sum(tensors.sizes(part_of(shapes)))
    result["measured_on"] = SYNTHETIC if part == result["values"] else f"{part:,} {SYNTHETIC}; the rest in proportion"
    lengths: dict[str, list[float]] = {}
    for way, of_rounds in chains.items():
        measured = {str(one): _as_trained(one, shapes, sd, dense) for one in dict.fromkeys(of_rounds)}
        lengths[way] = [measured[str(one)].payload_bytes for one in of_rounds]
        result[way] = _row(of_rounds, measured, result["values"], dense)
    many = max(map(len, lengths.values()))  # 1: every round is alike
    sent = list(zip(*(one if len(one) == many else one * many for one in lengths.values())))
    by_id = {str(index): link for index, link in enumerate(links)}
    for name, pairs in (("encoded", sent), ("float32", [(dense, dense)])):
        seconds = 0.0
        for (down, up), count in collections.Counter(pairs).items():
            of_one = bandwidth.slowest(by_id, dict.fromkeys(by_id, down), dict.fromkeys(by_id, up))[1]
            seconds += of_one * count / len(pairs)
        down, up = (sum(one) / len(pairs) for one in zip(*pairs))
        run_bytes = bandwidth.classic_bytes(down, up, hospitals, fraction_selected, rounds)
        if name == "encoded" and chains["down"][0].needs_reference:
            run_bytes = bandwidth.classic_bytes(0.0, up, hospitals, fraction_selected, rounds)
            run_bytes += hospitals * _catching_up(lengths["down"], dense, fraction_selected, rounds)
        result[name] = {
            "run_bytes": run_bytes,
            "round_seconds": seconds,
            "run_seconds": seconds * rounds,
        }
    result["hospitals"], result["rounds"], result["fraction_selected"] = hospitals, rounds, fraction_selected
    return result


def _as_trained(one: chain.Chain, shapes: Sequence[tuple[int, ...]], sd: float, dense: int) -> Measurement:
    """A chain on the model's shapes; a way without encoders carries float32 as it is, without a payload's header."""
    found = measure(one, shapes, sd=sd)
    return found if one.stages else found._replace(payload_bytes=float(dense), bounds=sizes.ByteRange(dense, dense))


def _row(
    of_rounds: Sequence[chain.Chain], measured: Mapping[str, Measurement], values: int, dense: int
) -> dict[str, Any]:
    """What is said of one way; of several chains the means over the rounds, and each chain by itself."""
    first, *others = measured
    every = [measured[str(one)] for one in of_rounds]

    def mean(name: str) -> float:
        return sum(getattr(one, name) for one in every) / len(every)

    row = {
        "chain": first + (f" and {len(others)} more" if others else ""),
        "bytes": mean("payload_bytes"),
        "bytes_at_least": min(one.bounds.low for one in every),
        "bytes_at_most": max(one.bounds.high for one in every),
        "bits_per_value": 8 * mean("payload_bytes") / max(values, 1),
        "times_fewer_than_float32": dense / mean("payload_bytes"),
        "normalised_error": mean("normalised_error"),
        "bias": of_rounds[0].bias,
        "encode_seconds": mean("encode_seconds"),
        "decode_seconds": mean("decode_seconds"),
        "sections": [each._asdict() for each in every[0].sections],
    }
    if others:
        counts = collections.Counter(map(str, of_rounds))
        row["by_round"] = [
            {"chain": text, "rounds": counts[text], "bytes": one.payload_bytes} for text, one in measured.items()
        ]
    return row


def _catching_up(payloads: Sequence[float], dense: int, fraction_selected: float, rounds: int) -> float:
    if len(payloads) == 1:
        return bandwidth.catching_up_bytes(payloads[0], dense, fraction_selected, rounds)
    return bandwidth.catching_up_by_round(payloads, dense, fraction_selected)
